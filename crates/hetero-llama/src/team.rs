//! The processors of a model as a team: one alone, or several whose plans follow from what was measured of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use hetero_core::{Backend, DeviceKind, Graph, StepParams, WeightFormat};
use hetero_sched::cost::{DeviceSet, MAX_DEVICES, ProfiledOptions};
use hetero_sched::explain::Explanation;
use hetero_sched::profile::{Measured, ProfileFolder, Progress};
pub use hetero_sched::solver::{DynamicLength, Method, Objective};
use hetero_sched::solver::{Preparation, SolveOptions};
use hetero_sched::{ExecutorOptions, Solution, Synchronisation, Team, TeamOptions, Wanted};

use crate::backends::{self, Power};
use crate::config::ModelConfig;
use crate::error::{LlamaError, TeamError};
use crate::graph::{self, GraphOptions};
use crate::mode::Mode;
use crate::model::{self, ModelOptions};
use crate::profiling::{self, ProfilingFacts, Thoroughness};

/// Plans are reconsidered when a processor's times are off the prediction by more than this part.
const TOLERANCE: f64 = 0.2;

/// Tokens of a usual reply: a plan for decoding that is made while somebody waits is expected to serve as many.
const TOKENS_OF_A_REPLY: u32 = 256;

/// How processors work together.
#[derive(Clone, Debug)]
pub struct TogetherOptions {
    /// Who computes; `None` for all processors that may be used, with operators cut between them.
    pub mode: Option<Mode>,
    /// By what plans are found.
    pub method: Method,
    /// What a processor with graphs of fixed length does with a prompt of another one.
    pub dynamic_length: DynamicLength,
    /// What plans make small.
    pub objective: Objective,
    /// Bytes of weights that processors may hold as copies of their own, for all plans together; `None` for any number.
    pub memory_budget: Option<u64>,
    /// Whether processors meet fast; otherwise the same plans run as [`Synchronisation::PerCrossing`] says, to show what
    /// that is worth.
    pub fast_sync: bool,
    /// Whether the failure of a processor ends a run; otherwise the others go on without it.
    pub is_strict: bool,
    /// Where measurements are kept from one run to the next; `None` for nowhere.
    pub profiles: Option<ProfileFolder>,
    /// Whether what is kept there is measured again.
    pub measures_anew: bool,
    /// Seconds after which no further measurement is begun.
    pub budget_seconds: f64,
    /// The most submissions of each graph whose times are kept for a trace.
    pub n_traced: usize,
}

impl Default for TogetherOptions {
    fn default() -> Self {
        TogetherOptions {
            mode: None,
            method: Method::default(),
            dynamic_length: DynamicLength::default(),
            objective: Objective::default(),
            memory_budget: None,
            fast_sync: true,
            is_strict: false,
            profiles: None,
            measures_anew: false,
            budget_seconds: 30.0,
            n_traced: 0,
        }
    }
}

/// Makes a team of `devices`, the first of which allocates shared memory. `prefill` has the operators that several
/// devices are measured with.
pub(crate) fn team(
    devices: Vec<Arc<dyn Backend>>,
    prefill: &Graph,
    options: &ModelOptions,
    watch: &mut dyn FnMut(&Progress<'_>),
) -> Result<(Arc<Team>, Option<ProfilingFacts>), LlamaError> {
    let together = &options.together;
    let host_device_idx = devices.iter().position(|device| device.info().kind == DeviceKind::Cpu);
    let mut executor = ExecutorOptions { n_traced: together.n_traced, host_device_idx, ..ExecutorOptions::default() };
    if !together.fast_sync {
        executor.synchronisation = Synchronisation::PerCrossing;
    }
    if let [device] = &devices[..] {
        return Ok((Team::single(Arc::clone(device), executor), None));
    }
    if devices.len() > MAX_DEVICES {
        return Err(TeamError::TooManyDevices { n_devices: devices.len(), most: MAX_DEVICES }.into());
    }
    let mut go_on = |progress: &Progress<'_>| {
        watch(progress);
        ControlFlow::Continue(())
    };
    let (measured, facts) = profiling::known_and_missing(&devices, prefill, options, Thoroughness::Quick, &mut go_on)?;
    let unusable = unusable(&devices, &measured, options)?;
    let solve = SolveOptions {
        granularity: together.mode.map_or_else(Default::default, Mode::granularity),
        method: together.method,
        dynamic_length: together.dynamic_length,
        objective: together.objective,
        memory_budget: together.memory_budget,
        preparation: Preparation::OnUse { n_steps: TOKENS_OF_A_REPLY },
        ..SolveOptions::new(DeviceSet::first(devices.len()))
    };
    let power = power(&devices, options)?;
    let known = ProfiledOptions {
        is_polling: true,
        active_watts: power.iter().map(|power| power.active_watts).collect(),
        idle_watts: power.iter().map(|power| power.idle_watts).sum(),
        memories: profiling::memories(&devices)?,
        weighs_errors: true,
    };
    let costs = profiling::costs(&measured.profile, &devices, prefill, &known);
    let team = TeamOptions { solve, executor, is_strict: together.is_strict };
    let team = Team::new(devices, Arc::new(costs), team);
    team.adapt(TOLERANCE);
    if together.dynamic_length == DynamicLength::Tensor {
        team.use_graphs_again();
    }
    for (device_idx, reason) in unusable {
        team.leave_out(device_idx, &reason);
    }
    Ok((team, Some(facts)))
}

