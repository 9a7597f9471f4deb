//! A count of finished work that a producer publishes and others poll or park on.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hetero_core::{BackendError, Timeline};

use super::primitive::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

/// The timeline of a processor that is a thread of this process.
///
/// The thread publishes the count of what it has finished; waiters look at it for nothing, or park until it is reached.
///
/// # Orderings
///
/// The count is stored with Release and loaded with Acquire: who sees it sees what was written before. It is stored by
/// one thread, or by several in turn, and only rises.
///
/// A waiter parks under the lock after it has found the count too low there. The publisher stores the count first and
/// takes the lock once before it wakes: either the waiter looked later, then the lock, or the count itself, shows it
/// the new count; or it looked before and has parked by the time the publisher gets the lock, for parking is what lets
/// go of it, and is woken. No wake-up is lost, and a publisher never waits longer than for a look at the count.
#[derive(Debug)]
pub struct Completion {
    completed: AtomicU64,
    ending: Mutex<Ending>,
    changed: Condvar,
}

/// How it ended, if it did.
#[derive(Debug, Default)]
struct Ending {
    /// The first failure and the count that it concerns; all later work is void as well.
    failure: Option<(u64, BackendError)>,
}

impl Default for Completion {
    fn default() -> Self {
        Completion::new()
    }
}

impl Completion {
    /// Nothing has finished.
    pub fn new() -> Completion {
        Completion { completed: AtomicU64::new(0), ending: Mutex::new(Ending::default()), changed: Condvar::new() }
    }

    /// Says that the first `value` have finished.
    pub fn complete(&self, value: u64) {
        // Release: see the type's documentation.
        self.completed.store(value, Ordering::Release);
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Says that `value` has failed, after which nothing later runs; it counts as finished.
    pub fn fail(&self, value: u64, error: BackendError) {
        self.lock().failure.get_or_insert((value, error));
        self.complete(value);
    }

    /// Gives everything up that has not finished: every wait for more than the count so far ends with the error.
    pub fn cancel(&self, error: BackendError) {
        let mut ending = self.lock();
        let next = self.completed() + 1;
        ending.failure.get_or_insert((next, error));
        drop(ending);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Ending> {
        // Nothing that runs under the lock leaves it half changed.
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending {
    /// Whether a wait for `value` is over, and how.
    fn of(&self, value: u64, completed: u64) -> Option<Result<(), BackendError>> {
        match &self.failure {
            Some((failed, error)) if *failed <= value => Some(Err(error.clone())),
            _ => (completed >= value).then_some(Ok(())),
        }
    }
}

impl Timeline for Completion {
    fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        let mut ending = self.lock();
        loop {
            if let Some(result) = ending.of(value, self.completed()) {
                return result;
            }
            ending = self.changed.wait(ending).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        let deadline = Instant::now() + timeout;
        let mut ending = self.lock();
        loop {
            if let Some(result) = ending.of(value, self.completed()) {
                return result.map(|()| true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            ending = self.changed.wait_timeout(ending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn error() -> BackendError {
        BackendError::Failed { device: "thread".into(), reason: "test".into() }
    }

    #[test]
    fn what_finished_before_a_failure_stays_good() {
        let completion = Completion::new();
        completion.complete(2);
        completion.fail(3, error());
        assert_eq!(completion.block_until(2), Ok(()));
        assert_eq!(completion.block_until(3), Err(error()));
        assert_eq!(completion.block_for(4, Duration::ZERO), Err(error()), "nothing runs behind a failure");
        assert_eq!(completion.completed(), 3);
    }

    #[test]
    fn a_wait_for_a_limited_time_ends() {
        let completion = Completion::new();
        assert_eq!(completion.block_for(1, Duration::from_millis(1)), Ok(false));
        completion.complete(1);
        assert_eq!(completion.block_for(1, Duration::ZERO), Ok(true));
        completion.cancel(error());
        assert_eq!(completion.block_for(1, Duration::ZERO), Ok(true));
        assert_eq!(completion.block_for(2, Duration::from_secs(60)), Err(error()));
    }
}
