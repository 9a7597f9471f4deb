//! Finds the plan of a step: a pure function of graph, costs and options.
//!
//! What is minimised is the step as [`crate::timing`] predicts it, not each operator alone: where activations are, what
//! was just submitted and what a join costs are the state of a search over the nodes (`search`). Decoder layers that
//! are alike get the same choices, made so that one more layer costs as little as possible (`steady`); what comes
//! before and after them is solved around them. `paper` is the per-operator method of HeteroLLM, to compare with.
//!
//! The same question has the same answer: ties are broken by position.

mod alternatives;
mod cache;
mod candidates;
mod clock;
mod cuts;
mod exact;
mod paper;
mod problem;
mod search;
mod state;
mod steady;
mod weighting;

pub(crate) use alternatives::Alternatives;
pub use cache::{PlanCache, PlanKey};

use std::collections::BTreeSet;
use std::sync::Arc;

use hetero_core::{Graph, NodeId, OperandOrder, StepParams};

use crate::cost::{CostModel, DeviceSet, MAX_DEVICES};
use crate::plan::Plan;
use crate::timing::{TimedSubmission, Timeline};

use candidates::Pool;
use exact::Exact;
use problem::Problem;
use search::Search;
use state::Candidate;
use weighting::{Outlay, Weighting};

/// What is to be small.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objective {
    /// The time of the step.
    #[default]
    Time,
    /// Its energy, what the machine takes when idle included.
    Energy,
    /// Time plus energy at a price.
    Mixed {
        /// How many seconds a joule is worth.
        seconds_per_joule: f64,
    },
}

/// What may be divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// Whole operators only: the paper's Hetero-layer.
    Layer,
    /// Parts of operators by positions: the paper's activation-centric partition.
    Positions,
    /// Parts of operators by columns of the output: the paper's weight-centric partition, and its hybrid one where a
    /// device pads the positions.
    Columns,
    /// Parts of operators by positions, columns or both: the paper's Hetero-tensor.
    #[default]
    Tensor,
}

impl Granularity {
    /// Whether columns of an output may be divided.
    pub(crate) fn cuts_columns(self) -> bool {
        matches!(self, Granularity::Columns | Granularity::Tensor)
    }

    /// Whether positions may be divided.
    pub(crate) fn cuts_positions(self) -> bool {
        matches!(self, Granularity::Positions | Granularity::Tensor)
    }
}

/// By what a plan is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// The time of the whole step is minimised.
    #[default]
    WholeLayer,
    /// Each operator is decided alone, by the formula of HeteroLLM (section 4.4 of arXiv 2501.14794 v2).
    Paper,
}

/// What a device with fixed shapes does with another number of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DynamicLength {
    /// It computes the next standard number.
    Padding,
    /// A graph of exactly this shape is compiled, which takes its time.
    Online,
    /// Standard numbers one after the other, the last one padded.
    Pipe,
    /// Whatever is best, with the remainder on another device among it: the paper's Hetero-tensor.
    #[default]
    Tensor,
}

/// When what a plan needs is made ready: graphs of fixed shape compiled, copies of weights loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preparation {
    /// Before anybody waits for it, so that a plan is judged by its steps alone: how HeteroLLM and its evaluation
    /// prepare graphs (arXiv 2501.14794 v2, section 5.3.2).
    #[default]
    Ahead,
    /// When the plan is first used. What is not there yet counts, divided among so many steps that the plan is expected
    /// to run.
    OnUse {
        /// At least 1.
        n_steps: u32,
    },
}

impl Preparation {
    /// The part of the preparation that one step has to bear.
    pub(crate) fn share(self) -> f64 {
        match self {
            Preparation::Ahead => 0.0,
            Preparation::OnUse { n_steps } => 1.0 / f64::from(n_steps.max(1)),
        }
    }
}

/// How hard the search tries. The default takes about a millisecond for an 8-billion-parameter model on two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Effort {
    /// States that are kept after each node.
    pub width: usize,
    /// Of these, states that have their values in the same places.
    pub width_per_place: usize,
    /// Of these, states that have their values on the same devices, cut in the same ways at any positions.
    pub width_per_ways: usize,
    /// Points at which the growth of work with columns is sampled.
    pub balance_points: usize,
    /// Results of the search that are improved step by step.
    pub refined: usize,
    /// Rounds in which each choice is replaced by every other.
    pub rounds: usize,
    /// Whether these rounds are for all nodes, rather than for linear operators alone.
    pub replaces_all: bool,
    /// First distance, in alignments, by which cuts are moved.
    pub first_shift: usize,
    /// At how many sums of standard numbers of positions around the balance rows are cut.
    pub balanced_row_cuts: usize,
    /// A graph without repeated layers with at most so many combinations is solved by trying all.
    pub all_combinations: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            width: 12,
            width_per_place: 1,
            width_per_ways: 2,
            balance_points: 8,
            refined: 1,
            rounds: 1,
            replaces_all: false,
            first_shift: 4,
            balanced_row_cuts: 3,
            all_combinations: 20_000,
        }
    }
}

