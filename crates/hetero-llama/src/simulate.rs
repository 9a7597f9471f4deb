//! A model on a simulated SoC: how long prefill and decode take in virtual time, without weights.
//!
//! The graphs, the plans and the executor are those of a real run; only the processors are simulated and compute
//! nothing.

mod planned;

use std::collections::HashMap;
use std::sync::Arc;

pub use backend_npu_sim::{FaultPlan, ProcessorUsage, Soc, SocError, Trace};
use backend_npu_sim::{MemoryMode, Numerics, SimOptions, SimulatedSoc, TimeMode, blank_weight};
use hetero_core::{DType, DeviceKind, OperandOrder, RowSelection, StepParams, WeightFormat, WeightMatrix};
use hetero_sched::cost::DeviceCosts;
use hetero_sched::explain::Explanation;
pub use hetero_sched::solver::{DynamicLength, Granularity, Method, Objective, Prediction};
use hetero_sched::{Loss, Runner, SchedError, Solution, Team, Wanted};
pub use planned::PhoneClock;

use crate::LlamaError;
use crate::config::ModelConfig;
use crate::graph::{self, GraphOptions, ModelGraph, WeightKey};
pub use crate::mode::Mode as SimulateMode;

/// The smallest number of positions of a prefill graph: an NPU's tile.
const LEAST_CAPACITY: usize = 32;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct SimulateOptions {
    /// The SoC.
    pub soc: Soc,
    /// The model.
    pub config: ModelConfig,
    /// What its linear weights are held in.
    pub weights: WeightFormat,
    /// Tokens of the prompt, at least 1.
    pub prompt: usize,
    /// Tokens that are generated one by one behind it.
    pub decode: usize,
    /// Who computes.
    pub mode: SimulateMode,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// By what plans are found.
    pub method: Method,
    /// What plans make small.
    pub objective: Objective,
    /// What an NPU does with a prompt of a length for which it has no graph.
    pub dynamic_length: DynamicLength,
    /// Which cuts of operators [`SimulateMode::Tensor`] and [`SimulateMode::Tensor3`] may use.
    pub cuts: Granularity,
    /// Which operand stays in the array of an NPU; `None` for the better one of each operator.
    pub operand_order: Option<OperandOrder>,
    /// Bytes of weights that processors may hold as copies of their own, for all plans together; `None` for any number.
    pub memory_budget: Option<u64>,
    /// Whether processors share memory and meet fast; otherwise the same plans run as
    /// [`hetero_sched::Synchronisation::PerCrossing`] says.
    pub fast_sync: bool,
    /// Whether the failure of a processor ends the simulation.
    pub is_strict: bool,
    /// Whether every submission is recorded.
    pub trace: bool,
}

impl SimulateOptions {
    /// Processors that share a prompt of 256 tokens and 32 behind it, in 4 bits, as well as they can.
    pub fn new(soc: Soc, config: ModelConfig) -> SimulateOptions {
        SimulateOptions {
            soc,
            config,
            weights: WeightFormat::W4G32,
            prompt: 256,
            decode: 32,
            mode: SimulateMode::Tensor,
            faults: FaultPlan::default(),
            method: Method::default(),
            objective: Objective::default(),
            dynamic_length: DynamicLength::default(),
            cuts: Granularity::default(),
            operand_order: None,
            memory_budget: None,
            fast_sync: true,
            is_strict: false,
            trace: false,
        }
    }
}

/// What a simulation has found. All times are virtual.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The prompt, at once.
    pub prefill: SimulatedPhase,
    /// The tokens behind it, one by one.
    pub decode: SimulatedPhase,
    /// Each processor, prefill and decode together.
    pub devices: Vec<SimulatedDevice>,
    /// Seconds that the compilation of graphs took before the prompt came.
    pub compile_seconds: f64,
    /// What the plan predicted for the prefill; `None` with one processor.
    pub predicted: Option<Prediction>,
    /// What the plan predicted for one token of the decode phase; `None` with one processor.
    pub predicted_decode: Option<Prediction>,
    /// Processors that failed and were left out.
    pub losses: Vec<Loss>,
    /// Every submission, when they were recorded.
    pub trace: Trace,
}

