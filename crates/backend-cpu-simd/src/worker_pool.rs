//! A fixed pool of threads for fork and join, with a barrier inside a run.
//!
//! A run hands one closure to all workers, of which the calling thread is one, and returns when all have finished it.
//! Between two runs the threads watch for work for a short while, and then sleep.
//!
//! The protocol has one primitive, `Gate`: a count that only grows, in one atomic word together with a bit that says
//! that somebody sleeps on it. Every write to that word is a read-modify-write with `AcqRel`, and every read that ends a
//! wait is an `Acquire`, so all that happened before a gate opened is visible to all who waited for it.
//! Three gates carry a run: `start` publishes the closure, `done` its end, and `phase` opens at each barrier.

use core::any::Any;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long a waiting thread watches before it sleeps, where every worker has a core.
const SPIN: Duration = Duration::from_micros(80);
/// The same where workers outnumber cores: the one that is waited for may need this core.
const SPIN_OVERSUBSCRIBED: Duration = Duration::from_micros(2);

/// Threads that run one closure together.
pub struct WorkerPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held during a run, so that runs from several threads come one after the other.
    running: Mutex<()>,
}

/// What a worker knows of the run that it takes part in.
pub struct Worker<'run> {
    index: usize,
    shared: &'run Shared,
}

/// A task of a run panicked; the other workers have finished or given up at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task of the worker pool panicked: {message}")]
pub struct TaskPanicked {
    /// What it said.
    pub message: String,
}

/// Hands out the chunks of a range to whoever asks first; uneven work is balanced by it.
#[derive(Debug, Default)]
pub struct ChunkCounter {
    next: AtomicUsize,
}

/// The contiguous share of `part` when `count` items are cut into `parts` of almost equal size.
pub fn share(count: usize, part: usize, parts: usize) -> Range<usize> {
    assert!(part < parts, "share {part} of {parts}");
    let (each, extra) = (count / parts, count % parts);
    let start = part * each + part.min(extra);
    start..start + each + usize::from(part < extra)
}

impl ChunkCounter {
    /// A counter at the start of its range.
    pub const fn new() -> Self {
        Self { next: AtomicUsize::new(0) }
    }

    /// The next chunk of `0..count` that nobody has, of at most `chunk` items.
    pub fn take(&self, count: usize, chunk: usize) -> Option<Range<usize>> {
        // Only the claim itself must be atomic; what chunks hold is published by the pool's gates.
        let start = self.next.fetch_add(chunk, Ordering::Relaxed);
        (start < count).then(|| start..(start + chunk).min(count))
    }

    /// Back to the start. A barrier or the end of a run must lie between this and any use by others.
    pub fn reset(&self) {
        self.next.store(0, Ordering::Relaxed);
    }
}

