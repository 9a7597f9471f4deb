//! Work that a processor was given before its inputs exist.

use std::sync::Arc;

use crate::{BackendError, Bindings, Claim, Executable, SharedTensor, StepParams, Ticket};

/// A run that is in its processor's queue and has not begun: it begins with [`QueuedAhead::start`], which costs the host
/// a signal instead of a submission.
///
/// Whoever drops it instead of starting it takes it back: it ends without touching any tensor. Until one of the two
/// happens it keeps all from beginning that is submitted to the same processor behind it, so whoever has one
///
/// - queues ahead only what waits for work that has been submitted already, and
/// - waits for nothing but such work before starting it or dropping it.
///
/// Then nobody waits for ever, whoever else uses the processors: of all runs in all queues that have not ended, the one
/// that was queued first has nothing unfinished before it in its queue and waits for nothing unfinished, so it ends.
#[derive(Debug)]
pub struct QueuedAhead {
    executable: Arc<dyn Executable>,
    value: u64,
    is_open: bool,
}

impl QueuedAhead {
    /// Queues a run of `executable`, as [`Executable::queue_ahead`] says.
    ///
    /// # Panics
    /// As [`Executable::queue_ahead`].
    pub fn queue(
        executable: &Arc<dyn Executable>,
        tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
        step: StepParams,
    ) -> Option<Result<QueuedAhead, BackendError>> {
        let value = executable.queue_ahead(tensors, step)?;
        Some(value.map(|value| QueuedAhead { executable: Arc::clone(executable), value, is_open: true }))
    }

    /// Lets it begin, with rights to the tensors that it was queued for.
    ///
    /// # Panics
    /// As [`Executable::start`].
    pub fn start(mut self, bindings: Bindings) -> Result<Ticket, BackendError> {
        let ticket = self.executable.start(self.value, bindings)?;
        self.is_open = false;
        Ok(ticket)
    }
}

impl Drop for QueuedAhead {
    fn drop(&mut self) {
        // After an error or a panic in `start` too: nothing may stay in the queue that never begins.
        if self.is_open {
            self.executable.take_back(self.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use super::*;
    use crate::Timeline;

    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    enum Start {
        #[default]
        Works,
        Fails,
        Panics,
    }

    /// Queues run 7 and notes what becomes of it.
    #[derive(Debug, Default)]
    struct Noting {
        start: Start,
        noted: Mutex<Vec<String>>,
    }

    impl Noting {
        fn note(&self, what: &str, value: u64) {
            self.noted.lock().unwrap().push(format!("{what} {value}"));
        }
    }

    #[derive(Debug)]
    struct Ended;

    impl Timeline for Ended {
        fn completed(&self) -> u64 {
            u64::MAX
        }

        fn block_until(&self, _value: u64) -> Result<(), BackendError> {
            Ok(())
        }
    }

    impl Executable for Noting {
        fn submit(&self, _bindings: Bindings, _step: StepParams) -> Result<Ticket, BackendError> {
            unreachable!("no test submits")
        }

        fn queue_ahead(
            &self,
            _tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
            _step: StepParams,
        ) -> Option<Result<u64, BackendError>> {
            Some(Ok(7))
        }

        fn start(&self, value: u64, bindings: Bindings) -> Result<Ticket, BackendError> {
            assert_ne!(self.start, Start::Panics, "told to");
            if self.start == Start::Fails {
                return Err(BackendError::Failed { device: "test".to_owned(), reason: "told to".to_owned() });
            }
            self.note("started", value);
            Ok(Ticket::new(Arc::new(Ended), value, bindings))
        }

        fn take_back(&self, value: u64) {
            self.note("taken back", value);
        }
    }

    fn noted(start: Start, use_it: impl FnOnce(QueuedAhead)) -> Vec<String> {
        let noting = Arc::new(Noting { start, ..Noting::default() });
        let executable: Arc<dyn Executable> = Arc::<Noting>::clone(&noting);
        use_it(QueuedAhead::queue(&executable, &[], StepParams { past: 0, rows: 1 }).unwrap().unwrap());
        noting.noted.lock().unwrap().clone()
    }

    #[test]
    fn what_is_started_is_not_taken_back() {
        let start = |queued: QueuedAhead| drop(queued.start(Bindings::default()).unwrap());
        assert_eq!(noted(Start::Works, start), ["started 7"]);
    }

    #[test]
    fn what_is_never_started_is_taken_back() {
        assert_eq!(noted(Start::Works, drop), ["taken back 7"]);
        let fail = |queued: QueuedAhead| drop(queued.start(Bindings::default()).unwrap_err());
        assert_eq!(noted(Start::Fails, fail), ["taken back 7"]);
        let panic = |queued: QueuedAhead| {
            catch_unwind(AssertUnwindSafe(|| queued.start(Bindings::default()))).unwrap_err();
        };
        assert_eq!(noted(Start::Panics, panic), ["taken back 7"]);
    }
}