impl Effort {
    /// Some times the default's time, for a plan that is used often.
    pub fn careful() -> Effort {
        Effort {
            width: 40,
            width_per_place: 2,
            width_per_ways: 8,
            replaces_all: true,
            refined: 6,
            rounds: 3,
            ..Effort::default()
        }
    }

    /// Far more than is needed: to measure what the default misses.
    pub fn wide() -> Effort {
        Effort {
            width: 1000,
            width_per_place: 10,
            width_per_ways: 40,
            balance_points: 32,
            refined: 100,
            rounds: 8,
            replaces_all: true,
            first_shift: 64,
            balanced_row_cuts: 5,
            all_combinations: 1_000_000,
        }
    }
}

/// What a plan is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct SolveOptions {
    /// Devices that may be used.
    pub devices: DeviceSet,
    /// What is to be small.
    pub objective: Objective,
    /// What may be divided.
    pub granularity: Granularity,
    /// By what it is found.
    pub method: Method,
    /// What devices with fixed shapes do with other numbers of positions.
    pub dynamic_length: DynamicLength,
    /// The operand order of order-sensitive devices; `None` for the better one of each part.
    pub operand_order: Option<OperandOrder>,
    /// Ratios of weight rows, GPU to NPU, that [`Method::Paper`] tries; empty for every multiple of the alignment.
    pub paper_ratios: Vec<[usize; 2]>,
    /// Bytes of weights that devices may hold as copies of their own; `None` for any number.
    pub memory_budget: Option<u64>,
    /// Whether plans have to bear what making them ready takes.
    pub preparation: Preparation,
    /// How hard to try.
    pub effort: Effort,
}

impl SolveOptions {
    /// The best plan in time on these devices.
    pub fn new(devices: DeviceSet) -> SolveOptions {
        SolveOptions {
            devices,
            objective: Objective::default(),
            granularity: Granularity::default(),
            method: Method::default(),
            dynamic_length: DynamicLength::default(),
            operand_order: None,
            paper_ratios: Vec::new(),
            memory_budget: None,
            preparation: Preparation::default(),
            effort: Effort::default(),
        }
    }
}

/// What a step is predicted to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds until the host knows that every device has finished.
    pub seconds: f64,
    /// Joules, what the machine takes when idle included.
    pub joules: f64,
    /// For each device, seconds in which it works.
    pub busy_seconds: Vec<f64>,
    /// Number of submissions.
    pub n_submissions: usize,
    /// Bytes of weights that devices hold as copies of their own.
    pub own_bytes: u64,
    /// Seconds to compile what devices with fixed shapes run, once.
    pub compile_seconds: f64,
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
    #[error("every plan needs more than {budget} bytes for weights that devices hold as copies of their own")]
    OverBudget {
        /// The bytes that were allowed.
        budget: u64,
    },
}

/// Finds the plan of a step.
///
/// # Panics
/// When the options allow no device of the cost model, or the step does not fit the graph.
pub fn solve(
    graph: &Arc<Graph>,
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
) -> Result<Solution, SolveError> {
    assert!(costs.devices().len() <= MAX_DEVICES, "a plan uses at most {MAX_DEVICES} devices");
    assert!((0..costs.devices().len()).any(|idx| options.devices.contains(idx)), "a plan needs a device");
    let problem = Problem::new(graph, costs, step.rows, step.past);
    let attempt = |per_byte: f64, options: &SolveOptions| -> Result<Solution, SolveError> {
        let pool = Pool::new(&problem, costs, options);
        let weighting = Weighting::new(options.objective, options.preparation, costs.idle_watts(), per_byte);
        let mut search = Search::new(pool, weighting);
        let choices = match options.method {
            Method::WholeLayer => search.solve_all(),
            Method::Paper => search.solve_as_paper(),
        };
        let choices = choices.ok_or_else(|| unsupported(graph, costs, &problem, options))?;
        let timeline = search.timeline(&choices);
        let works = problem.works.iter().zip(&choices);
        let chosen: Vec<&Candidate> =
            works.map(|(work, &choice)| search.pool.candidate(work.template, choice)).collect();
        let placements = chosen.iter().map(|candidate| candidate.pieces.iter().map(alternatives::placed).collect());
        let plan = Plan::new(Arc::clone(graph), placements.collect()).expect("candidates cover their outputs");
        Ok(assemble(plan, &search.pool, &chosen, timeline))
    };
    let solution = attempt(0.0, options)?;
    let Some(budget) = options.memory_budget.filter(|&budget| solution.prediction.own_bytes > budget) else {
        return Ok(solution);
    };
    within_budget(budget, &solution, options, attempt)
}

