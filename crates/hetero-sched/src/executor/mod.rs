//! Runs a plan; the only thing that touches devices.
//!
//! A plan becomes [`mod@crate::submissions`]. Each is given to its device as soon as what it needs of other devices has
//! finished, and is queued behind what that device is still doing; the one host thread that submits them waits only
//! when nothing can be submitted, by the rules of [`crate::sync`]. So several submissions are under way on every device,
//! and devices meet only where the plan has them read each other's results.
//!
//! Devices that can are given work even before its inputs exist, and begin with it when the host says that they do
//! ([`ExecutorOptions::is_queued_ahead`]).
//!
//! That is [`Synchronisation::Fast`]; [`Synchronisation::PerCrossing`] is what engines do without it, for comparison.
//!
//! An [`Executor`] holds what the plans of one graph have in common: tensors, and segments compiled for devices. Changing
//! the plan compiles only what no plan before had.

mod memory;
mod prepare;
mod state;
mod step;

use std::sync::{Arc, Mutex};

use hetero_core::{
    Backend, BackendError, Bindings, Claim, Executable, Graph, QueuedAhead, SharedTensor, StepParams, Ticket, ValueId,
    WeightMatrix,
};

use self::memory::{Copies, Memories};
use self::state::StateAccess;
use self::step::{Device, StepGuard};
use crate::residency::{Graphs, lock};
use crate::sync::{Awaited, Clock, Estimate, SystemClock, WaitOptions, WaitStats, Waiter};
use crate::trace::{Doing, HostEvent, Trace};
use crate::{Plan, Residency, SchedError, State, Submission};

/// A graph made ready to run step by step, by one plan after the other.
#[derive(Debug)]
pub struct Executor {
    graph: Arc<Graph>,
    devices: Vec<Device>,
    weights: Vec<Arc<WeightMatrix>>,
    memories: Memories,
    state: StateAccess,
    /// What was compiled for this plan and those before.
    graphs: Arc<Mutex<Graphs>>,
    /// Counts plans, to know what was compiled for which.
    n_plans: u64,
    plan: Plan,
    /// The submissions of the plan. Empty when the last plan could not be made ready.
    runs: Vec<Run>,
    /// What the plan copies between memories.
    copies: Copies,
    synchronisation: Synchronisation,
    /// See [`ExecutorOptions::host_device_idx`].
    host_device_idx: Option<usize>,
    /// See [`ExecutorOptions::is_queued_ahead`].
    is_queued_ahead: bool,
    /// Rows of the last step; the time that submissions take depends on them.
    rows: usize,
    waiter: Waiter,
    /// Room for what a wait is for, so that a step allocates nothing.
    awaited: Vec<Awaited>,
    awaited_runs: Vec<usize>,
    trace: Trace,
}

/// How an executor works, besides the plan.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// How devices meet.
    pub synchronisation: Synchronisation,
    /// How to wait for devices, where they meet fast.
    pub wait: WaitOptions,
    /// The time of the devices.
    pub clock: Arc<dyn Clock>,
    /// Which of the devices allocates the tensors that all share.
    pub allocator_idx: usize,
    /// The device that computes on this machine's own cores, if one of them does. Looking takes a core from its threads,
    /// so the driver waits where a plan has no other device that could be late for it.
    pub host_device_idx: Option<usize>,
    /// Whether devices that can are given work before its inputs exist, so that the host only signals when these are
    /// there. Only where devices meet fast.
    pub is_queued_ahead: bool,
    /// The most submissions whose times are kept for [`Executor::trace`].
    pub n_traced: usize,
}

/// How devices meet that work on one graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Synchronisation {
    /// Devices share memory where they can, work is queued on each of them as early as its inputs allow, and the host
    /// waits as [`WaitOptions`] say: HeteroLLM's fast synchronisation (arXiv 2501.14794 v2, section 4.3).
    #[default]
    Fast,
    /// What engines do without it, for comparison.
    ///
    /// - Every device has tensors of its own (state excepted), and what crosses is copied by the host: the second of
    ///   the costs that section 3.1 names for GPUs.
    /// - Nothing works ahead. An operator that is cut between devices, or a run of operators that are whole on one
    ///   ([`crate::submissions::stages`]), is submitted when all before it has finished, and before the next the host
    ///   lets the driver of each device that took part finish. That is the first of these costs; and the queues have
    ///   run empty, so that the next submissions take longer.
    PerCrossing,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        ExecutorOptions {
            synchronisation: Synchronisation::default(),
            wait: WaitOptions::default(),
            clock: Arc::new(SystemClock::new()),
            allocator_idx: 0,
            host_device_idx: None,
            is_queued_ahead: true,
            n_traced: 0,
        }
    }
}

