//! Steps allocate nothing: not on the host's thread, once everything has its room.
//!
//! A test binary of its own, because the allocator is the whole program's.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::equal::Equal;
use hetero_conformance::{Wrapped, Wrapper};
use hetero_core::{
    Access, Backend, BackendError, Bindings, Claim, Executable, Segment, SharedTensor, StepParams, Tensor, Ticket,
    Timeline,
};
use hetero_sched::cost::DeviceSet;
use hetero_sched::sync::{WaitOptions, WaitPolicy};
use hetero_sched::{Executor, ExecutorOptions, Residency, Runner, SolveOptions, Synchronisation, Team, TeamOptions};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static N_ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it is; counting touches only a thread-local number, which has no
// destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_ALLOCATIONS.set(N_ALLOCATIONS.get() + 1);
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: forwarded.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        N_ALLOCATIONS.set(N_ALLOCATIONS.get() + 1);
        // SAFETY: forwarded.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Computes nothing and finishes one submission for every third look at its timeline.
#[derive(Debug, Default)]
struct Idle {
    timeline: Arc<Looks>,
    /// Whether it reaches its own memory alone.
    is_apart: bool,
}

#[derive(Debug, Default)]
struct Looks {
    n_submitted: AtomicU64,
    n_looks: AtomicU64,
    completed: AtomicU64,
    /// The submission that was queued ahead and has not begun; 0 for none. One thread submits, so there is one at most.
    waiting: AtomicU64,
    n_started: AtomicU64,
}

impl Looks {
    /// The last submission that can finish.
    fn last(&self) -> u64 {
        match self.waiting.load(Ordering::Acquire) {
            0 => self.n_submitted.load(Ordering::Acquire),
            waiting => waiting - 1,
        }
    }
}

impl Timeline for Looks {
    fn completed(&self) -> u64 {
        let n_looks = self.n_looks.fetch_add(1, Ordering::Relaxed) + 1;
        let completed = self.completed.load(Ordering::Acquire);
        if n_looks.is_multiple_of(3) && completed < self.last() {
            self.completed.store(completed + 1, Ordering::Release);
        }
        completed
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        assert!(value <= self.last(), "what has not begun is waited for");
        self.completed.fetch_max(value, Ordering::AcqRel);
        Ok(())
    }

    fn block_for(&self, value: u64, _timeout: Duration) -> Result<bool, BackendError> {
        Ok(self.completed() >= value)
    }
}

impl Wrapper for Idle {
    fn access(&self, inner: &dyn Backend, tensor: &dyn Tensor) -> Access {
        if self.is_apart && tensor.device() != inner.info().id { Access::NeedsCopy } else { inner.access(tensor) }
    }

    fn compile(&self, inner: &dyn Backend, _segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        let (device, timeline) = (inner.info().id, Arc::clone(&self.timeline));
        Ok(Arc::new(IdleExecutable { device, timeline }))
    }
}

#[derive(Debug)]
struct IdleExecutable {
    device: hetero_core::DeviceId,
    timeline: Arc<Looks>,
}

impl Executable for IdleExecutable {
    fn submit(&self, mut bindings: Bindings, _step: StepParams) -> Result<Ticket, BackendError> {
        bindings.hand_over(self.device);
        let value = self.timeline.n_submitted.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Ticket::new(Arc::clone(&self.timeline) as Arc<dyn Timeline>, value, bindings))
    }

    fn queue_ahead(
        &self,
        _tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
        _step: StepParams,
    ) -> Option<Result<u64, BackendError>> {
        let value = self.timeline.n_submitted.fetch_add(1, Ordering::AcqRel) + 1;
        assert_eq!(self.timeline.waiting.swap(value, Ordering::AcqRel), 0, "one at a time");
        Some(Ok(value))
    }

    fn start(&self, value: u64, mut bindings: Bindings) -> Result<Ticket, BackendError> {
        bindings.hand_over(self.device);
        assert_eq!(self.timeline.waiting.swap(0, Ordering::AcqRel), value);
        self.timeline.n_started.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket::new(Arc::clone(&self.timeline) as Arc<dyn Timeline>, value, bindings))
    }

    fn take_back(&self, _value: u64) {
        unreachable!("no step ends early");
    }
}

