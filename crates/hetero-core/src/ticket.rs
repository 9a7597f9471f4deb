//! Work that is under way.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{BackendError, Bindings};

/// Monotonic count of a backend's finished submissions.
pub trait Timeline: Debug + Send + Sync {
    /// How many have finished. A cheap load that never blocks; when it returns `n`, what the first `n` submissions
    /// wrote is visible to the caller.
    fn completed(&self) -> u64;

    /// Waits until `value` submissions have finished, or the device is lost. An error of a submission up to `value`
    /// is returned here, and stays: a backend that has failed at one submission does not run later ones.
    fn block_until(&self, value: u64) -> Result<(), BackendError>;
}

/// A submission: holds what it reads and writes until it has finished.
#[derive(Debug)]
pub struct Ticket {
    timeline: Arc<dyn Timeline>,
    value: u64,
    /// `None` once `wait` has taken them.
    bindings: Option<Bindings>,
}

impl Ticket {
    /// For backends: the submission has finished when `timeline` reaches `value`.
    pub fn new(timeline: Arc<dyn Timeline>, value: u64, bindings: Bindings) -> Ticket {
        Ticket { timeline, value, bindings: Some(bindings) }
    }

    /// The timeline of the backend that runs it.
    pub fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }

    /// The count at which it has finished.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Whether it has finished. Never blocks.
    pub fn is_complete(&self) -> bool {
        self.timeline.completed() >= self.value
    }

    /// Waits for the end and gives the rights to the tensors back.
    pub fn wait(mut self) -> Result<Bindings, BackendError> {
        self.timeline.block_until(self.value)?;
        Ok(self.bindings.take().expect("bindings are taken once, by `wait`, which consumes the ticket"))
    }
}

impl Drop for Ticket {
    /// Waits: the processor may be writing.
    fn drop(&mut self) {
        if self.bindings.is_some() && !self.is_complete() {
            // An error means that the device has stopped, which is all that matters here.
            let _ = self.timeline.block_until(self.value);
        }
    }
}
