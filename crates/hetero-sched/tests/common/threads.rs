//! Devices that are threads: asynchronous, late, and as faulty as a test wants them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hetero_conformance::{Wrapped, Wrapper};
use hetero_core::{
    Backend, BackendError, Bindings, Claim, Executable, HandBack, Segment, SharedTensor, StepParams, Ticket, Timeline,
    reference,
};
use hetero_sched::sync::Completion;

use super::Choice;

/// What a device does besides computing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Habits {
    /// Each submission takes up to so much longer than it needs.
    pub(crate) late_us: usize,
    pub(crate) seed: usize,
    /// The submission, counted from 1, that fails.
    pub(crate) fails_at: Option<u64>,
    /// The submission at which the device is lost, with its memory.
    pub(crate) lost_at: Option<u64>,
    /// The submission that hangs until the backend gives it up.
    pub(crate) hangs_at: Option<u64>,
    /// Begins with the first submission when so many are queued.
    pub(crate) begins_with: u64,
    /// Compiled segments that it holds at a time.
    pub(crate) limit: Option<usize>,
    /// Whether it takes work before its inputs exist.
    pub(crate) takes_ahead: bool,
}

/// A device whose submissions a thread computes with the reference loops.
pub(crate) type ThreadBackend = Wrapped<Threaded>;

/// What is different about such a device.
#[derive(Debug)]
pub(crate) struct Threaded {
    name: String,
    habits: Habits,
    shared: Arc<Shared>,
    jobs: Arc<Mutex<Sender<Job>>>,
}

#[derive(Debug, Default)]
struct Shared {
    completion: Completion,
    n_submitted: AtomicU64,
    n_compiled: AtomicUsize,
    n_live: AtomicUsize,
    /// Whether the first submission found the queue as long as the habits ask for.
    was_queued: AtomicUsize,
    /// Submissions that were queued ahead, and those of them that were started.
    n_ahead: AtomicUsize,
    n_started: AtomicUsize,
    /// Where those that wait get their bindings, by submission.
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// What a submission that waits is given its bindings by, and gives them back by.
type Waiting = (Sender<Bindings>, Arc<HandBack>);

struct Job {
    segment: Arc<Segment>,
    bindings: Given,
    step: StepParams,
    value: u64,
    hand_back: Arc<HandBack>,
}

/// The bindings of a job, now or later.
enum Given {
    Now(Bindings),
    /// Nothing comes when the job is taken back.
    Later(Receiver<Bindings>),
}

impl Threaded {
    /// A new device.
    pub(crate) fn backend(name: &str, habits: Habits) -> Arc<ThreadBackend> {
        let shared = Arc::new(Shared::default());
        let (jobs, incoming) = channel();
        std::thread::spawn({
            let (shared, habits, name) = (Arc::clone(&shared), habits.clone(), name.to_owned());
            move || serve(&incoming, &shared, &habits, &name)
        });
        let threaded = Threaded { name: name.to_owned(), habits, shared, jobs: Arc::new(Mutex::new(jobs)) };
        Arc::new(Wrapped::reference(threaded).with_info(|info| info.name = name.to_owned()))
    }

    pub(crate) fn n_compiled(&self) -> usize {
        self.shared.n_compiled.load(Ordering::Relaxed)
    }

    pub(crate) fn was_queued(&self) -> bool {
        self.shared.was_queued.load(Ordering::Relaxed) > 0
    }

