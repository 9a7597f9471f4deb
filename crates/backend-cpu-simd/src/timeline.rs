//! The count of finished submissions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hetero_core::{BackendError, Timeline};
use parking_lot::{Condvar, Mutex};

/// Counts up as the queue thread finishes submissions.
#[derive(Debug, Default)]
pub(crate) struct CpuTimeline {
    completed: AtomicU64,
    /// The first failure, with the submission that failed; later submissions are not run.
    failure: Mutex<Option<(u64, BackendError)>>,
    finished: Condvar,
}

impl CpuTimeline {
    /// Says that submission `value` has finished.
    pub(crate) fn complete(&self, value: u64) {
        // Release: whoever reads this count sees what the submission wrote.
        self.completed.store(value, Ordering::Release);
        // Taking the lock orders this after the check of a thread that is about to wait, so that no wake-up is lost.
        drop(self.failure.lock());
        self.finished.notify_all();
    }

    /// Says that submission `value` has failed; it counts as finished.
    pub(crate) fn fail(&self, value: u64, error: BackendError) {
        self.failure.lock().get_or_insert((value, error));
        self.complete(value);
    }

    /// Whether some submission has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.lock().is_some()
    }
}

impl Timeline for CpuTimeline {
    fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        let mut failure = self.failure.lock();
        while self.completed() < value {
            self.finished.wait(&mut failure);
        }
        up_to(value, &failure)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        let deadline = Instant::now() + timeout;
        let mut failure = self.failure.lock();
        while self.completed() < value {
            if self.finished.wait_until(&mut failure, deadline).timed_out() {
                return Ok(false);
            }
        }
        up_to(value, &failure).map(|()| true)
    }
}

/// The failure, if it is one of the first `value` submissions.
fn up_to(value: u64, failure: &Option<(u64, BackendError)>) -> Result<(), BackendError> {
    match failure {
        Some((failed, error)) if *failed <= value => Err(error.clone()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn waiters_wake_in_order_and_failures_stay() {
        let timeline = Arc::new(CpuTimeline::default());
        let waiter = std::thread::spawn({
            let timeline = Arc::clone(&timeline);
            move || timeline.block_until(2)
        });
        assert_eq!(timeline.block_for(1, Duration::from_millis(1)), Ok(false));
        timeline.complete(1);
        assert_eq!(timeline.block_until(1), Ok(()));
        assert_eq!(timeline.block_for(1, Duration::ZERO), Ok(true));
        timeline.complete(2);
        assert_eq!(waiter.join().unwrap(), Ok(()));

        let error = BackendError::Failed { device: "cpu".into(), reason: "test".into() };
        timeline.fail(3, error.clone());
        assert_eq!(timeline.block_until(2), Ok(()), "what finished before the failure stays good");
        assert_eq!(timeline.block_until(3), Err(error));
        assert!(timeline.has_failed());
    }
}
