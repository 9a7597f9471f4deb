//! Plans and runs the steps of a graph, and goes on without a device that fails.
//!
//! A [`Team`] is the devices that work together, with what they cost and which of them are still usable; several graphs
//! of one model share it. A [`Runner`] is one graph: it finds the plan of each step, runs it, and when a device fails
//! plans the step anew for the others and repeats it. It learns from the times of its steps: when a device has become
//! slower or faster than the plan assumes, there is a new plan, if that is better; and when a single device turns out to
//! be faster than several, it goes on alone.

mod adapt;
mod contest;
mod lengths;
mod margin;
mod order;
mod planning;
mod trial;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetero_core::{Backend, Graph, SharedTensor, StepParams, ValueId, WeightMatrix};

use self::adapt::Adaptation;
use self::contest::Contest;
pub use self::lengths::Expected;
pub use self::margin::Margin;
pub use self::order::Wanted;
use self::planning::{Current, Occasion, Planning};
pub use self::trial::Fallback;
use crate::cost::{CostModel, DeviceSet, MAX_DEVICES};
use crate::report::StepReport;
use crate::solver::{PlanCache, PlanKey, Solution, SolveOptions};
use crate::trace::Doing;
use crate::{Executor, ExecutorOptions, Residency, SchedError, State};

/// Plans that a runner keeps.
const KEPT_PLANS: usize = 64;

/// Devices that work together.
#[derive(Debug)]
pub struct Team {
    devices: Vec<Arc<dyn Backend>>,
    /// What they cost; a single device needs no plan.
    costs: Option<Arc<dyn CostModel>>,
    options: TeamOptions,
    state: Mutex<TeamState>,
    residency: Mutex<Residency>,
}

/// How devices work together.
#[derive(Clone, Debug)]
pub struct TeamOptions {
    /// What plans are looked for. Its devices are those that may be used at first; its memory budget is for all plans
    /// together. Where plans are prepared on use, its number of steps is what a plan for decoding is expected to run; a
    /// plan for a new number of positions is expected to run once, and the first plan of a runner is prepared ahead.
    pub solve: SolveOptions,
    /// How plans are run.
    pub executor: ExecutorOptions,
    /// Whether the failure of a device is an error instead of a reason to go on without it.
    pub is_strict: bool,
}

#[derive(Debug)]
struct TeamState {
    usable: DeviceSet,
    losses: Vec<Loss>,
    /// By how much predictions may be off before plans are made anew; `None` when they never are.
    tolerance: Option<f64>,
    replans: Vec<Replan>,
    margins: Vec<Margin>,
    fallbacks: Vec<Fallback>,
    /// Positions of steps that a single device computes because it was faster, and which.
    alone: Vec<(usize, usize)>,
    uses_graphs_again: bool,
}

/// A device that failed and is not used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The device's name.
    pub device: String,
    /// What happened.
    pub reason: String,
}

/// A device was found to be slower or faster than plans assumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Replan {
    /// The device's name.
    pub device: String,
    /// Positions of the steps that showed it.
    pub rows: usize,
    /// What its predictions were multiplied with before, and are from now on.
    pub factors: [f64; 2],
    /// Predicted seconds of a step by the plan before, with what is known now, and by the best plan that there is now.
    pub seconds: [f64; 2],
    /// Whether the best plan is enough better to replace the one before.
    pub is_new: bool,
}

impl Team {
    /// A team of one: everything runs on it.
    pub fn single(device: Arc<dyn Backend>, executor: ExecutorOptions) -> Arc<Team> {
        let solve = SolveOptions::new(DeviceSet::one(0));
        Self::of(vec![device], None, TeamOptions { solve, executor, is_strict: true })
    }

    /// A team whose plans follow from what its devices cost, in the same order.
    ///
    /// # Panics
    /// When there is no device that may be used, or costs are not of these devices.
    pub fn new(devices: Vec<Arc<dyn Backend>>, costs: Arc<dyn CostModel>, options: TeamOptions) -> Arc<Team> {
        assert_eq!(devices.len(), costs.devices().len(), "costs of each device");
        assert!(options.solve.devices.iter().any(|idx| idx < devices.len()), "a team needs a device");
        Self::of(devices, Some(costs), options)
    }