    /// Submissions that were queued ahead, those of them that were started, and those that wait.
    pub(crate) fn n_ahead(&self) -> [usize; 3] {
        let [n_ahead, n_started] =
            [&self.shared.n_ahead, &self.shared.n_started].map(|count| count.load(Ordering::Relaxed));
        [n_ahead, n_started, self.shared.waiting.lock().expect("nothing panics under it").len()]
    }
}

fn serve(incoming: &Receiver<Job>, shared: &Shared, habits: &Habits, name: &str) {
    let mut choice = Choice::new(habits.seed);
    let started = Instant::now();
    let mut has_failed = false;
    for Job { segment, bindings, step, value, hand_back } in incoming {
        let bindings = match bindings {
            Given::Now(bindings) => Some(bindings),
            Given::Later(later) => later.recv().ok(),
        };
        let Some(mut bindings) = bindings else {
            shared.completion.complete(value);
            continue;
        };
        while value == 1 && shared.n_submitted.load(Ordering::Acquire) < habits.begins_with {
            // A test that never queues so many fails by what it asserts, not by hanging.
            if started.elapsed() > Duration::from_secs(20) {
                break;
            }
            std::thread::yield_now();
        }
        let n_queued = shared.n_submitted.load(Ordering::Acquire);
        shared.was_queued.fetch_add(usize::from(value == 1 && n_queued >= habits.begins_with), Ordering::Relaxed);
        if has_failed {
            drop(bindings);
            shared.completion.complete(value);
            continue;
        }
        if habits.late_us > 0 {
            // Devices of random speed are what these tests are about; nothing is asserted of the time itself.
            std::thread::sleep(Duration::from_micros(choice.below(habits.late_us) as u64));
        }
        let error = if habits.hangs_at == Some(value) {
            let after = Duration::from_millis(400);
            std::thread::sleep(after);
            Some(BackendError::TimedOut { device: name.to_owned(), after })
        } else if habits.fails_at == Some(value) {
            Some(BackendError::Failed { device: name.to_owned(), reason: "told to".to_owned() })
        } else if habits.lost_at == Some(value) {
            Some(BackendError::DeviceLost { device: name.to_owned(), reason: "told to".to_owned() })
        } else {
            let result = catch_unwind(AssertUnwindSafe(|| reference::run_segment(&segment, &mut bindings, step)));
            result.err().map(|panic| {
                let reason = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                BackendError::Failed { device: name.to_owned(), reason }
            })
        };
        match error {
            None => {
                hand_back.give(bindings);
                shared.completion.complete(value);
            }
            Some(error) => {
                has_failed = true;
                drop(bindings);
                shared.completion.fail(value, error);
            }
        }
    }
}

impl Wrapper for Threaded {
    fn compile(&self, _inner: &dyn Backend, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        let n_live = self.shared.n_live.load(Ordering::Relaxed);
        if let Some(limit) = self.habits.limit.filter(|&limit| n_live >= limit) {
            let (device, allowed, needed) = (self.name.clone(), limit as u64, n_live as u64 + 1);
            return Err(BackendError::LimitReached { device, what: "live segments", allowed, needed });
        }
        self.shared.n_live.fetch_add(1, Ordering::Relaxed);
        self.shared.n_compiled.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(ThreadExecutable {
            segment: Arc::new(segment.clone()),
            shared: Arc::clone(&self.shared),
            jobs: Arc::clone(&self.jobs),
            takes_ahead: self.habits.takes_ahead,
        }))
    }
}

#[derive(Debug)]
struct ThreadExecutable {
    segment: Arc<Segment>,
    shared: Arc<Shared>,
    jobs: Arc<Mutex<Sender<Job>>>,
    takes_ahead: bool,
}

impl ThreadExecutable {
    fn send(&self, bindings: Given, step: StepParams) -> (u64, Arc<HandBack>) {
        let jobs = self.jobs.lock().expect("nothing panics under it");
        let value = self.shared.n_submitted.fetch_add(1, Ordering::AcqRel) + 1;
        let hand_back = Arc::new(HandBack::default());
        let segment = Arc::clone(&self.segment);
        let job = Job { segment, bindings, step, value, hand_back: Arc::clone(&hand_back) };
        assert!(jobs.send(job).is_ok(), "the thread runs until the last sender is gone");
        (value, hand_back)
    }

    fn ticket(&self, value: u64, hand_back: Arc<HandBack>) -> Ticket {
        let timeline: Arc<dyn Timeline> = Arc::new(SharedTimeline(Arc::clone(&self.shared)));
        Ticket::lent(timeline, value, hand_back)
    }
}

impl Executable for ThreadExecutable {
    fn submit(&self, bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        let (value, hand_back) = self.send(Given::Now(bindings), step);
        Ok(self.ticket(value, hand_back))
    }

    fn queue_ahead(
        &self,
        _tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
        step: StepParams,
    ) -> Option<Result<u64, BackendError>> {
        self.takes_ahead.then(|| {
            let (sender, receiver) = channel();
            let (value, hand_back) = self.send(Given::Later(receiver), step);
            self.shared.n_ahead.fetch_add(1, Ordering::Relaxed);
            self.shared.waiting.lock().expect("nothing panics under it").insert(value, (sender, hand_back));
            Ok(value)
        })
    }

    fn start(&self, value: u64, bindings: Bindings) -> Result<Ticket, BackendError> {
        let waiting = self.shared.waiting.lock().expect("nothing panics under it").remove(&value);
        let (sender, hand_back) = waiting.expect("what is started waits");
        self.shared.n_started.fetch_add(1, Ordering::Relaxed);
        assert!(sender.send(bindings).is_ok(), "the thread waits for it");
        Ok(self.ticket(value, hand_back))
    }

    fn take_back(&self, value: u64) {
        let waiting = self.shared.waiting.lock().expect("nothing panics under it").remove(&value);
        drop(waiting.expect("what is taken back waits"));
    }
}

impl Drop for ThreadExecutable {
    fn drop(&mut self) {
        self.shared.n_live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct SharedTimeline(Arc<Shared>);

impl Timeline for SharedTimeline {
    fn completed(&self) -> u64 {
        self.0.completion.completed()
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        self.0.completion.block_until(value)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        self.0.completion.block_for(value, timeout)
    }
}
