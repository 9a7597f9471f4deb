//! Counts of finished submissions, in virtual and in real time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hetero_core::{BackendError, Timeline};
use parking_lot::{Condvar, Mutex};

use crate::clock::{Stop, VirtualClock};
use crate::executable::Job;

/// A processor's timeline in virtual time: looking and waiting cost the host what the clock's documentation says.
///
/// A submission is computed when the host learns that it has finished, on the thread that asks. So rights stay with a
/// submission for as long as on a real processor, and a plan that forgets to wait is found out.
#[derive(Debug)]
pub(crate) struct VirtualTimeline {
    clock: Arc<VirtualClock>,
    idx: usize,
    device: String,
    /// How long the processor may hang.
    pub(crate) timeout: Duration,
    /// What has not been computed yet, in order.
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    jobs: VecDeque<(u64, Job)>,
    /// The first submission whose computation panicked.
    failure: Option<(u64, BackendError)>,
}

impl VirtualTimeline {
    pub(crate) fn new(clock: Arc<VirtualClock>, idx: usize, device: &str, timeout: Duration) -> VirtualTimeline {
        VirtualTimeline { clock, idx, device: device.to_owned(), timeout, pending: Mutex::default() }
    }

    /// Takes a submission, of which `count` knows the count at which it has finished.
    pub(crate) fn submit(&self, job: Job, count: impl FnOnce() -> u64) -> u64 {
        // The lock keeps counts and queue in one order.
        let mut pending = self.pending.lock();
        let value = count();
        pending.jobs.push_back((value, job));
        value
    }

    /// Computes what has finished.
    pub(crate) fn settle(&self, completed: u64) {
        let mut pending = self.pending.lock();
        while let Some((value, job)) = pending.jobs.pop_front_if(|(value, _)| *value <= completed) {
            let is_stopped = self.clock.stopped(self.idx).is_some_and(|stop| stop.value <= value);
            if is_stopped || pending.failure.is_some() {
                // What the processor never finishes is not computed; dropping the job gives the rights back.
                continue;
            }
            match job.compute(&self.device) {
                Ok(job) => job.give_back(),
                Err(error) => pending.failure = Some((value, error)),
            }
        }
    }

    /// Why submissions from `value` on fail, if they do.
    fn error(&self, value: u64) -> Option<BackendError> {
        if let Some(Stop { timed_out: hung, .. }) = self.clock.stopped(self.idx).filter(|stop| stop.value <= value) {
            return Some(if hung { timed_out(&self.device, self.timeout) } else { lost(&self.device) });
        }
        let failed = self.pending.lock().failure.clone().filter(|(failed, _)| *failed <= value);
        failed.map(|(_, error)| error)
    }

    /// Why the processor takes no more submissions, if it has stopped.
    pub(crate) fn stop_error(&self) -> Option<BackendError> {
        self.error(u64::MAX)
    }
}

impl Timeline for VirtualTimeline {
    fn completed(&self) -> u64 {
        let completed = self.clock.poll(self.idx);
        self.settle(completed);
        completed
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        self.clock.block_until(self.idx, value);
        self.settle(value);
        self.error(value).map_or(Ok(()), Err)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        if !self.clock.block_for(self.idx, value, timeout.as_secs_f64()) {
            return Ok(false);
        }
        self.settle(value);
        self.error(value).map_or(Ok(true), Err)
    }
}

/// A processor's timeline in real time: counts up as its thread finishes submissions.
#[derive(Debug, Default)]
pub(crate) struct RealTimeline {
    completed: AtomicU64,
    /// The first failure, with the submission that failed; later submissions are not run.
    failure: Mutex<Option<(u64, BackendError)>>,
    finished: Condvar,
}

impl RealTimeline {
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

    /// Why the processor has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        self.failure.lock().as_ref().map(|(_, error)| error.clone())
    }
}

impl RealTimeline {
    /// Whether so many have finished until a time.
    fn block(&self, value: u64, until: Option<Instant>) -> Result<bool, BackendError> {
        let mut failure = self.failure.lock();
        while self.completed() < value {
            match until {
                Some(until) if self.finished.wait_until(&mut failure, until).timed_out() => {
                    if self.completed() < value {
                        return Ok(false);
                    }
                }
                Some(_) => {}
                None => self.finished.wait(&mut failure),
            }
        }
        match &*failure {
            Some((failed, error)) if *failed <= value => Err(error.clone()),
            _ => Ok(true),
        }
    }
}

impl Timeline for RealTimeline {
    fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        self.block(value, None).map(drop)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        self.block(value, Instant::now().checked_add(timeout))
    }
}

/// The error of a submission that hung.
pub(crate) fn timed_out(device: &str, after: Duration) -> BackendError {
    BackendError::TimedOut { device: device.to_owned(), after }
}

/// The error of a processor that has gone away.
pub(crate) fn lost(device: &str) -> BackendError {
    BackendError::DeviceLost { device: device.to_owned(), reason: "a simulated fault".to_owned() }
}