/// A submission made ready.
#[derive(Debug)]
struct Run {
    submission: Submission,
    executable: Arc<dyn Executable>,
    /// For each binding, the tensor and what is done with it.
    tensors: Arc<[(Arc<SharedTensor>, Arc<Claim>)]>,
    /// Empty between steps; keeps its capacity.
    bindings: Bindings,
    /// What must have been copied before it is submitted.
    copies: Vec<usize>,
    /// What of the state must have been copied before.
    state_copies: Vec<usize>,
    /// Stages run one after the other; all submissions are of one where devices meet fast.
    stage: usize,
    /// While its device has it and it has not begun.
    ahead: Option<QueuedAhead>,
    /// While it is under way.
    ticket: Option<Ticket>,
    /// Seconds that it takes, as predicted before the first step, if it was.
    predicted: Option<f64>,
    /// Seconds that it takes, as far as is known.
    seconds: Estimate,
    /// Whether it has ended once, with as many rows as in the last step.
    has_run: bool,
    /// When the host began to submit it in this step.
    submitting: f64,
    /// When it was submitted, is expected to start and is expected to end in this step.
    submitted: f64,
    start: f64,
    end: Option<f64>,
}

impl Executor {
    /// Allocates tensors, loads weights and compiles segments.
    ///
    /// `weights` stands in the order of the graph's weights; `state` is of this graph or one with the same state.
    /// Activations are allocated by the first device, and by each that does not reach those, and so is state.
    ///
    /// # Panics
    /// When the plan names a device that is not in the list, or weights or state do not fit the graph.
    pub fn new(
        plan: Plan,
        devices: &[Arc<dyn Backend>],
        weights: &[Arc<WeightMatrix>],
        state: &Arc<State>,
        residency: &mut Residency,
    ) -> Result<Executor, SchedError> {
        Self::with_options(plan, devices, weights, state, residency, ExecutorOptions::default())
    }

    /// As [`Executor::new`], with options.
    ///
    /// # Panics
    /// As [`Executor::new`].
    pub fn with_options(
        plan: Plan,
        devices: &[Arc<dyn Backend>],
        weights: &[Arc<WeightMatrix>],
        state: &Arc<State>,
        residency: &mut Residency,
        options: ExecutorOptions,
    ) -> Result<Executor, SchedError> {
        let graph = Arc::clone(plan.graph());
        let synchronisation = options.synchronisation;
        let memories = Memories::allocate(&graph, devices, options.allocator_idx, synchronisation)?;
        let state_access = StateAccess::new(&graph, state);
        let graphs = Arc::default();
        residency.register(&graphs);
        let mut executor = Executor {
            graph,
            devices: devices.iter().map(Device::new).collect(),
            weights: weights.to_vec(),
            memories,
            state: state_access,
            graphs,
            n_plans: 0,
            plan: plan.clone(),
            runs: Vec::new(),
            copies: Copies::default(),
            synchronisation,
            host_device_idx: options.host_device_idx,
            is_queued_ahead: options.is_queued_ahead,
            rows: 0,
            waiter: Waiter::new(options.clock, options.wait),
            // A wait is for at most one submission on each device for each other device.
            awaited: Vec::with_capacity(devices.len() * devices.len()),
            awaited_runs: Vec::with_capacity(devices.len() * devices.len()),
            trace: Trace::new(options.n_traced),
        };
        executor.set_plan(plan, residency)?;
        Ok(executor)
    }

    /// Makes another plan of the same graph the one that steps run by. Tensors stay as they are, state among them, and
    /// what was compiled for plans before is used again.
    ///
    /// After an error there is no plan, and another must be set before the next step.
    ///
    /// # Panics
    /// When the plan is of another graph or names a device that does not exist.
    pub fn set_plan(&mut self, plan: Plan, residency: &mut Residency) -> Result<(), SchedError> {
        assert!(Arc::ptr_eq(plan.graph(), &self.graph) || **plan.graph() == *self.graph, "a plan of another graph");
        // Given up first: a device may hold few compiled segments at a time.
        self.runs.clear();
        self.n_plans += 1;
        lock(&self.graphs).plan = self.n_plans;
        let begin = self.traced_now();
        let mut runs = self.prepare(&plan, residency)?;
        self.copies = Copies::plan(&self.memories, &plan, &mut runs);
        self.state.plan(&plan, &mut runs);
        self.runs = runs;
        let is_host_alone = self.runs.iter().all(|run| Some(run.submission.device_idx) == self.host_device_idx);
        self.waiter.leave_to_drivers(is_host_alone);
        self.trace_host(Doing::Prepare, begin);
        self.plan = plan;
        self.rows = 0;
        for (device_idx, device) in self.devices.iter_mut().enumerate() {
            let of_device = |(_, run): &(usize, &Run)| run.submission.device_idx == device_idx;
            device.order.clear();
            device.order.extend(self.runs.iter().enumerate().filter(of_device).map(|(idx, _)| idx));
            device.reset();
        }
        Ok(())
    }

