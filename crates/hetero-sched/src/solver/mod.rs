//! Finds the plan of a step: a pure function of graph, costs and options.
//!
//! What is minimised is the step as [`crate::timing`] predicts it, not each operator alone: where activations are, what
//! was just submitted and what a join costs are the state of a search over the nodes (`search`). Decoder layers that
//! are alike get the same choices, made so that one more layer costs as little as possible (`steady`); what comes
//! before and after them is solved around them. `paper` is the per-operator method of HeteroLLM, to compare with.
//!
//! The same question has the same answer: ties are broken by position.

mod alternatives;
mod balance;
mod cache;
mod candidates;
mod clock;
mod constraints;
mod copies;
mod cuts;
mod exact;
mod groups;
mod holdings;
mod inventory;
mod options;
mod paper;
mod problem;
mod refine;
mod search;
mod state;
mod steady;
mod weighting;

pub(crate) use alternatives::Alternatives;
pub use cache::{PlanCache, PlanKey};
pub use inventory::Inventory;
pub use options::{DynamicLength, Effort, Granularity, Method, Objective, Preparation, SolveOptions};

use std::collections::BTreeSet;
use std::sync::Arc;

use hetero_core::{Graph, NodeId, StepParams};

use crate::cost::{CostModel, DeviceSet, MAX_DEVICES};
use crate::plan::Plan;
use crate::timing::{TimedSubmission, Timeline};

use candidates::Pool;
use constraints::{Attempt, Constraints, Priced};
use exact::Exact;
use problem::Problem;
use search::Search;
use state::Candidate;
use weighting::{Outlay, Weighting};

/// What a step is predicted to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds until the host knows that every device has finished.
    pub seconds: f64,
    /// Joules, what the machine takes when idle included.
    pub joules: f64,
    /// For each device, seconds in which it works.
    pub busy_seconds: Vec<f64>,
    /// Seconds of these in which the host copies between memories that devices do not share.
    pub copy_seconds: f64,
    /// Number of submissions.
    pub n_submissions: usize,
    /// Bytes of weights that devices hold as copies of their own for this plan.
    pub own_bytes: u64,
    /// The same with what they hold for plans of other graphs.
    pub resident_bytes: u64,
    /// Seconds to compile what devices with fixed shapes run, once, if layers that are alike shared their graphs.
    pub compile_seconds: f64,
    /// Seconds to compile and load, for all layers, what is not there yet; zero where plans are prepared ahead.
    pub prepare_seconds: f64,
    /// For each device, the graphs that have to be compiled at the same time: its submissions, where it holds a limited
    /// number of them, else zero.
    pub n_graphs: Vec<usize>,
}

/// A plan and what it is predicted to take.
#[derive(Clone, Debug)]
pub struct Solution {
    /// Who computes what.
    pub plan: Plan,
    /// What a step takes.
    pub prediction: Prediction,
    /// For each part of the plan, node by node, the seconds it occupies its device beside the others.
    pub part_seconds: Vec<f64>,
    /// When each of the plan's submissions runs.
    pub submissions: Vec<TimedSubmission>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// None of the devices can compute a node.
    #[error("none of the devices {devices:?} can compute {node} ({op})")]
    Unsupported {
        /// Names of the devices that may be used.
        devices: Vec<String>,
        /// The node's name.
        node: String,
        /// The operator with its element types.
        op: String,
    },
    /// Every plan needs more memory.
    #[error(
        "every plan needs at least {needed} bytes for weights that devices hold as copies of their own, and {budget} are \
         allowed: allow more, or leave out processors that cannot compute on shared weights"
    )]
    OverBudget {
        /// The bytes that were allowed, for all plans together.
        budget: u64,
        /// What the least demanding plan that was found would take, with what plans of other graphs hold.
        needed: u64,
    },
    /// Every plan needs more compiled graphs than a device holds.
    #[error(
        "device {device} has room for {allowed} more compiled graphs, and every plan needs {needed}: let it hold more, or \
         leave it out"
    )]
    TooManyGraphs {
        /// The device's name.
        device: String,
        /// Beside those of other graphs' plans.
        allowed: usize,
        /// What the least demanding plan that was found would need.
        needed: usize,
    },
}

/// Finds the plan of a step, on devices that hold nothing yet.
///
/// # Panics
/// When the options allow no device of the cost model, or the step does not fit the graph.
pub fn solve(
    graph: &Arc<Graph>,
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
) -> Result<Solution, SolveError> {
    solve_beside(graph, costs, step, options, &Inventory::default())
}

