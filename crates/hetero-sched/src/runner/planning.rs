//! Finds the plan of a step for a runner: what it may use, what is there already, and how long the plan will be used.

use std::sync::{Arc, Mutex};

use hetero_core::{Graph, StepParams, WeightMatrix};

use super::{Team, margin};
use crate::cost::{CostModel, DeviceCosts, DeviceSet};
use crate::residency::Graphs;
use crate::solver::{
    Effort, Inventory, PlanCache, PlanKey, Preparation, Solution, SolveError, SolveOptions, predict_beside,
    solve_beside, still_fits,
};
use crate::timing::{self, TimedSubmission};
use crate::{Executor, PlacedPart, Plan, SchedError};

/// Steps for which a plan is expected to run that is made because a device has drifted: those of a conversation.
const STEPS_AFTER_DRIFT: u32 = 1024;

/// The same when there are only more positions before the step. That happens to every reply, and nobody should see one
/// stand still for seconds because of it.
const STEPS_AFTER_LENGTH: u32 = 16;

/// Why a plan is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A graph gets its first plan: nothing is ready yet, whatever is chosen.
    Fresh,
    /// There is none for the devices that are left: nothing is ready for it either, and a step waits.
    FewerDevices,
    /// Nothing is planned yet: what the best plan would take is asked.
    Asked,
    /// A step of another number of positions has come.
    NewLength,
    /// There are more positions before the step.
    LongerPast,
    /// A device is slower or faster than was assumed.
    Drift,
}

impl Occasion {
    /// Steps after which a plan that replaces another must have paid for its preparation.
    pub(super) fn n_steps(self) -> f64 {
        f64::from(if self == Occasion::Drift { STEPS_AFTER_DRIFT } else { STEPS_AFTER_LENGTH })
    }

    /// What a plan for a step of so many positions has to bear, in a team that prepares plans as given.
    fn preparation(self, of_team: Preparation, rows: usize) -> Preparation {
        match (self, of_team) {
            (Occasion::Fresh | Occasion::FewerDevices | Occasion::Asked, _)
            | (Occasion::NewLength, Preparation::Ahead) => Preparation::Ahead,
            // The next prompt is of another length.
            (Occasion::NewLength, _) if rows > 1 => Preparation::OnUse { n_steps: 1 },
            (Occasion::NewLength, on_use) => on_use,
            (Occasion::LongerPast, _) => Preparation::OnUse { n_steps: STEPS_AFTER_LENGTH },
            (Occasion::Drift, _) => Preparation::OnUse { n_steps: STEPS_AFTER_DRIFT },
        }
    }

    /// How hard to look for a plan of a step of so many positions, in a team that looks so hard otherwise. A plan that is
    /// compiled for seconds, or that hundreds of tokens run, is worth a tenth of a second or two, and that of all
    /// replies some more. A prompt that waits for its plan is not.
    fn effort(self, of_team: Effort, rows: usize) -> Effort {
        match self {
            Occasion::Fresh if rows == 1 => of_team.at_least(Effort::lasting()),
            Occasion::Fresh | Occasion::Drift => of_team.at_least(Effort::careful()),
            Occasion::LongerPast if rows == 1 => of_team.at_least(Effort::careful()),
            Occasion::FewerDevices | Occasion::Asked | Occasion::NewLength | Occasion::LongerPast => of_team,
        }
    }
}

/// What a plan of a graph is looked for with.
#[derive(Clone, Copy)]
pub(super) struct Planning<'a> {
    pub(super) team: &'a Team,
    /// `None` for a single device.
    pub(super) costs: Option<&'a dyn CostModel>,
    pub(super) graph: &'a Arc<Graph>,
    pub(super) weights: &'a [Arc<WeightMatrix>],
    /// What the executor of the graph has compiled, if there is one yet.
    pub(super) graphs: Option<&'a Arc<Mutex<Graphs>>>,
    pub(super) usable: DeviceSet,
    pub(super) occasion: Occasion,
}

