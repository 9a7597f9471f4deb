//! The processors of a simulated SoC as a team whose plans follow from measurements.

use std::sync::Arc;

use backend_npu_sim::{SimulatedSoc, blank_weight};
use hetero_core::{Backend, DeviceInfo};
use hetero_sched::cost::{DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::solver::{Granularity, Preparation, SolveOptions};
use hetero_sched::sync::Clock;
use hetero_sched::{ExecutorOptions, Synchronisation, Team, TeamOptions};

use super::{Graphs, SimulateMode, SimulateOptions, devices_of};
use crate::LlamaError;

/// The processors of `soc` that the mode uses. Their costs are measured on `bench`, another phone of the same kind.
pub(super) fn team(
    options: &SimulateOptions,
    soc: &Arc<SimulatedSoc>,
    bench: &Arc<SimulatedSoc>,
    graphs: &Graphs,
) -> Result<Arc<Team>, LlamaError> {
    let kinds = devices_of(options.mode);
    let backends =
        |phone: &SimulatedSoc| -> Vec<Arc<dyn Backend>> { kinds.iter().map(|&kind| phone.backend(kind)).collect() };
    let devices = backends(soc);
    let synchronisation = if options.fast_sync { Synchronisation::Fast } else { Synchronisation::PerCrossing };
    let executor =
        ExecutorOptions { synchronisation, clock: Arc::new(PhoneClock(Arc::clone(soc))), ..ExecutorOptions::default() };
    // The order of operands is a matter of the plan.
    if matches!(options.mode, SimulateMode::Only(_)) && options.operand_order.is_none() {
        return Ok(Team::single(Arc::clone(&devices[0]), executor));
    }

    let clock = PhoneClock(Arc::clone(bench));
    let measuring = MeasureOptions { blank_weight: Some(blank_weight), ..MeasureOptions::in_virtual_time() };
    let profile = measure_all(&backends(bench), &graphs.measured().graph, &clock, &measuring)?;
    let infos: Vec<DeviceInfo> = devices.iter().map(|device| device.info().clone()).collect();
    let phone = soc.soc();
    let costs = ProfiledOptions {
        // Without fast synchronisation the same plans run: it is the mechanism that is taken away.
        is_polling: true,
        active_watts: kinds.iter().map(|&kind| phone.power(kind).active_watts).collect(),
        idle_watts: kinds.iter().map(|&kind| phone.power(kind).idle_watts).sum(),
        memories: Vec::new(),
        weighs_errors: false,
    };
    let costs = ProfiledCosts::new(&profile, &infos, &graphs.prefill.graph, &costs);
    let solve = SolveOptions {
        granularity: if options.mode == SimulateMode::Layer { Granularity::Layer } else { options.cuts },
        method: options.method,
        objective: options.objective,
        dynamic_length: options.dynamic_length,
        operand_order: options.operand_order,
        memory_budget: options.memory_budget,
        // The evaluation prepares graphs before the prompt comes, and so does this.
        preparation: Preparation::Ahead,
        ..SolveOptions::new(DeviceSet::first(devices.len()))
    };
    let options = TeamOptions { solve, executor, is_strict: options.is_strict };
    Ok(Team::new(devices, Arc::new(costs), options))
}

/// A simulated phone's host clock.
#[derive(Debug)]
pub struct PhoneClock(pub Arc<SimulatedSoc>);

impl Clock for PhoneClock {
    fn now(&self) -> f64 {
        self.0.clock().now()
    }

    fn sleep(&self, seconds: f64) {
        self.0.clock().sleep(seconds);
    }
}