/// Finds the plan of a step, on devices that hold something: what is there is used again, and what plans of other graphs
/// need stays.
///
/// # Panics
/// As [`solve`].
pub fn solve_beside(
    graph: &Arc<Graph>,
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
    inventory: &Inventory,
) -> Result<Solution, SolveError> {
    assert!(costs.devices().len() <= MAX_DEVICES, "a plan uses at most {MAX_DEVICES} devices");
    assert!((0..costs.devices().len()).any(|idx| options.devices.contains(idx)), "a plan needs a device");
    let problem = Problem::new(graph, costs, step.rows, step.past);
    let attempt = |costs: &dyn CostModel, per_byte: f64, options: &SolveOptions| -> Result<Solution, SolveError> {
        let pool = Pool::new(&problem, graph, costs, options, inventory);
        let weighting = Weighting::new(options.objective, options.preparation, costs.idle_watts(), per_byte);
        let mut search = Search::new(pool, weighting);
        let choices = match options.method {
            Method::WholeLayer => search.solve_all(),
            Method::Paper => search.solve_as_paper(),
        };
        let choices = choices.ok_or_else(|| unsupported(graph, costs, &problem, options))?;
        let timeline = search.timeline(&choices);
        let n_jobs = search.exact.n_jobs();
        let works = problem.works.iter().zip(&choices);
        let chosen: Vec<&Candidate> =
            works.map(|(work, &choice)| search.pool.candidate(work.template, choice)).collect();
        let placements = chosen.iter().map(|candidate| candidate.pieces.iter().map(alternatives::placed).collect());
        let plan = Plan::new(Arc::clone(graph), placements.collect()).expect("candidates cover their outputs");
        Ok(assemble(plan, &search.pool, &chosen, timeline, n_jobs, step))
    };
    let solution = match copies::are_needed(costs.devices()) {
        true => best_of_memories(costs, step, options, inventory, graph, &attempt)?,
        false => attempt(costs, 0.0, options)?,
    };
    let constraints = Constraints { costs, step, options, inventory, layers: problem.layers.as_ref() };
    if constraints.allow(&solution) {
        return Ok(solution);
    }
    constraints.best(solution, &attempt)
}

/// The best plan where what crosses between memories is copied: the search's own, those that it finds where crossing has
/// a price, and those of devices that share a memory.
fn best_of_memories(
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
    inventory: &Inventory,
    graph: &Arc<Graph>,
    attempt: Attempt<'_>,
) -> Result<Solution, SolveError> {
    let devices = costs.devices();
    let mut found = vec![attempt(costs, 0.0, options)];
    for factor in [1.0, 4.0] {
        let priced = Priced::new(costs, |_, device| {
            device.sync_seconds += factor * copies::usual_seconds(graph, device, step);
        });
        let solution = attempt(&priced, 0.0, options);
        found.push(
            solution.map(|priced| predict_beside(&priced.plan, costs, step, options, inventory).unwrap_or(priced)),
        );
    }
    let mut memories: Vec<usize> = devices.iter().map(|device| device.memory).collect();
    memories.sort_unstable();
    memories.dedup();
    for memory in memories {
        let of_memory = options.devices.iter().filter(|&idx| devices.get(idx).is_some_and(|it| it.memory == memory));
        let of_memory: DeviceSet = of_memory.collect();
        if !of_memory.is_empty() {
            found.push(attempt(costs, 0.0, &SolveOptions { devices: of_memory, ..options.clone() }));
        }
    }
    let weighting = Weighting::new(options.objective, options.preparation, costs.idle_watts(), 0.0);
    let value = |solution: &Result<Solution, SolveError>| {
        solution.as_ref().map_or(f64::INFINITY, |solution| weighting.of_prediction(&solution.prediction))
    };
    found.into_iter().min_by(|a, b| value(a).total_cmp(&value(b))).expect("the search itself")
}

/// What a step takes by a plan that is there already, as [`solve`] would have predicted it, or `None` when a device cannot
/// compute its part.
///
/// # Panics
/// When the plan names a device that the cost model does not have, or the step does not fit the graph.
pub fn predict(plan: &Plan, costs: &dyn CostModel, step: StepParams, options: &SolveOptions) -> Option<Solution> {
    predict_beside(plan, costs, step, options, &Inventory::default())
}

/// As [`predict`], on devices that hold something.
///
/// # Panics
/// As [`predict`].
pub fn predict_beside(
    plan: &Plan,
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
    inventory: &Inventory,
) -> Option<Solution> {
    let problem = Problem::new(plan.graph(), costs, step.rows, step.past);
    let pool = Pool::new(&problem, plan.graph(), costs, options, inventory);
    let candidates = pool.of_plan(plan)?;
    let mut exact = Exact::new(costs);
    let timeline = exact.timeline(&problem, candidates.iter().map(|candidate| &candidate.pieces[..]).enumerate());
    let chosen: Vec<&Candidate> = candidates.iter().collect();
    Some(assemble(plan.clone(), &pool, &chosen, timeline, exact.n_jobs(), step))
}