impl Planning<'_> {
    /// The best plan.
    pub(super) fn solve(&self, step: StepParams) -> Result<Solution, SolveError> {
        let options = self.options(step.rows);
        let inventory = self.inventory(&options);
        let solve = |options: &SolveOptions| solve_beside(self.graph, self.costs(), step, options, &inventory);
        let found = solve(&options)?;
        let (solution, margin) = margin::choose(self.costs(), step, &options, found, solve);
        margin.into_iter().for_each(|margin| self.team.tell_margin(margin));
        Ok(solution)
    }

    /// What a plan that is there takes.
    pub(super) fn predict(&self, plan: &Plan, step: StepParams) -> Option<Solution> {
        let options = self.options(step.rows);
        predict_beside(plan, self.costs(), step, &options, &self.inventory(&options))
    }

    /// What a plan takes that is made ready when it is needed, however the team prepares plans.
    pub(super) fn predict_on_use(&self, plan: &Plan, step: StepParams) -> Option<Solution> {
        let options = SolveOptions { preparation: Preparation::OnUse { n_steps: 1 }, ..self.options(step.rows) };
        predict_beside(plan, self.costs(), step, &options, &self.inventory(&options))
    }

    /// The plan for a key that was made before and still fits, or else the best one.
    fn cached_or_solved(&self, plans: &mut PlanCache, planned: StepParams) -> Result<Arc<Solution>, SolveError> {
        let options = self.options(planned.rows);
        // The same step has the same plan, whatever the occasion.
        let SolveOptions { preparation, effort, .. } = self.team.options.solve;
        let key = SolveOptions { preparation, effort, ..options.clone() };
        let key = PlanKey::new(planned, &key);
        let fits = |solution: &Solution| {
            !self.is_short() || still_fits(solution, self.costs(), key.step(), &options, &self.seen(None))
        };
        plans.get_if_or_solve(&key, fits, |step| self.solve(step))
    }

    /// What devices hold, or would hold after other plans, as this graph sees it.
    pub(super) fn seen(&self, held: Option<&Inventory>) -> Inventory {
        let residency = self.team.residency();
        match held {
            Some(held) => held.seen_by(residency.matrices(self.weights)),
            None => residency.inventory(self.graphs, &self.team.devices, self.weights),
        }
    }

    pub(super) fn options(&self, rows: usize) -> SolveOptions {
        let of_team = &self.team.options.solve;
        let preparation = self.occasion.preparation(of_team.preparation, rows);
        let effort = self.occasion.effort(of_team.effort, rows);
        SolveOptions { devices: self.usable, preparation, effort, ..of_team.clone() }
    }

    /// What devices hold, where that matters.
    fn inventory(&self, options: &SolveOptions) -> Inventory {
        if options.preparation == Preparation::Ahead && !self.is_short() {
            Inventory::default()
        } else {
            self.seen(None)
        }
    }

    /// Whether devices hold a limited amount.
    pub(super) fn is_short(&self) -> bool {
        let holds_few = |device: &DeviceCosts| device.max_graphs.is_some();
        self.team.options.solve.memory_budget.is_some() || self.costs().devices().iter().any(holds_few)
    }

    fn costs(&self) -> &dyn CostModel {
        self.costs.expect("a single device needs no plan")
    }
}

/// What a plan was made for.
#[derive(Debug)]
pub(super) struct Current {
    /// The step that it was made for.
    pub(super) planned: StepParams,
    /// The first and one past the last number of past positions that the plan is for.
    pub(super) past: [usize; 2],
    /// Those of them that the predictions are for.
    pub(super) predicted_past: [usize; 2],
    pub(super) usable: DeviceSet,
    /// `None` for a single device.
    pub(super) solution: Option<Arc<Solution>>,
    /// For each device, the arithmetic operations of a step, and past positions of the step that they were counted for.
    pub(super) operations: Vec<f64>,
}

impl Current {
    /// The plan of a step, predicted for that step.
    pub(super) fn of(
        planning: &Planning<'_>,
        plans: &mut PlanCache,
        planned: StepParams,
    ) -> Result<Current, SchedError> {
        let all = [0, usize::MAX];
        let usable = planning.usable;
        let Some(costs) = planning.costs else {
            let operations = Plan::single_device(Arc::clone(planning.graph), 0).operations(1, planned);
            return Ok(Current { planned, past: all, predicted_past: all, usable, solution: None, operations });
        };
        let solution = planning.cached_or_solved(plans, planned)?;
        let has_fixed_shapes = |placed: &PlacedPart| !costs.devices()[placed.device_idx].standard_rows.is_empty();
        // Other cuts would be other graphs to compile, for seconds, and all that a longer past changes is attention.
        let is_lasting = solution.plan.placements().iter().flatten().any(has_fixed_shapes);
        let predicted_past = PlanKey::span(planned);
        let past = if is_lasting { all } else { predicted_past };
        let operations = solution.plan.operations(planning.team.devices.len(), planned);
        Ok(Current { planned, past, predicted_past, usable, solution: Some(solution), operations })
    }

    /// Whether it is the plan for a step like `planned`.
    pub(super) fn is_for(&self, planned: StepParams, usable: DeviceSet) -> bool {
        let is_whole = self.solution.is_none();
        (is_whole || self.planned.rows == planned.rows)
            && (self.past[0]..self.past[1]).contains(&planned.past)
            && self.usable == usable
    }

    pub(super) fn plan(&self, graph: &Arc<Graph>) -> Plan {
        match &self.solution {
            Some(solution) => solution.plan.clone(),
            None => Plan::single_device(Arc::clone(graph), 0),
        }
    }

    /// Tells the executor how long each submission is predicted to take.
    pub(super) fn predict(&self, team: &Team, executor: &mut Executor) {
        let (Some(solution), Some(costs)) = (&self.solution, &team.costs) else { return };
        let list: Vec<_> = executor.submissions().cloned().collect();
        // From when a device takes it up, which is what can be seen of it.
        let seconds = |timed: &[TimedSubmission]| -> Vec<f64> {
            let start = list.iter().map(|submission| costs.devices()[submission.device_idx].start_seconds);
            timed.iter().zip(start).map(|(timed, start)| timed.end - timed.start + start).collect()
        };
        if list.len() == solution.submissions.len() {
            return executor.predict(&seconds(&solution.submissions));
        }
        // A device that takes no segment as large as the solver's has more of them.
        let timeline = timing::timeline(&solution.plan, &list, &solution.part_seconds, costs.devices());
        executor.predict(&seconds(&timeline.submissions));
    }
}