/// What a step takes by a plan that is there already, as [`solve`] would have predicted it, or `None` when a device cannot
/// compute its part.
///
/// # Panics
/// When the plan names a device that the cost model does not have, or the step does not fit the graph.
pub fn predict(plan: &Plan, costs: &dyn CostModel, step: StepParams, options: &SolveOptions) -> Option<Solution> {
    let problem = Problem::new(plan.graph(), costs, step.rows, step.past);
    let pool = Pool::new(&problem, costs, options);
    let candidates = pool.of_plan(plan)?;
    let mut exact = Exact::new(costs);
    let timeline = exact.timeline(&problem, candidates.iter().map(|candidate| &candidate.pieces[..]).enumerate());
    let chosen: Vec<&Candidate> = candidates.iter().collect();
    Some(assemble(plan.clone(), &pool, &chosen, timeline))
}

/// Raises the price of a byte until the plan fits, then lowers it again as far as it still does.
fn within_budget(
    budget: u64,
    over: &Solution,
    options: &SolveOptions,
    attempt: impl Fn(f64, &SolveOptions) -> Result<Solution, SolveError>,
) -> Result<Solution, SolveError> {
    let value = over.prediction.seconds.max(over.prediction.joules);
    // Without any copy: what fits every budget, where it is possible at all.
    let none = SolveOptions { memory_budget: Some(0), ..options.clone() };
    let mut best = attempt(0.0, &none).ok();
    let fits = |solution: &Solution| solution.prediction.own_bytes <= budget;
    let score = |solution: &Solution| match options.objective {
        Objective::Time => solution.prediction.seconds,
        Objective::Energy => solution.prediction.joules,
        Objective::Mixed { seconds_per_joule } => {
            solution.prediction.seconds + seconds_per_joule * solution.prediction.joules
        }
    };
    let (mut low, mut high) = (0.0, 16.0 * value / over.prediction.own_bytes as f64);
    for _ in 0..10 {
        let price = (low + high) / 2.0;
        let solution = attempt(price, options)?;
        if fits(&solution) {
            high = price;
            if best.as_ref().is_none_or(|best| score(&solution) < score(best)) {
                best = Some(solution);
            }
        } else {
            low = price;
        }
    }
    best.ok_or(SolveError::OverBudget { budget })
}

fn unsupported(graph: &Graph, costs: &dyn CostModel, problem: &Problem, options: &SolveOptions) -> SolveError {
    let mut pool = Pool::new(problem, costs, options);
    let devices: Vec<String> = pool.devices.iter().map(|&device| costs.devices()[device].name.clone()).collect();
    let templates = 0..problem.templates.len();
    let missing = templates.into_iter().find(|&template| pool.fixed_cuts(template).is_empty());
    match (missing, options.memory_budget) {
        (Some(template), _) => {
            let node = problem.templates[template].node;
            let op = graph.op_spec(NodeId(node)).to_string();
            SolveError::Unsupported { devices, node: graph.node(NodeId(node)).name.to_owned(), op }
        }
        (None, budget) => SolveError::OverBudget { budget: budget.unwrap_or(0) },
    }
}

/// A plan of candidates with what its step takes.
fn assemble(plan: Plan, pool: &Pool<'_>, chosen: &[&Candidate], timeline: Timeline) -> Solution {
    let costs = pool.costs;
    let mut part_seconds = timeline.part_seconds.iter();
    let mut busy_seconds = vec![0.0; costs.devices().len()];
    let mut compiled = BTreeSet::new();
    let mut compile_seconds = 0.0;
    let mut outlay = Outlay::default();
    for (work, candidate) in pool.problem.works.iter().zip(chosen) {
        let template = &pool.problem.templates[work.template];
        outlay += candidate.outlay;
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
    let prediction = Prediction {
        seconds,
        joules: outlay.joules + costs.idle_watts() * seconds,
        busy_seconds,
        n_submissions: submissions.len(),
        own_bytes: outlay.bytes as u64,
        compile_seconds,
    };
    Solution { plan, prediction, part_seconds, submissions }
}