    fn of(devices: Vec<Arc<dyn Backend>>, costs: Option<Arc<dyn CostModel>>, options: TeamOptions) -> Arc<Team> {
        assert!(devices.len() <= MAX_DEVICES, "a plan uses at most {MAX_DEVICES} devices");
        let state = TeamState {
            usable: options.solve.devices,
            losses: Vec::new(),
            tolerance: None,
            replans: Vec::new(),
            margins: Vec::new(),
            fallbacks: Vec::new(),
            alone: Vec::new(),
            uses_graphs_again: false,
        };
        let residency = options.solve.memory_budget.map_or_else(Residency::new, Residency::with_budget);
        Arc::new(Team { devices, costs, options, state: Mutex::new(state), residency: Mutex::new(residency) })
    }

    /// The devices, those that have failed among them.
    pub fn devices(&self) -> &[Arc<dyn Backend>] {
        &self.devices
    }

    /// Those that plans may use.
    pub fn usable(&self) -> DeviceSet {
        self.state().usable
    }

    /// The devices that have failed so far.
    pub fn losses(&self) -> Vec<Loss> {
        self.state().losses.clone()
    }

    /// Says that plans are to be made anew for devices whose times are off the prediction by more than `tolerance` (0.2
    /// for 20 %). Runners that are made from now on follow it; without this they stay with their plans.
    ///
    /// # Panics
    /// When the tolerance is not above zero.
    pub fn adapt(&self, tolerance: f64) {
        assert!(tolerance > 0.0, "without tolerance every step calls for a new plan");
        self.state().tolerance = Some(tolerance);
    }

    /// The plans that were reconsidered so far, because a device was slower or faster than assumed.
    pub fn replans(&self) -> Vec<Replan> {
        self.state().replans.clone()
    }

    /// Bytes of weights that devices hold as copies of their own.
    pub fn own_bytes(&self) -> u64 {
        self.residency().own_bytes()
    }

    /// For each device, the bytes of weights that it holds as copies of its own, and of these the bytes of rows of which
    /// it holds another copy too, because plans cut the same matrix differently.
    pub fn own_bytes_of_devices(&self) -> Vec<[u64; 2]> {
        self.residency().own_bytes_of(&self.devices)
    }

    /// Leaves a device out from now on, as if it had failed. The last one stays.
    pub fn leave_out(&self, device_idx: usize, reason: &str) {
        let mut state = self.state();
        let rest = state.usable.without(device_idx);
        // Another graph's runner may have said so already.
        if state.usable.contains(device_idx) && !rest.is_empty() {
            let device = self.devices[device_idx].info().name.clone();
            tracing::warn!(%device, reason, "going on without a device");
            state.losses.push(Loss { device, reason: reason.to_owned() });
            state.usable = rest;
        }
    }