/// What each device takes. It must be known when energy counts, and counts as nothing otherwise.
fn power(devices: &[Arc<dyn Backend>], options: &ModelOptions) -> Result<Vec<Power>, LlamaError> {
    let objective = options.together.objective;
    let power = |device: &Arc<dyn Backend>| match (backends::power(&options.devices, device.info())?, objective) {
        (Some(power), _) => Ok(power),
        (None, Objective::Time) => Ok(Power::default()),
        (None, objective) => {
            let objective = if objective == Objective::Energy { "energy" } else { "time and energy" };
            Err(TeamError::UnknownPower { objective: objective.to_owned(), device: device.info().name.clone() }.into())
        }
    };
    devices.iter().map(power).collect()
}

/// A plan for a prompt of so many tokens, or with `is_decode` for a single token behind it, on processors of this
/// machine: they are measured as for a run, and nothing else is run. `None` where one processor does everything. `watch`
/// sees each measurement.
///
/// # Errors
/// Processors that cannot be opened or measured, an empty prompt, and one that is longer than the model allows.
pub fn plan(
    config: &ModelConfig,
    options: &ModelOptions,
    prompt: usize,
    is_decode: bool,
    watch: &mut dyn FnMut(&Progress<'_>),
) -> Result<Option<(Solution, Explanation, ProfilingFacts)>, LlamaError> {
    if prompt == 0 {
        return Err(LlamaError::EmptyPrompt);
    }
    if prompt >= config.max_positions {
        return Err(LlamaError::PromptTooLong { tokens: prompt, context: config.max_positions });
    }
    let graph_options = model::graph_options("the model", config, options, WeightFormat::Bf16)?;
    let prefill = model::prefill_graph(config, graph_options).graph;
    let (team, facts) = team(model::open(options)?, &prefill, options, watch)?;
    let Some(facts) = facts else { return Ok(None) };
    // As sessions do: a step has the graph of the next longer length.
    let rows = prompt.min(prefill.capacity());
    let mut lengths = team.lengths(prefill.capacity()).into_iter();
    let capacity = lengths.find(|&length| length >= rows).unwrap_or(rows);
    let graph_of = |capacity| graph::build(config, &GraphOptions { capacity, ..graph_options }).graph;
    let (decode, prefill) = (graph_of(1), graph_of(capacity));
    let first = StepParams { past: prompt, rows: 1 };
    let decode = Wanted { graph: &decode, weights: &[], first, n_steps: f64::from(TOKENS_OF_A_REPLY) };
    let first = StepParams { past: 0, rows };
    let prefill = Wanted { graph: &prefill, weights: &[], first, n_steps: 1.0 };
    let (solution, explanation) = team.explain(&[decode, prefill], usize::from(!is_decode))?;
    Ok(Some((solution, explanation, facts)))
}

/// The devices of which plans cannot be made, and why.
fn unusable(
    devices: &[Arc<dyn Backend>],
    measured: &Measured,
    options: &ModelOptions,
) -> Result<Vec<(usize, String)>, LlamaError> {
    let mut unusable = Vec::new();
    for (device_idx, device) in devices.iter().enumerate().filter(|(idx, _)| !measured.is_covered[*idx]) {
        let failure = measured.failures.iter().find(|failure| failure.device_idx == device_idx);
        let error = match failure {
            Some(failure) => profiling::failed(failure),
            None => TeamError::NotMeasured {
                device: device.info().name.clone(),
                budget_seconds: options.together.budget_seconds,
            }
            .into(),
        };
        // When none is left there is no plan, and the run ends with what was the matter.
        if options.together.is_strict || unusable.len() + 1 == devices.len() {
            return Err(error);
        }
        unusable.push((device_idx, error.to_string()));
    }
    Ok(unusable)
}