/// One phase of a simulation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimulatedPhase {
    /// Tokens.
    pub tokens: usize,
    /// Virtual seconds.
    pub seconds: f64,
    /// Bytes that crossed the memory bus.
    pub bytes: f64,
    /// Energy of all processors, in joules.
    pub joules: f64,
    /// What each processor did.
    pub usage: Vec<ProcessorUsage>,
}

/// One processor's part in a simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimulatedDevice {
    /// Which.
    pub kind: DeviceKind,
    /// Share of the time in which it was busy, 0 to 1.
    pub busy_share: f64,
    /// Its share of all arithmetic, 0 to 1.
    pub work_share: f64,
    /// Bytes of weights that it holds as copies of its own.
    pub own_bytes: u64,
    /// Of these, bytes of rows of which it holds another copy too, because plans cut the same matrix differently.
    pub repeated_bytes: u64,
}

impl SimulatedPhase {
    /// Tokens per second; 0 without tokens.
    pub fn tokens_per_second(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.tokens as f64 / self.seconds }
    }

    /// Traffic on the memory bus in bytes per second; 0 without tokens.
    pub fn bytes_per_second(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.bytes / self.seconds }
    }

    /// One processor's traffic on the memory bus in bytes per second; 0 without tokens.
    pub fn bytes_per_second_of(&self, kind: DeviceKind) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.sum_of(kind, |usage| usage.bytes) / self.seconds }
    }

    /// Share of the phase in which a processor was busy, 0 to 1; 0 without tokens.
    pub fn busy_share_of(&self, kind: DeviceKind) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.sum_of(kind, |usage| usage.busy_seconds) / self.seconds }
    }

    fn sum_of(&self, kind: DeviceKind, figure: fn(&ProcessorUsage) -> f64) -> f64 {
        self.usage.iter().filter(|usage| usage.kind == kind).map(figure).sum()
    }
}

/// Runs a model's prompt and decode steps on a simulated SoC.
pub fn simulate(options: &SimulateOptions) -> Result<Simulation, LlamaError> {
    check(options)?;
    let context = options.prompt + options.decode;
    let phone = |memory, faults, trace| {
        let time = TimeMode::Virtual;
        SimulatedSoc::new(options.soc.clone(), SimOptions { numerics: Numerics::None, time, memory, faults, trace })
    };
    let graphs = Graphs::new(options, context);
    let memory = if options.fast_sync { MemoryMode::Shared } else { MemoryMode::Copied };
    let soc = phone(memory, options.faults.clone(), options.trace);
    // Measured on a phone of its own, so that neither its times nor its faults are those of the run.
    let team = planned::team(options, &soc, &phone(MemoryMode::Shared, FaultPlan::default(), false), &graphs)?;
    let mut runners = graphs.make_ready(options, &team)?;
    let compile_seconds = soc.clock().now();

    let never = || false;
    let prefill = phase(&soc, options.prompt, || {
        Ok(runners.prefill.step(StepParams { past: 0, rows: options.prompt }, &never)?)
    })?;
    let decode = phase(&soc, options.decode, || {
        for past in options.prompt..context {
            runners.decode.step(StepParams { past, rows: 1 }, &never)?;
        }
        Ok(())
    })?;
    let predicted = |runner: &Runner| runner.solution().map(|solution| solution.prediction.clone());
    Ok(Simulation {
        devices: devices(&prefill, &decode, &team),
        compile_seconds,
        predicted: predicted(&runners.prefill),
        predicted_decode: predicted(&runners.decode),
        losses: team.losses(),
        trace: soc.trace(),
        prefill,
        decode,
    })
}

/// A plan for one step on a simulated SoC.
#[derive(Clone, Debug)]
pub struct SimulatedPlan {
    /// Who computes what, and what it is predicted to take.
    pub solution: Solution,
    /// Why.
    pub explanation: Explanation,
}

