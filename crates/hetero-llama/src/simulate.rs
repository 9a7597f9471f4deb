//! A model on a simulated SoC: how long prefill and decode take in virtual time, without weights.
//!
//! The graphs, the plans and the executor are those of a real run; only the processors are simulated and compute
//! nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use backend_npu_sim::{FaultPlan, Soc, SocError, Trace};
use backend_npu_sim::{Numerics, ProcessorUsage, SimOptions, SimulatedSoc, TimeMode, blank_weight};
use hetero_core::{Backend, DType, DeviceKind, RowSelection, SharedTensor, StepParams, WeightFormat};
use hetero_sched::{Executor, Plan, Residency, SchedError};

use crate::LlamaError;
use crate::config::ModelConfig;
use crate::graph::{self, GraphOptions, ModelGraph};

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
    /// Whether every submission is recorded.
    pub trace: bool,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulateMode {
    /// One processor does everything.
    Only(DeviceKind),
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
    /// Every submission, when they were recorded.
    pub trace: Trace,
}

/// One phase of a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SimulatedPhase {
    /// Tokens.
    pub tokens: usize,
    /// Virtual seconds.
    pub seconds: f64,
    /// Bytes that crossed the memory bus.
    pub bytes: f64,
    /// Energy of all processors, in joules.
    pub joules: f64,
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
}

/// Runs a model's prompt and decode steps on a simulated SoC.
pub fn simulate(options: &SimulateOptions) -> Result<Simulation, LlamaError> {
    let context = options.prompt + options.decode;
    if options.prompt == 0 {
        return Err(LlamaError::EmptyPrompt);
    }
    if context > options.config.max_positions {
        return Err(LlamaError::ContextFull { needed: context, context: options.config.max_positions });
    }
    let soc = SimulatedSoc::new(
        options.soc.clone(),
        SimOptions {
            numerics: Numerics::None,
            time: TimeMode::Virtual,
            faults: options.faults.clone(),
            trace: options.trace,
        },
    );
    let devices = options.mode.devices().map(|kind| soc.backend(kind));
    let mut phases = Phases::new(options, context, &devices)?;
    let compile_seconds = soc.clock().now();

    let mut measured = Measured { soc: &soc, usage: Vec::new() };
    let prefill = measured.phase(options.prompt, || {
        phases.prefill.step(StepParams { past: 0, rows: options.prompt })?;
        Ok(())
    })?;
    let decode = measured.phase(options.decode, || {
        for past in options.prompt..context {
            phases.decode.step(StepParams { past, rows: 1 })?;
        }
        Ok(())
    })?;
    let devices = measured.devices(prefill.seconds + decode.seconds);
    Ok(Simulation { prefill, decode, devices, compile_seconds, trace: soc.trace() })
}

/// The two graphs of a model, ready to run.
struct Phases {
    prefill: Executor,
    decode: Executor,
}

impl Phases {
    fn new(options: &SimulateOptions, context: usize, devices: &[Arc<dyn Backend>]) -> Result<Phases, LlamaError> {
        let graph_of = |capacity| {
            let graph_options = GraphOptions {
                capacity,
                context,
                weights: options.weights,
                embedding: WeightFormat::Bf16,
                cache: DType::F16,
                logits: RowSelection::Last,
            };
            graph::build(&options.config, &graph_options)
        };
        let (prefill, decode) = (graph_of(options.prompt), graph_of(1));
        let state = prefill.allocate_state(&*devices[0]).map_err(SchedError::from)?;
        let mut residency = Residency::new();
        let mut executor = |graph: &ModelGraph, state: &[Arc<SharedTensor>]| {
            let plan = Plan::single_device(Arc::clone(&graph.graph), 0);
            let descs = graph.graph.weights().iter();
            let weights: Result<Vec<_>, _> = descs.map(|desc| blank_weight(&desc.name, desc.layout)).collect();
            Executor::new(plan, devices, &weights?, state, &mut residency)
        };
        Ok(Phases { prefill: executor(&prefill, &state)?, decode: executor(&decode, &state)? })
    }
}

/// Differences of the SoC's counters.
struct Measured<'a> {
    soc: &'a SimulatedSoc,
    /// Sums over the phases so far, one for each processor.
    usage: Vec<ProcessorUsage>,
}

impl Measured<'_> {
    fn phase(
        &mut self,
        tokens: usize,
        run: impl FnOnce() -> Result<(), LlamaError>,
    ) -> Result<SimulatedPhase, LlamaError> {
        let start = self.soc.clock().now();
        self.soc.reset_usage();
        run()?;
        let usage = self.soc.usage();
        let phase = SimulatedPhase {
            tokens,
            seconds: self.soc.clock().now() - start,
            bytes: usage.iter().map(|usage| usage.bytes).sum(),
            joules: usage.iter().map(|usage| usage.joules).sum(),
        };
        self.usage.extend(usage);
        Ok(phase)
    }

    /// The processors that have done anything, over `seconds` in all.
    fn devices(&self, seconds: f64) -> Vec<SimulatedDevice> {
        let sum = |kind: DeviceKind, figure: fn(&ProcessorUsage) -> f64| -> f64 {
            self.usage.iter().filter(|usage| usage.kind == kind).map(figure).sum()
        };
        let operations: f64 = self.usage.iter().map(|usage| usage.operations).sum();
        let device = |kind| SimulatedDevice {
            kind,
            busy_share: sum(kind, |usage| usage.busy_seconds) / seconds,
            work_share: sum(kind, |usage| usage.operations) / operations,
        };
        let kinds = [DeviceKind::Npu, DeviceKind::Gpu, DeviceKind::Cpu];
        kinds.into_iter().filter(|&kind| sum(kind, |usage| usage.busy_seconds) > 0.0).map(device).collect()
    }
}

impl SimulateMode {
    /// Every mode.
    pub const ALL: [SimulateMode; 3] =
        [SimulateMode::Only(DeviceKind::Cpu), SimulateMode::Only(DeviceKind::Gpu), SimulateMode::Only(DeviceKind::Npu)];

    /// The processors that take part, the one that allocates shared memory first.
    fn devices(self) -> [DeviceKind; 1] {
        let SimulateMode::Only(kind) = self;
        [kind]
    }
}

impl fmt::Display for SimulateMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SimulateMode::Only(kind) = self;
        write!(f, "{kind}-only")
    }
}

impl FromStr for SimulateMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.to_string() == name);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(|mode| mode.to_string()).join(", ")))
    }
}
