//! In real time, the thread that runs a processor's submissions one after the other.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hetero_core::{BackendError, Timeline};
use parking_lot::{Condvar, Mutex};

use crate::executable::Job;
use crate::timeline::{RealTimeline, lost, timed_out};

/// Accepts submissions; dropping it ends the thread after the last one.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The lock keeps counts and queue in one order.
    entrance: Mutex<Entrance>,
    timeline: Arc<RealTimeline>,
    closing: Arc<Closing>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Entrance {
    /// `None` only while being dropped.
    jobs: Option<Sender<Timed>>,
    /// Count of the last submission.
    last_value: u64,
}

/// A submission with the real time that it takes at least.
#[derive(Debug)]
struct Timed {
    value: u64,
    job: Job,
    seconds: f64,
}

/// Wakes a processor that hangs when the queue is dropped.
#[derive(Debug, Default)]
struct Closing {
    is_closing: Mutex<bool>,
    changed: Condvar,
}

impl Queue {
    /// Starts the thread of a device, which may hang for as long as `timeout`.
    pub(crate) fn new(device: &str, timeout: Duration) -> Result<Queue, BackendError> {
        let (sender, incoming) = channel();
        let timeline = Arc::new(RealTimeline::default());
        let closing = Arc::new(Closing::default());
        let thread = std::thread::Builder::new().name(format!("hetero-{device}")).spawn({
            let (timeline, closing, device) = (Arc::clone(&timeline), Arc::clone(&closing), device.to_owned());
            move || serve(&incoming, &timeline, &closing, &device, timeout)
        });
        let no_thread = |error: std::io::Error| BackendError::Failed {
            device: device.to_owned(),
            reason: format!("the system refused its thread: {error}"),
        };
        let thread = Some(thread.map_err(no_thread)?);
        let entrance = Mutex::new(Entrance { jobs: Some(sender), last_value: 0 });
        Ok(Queue { entrance, timeline, closing, thread })
    }

    /// Queues a run that takes so many seconds at least: the timeline, and the count at which it has finished.
    pub(crate) fn submit(&self, job: Job, seconds: f64) -> (Arc<dyn Timeline>, u64) {
        let mut entrance = self.entrance.lock();
        entrance.last_value += 1;
        let value = entrance.last_value;
        let jobs = entrance.jobs.as_ref().expect("submissions come through a shared reference, so before the drop");
        assert!(
            jobs.send(Timed { value, job, seconds }).is_ok(),
            "the queue's thread ends only after its last submitter"
        );
        (Arc::<RealTimeline>::clone(&self.timeline), value)
    }

    /// Why the processor has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        self.timeline.failure()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.entrance.get_mut().jobs = None;
        *self.closing.is_closing.lock() = true;
        self.closing.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread catches the panics of submissions; one of its own has nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn serve(incoming: &Receiver<Timed>, timeline: &RealTimeline, closing: &Closing, device: &str, timeout: Duration) {
    for Timed { value, job, seconds } in incoming {
        // After a failure what later submissions would read is void. Rights are given back before the count says so.
        if timeline.failure().is_some() {
            drop(job);
            timeline.complete(value);
            continue;
        }
        if job.faults.is_fatal || job.faults.is_stuck {
            if job.faults.is_stuck {
                closing.wait(timeout);
            }
            let error = if job.faults.is_stuck { timed_out(device, timeout) } else { lost(device) };
            drop(job);
            timeline.fail(value, error);
            continue;
        }
        let started = Instant::now();
        match job.compute(device) {
            Ok(job) => {
                let lasts = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                closing.wait(lasts.saturating_sub(started.elapsed()));
                job.give_back();
                timeline.complete(value);
            }
            Err(error) => timeline.fail(value, error),
        }
    }
}

impl Closing {
    /// Sleeps, unless the queue is being dropped.
    fn wait(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        let until = Instant::now().checked_add(duration);
        let mut is_closing = self.is_closing.lock();
        while !*is_closing {
            match until {
                Some(until) if self.changed.wait_until(&mut is_closing, until).timed_out() => return,
                Some(_) => {}
                None => self.changed.wait(&mut is_closing),
            }
        }
    }
}