/// Plans the prompt, or with `is_decode` a single token behind it, without running anything.
///
/// # Panics
/// When the mode is one of a single processor, which needs no plan unless an operand order is asked for.
pub fn plan(options: &SimulateOptions, is_decode: bool) -> Result<SimulatedPlan, LlamaError> {
    check(options)?;
    let phone = || {
        let time = TimeMode::Virtual;
        let sim_options = SimOptions { numerics: Numerics::None, time, ..SimOptions::default() };
        SimulatedSoc::new(options.soc.clone(), sim_options)
    };
    let graphs = Graphs::new(options, options.prompt + options.decode);
    let team = planned::team(options, &phone(), &phone(), &graphs)?;
    let first = StepParams { past: options.prompt, rows: 1 };
    let decode = Wanted { graph: &graphs.decode.graph, weights: &[], first, n_steps: options.decode as f64 };
    let first = StepParams { past: 0, rows: options.prompt };
    let prefill = Wanted { graph: &graphs.prefill.graph, weights: &[], first, n_steps: 1.0 };
    let (solution, explanation) = team.explain(&[decode, prefill], usize::from(!is_decode))?;
    Ok(SimulatedPlan { solution, explanation })
}

fn check(options: &SimulateOptions) -> Result<(), LlamaError> {
    let context = options.prompt + options.decode;
    if options.prompt == 0 {
        return Err(LlamaError::EmptyPrompt);
    }
    if context > options.config.max_positions {
        return Err(LlamaError::ContextFull { needed: context, context: options.config.max_positions });
    }
    Ok(())
}

/// The two graphs of a model.
struct Graphs {
    prefill: ModelGraph,
    decode: ModelGraph,
    /// The prompt's with room for the next standard length, where the prompt's own has less: processors are measured
    /// with standard lengths alone.
    standard: Option<ModelGraph>,
}

/// The positions that an NPU computes for a prompt in standard lengths up to `most`, one after the other.
fn piped_rows(prompt: usize, most: usize) -> usize {
    let lengths = std::iter::successors(Some(LEAST_CAPACITY), |length| Some(2 * length));
    let standard_rows = lengths.take_while(|&length| length <= most).collect();
    let npu = DeviceCosts { standard_rows, ..DeviceCosts::new("npu", DeviceKind::Npu) };
    npu.piped_rows(prompt)
}

/// The two graphs, ready to run.
struct Runners {
    prefill: Runner,
    decode: Runner,
}

impl Graphs {
    fn new(options: &SimulateOptions, context: usize) -> Graphs {
        // Room for the next standard length of an NPU, which computes no other.
        let standard_rows = options.prompt.next_power_of_two().max(LEAST_CAPACITY);
        let prompt_rows = match options.dynamic_length {
            // Graphs are made for the very prompt.
            DynamicLength::Online => options.prompt.next_multiple_of(LEAST_CAPACITY),
            DynamicLength::Pipe => piped_rows(options.prompt, standard_rows),
            DynamicLength::Padding | DynamicLength::Tensor => standard_rows,
        };
        let graph_of = |capacity| {
            let graph_options = GraphOptions {
                capacity,
                context: context.max(standard_rows),
                weights: options.weights,
                embedding: WeightFormat::Bf16,
                cache: DType::F16,
                logits: RowSelection::Last,
            };
            graph::build(&options.config, &graph_options)
        };
        let is_piped = options.dynamic_length == DynamicLength::Pipe && prompt_rows < standard_rows;
        let standard = is_piped.then(|| graph_of(standard_rows));
        Graphs { prefill: graph_of(prompt_rows), decode: graph_of(1), standard }
    }

    /// What processors are measured with.
    fn measured(&self) -> &ModelGraph {
        self.standard.as_ref().unwrap_or(&self.prefill)
    }

