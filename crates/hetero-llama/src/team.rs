//! The processors of a model as a team: one alone, or several with costs that are measured while the model loads.

use std::sync::Arc;

use hetero_core::{Backend, DeviceInfo, DeviceKind};
use hetero_sched::cost::{DeviceSet, MAX_DEVICES, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, Progress, measure};
use hetero_sched::solver::SolveOptions;
use hetero_sched::sync::{SystemClock, WaitPolicy};
use hetero_sched::{ExecutorOptions, SchedError, Team, TeamOptions};

use crate::LlamaError;
use crate::graph::ModelGraph;

/// How processors work together.
#[derive(Clone, Debug)]
pub struct TogetherOptions {
    /// Seconds after which no further measurement is begun.
    pub budget_seconds: f64,
    /// Whether the failure of a processor ends a run; otherwise the others go on without it.
    pub is_strict: bool,
}

impl Default for TogetherOptions {
    fn default() -> Self {
        TogetherOptions { budget_seconds: 30.0, is_strict: false }
    }
}

/// Makes a team of `devices`, the first of which allocates shared memory. `prefill` has the operators that several
/// devices are measured with.
pub(crate) fn team(
    devices: Vec<Arc<dyn Backend>>,
    prefill: &ModelGraph,
    options: &TogetherOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Arc<Team>, LlamaError> {
    let mut executor = ExecutorOptions::default();
    if let [device] = &devices[..] {
        // Looking would take a core from the threads that compute, and nothing else waits for them.
        if device.info().kind == DeviceKind::Cpu {
            executor.wait.policy = WaitPolicy::Block;
        }
        return Ok(Team::single(Arc::clone(device), executor));
    }
    if devices.len() > MAX_DEVICES {
        return Err(LlamaError::TooManyDevices { n_devices: devices.len(), most: MAX_DEVICES });
    }
    let measuring = MeasureOptions {
        budget_seconds: options.budget_seconds,
        // The ends of the range, and a tile: a start is not the time to be thorough.
        rows: vec![1, 32, prefill.graph.capacity()],
        past: vec![512],
        n_repeats: 1,
        ..MeasureOptions::default()
    };
    let clock = SystemClock::new();
    let (profile, is_complete) =
        measure(&devices, &prefill.graph, &clock, &measuring, None, progress).map_err(SchedError::from)?;
    if !is_complete {
        tracing::warn!(seconds = options.budget_seconds, "the devices were not measured completely; plans may be poor");
    }
    let infos: Vec<DeviceInfo> = devices.iter().map(|device| device.info().clone()).collect();
    let costs = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
    let costs = ProfiledCosts::new(&profile, &infos, &prefill.graph, &costs);
    let solve = SolveOptions::new(DeviceSet::first(devices.len()));
    let options = TeamOptions { solve, executor, is_strict: options.is_strict };
    Ok(Team::new(devices, Arc::new(costs), options))
}
