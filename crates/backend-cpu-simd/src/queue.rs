//! The thread that runs submissions, one after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use hetero_core::{BackendError, StepParams};
use parking_lot::Mutex;

use crate::error::CpuError;
use crate::program::{Program, RawTensor, Scratch};
use crate::timeline::CpuTimeline;
use crate::worker_pool::WorkerPool;

/// Submissions that may wait; a submitter that is further ahead waits itself.
const QUEUE_LENGTH: usize = 64;

/// Accepts submissions; dropping it ends the thread after the last one.
#[derive(Debug)]
pub(crate) struct Queue {
    /// `None` only while being dropped.
    jobs: Option<Sender<Job>>,
    /// Number of the last submission; the lock keeps numbers and queue in one order.
    last_value: Mutex<u64>,
    timeline: Arc<CpuTimeline>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    program: Arc<Program>,
    tensors: Vec<RawTensor>,
    step: StepParams,
    value: u64,
}

impl Queue {
    /// Starts the thread, which is one of `n_threads` workers.
    pub(crate) fn new(n_threads: usize, scratch: Arc<Mutex<Scratch>>, name: &str) -> Result<Queue, CpuError> {
        let (jobs, incoming) = bounded(QUEUE_LENGTH);
        let timeline = Arc::new(CpuTimeline::default());
        let (started, start) = bounded(1);
        let thread = std::thread::Builder::new().name(format!("hetero-{name}")).spawn({
            let (timeline, name) = (Arc::clone(&timeline), name.to_owned());
            move || match WorkerPool::new(n_threads) {
                Ok(pool) => {
                    let _ = started.send(Ok(()));
                    serve(&incoming, &pool, &scratch, &timeline, &name);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let no_thread = |error: &dyn std::fmt::Display| CpuError::NoThread { reason: error.to_string() };
        let thread = thread.map_err(|error| no_thread(&error))?;
        match start.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(no_thread(&error)),
            Err(_) => return Err(no_thread(&"the thread ended before it began")),
        }
        Ok(Queue { jobs: Some(jobs), last_value: Mutex::new(0), timeline, thread: Some(thread) })
    }

    /// Queues a run; the count at which it has finished.
    pub(crate) fn submit(&self, program: Arc<Program>, tensors: Vec<RawTensor>, step: StepParams) -> u64 {
        let mut last_value = self.last_value.lock();
        *last_value += 1;
        let job = Job { program, tensors, step, value: *last_value };
        let jobs = self.jobs.as_ref().expect("submissions come through a shared reference, so before the drop");
        assert!(jobs.send(job).is_ok(), "the queue's thread ends only after its last submitter");
        *last_value
    }

    /// Counts what has finished.
    pub(crate) fn timeline(&self) -> &Arc<CpuTimeline> {
        &self.timeline
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // The thread catches the panics of submissions; one of its own has nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn serve(incoming: &Receiver<Job>, pool: &WorkerPool, scratch: &Mutex<Scratch>, timeline: &CpuTimeline, name: &str) {
    for Job { program, tensors, step, value } in incoming {
        // After a failure what later submissions would read is void.
        if timeline.has_failed() {
            timeline.complete(value);
            continue;
        }
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the ticket of this submission keeps the bindings, from which `tensors` were made, until the
            // timeline reaches `value`, which happens below. They were handed over to this queue, which runs one
            // submission after the other.
            unsafe { program.run(&tensors, step, pool, &mut scratch.lock()) }
        }));
        program.recycle(tensors);
        match result {
            Ok(()) => timeline.complete(value),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let reason = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a kernel panicked");
                timeline.fail(value, BackendError::Failed { device: name.to_owned(), reason: reason.to_owned() });
            }
        }
    }
}