    /// Leaves the device out that an error names; gives the error back when the team cannot go on.
    fn go_on_after(&self, error: SchedError) -> Result<(), SchedError> {
        let Some(device_idx) = error.device_idx().filter(|_| !self.options.is_strict) else {
            return Err(error);
        };
        if self.usable().without(device_idx).is_empty() {
            return Err(error);
        }
        self.leave_out(device_idx, &error.to_string());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, TeamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn residency(&self) -> MutexGuard<'_, Residency> {
        self.residency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A graph that a team runs step by step.
#[derive(Debug)]
pub struct Runner {
    team: Arc<Team>,
    graph: Arc<Graph>,
    executor: Executor,
    plans: PlanCache,
    /// What the executor's plan is for; `None` when it has none.
    current: Option<Current>,
    /// What was learnt of the devices; `None` for a single one.
    adaptation: Option<Adaptation>,
    /// Who computes, as measured steps decide; `None` where nothing is learnt.
    contest: Option<Contest>,
    /// The plan to return to, after a trial that it has won.
    parked: Option<Current>,
    /// Whether there are plans for standard lengths alone.
    uses_graphs_again: bool,
    /// For each device, the arithmetic operations that it has computed.
    operations: Vec<f64>,
}

impl Runner {
    /// Makes a graph ready to run, for a first step like `first`.
    ///
    /// `weights` stands in the order of the graph's weights; `state` is of this graph or one with the same state.
    pub fn new(
        team: &Arc<Team>,
        graph: &Arc<Graph>,
        weights: &[Arc<WeightMatrix>],
        state: &Arc<State>,
        first: StepParams,
    ) -> Result<Runner, SchedError> {
        let mut plans = PlanCache::new(KEPT_PLANS);
        let (tolerance, uses_graphs_again) = {
            let state = team.state();
            (state.tolerance, state.uses_graphs_again)
        };
        let adaptation = team.costs.clone().zip(tolerance);
        let adaptation = adaptation.map(|(costs, tolerance)| Adaptation::new(costs, tolerance));
        loop {
            let contest = adaptation.is_some().then(|| team.contest(first.rows));
            let planning = Planning {
                team,
                costs: team.costs.as_deref(),
                graph,
                weights,
                graphs: None,
                usable: trial::usable_for(team, contest.as_ref(), first.rows),
                occasion: Occasion::Fresh,
            };
            let current = Current::of(&planning, &mut plans, first)?;
            let executor = Executor::with_options(
                current.plan(graph),
                &team.devices,
                weights,
                state,
                &mut team.residency(),
                team.options.executor.clone(),
            );
            match executor {
                Ok(mut executor) => {
                    current.predict(team, &mut executor);
                    return Ok(Runner {
                        team: Arc::clone(team),
                        graph: Arc::clone(graph),
                        executor,
                        plans,
                        current: Some(current),
                        adaptation,
                        contest,
                        parked: None,
                        uses_graphs_again,
                        operations: vec![0.0; team.devices.len()],
                    });
                }
                Err(error) => team.go_on_after(error)?,
            }
        }
    }

    /// Runs all nodes for the positions of one step and returns when the outputs can be read.
    ///
    /// A device that fails is left out from then on, and the step is repeated on the others; [`Team::losses`] has it.
    /// After an error the outputs and the state of this step's positions are void.
    pub fn step(&mut self, step: StepParams, is_cancelled: &dyn Fn() -> bool) -> Result<(), SchedError> {
        let seconds = loop {
            let result = self.make_ready(step).and_then(|()| self.timed_step(step, is_cancelled));
            match result {
                Ok(taken) => break taken,
                Err(error) => self.team.go_on_after(error)?,
            }
            self.forget_trials();
        };
        let current = self.current.as_ref().expect("the step had a plan");
        self.operations.iter_mut().zip(&current.operations).for_each(|(sum, step)| *sum += step);
        // A step that is much shorter than the one that the plan is for says nothing about the devices.
        let planned_rows = current.planned.rows;
        let is_typical = 10 * step.rows >= 9 * planned_rows;
        if is_typical
            && self.note_step(planned_rows, seconds)
            && let Some(adaptation) = &mut self.adaptation
        {
            adaptation.learn(self.executor.observed());
        }
        Ok(())
    }

    /// Runs a step by the plan that is there, and says how many seconds it took.
    fn timed_step(&mut self, step: StepParams, is_cancelled: &dyn Fn() -> bool) -> Result<f64, SchedError> {
        let clock = &self.team.options.executor.clock;
        let begin = clock.now();
        self.executor.step_unless(step, is_cancelled)?;
        Ok(clock.now() - begin)
    }

    /// Sees to it that the executor has the plan for a step.
    fn make_ready(&mut self, step: StepParams) -> Result<(), SchedError> {
        let planned = self.planned(step);
        let is_due = self.adaptation.as_ref().is_some_and(Adaptation::is_due);
        if !is_due {
            self.settle_trials(planned)?;
        }
        let usable = self.usable_for(planned.rows);
        if !is_due && self.current.as_ref().is_some_and(|current| current.is_for(planned, usable)) {
            self.predict_behind(step.past);
            return Ok(());
        }
        let begin = self.executor.traced_now();
        let drift = self.adaptation.as_mut().and_then(Adaptation::take_drift);
        if drift.is_some() {
            // They were made with costs that are not true any more.
            self.plans.clear();
        }
        let costs = match &self.adaptation {
            Some(adaptation) => Some(adaptation.costs() as &dyn CostModel),
            None => self.team.costs.as_deref(),
        };
        let before = self.current.as_ref().filter(|before| before.usable == usable);
        let is_like = |before: &&Current| before.planned.rows == planned.rows;
        let occasion = match before {
            _ if drift.is_some() => Occasion::Drift,
            Some(before) if is_like(&before) => Occasion::LongerPast,
            Some(_) => Occasion::NewLength,
            None => Occasion::FewerDevices,
        };
        let planning = Planning {
            team: &self.team,
            costs,
            graph: &self.graph,
            weights: self.executor.weights(),
            graphs: Some(self.executor.graphs()),
            usable,
            occasion,
        };
        let mut current = Current::of(&planning, &mut self.plans, planned)?;
        // What is there already may be nearly as good, and needs nothing compiled.
        if costs.is_some() {
            let choice = planning.reconsider(before.filter(is_like), &mut current);
            if let Some(drift) = drift {
                if choice.is_new() {
                    self.contest.as_mut().into_iter().for_each(Contest::replanned);
                }
                self.team.tell_replan(&drift, planned.rows, choice);
            }
        }
        self.executor.trace_host(Doing::Plan, begin);
        let is_same = |before: &Current| match (&before.solution, &current.solution) {
            (Some(before), Some(now)) => before.plan.placements() == now.plan.placements(),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !self.current.take().is_some_and(|before| is_same(&before)) {
            self.executor.set_plan(current.plan(&self.graph), &mut self.team.residency())?;
        }
        current.predict(&self.team, &mut self.executor);
        self.current = Some(current);
        self.predict_behind(step.past);
        Ok(())
    }

    /// Predicts the present plan anew when there are so many more positions before the step that attention takes longer
    /// than was predicted.
    fn predict_behind(&mut self, past: usize) {
        let Some(current) = &self.current else { return };
        if (current.predicted_past[0]..current.predicted_past[1]).contains(&past) {
            return;
        }
        let step = StepParams { past, rows: current.planned.rows };
        let predicted_past = PlanKey::span(step);
        let last = StepParams { past: predicted_past[1] - 1, ..step };
        let planning = Planning {
            team: &self.team,
            costs: self.costs(),
            graph: &self.graph,
            weights: self.executor.weights(),
            graphs: Some(self.executor.graphs()),
            usable: current.usable,
            occasion: Occasion::LongerPast,
        };
        let predicted = current.solution.as_ref().and_then(|solution| planning.predict(&solution.plan, last));
        let current = self.current.as_mut().expect("seen above");
        current.predicted_past = predicted_past;
        if let Some(solution) = predicted {
            current.solution = Some(Arc::new(solution));
            current.predict(&self.team, &mut self.executor);
        }
    }

    /// The team that runs it.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// What runs the plans: tensors, the present plan, times.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The present plan with what it is predicted to take; `None` with a single device.
    pub fn solution(&self) -> Option<&Solution> {
        self.current.as_ref()?.solution.as_deref()
    }

    /// For each device, the arithmetic operations that it has computed so far.
    pub fn operations(&self) -> &[f64] {
        &self.operations
    }

    /// What was predicted for the present plan and what was measured of it, as far as the trace has it; `None` without
    /// a recorded step.
    pub fn report(&self) -> Option<StepReport> {
        let devices = self.team.devices.iter().map(|device| device.info().name.clone()).collect();
        StepReport::of(&self.executor, devices, self.solution())
    }

    /// The tensor that holds an input or output, for the caller to write before a step or read after it.
    pub fn tensor(&self, value: ValueId) -> &Arc<SharedTensor> {
        self.executor.tensor(value)
    }
}
