//! Work that is under way.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{BackendError, Bindings};

/// Monotonic count of a backend's finished submissions.
pub trait Timeline: Debug + Send + Sync {
    /// How many have finished. A cheap load that never blocks; when it returns `n`, what the first `n` submissions
    /// wrote is visible to the caller.
    fn completed(&self) -> u64;

    /// Waits until `value` submissions have finished, or the device is lost. An error of a submission up to `value`
    /// is returned here, and stays: a backend that has failed at one submission does not run later ones. When an error
    /// is returned the processor touches no tensor of these submissions any more.
    fn block_until(&self, value: u64) -> Result<(), BackendError>;

    /// As [`Timeline::block_until`], but for about `timeout` at most; whether so many have finished. A timeline that
    /// cannot wait for a limited time waits as long as `block_until` does.
    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        let _ = timeout;
        self.block_until(value).map(|()| true)
    }
}

/// How long a processor that has failed may take to let go of what it was lent.
const SETTLE: Duration = Duration::from_secs(2);

/// A submission: holds what it reads and writes until it has finished.
#[derive(Debug)]
pub struct Ticket {
    timeline: Arc<dyn Timeline>,
    value: u64,
    held: Held,
}

/// Where a submission's rights are.
#[derive(Debug)]
enum Held {
    /// Here, until the processor has finished.
    Here(Bindings),
    /// With the processor, which gives them back.
    Lent(Arc<HandBack>),
    /// With the caller of `wait`.
    Returned,
}

/// Where a processor that is a thread of this process leaves the rights of a submission when it has finished.
///
/// Such a processor computes through slots and views themselves, so they move to it rather than into the ticket. It
/// gives them back before its timeline counts the submission, or drops them when it has failed, and its reference to
/// this afterwards.
#[derive(Debug, Default)]
pub struct HandBack {
    bindings: Mutex<Option<Bindings>>,
}

impl HandBack {
    /// For the processor: gives the rights back, to those queued behind it at once and as a list to the ticket.
    pub fn give(&self, mut bindings: Bindings) {
        bindings.give_back();
        *self.bindings.lock().unwrap_or_else(PoisonError::into_inner) = Some(bindings);
    }

    fn take(&self) -> Option<Bindings> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Ticket {
    /// For backends: the submission has finished when `timeline` reaches `value`.
    pub fn new(timeline: Arc<dyn Timeline>, value: u64, bindings: Bindings) -> Ticket {
        Ticket { timeline, value, held: Held::Here(bindings) }
    }

    /// For backends that compute with the bindings in a thread of their own: they come back through `hand_back`.
    pub fn lent(timeline: Arc<dyn Timeline>, value: u64, hand_back: Arc<HandBack>) -> Ticket {
        Ticket { timeline, value, held: Held::Lent(hand_back) }
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
        if let Err(error) = self.timeline.block_until(self.value) {
            self.held.settle();
            self.held = Held::Returned;
            return Err(error);
        }
        match std::mem::replace(&mut self.held, Held::Returned) {
            Held::Here(bindings) => Ok(bindings),
            Held::Lent(hand_back) => Ok(hand_back.take().expect("a processor gives back what it was lent")),
            Held::Returned => unreachable!("`wait` consumes the ticket"),
        }
    }
}

impl Drop for Ticket {
    /// Waits: the processor may be writing.
    fn drop(&mut self) {
        if matches!(self.held, Held::Returned) {
            return;
        }
        // An error means that the device has stopped, which is all that matters here.
        if !self.is_complete() && self.timeline.block_until(self.value).is_err() {
            self.held.settle();
        }
    }
}

impl Held {
    /// Waits until a processor that has failed has let go of the rights: it may still be about to drop those of
    /// submissions that were queued behind the failure. One that hangs is not waited for any longer; who wants its
    /// tensors next is told that they are in use.
    fn settle(&self) {
        let Held::Lent(hand_back) = self else { return };
        let deadline = Instant::now() + SETTLE;
        while Arc::strong_count(hand_back) > 1 && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Binding, DType, DeviceId, HostTensor, SharedTensor, TensorDesc};

    /// Everything has finished, or everything has failed.
    #[derive(Debug)]
    struct Ended(Result<(), BackendError>);

    impl Timeline for Ended {
        fn completed(&self) -> u64 {
            1
        }

        fn block_until(&self, _value: u64) -> Result<(), BackendError> {
            self.0.clone()
        }
    }

    fn tensor() -> Arc<SharedTensor> {
        let desc = TensorDesc { rows: 1, columns: 1, dtype: DType::F32 };
        SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap()))
    }

    #[test]
    fn what_is_lent_to_a_processor_comes_back_through_the_ticket() {
        let tensor = tensor();
        let hand_back = Arc::new(HandBack::default());
        let ticket = Ticket::lent(Arc::new(Ended(Ok(()))), 1, Arc::clone(&hand_back));
        hand_back.give(Bindings { tensors: vec![Binding::Write(tensor.slot())] });
        let bindings = ticket.wait().unwrap();
        assert!(std::ptr::eq(bindings.tensors[0].tensor(), &*tensor));
    }

    #[test]
    fn a_processor_that_failed_need_not_give_anything_back() {
        let error = BackendError::OutOfMemory { device: "host".to_owned(), bytes: 1 };
        let ticket = Ticket::lent(Arc::new(Ended(Err(error.clone()))), 1, Arc::default());
        assert_eq!(ticket.wait().unwrap_err(), error);
    }
}