/// Whether a plan that was found before still fits, beside what plans of other graphs need by now.
pub(crate) fn still_fits(
    solution: &Solution,
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
    inventory: &Inventory,
) -> bool {
    let mut now = solution.clone();
    now.prediction.resident_bytes = inventory.pinned_bytes() + inventory.added_bytes(&solution.plan, costs);
    Constraints { costs, step, options, inventory, layers: None }.allow(&now)
}

fn unsupported(graph: &Graph, costs: &dyn CostModel, problem: &Problem, options: &SolveOptions) -> SolveError {
    let nothing = Inventory::default();
    let mut pool = Pool::new(problem, graph, costs, options, &nothing);
    let devices: Vec<String> = pool.devices.iter().map(|&device| costs.devices()[device].name.clone()).collect();
    let templates = 0..problem.templates.len();
    let missing = templates.into_iter().find(|&template| pool.fixed_cuts(template).is_empty());
    match (missing, options.memory_budget) {
        (Some(template), _) => {
            let node = problem.templates[template].node;
            let op = graph.op_spec(NodeId(node)).to_string();
            SolveError::Unsupported { devices, node: graph.node(NodeId(node)).name.to_owned(), op }
        }
        (None, budget) => SolveError::OverBudget { budget: budget.unwrap_or(0), needed: 0 },
    }
}

/// A plan of candidates with what its step takes. `n_jobs` are the submissions of each device.
fn assemble(
    plan: Plan,
    pool: &Pool<'_>,
    chosen: &[&Candidate],
    timeline: Timeline,
    n_jobs: [usize; MAX_DEVICES],
    step: StepParams,
) -> Solution {
    let costs = pool.costs;
    let mut part_seconds = timeline.part_seconds.iter();
    let mut busy_seconds = vec![0.0; costs.devices().len()];
    let mut compiled = BTreeSet::new();
    let mut compile_seconds = 0.0;
    let mut outlay = Outlay::default();
    let (mut own_bytes, mut total_joules) = (0, 0.0);
    // Layers have their candidates in common.
    let mut joules: Vec<Option<(&Candidate, f64)>> = vec![None; pool.problem.templates.len()];
    for (work, candidate) in pool.problem.works.iter().zip(chosen) {
        let template = &pool.problem.templates[work.template];
        outlay += candidate.outlay;
        let known = joules[work.template].filter(|(known, _)| std::ptr::eq(*known, *candidate));
        let (_, its_joules) = known.unwrap_or_else(|| (candidate, pool.joules(template, &candidate.pieces)));
        joules[work.template] = Some((candidate, its_joules));
        total_joules += its_joules;
        own_bytes += candidate.own_bytes;
        for piece in &candidate.pieces {
            busy_seconds[piece.device] += part_seconds.next().expect("seconds of each part");
            let device = &costs.devices()[piece.device];
            let rows = piece.rows.map(|row| (row as usize).min(template.rows));
            let columns = piece.columns.map(|column| column as usize);
            let key = (template.class, piece.device, rows[1] - rows[0], columns[1] - columns[0]);
            if !device.standard_rows.is_empty() && rows[0] < rows[1] && compiled.insert(key) {
                let shape = pool.shape(template, piece.device, rows, columns, DeviceSet::EMPTY, piece.order);
                compile_seconds += costs.compile_seconds(piece.device, &shape);
            }
        }
    }
    let Timeline { submissions, part_seconds, seconds } = timeline;
    let copy_seconds = copies::seconds(&plan, costs.devices(), step);
    let seconds = seconds + copy_seconds;
    let inventory = pool.inventory;
    let added_bytes = if inventory.is_empty() { own_bytes } else { inventory.added_bytes(&plan, costs) };
    // Each submission is a graph.
    let holds = costs.devices().iter().zip(n_jobs);
    let n_graphs = holds.map(|(device, n_jobs)| if device.max_graphs.is_some() { n_jobs } else { 0 }).collect();
    let prediction = Prediction {
        seconds,
        joules: total_joules + costs.idle_watts() * seconds,
        busy_seconds,
        copy_seconds,
        n_submissions: submissions.len(),
        own_bytes,
        resident_bytes: inventory.pinned_bytes() + added_bytes,
        compile_seconds,
        prepare_seconds: outlay.prepare_seconds,
        n_graphs,
    };
    Solution { plan, prediction, part_seconds, submissions }
}
