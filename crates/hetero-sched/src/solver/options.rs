//! What a plan is wanted: by whom, for what, and how hard to look for it.

use hetero_core::OperandOrder;

use crate::cost::DeviceSet;

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

/// How hard the search tries. The default takes about a millisecond at most for an 8-billion-parameter model, also on
/// three devices that share a narrow bus.
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
    /// Rounds in which linear operators that read the same are divided anew, other choices are replaced, and cuts are moved.
    pub rounds: usize,
    /// Whether linear operators also get every other cut one by one, and nothing is left out for being slow alone.
    pub replaces_all: bool,
    /// First distance, in alignments, by which cuts are moved.
    pub first_shift: usize,
    /// At how many sums of standard numbers of positions around the balance rows are cut.
    pub balanced_row_cuts: usize,
    /// A graph without repeated layers with at most so many combinations is solved by trying all.
    pub all_combinations: usize,
    /// How many ways to divide linear operators that read the same are timed, of all that are compared by sums.
    pub combinations: usize,
    /// How often the best layer is changed by chance and improved again; the same changes every time.
    pub kicks: usize,
    /// The same where less is tried to improve it: in between, more of them in the same time.
    pub quick_kicks: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            width: 5,
            width_per_place: 1,
            width_per_ways: 2,
            balance_points: 8,
            refined: 1,
            rounds: 1,
            replaces_all: false,
            first_shift: 4,
            balanced_row_cuts: 3,
            all_combinations: 20_000,
            combinations: 6,
            kicks: 0,
            quick_kicks: 0,
        }
    }
}

impl Effort {
    /// Tens of milliseconds on two devices, a tenth of a second or two on three: for a plan that is compiled for seconds
    /// or used often.
    pub fn careful() -> Effort {
        Effort {
            width: 20,
            width_per_ways: 8,
            refined: 4,
            rounds: 2,
            replaces_all: true,
            kicks: 50,
            quick_kicks: 100,
            ..Effort::default()
        }
    }

    /// Some tenths of a second on three devices, for the plan that all replies run. Steps of one position have many plans
    /// that are nearly as good, which takes width and chance to get out of.
    pub fn lasting() -> Effort {
        Effort {
            width: 24,
            width_per_place: 4,
            balance_points: 16,
            refined: 12,
            rounds: 3,
            kicks: 120,
            quick_kicks: 0,
            ..Effort::careful()
        }
    }

    /// This, or as hard as another in whatever that tries harder.
    #[must_use]
    pub fn at_least(self, other: Effort) -> Effort {
        Effort {
            width: self.width.max(other.width),
            width_per_place: self.width_per_place.max(other.width_per_place),
            width_per_ways: self.width_per_ways.max(other.width_per_ways),
            balance_points: self.balance_points.max(other.balance_points),
            refined: self.refined.max(other.refined),
            rounds: self.rounds.max(other.rounds),
            replaces_all: self.replaces_all || other.replaces_all,
            first_shift: self.first_shift.max(other.first_shift),
            balanced_row_cuts: self.balanced_row_cuts.max(other.balanced_row_cuts),
            all_combinations: self.all_combinations.max(other.all_combinations),
            combinations: self.combinations.max(other.combinations),
            kicks: self.kicks.max(other.kicks),
            quick_kicks: self.quick_kicks.max(other.quick_kicks),
        }
    }

    /// Far more than is needed: to measure what the default misses.
    pub fn wide() -> Effort {
        Effort {
            width: 40,
            width_per_place: 4,
            width_per_ways: 16,
            balance_points: 32,
            refined: 12,
            rounds: 4,
            replaces_all: true,
            balanced_row_cuts: 5,
            all_combinations: 1_000_000,
            combinations: 12,
            kicks: 300,
            ..Effort::default()
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