fn idle(n: usize, is_apart: bool) -> (Vec<Arc<dyn Backend>>, Vec<Arc<Looks>>) {
    let timelines: Vec<Arc<Looks>> = (0..n).map(|_| Arc::default()).collect();
    let device = |timeline: &Arc<Looks>| {
        Arc::new(Wrapped::reference(Idle { is_apart, timeline: Arc::clone(timeline) })) as Arc<dyn Backend>
    };
    (timelines.iter().map(device).collect(), timelines)
}

#[test]
fn a_step_allocates_nothing() {
    let ways = [
        (Synchronisation::Fast, WaitPolicy::Predicted),
        (Synchronisation::Fast, WaitPolicy::Spin),
        (Synchronisation::Fast, WaitPolicy::Block),
        (Synchronisation::PerCrossing, WaitPolicy::Block),
    ];
    for (synchronisation, policy) in ways {
        for seed in 0..20 {
            let model = common::decoder(6);
            // In every other run each has memory of its own, and what crosses is copied, state too.
            let (devices, timelines) = idle(3, seed % 2 == 1);
            let plan = common::any_plan(&model.graph, 3, seed);
            let wait = WaitOptions { policy, ..WaitOptions::default() };
            let is_queued_ahead = true;
            let options =
                ExecutorOptions { synchronisation, wait, is_queued_ahead, n_traced: 64, ..ExecutorOptions::default() };
            let state = model.state();
            let mut executor =
                Executor::with_options(plan, &devices, &model.weights, &state, &mut Residency::new(), options)
                    .expect("ready");
            let mut steps = || {
                for past in 0..4 {
                    executor.step(StepParams { past, rows: 3 }).expect("a step");
                }
            };
            steps();
            let before = N_ALLOCATIONS.get();
            assert!(before > 0, "setting up has been counted");
            steps();
            assert_eq!(N_ALLOCATIONS.get() - before, 0, "plan {seed}, {synchronisation:?}, {policy:?}");
            let n_started: u64 = timelines.iter().map(|timeline| timeline.n_started.load(Ordering::Relaxed)).sum();
            assert_eq!(
                n_started > 0,
                synchronisation == Synchronisation::Fast,
                "plan {seed}: {n_started} queued ahead"
            );
            // These devices end between two looks, however busy the machine is, so that their times are known.
            if policy == WaitPolicy::Spin {
                let mut measured = executor.measured_seconds().flatten();
                assert!(measured.any(|seconds| seconds > 0.0), "plan {seed}: nothing was measured");
            }
        }
    }
}

#[test]
fn a_step_of_a_runner_that_learns_allocates_nothing_while_nothing_drifts() {
    let model = common::decoder(6);
    let (devices, _) = idle(3, false);
    let costs = Equal::of(&devices);
    let executor = ExecutorOptions { n_traced: 64, ..ExecutorOptions::default() };
    let solve = SolveOptions::new(DeviceSet::first(3));
    let team = Team::new(devices, costs, TeamOptions { solve, executor, is_strict: false });
    // These devices take no time at all.
    team.adapt(1e9);
    let step = StepParams { past: 0, rows: 3 };
    let mut runner = Runner::new(&team, &model.graph, &model.weights, &model.state(), step).expect("ready");
    let mut steps = || {
        for past in 0..20 {
            runner.step(StepParams { past: 1 + past % 8, rows: 3 }, &|| false).expect("a step");
        }
    };
    // The first one finds its plan; it serves the first 256 positions.
    steps();
    let before = N_ALLOCATIONS.get();
    steps();
    assert_eq!(N_ALLOCATIONS.get() - before, 0);
    assert_eq!((team.losses().len(), team.replans().len()), (0, 0));
}
