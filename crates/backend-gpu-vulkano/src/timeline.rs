//! How completion is counted: a timeline semaphore, whose counter the GPU raises.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hetero_core::{BackendError, Timeline};
use parking_lot::Mutex;
use vulkano::sync::semaphore::{Semaphore, SemaphoreWaitInfo};
use vulkano::{Validated, VulkanError as Code};

use crate::error::checked_error;

/// The count of finished submissions of a GPU.
#[derive(Debug)]
pub(crate) struct GpuTimeline {
    semaphore: Arc<Semaphore>,
    name: String,
    submitted: AtomicU64,
    /// What the counter was when it could last be read.
    last_seen: AtomicU64,
    /// Why the GPU is of no further use.
    failure: Mutex<Option<BackendError>>,
}

impl GpuTimeline {
    pub(crate) fn new(semaphore: Arc<Semaphore>, name: String) -> GpuTimeline {
        let (submitted, last_seen) = (AtomicU64::new(0), AtomicU64::new(0));
        GpuTimeline { semaphore, name, submitted, last_seen, failure: Mutex::default() }
    }

    pub(crate) fn semaphore(&self) -> &Semaphore {
        &self.semaphore
    }

    /// Says that submission `value` is under way; called in the order of the values.
    pub(crate) fn add(&self, value: u64) {
        self.submitted.store(value, Ordering::Release);
    }

    /// Why the GPU is of no further use, if it is.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        self.failure.lock().clone()
    }

    /// Notes why the GPU is of no further use, and says what was the first reason.
    pub(crate) fn fail(&self, error: BackendError) -> BackendError {
        self.failure.lock().get_or_insert(error).clone()
    }

    fn block(&self, value: u64, timeout: Option<Duration>) -> Result<bool, BackendError> {
        if self.completed() < value {
            if let Some(error) = self.failure() {
                return Err(error);
            }
            let submitted = self.submitted.load(Ordering::Acquire);
            assert!(value <= submitted, "nothing is under way that could reach {value}");
            let wait = SemaphoreWaitInfo { value, ..SemaphoreWaitInfo::default() };
            // Longer than any timeout that Vulkan takes is as good as none.
            let timeout = timeout.filter(|timeout| timeout.as_nanos() < u128::from(u64::MAX));
            match self.semaphore.wait(wait, timeout) {
                Ok(()) => {}
                Err(Validated::Error(Code::Timeout)) => return Ok(false),
                Err(error) => return Err(self.fail(checked_error(&self.name, error, 0))),
            }
        }
        self.failure().map_or(Ok(true), Err)
    }
}

impl Timeline for GpuTimeline {
    fn completed(&self) -> u64 {
        match self.semaphore.counter_value() {
            Ok(value) => {
                self.last_seen.fetch_max(value, Ordering::Relaxed);
                value
            }
            Err(error) => {
                // Told to whoever waits.
                self.fail(checked_error(&self.name, error, 0));
                self.last_seen.load(Ordering::Relaxed)
            }
        }
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        self.block(value, None).map(drop)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        self.block(value, Some(timeout))
    }
}