/// The closure of a run. The address is valid from the opening of `start` to that of `done`, because the caller waits.
type Task = *const (dyn Fn(&Worker<'_>) + Sync);

struct Shared {
    n_workers: usize,
    spin: Duration,
    task: UnsafeCell<Option<Task>>,
    stop: AtomicBool,
    start: Gate,
    done: Gate,
    phase: Gate,
    /// Threads, other than the caller, that have not finished the run.
    unfinished: AtomicUsize,
    /// Workers that have come to the barrier.
    arrived: AtomicUsize,
    /// A task of this run has panicked: barriers open for good.
    broken: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is the only part that is not safe to share. The caller writes it while no thread is in a run, before it
// opens `start`; threads read it after they saw `start` open and before `unfinished` lets `done` open.
unsafe impl Sync for Shared {}
// SAFETY: as above; the address is followed only during the run that set it.
unsafe impl Send for Shared {}

/// The payload with which a worker leaves a barrier that a panic of another has broken.
struct BarrierBroken;

impl WorkerPool {
    /// A pool of `n_workers`, the caller of [`WorkerPool::run`] included; at least one.
    ///
    /// # Errors
    ///
    /// The operating system refused a thread.
    pub fn new(n_workers: usize) -> std::io::Result<Self> {
        assert!(n_workers > 0, "a worker pool without workers");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            n_workers,
            spin: if n_workers > cores { SPIN_OVERSUBSCRIBED } else { SPIN },
            task: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            start: Gate::new(),
            done: Gate::new(),
            phase: Gate::new(),
            unfinished: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, threads: Vec::new(), running: Mutex::new(()) };
        for index in 1..n_workers {
            let shared = Arc::clone(&pool.shared);
            // On an error `pool` is dropped here and ends the threads that it has.
            let thread =
                std::thread::Builder::new().name(format!("hetero-cpu-{index}")).spawn(move || serve(&shared, index))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Number of workers, the caller included.
    pub fn n_workers(&self) -> usize {
        self.shared.n_workers
    }

    /// Runs `task` once on every worker and waits for all. The calling thread is worker 0.
    ///
    /// Runs of several threads wait for one another; a run inside a task would wait for itself, and panics.
    ///
    /// # Errors
    ///
    /// A task panicked. The pool stays usable.
    pub fn run(&self, task: impl Fn(&Worker<'_>) + Sync) -> Result<(), TaskPanicked> {
        assert!(!INSIDE_A_RUN.get(), "a run of a worker pool inside a task of one");
        let _running = self.running.lock();
        let shared = &*self.shared;
        let threads = self.threads.len();
        let task: &(dyn Fn(&Worker<'_>) + Sync) = &task;
        if threads > 0 {
            let done = shared.done.count();
            // SAFETY: this extends the lifetime of the closure only in name. `done` opens when the last thread has
            // finished with it, and nothing between here and the wait for that unwinds, because tasks are caught.
            let erased = unsafe { core::mem::transmute::<&(dyn Fn(&Worker<'_>) + Sync), Task>(task) };
            // SAFETY: no thread is in a run, since the last run's `done` has opened, and `running` keeps others out.
            unsafe { *shared.task.get() = Some(erased) };
            shared.unfinished.store(threads, Ordering::Relaxed);
            shared.start.open();
            shared.perform(task, 0);
            shared.done.wait_past(done, shared.spin);
        } else {
            shared.perform(task, 0);
        }
        // All workers are out: what a panic left behind is cleared for the next run.
        shared.arrived.store(0, Ordering::Relaxed);
        shared.broken.store(false, Ordering::Relaxed);
        match shared.panic.lock().take() {
            None => Ok(()),
            Some(payload) => Err(TaskPanicked { message: message_of(&*payload) }),
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.start.open();
        for thread in self.threads.drain(..) {
            // A thread catches the panics of its tasks, so there is nothing to report.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("n_workers", &self.n_workers()).finish_non_exhaustive()
    }
}

impl Worker<'_> {
    /// Which worker this is, from 0, the caller, to `n_workers - 1`.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers of the run.
    pub fn n_workers(&self) -> usize {
        self.shared.n_workers
    }

    /// This worker's contiguous share of `count` items.
    pub fn share(&self, count: usize) -> Range<usize> {
        share(count, self.index, self.n_workers())
    }

    /// Waits until every worker of the run has come here; all that they wrote before is visible to all after.
    ///
    /// When another worker panics, this one unwinds out of the run, since the barrier can never fill.
    pub fn barrier(&self) {
        let shared = self.shared;
        if shared.n_workers == 1 {
            return;
        }
        // Read before arriving: the gate cannot open for this barrier until this worker has arrived.
        let phase = shared.phase.count();
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.n_workers {
            // Everybody else waits, so nobody arrives at the next barrier before the gate opens.
            shared.arrived.store(0, Ordering::Relaxed);
            shared.phase.open();
        } else if !shared.broken.load(Ordering::Acquire) {
            shared.phase.wait_past(phase, shared.spin);
        }
        if shared.broken.load(Ordering::Acquire) {
            resume_unwind(Box::new(BarrierBroken));
        }
    }
}

impl fmt::Debug for Worker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}

std::thread_local! {
    /// Whether this thread is performing a task.
    static INSIDE_A_RUN: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
}

impl Shared {
    /// Runs the task as one worker, and keeps what a panic says.
    fn perform(&self, task: &(dyn Fn(&Worker<'_>) + Sync), index: usize) {
        INSIDE_A_RUN.set(true);
        let worker = Worker { index, shared: self };
        let result = catch_unwind(AssertUnwindSafe(|| task(&worker)));
        INSIDE_A_RUN.set(false);
        if let Err(payload) = result {
            if !payload.is::<BarrierBroken>() {
                // The first panic is the one to report.
                self.panic.lock().get_or_insert(payload);
            }
            self.broken.store(true, Ordering::Release);
            self.phase.open();
        }
    }
}

/// The life of a thread of the pool.
fn serve(shared: &Shared, index: usize) {
    // Gates start at zero, so a run that began before this thread did is not missed.
    let mut seen = 0;
    loop {
        shared.start.wait_past(seen, shared.spin);
        seen += 1;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: `start` has opened for this run, so the task is written, and it is not written again before this
        // thread has taken itself off `unfinished`. The closure lives as long, because `run` waits for `done`.
        let task = unsafe { &*(*shared.task.get()).expect("a run has a task") };
        shared.perform(task, index);
        // Release the writes of this task, and acquire those of the threads that finished before, for `done`.
        if shared.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.done.open();
        }
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// A growing count that threads wait on: first by watching it, then asleep.
///
/// The word is the count times two, plus one while somebody may sleep. A sleeper sets that bit while it holds the mutex
/// and holds it until it sleeps. Who opens the gate clears the bit in the same step that raises the count, and takes the
/// mutex before it wakes: by then the sleeper either sleeps, or has yet to look at the word, which has changed.
struct Gate {
    word: AtomicUsize,
    mutex: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    const fn new() -> Self {
        Self { word: AtomicUsize::new(0), mutex: Mutex::new(()), opened: Condvar::new() }
    }

    /// How often the gate has been opened.
    fn count(&self) -> usize {
        self.word.load(Ordering::Acquire) >> 1
    }

    /// Raises the count by one and wakes all who wait.
    fn open(&self) {
        let next = |word: usize| ((word >> 1) + 1) << 1;
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(now) = self.word.compare_exchange_weak(word, next(word), Ordering::AcqRel, Ordering::Relaxed) {
            word = now;
        }
        if word & 1 == 1 {
            drop(self.mutex.lock());
            self.opened.notify_all();
        }
    }

    /// Waits until the count is no longer `seen`.
    fn wait_past(&self, seen: usize, spin: Duration) {
        // The clock is slow compared with a look at the word, so it is read now and then only.
        const LOOKS: u32 = 64;
        let mut begin = None;
        loop {
            for _ in 0..LOOKS {
                if self.count() != seen {
                    return;
                }
                core::hint::spin_loop();
            }
            if begin.get_or_insert_with(Instant::now).elapsed() > spin {
                break;
            }
        }
        let mut guard = self.mutex.lock();
        while self.word.fetch_or(1, Ordering::AcqRel) >> 1 == seen {
            self.opened.wait(&mut guard);
        }
    }
}

#[cfg(test)]
#[path = "worker_pool/tests.rs"]
mod tests;