    fn make_ready(&self, options: &SimulateOptions, team: &Arc<Team>) -> Result<Runners, LlamaError> {
        let state = self.prefill.allocate_state(&*team.devices()[0]).map_err(SchedError::from)?;
        // One matrix for all graphs, as weights are that were loaded.
        let mut matrices: HashMap<WeightKey, Arc<WeightMatrix>> = HashMap::new();
        let mut weights_of = |graph: &ModelGraph| -> Result<Vec<Arc<WeightMatrix>>, LlamaError> {
            let keys = graph.weights.iter().zip(graph.graph.weights());
            let weights = keys.map(|(key, desc)| match matrices.get(key) {
                Some(matrix) => Ok(Arc::clone(matrix)),
                None => {
                    let matrix = blank_weight(&desc.name, desc.layout).map_err(SchedError::from)?;
                    Ok(Arc::clone(matrices.entry(*key).or_insert(matrix)))
                }
            });
            weights.collect()
        };
        let graphs = [&self.decode, &self.prefill];
        let weights = [weights_of(graphs[0])?, weights_of(graphs[1])?];
        let firsts = [StepParams { past: options.prompt, rows: 1 }, StepParams { past: 0, rows: options.prompt }];
        let n_steps = [options.decode as f64, 1.0];
        let wanted = [0, 1].map(|idx| Wanted {
            graph: &graphs[idx].graph,
            weights: &weights[idx],
            first: firsts[idx],
            n_steps: n_steps[idx],
        });
        let mut runners = [None, None];
        for idx in team.order(&wanted)? {
            runners[idx] = Some(Runner::new(team, &graphs[idx].graph, &weights[idx], &state, firsts[idx])?);
        }
        let [decode, prefill] = runners.map(|runner| runner.expect("each has a place in the order"));
        Ok(Runners { prefill, decode })
    }
}

/// Runs a phase and takes what the SoC's counters say of it.
fn phase(
    soc: &SimulatedSoc,
    tokens: usize,
    run: impl FnOnce() -> Result<(), LlamaError>,
) -> Result<SimulatedPhase, LlamaError> {
    let start = soc.clock().now();
    soc.reset_usage();
    run()?;
    let usage = soc.usage();
    Ok(SimulatedPhase {
        tokens,
        seconds: soc.clock().now() - start,
        bytes: usage.iter().map(|usage| usage.bytes).sum(),
        joules: usage.iter().map(|usage| usage.joules).sum(),
        usage,
    })
}

/// The processors that have done anything in two phases.
fn devices(prefill: &SimulatedPhase, decode: &SimulatedPhase, team: &Team) -> Vec<SimulatedDevice> {
    let sum = |kind: DeviceKind, figure: fn(&ProcessorUsage) -> f64| {
        prefill.sum_of(kind, figure) + decode.sum_of(kind, figure)
    };
    let kinds = [DeviceKind::Npu, DeviceKind::Gpu, DeviceKind::Cpu];
    let operations: f64 = kinds.into_iter().map(|kind| sum(kind, |usage| usage.operations)).sum();
    let held = team.own_bytes_of_devices();
    let device = |kind| {
        let idx = team.devices().iter().position(|device| device.info().kind == kind);
        let [own_bytes, repeated_bytes] = idx.map_or([0; 2], |idx| held[idx]);
        SimulatedDevice {
            kind,
            busy_share: sum(kind, |usage| usage.busy_seconds) / (prefill.seconds + decode.seconds),
            work_share: sum(kind, |usage| usage.operations) / operations,
            own_bytes,
            repeated_bytes,
        }
    };
    kinds.into_iter().filter(|&kind| sum(kind, |usage| usage.busy_seconds) > 0.0).map(device).collect()
}

/// The processors that take part in a mode, the one that allocates shared memory first.
fn devices_of(mode: SimulateMode) -> Vec<DeviceKind> {
    match mode {
        SimulateMode::Only(kind) => vec![kind],
        SimulateMode::Layer | SimulateMode::Tensor => vec![DeviceKind::Gpu, DeviceKind::Npu],
        SimulateMode::Tensor3 => vec![DeviceKind::Gpu, DeviceKind::Npu, DeviceKind::Cpu],
    }
}
