//! What prompts of many lengths cost on processors that take graphs of fixed length.

#![cfg(feature = "npu-sim")]

use std::sync::Arc;

use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, Soc, TimeMode, blank_weight};
use hetero_core::{Backend, DType, DeviceInfo, DeviceKind, RowSelection, StepParams, WeightFormat};
use hetero_llama::config::ModelConfig;
use hetero_llama::graph::{self, GraphOptions};
use hetero_llama::simulate::PhoneClock;
use hetero_sched::cost::{DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::{ExecutorOptions, Runner, SolveOptions, Team, TeamOptions};

const CAPACITY: usize = 512;
const CONTEXT: usize = 4096;

#[test]
fn a_conversation_compiles_little() {
    let phone = || {
        let soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
        let options = SimOptions { numerics: Numerics::None, time: TimeMode::Virtual, ..SimOptions::default() };
        SimulatedSoc::new(soc, options)
    };
    let config = ModelConfig::shape("llama-3.2-1b").expect("a shape");
    let options = GraphOptions {
        capacity: CAPACITY,
        context: CONTEXT,
        weights: WeightFormat::W4G32,
        embedding: WeightFormat::Bf16,
        cache: DType::F16,
        logits: RowSelection::Last,
    };
    let graph = graph::build(&config, &options);
    let (phone, bench) = (phone(), phone());
    let kinds = [DeviceKind::Gpu, DeviceKind::Npu];
    let devices_of = |phone: &SimulatedSoc| -> Vec<Arc<dyn Backend>> { kinds.map(|kind| phone.backend(kind)).into() };
    let measuring = MeasureOptions::in_virtual_time();
    let clock = PhoneClock(Arc::clone(&bench));
    let profile = measure_all(&devices_of(&bench), &graph.graph, &clock, &measuring).expect("a profile");
    let devices = devices_of(&phone);
    let infos: Vec<DeviceInfo> = devices.iter().map(|device| device.info().clone()).collect();
    let known = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
    let costs = ProfiledCosts::new(&profile, &infos, &graph.graph, &known);
    let clock = Arc::new(PhoneClock(Arc::clone(&phone)));
    let executor = ExecutorOptions { clock, ..ExecutorOptions::default() };
    let solve = SolveOptions::new(DeviceSet::first(2));
    let team = Team::new(devices, Arc::new(costs), TeamOptions { solve, executor, is_strict: true });
    team.use_graphs_again();
    let lengths = team.lengths(CAPACITY);
    assert_eq!(lengths, [32, 64, 128, 256, 512], "those that were measured");
    let state = graph.allocate_state(&*team.devices()[0]).expect("memory");
    let mut runners: Vec<Runner> = (lengths.iter())
        .map(|&capacity| {
            let graph = graph::build(&config, &GraphOptions { capacity, ..options });
            let weights: Vec<_> = (graph.graph.weights().iter())
                .map(|desc| blank_weight(&desc.name, desc.layout).expect("no memory"))
                .collect();
            let first = StepParams { past: 0, rows: capacity };
            Runner::new(&team, &graph.graph, &weights, &state, first).expect("ready")
        })
        .collect();
    let compiled = || phone.usage().iter().map(|usage| usage.compile_seconds).sum::<f64>();
    let before = compiled();
    assert!(before > 1.0, "making ready compiles: {before} s");
    let mut past = 0;
    for rows in [37, 300, 41, 150, 37, 512, 90, 23, 64, 201, 77, 2] {
        let idx = lengths.iter().position(|&length| length >= rows).expect("a length");
        let begin = phone.clock().now();
        runners[idx].step(StepParams { past, rows }, &|| false).expect("a step");
        let seconds = phone.clock().now() - begin;
        let predicted = runners[idx].solution().expect("a plan").prediction.seconds;
        // A shorter step is over sooner, for a GPU takes any number of positions.
        assert!(seconds < 1.1 * predicted, "{rows} behind {past}: {seconds} s, predicted {predicted} s");
        past += rows;
    }
    assert_eq!(compiled(), before, "no prompt has graphs of its own");
    assert!(team.replans().is_empty());
}