    /// Says how long each submission of the plan is predicted to take, in seconds on its device. Waiting begins with
    /// this and goes on with what is measured.
    ///
    /// # Panics
    /// When there is not one number for each submission.
    pub fn predict(&mut self, seconds: &[f64]) {
        assert_eq!(seconds.len(), self.runs.len(), "one prediction for each submission");
        for (run, &seconds) in self.runs.iter_mut().zip(seconds) {
            run.predicted = Some(seconds);
        }
        // Estimates begin anew with the next step.
        self.rows = 0;
    }

    /// Runs all nodes for the positions of one step and returns when the outputs can be read.
    ///
    /// After an error nothing is under way and no right is held any more; the outputs and the state of this step's
    /// positions are void. The step may be repeated, after [`Executor::set_plan`] with a plan that does without the
    /// device that failed.
    ///
    /// # Panics
    /// When there is no plan because the last one could not be made ready, or somebody holds a right to a tensor.
    pub fn step(&mut self, step: StepParams) -> Result<(), SchedError> {
        self.step_unless(step, &|| false)
    }

    /// As [`Executor::step`]; ends with [`SchedError::Cancelled`], after what is under way has finished, when
    /// `is_cancelled` says so before a submission or a wait.
    ///
    /// # Panics
    /// As [`Executor::step`].
    pub fn step_unless(&mut self, step: StepParams, is_cancelled: &dyn Fn() -> bool) -> Result<(), SchedError> {
        assert!(!self.runs.is_empty() || self.graph.nodes().is_empty(), "the last plan could not be made ready");
        let result = StepGuard::new(self, step).run(is_cancelled);
        if let Err(SchedError::Device { device_idx, error: BackendError::DeviceLost { .. } }) = &result {
            self.state.lose(self.devices[*device_idx].backend.info().id);
        }
        result
    }

    /// The tensor that holds an input or output, for the caller to write before a step or read after it.
    pub fn tensor(&self, value: ValueId) -> &Arc<SharedTensor> {
        self.memories.shared().tensor(value)
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The submissions of the plan.
    pub fn submissions(&self) -> impl ExactSizeIterator<Item = &Submission> {
        self.runs.iter().map(|run| &run.submission)
    }

    /// For each submission of the plan, how long it takes by now, in seconds on its device: a robust estimate from the
    /// waits for it, `None` where none was waited for. The time of those is part of the next that was.
    pub fn measured_seconds(&self) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.runs.iter().map(|run| run.seconds.seconds())
    }

    /// Bytes of activation tensors, in all memories.
    pub fn activation_bytes(&self) -> u64 {
        self.memories.bytes()
    }

    /// Segments that were compiled and are kept, for this plan and those before.
    pub fn n_compiled(&self) -> usize {
        lock(&self.graphs).compiled.len()
    }

    /// What waiting has cost so far.
    pub fn wait_stats(&self) -> WaitStats {
        self.waiter.stats()
    }

    /// When the last submissions ran.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// For each device, seconds of those submissions of the last step of which start and end are known, and what was
    /// predicted for them; zeros where none was.
    pub(crate) fn observed(&self) -> impl Iterator<Item = [f64; 2]> {
        self.devices.iter().map(Device::observed)
    }

    /// For each submission, what was predicted for it.
    pub(crate) fn predicted_seconds(&self) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.runs.iter().map(|run| run.predicted)
    }

    /// What was compiled, for [`Residency::inventory`].
    pub(crate) fn graphs(&self) -> &Arc<Mutex<Graphs>> {
        &self.graphs
    }

    /// The matrices of the graph's weights.
    pub(crate) fn weights(&self) -> &[Arc<WeightMatrix>] {
        &self.weights
    }

    /// How many plans there have been, this one included.
    pub(crate) fn n_plans(&self) -> u64 {
        self.n_plans
    }

    /// The time, where it is recorded.
    pub(crate) fn traced_now(&self) -> Option<f64> {
        self.trace.is_on().then(|| self.waiter.clock().now())
    }

    /// Records what the host has done since `begin`, which [`Executor::traced_now`] gave.
    pub(crate) fn trace_host(&mut self, doing: Doing, begin: Option<f64>) {
        if let Some(start) = begin {
            let end = self.waiter.clock().now();
            self.trace.add_host(HostEvent { doing, start, end });
        }
    }
}
