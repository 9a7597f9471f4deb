//! Processors that hold little: weights within a budget, and few compiled graphs at a time.

#![cfg(all(feature = "cpu-simd", feature = "npu-sim"))]

mod common;

use std::sync::Arc;

use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, Soc, TimeMode, blank_weight};
use common::{fixture, greedy};
use hetero_core::{Backend, DType, DeviceInfo, DeviceKind, RowSelection, WeightFormat};
use hetero_llama::config::ModelConfig;
use hetero_llama::graph::{self, GraphOptions};
use hetero_llama::simulate::{PhoneClock, SimulateMode, SimulateOptions, Simulation, simulate};
use hetero_llama::{
    Activations, DeviceOptions, DeviceSelection, LlamaError, Model, ModelOptions, ModelSource, Session,
};
use hetero_sched::cost::{DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::solver::Preparation;
use hetero_sched::{ExecutorOptions, SchedError, SolveError, SolveOptions, Team, TeamOptions};

const CONTEXT: usize = 112;

/// Llama-3.2-1B on GPU and NPU of a phone.
fn run(memory_budget: Option<u64>, max_graphs: usize) -> Result<Simulation, LlamaError> {
    let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    soc.npu_limits.max_graphs = max_graphs;
    let config = ModelConfig::shape("llama-3.2-1b").expect("a shape");
    let mode = SimulateMode::Tensor;
    simulate(&SimulateOptions { mode, memory_budget, decode: 8, is_strict: true, ..SimulateOptions::new(soc, config) })
}

/// Bytes that processors hold of their own, and of these those that they hold twice.
fn held(simulation: &Simulation) -> [u64; 2] {
    let sum = |of: fn(&hetero_llama::simulate::SimulatedDevice) -> u64| simulation.devices.iter().map(of).sum();
    [sum(|device| device.own_bytes), sum(|device| device.repeated_bytes)]
}

#[test]
fn prefill_and_decode_share_what_a_budget_has_room_for_and_predictions_count_it() {
    let free = run(None, 1024).expect("everything fits");
    let [own, repeated] = held(&free);
    let prefill = free.predicted.as_ref().expect("several processors");
    assert_eq!(resident(&free), own, "what was predicted is what is held");
    assert!(repeated > 0 && own > prefill.own_bytes, "both have cuts of their own: {repeated} of {own}");

    // The table of embeddings is as much as all else, and the GPU reads it where it lies.
    let config = ModelConfig::shape("llama-3.2-1b").expect("a shape");
    let matrices = prefill.own_bytes - (config.vocab * config.hidden * 2) as u64;
    for budget in [own * 3 / 4, matrices, matrices / 4] {
        let tight = run(Some(budget), 1024).expect("there is a plan that fits");
        let [own, repeated_now] = held(&tight);
        assert_eq!(resident(&tight), own);
        assert!(own <= budget && own > budget / 2, "{own} of {budget}");
        let seconds = |simulation: &Simulation| simulation.prefill.seconds + 32.0 * simulation.decode.seconds;
        assert!(seconds(&tight) > seconds(&free) * 0.999, "less memory made it faster");
        if budget <= matrices {
            assert!(repeated_now < repeated / 2, "rows are used again rather than loaded: {repeated_now}");
        }
    }
}

/// Bytes that the plan that was made last was predicted to live beside, its own included.
fn resident(simulation: &Simulation) -> u64 {
    let predicted = simulation.predicted.iter().chain(&simulation.predicted_decode);
    predicted.map(|prediction| prediction.resident_bytes).max().expect("several processors")
}

#[test]
fn a_budget_that_nothing_fits_says_what_is_needed() {
    let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    soc.npu_limits.max_graphs = 1024;
    let config = ModelConfig::shape("llama-3.2-1b").expect("a shape");
    let options = SimulateOptions {
        mode: SimulateMode::Only(DeviceKind::Npu),
        operand_order: Some(hetero_core::OperandOrder::ActivationStationary),
        memory_budget: Some(1_000_000),
        ..SimulateOptions::new(soc, config)
    };
    let error = simulate(&options).expect_err("an NPU holds all weights itself");
    let LlamaError::Run(SchedError::NoPlan(SolveError::OverBudget { budget, needed })) = error else {
        panic!("{error}")
    };
    assert!(budget == 1_000_000 && needed > 500_000_000, "{needed} bytes");
}

#[test]
fn few_graphs_are_enough_to_be_faster_than_without_the_npu() {
    let [all, few] = [1024, 12].map(|max_graphs| run(None, max_graphs).expect("there is a plan that fits"));
    let gpu = simulate(&SimulateOptions {
        mode: SimulateMode::Only(DeviceKind::Gpu),
        decode: 8,
        ..SimulateOptions::new(
            Soc::builtin("snapdragon-8-gen-3").expect("a built-in system"),
            ModelConfig::shape("llama-3.2-1b").expect("a shape"),
        )
    });
    let gpu = gpu.expect("a GPU does everything");
    let seconds = |simulation: &Simulation| simulation.prefill.seconds;
    assert!(seconds(&all) < seconds(&few) && seconds(&few) < seconds(&gpu), "{} s", seconds(&few));
    // The simulated NPU refuses a graph beyond its limit, and the run is strict.
    let n_graphs: usize = few.predicted.iter().chain(&few.predicted_decode).map(|p| p.n_graphs[1]).sum();
    assert!((1..=12).contains(&n_graphs), "{n_graphs} graphs");
}

/// A phone on which compiling, starting and waiting cost next to nothing, so that even a small model is shared.
fn phone(max_graphs: usize, numerics: Numerics) -> Arc<SimulatedSoc> {
    let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    for overheads in [&mut soc.gpu.overheads, &mut soc.npu.overheads] {
        overheads.submit_seconds = 1e-9;
        overheads.submit_idle_seconds = 0.0;
        overheads.wait_seconds = 1e-9;
        overheads.poll_seconds = 1e-9;
        overheads.start_seconds = 0.0;
    }
    for compile in [&mut soc.gpu.compile, &mut soc.npu.compile] {
        (compile.graph_seconds, compile.tile_seconds) = (1e-6, 1e-9);
    }
    (soc.gpu.node_seconds, soc.npu.node_seconds) = (0.0, 0.0);
    soc.host.sleep_seconds = 1e-9;
    soc.npu_limits.max_graphs = max_graphs;
    SimulatedSoc::new(soc, SimOptions { numerics, time: TimeMode::Virtual, ..SimOptions::default() })
}

fn devices(phone: &SimulatedSoc) -> Vec<Arc<dyn Backend>> {
    [DeviceKind::Gpu, DeviceKind::Npu].map(|kind| phone.backend(kind)).into()
}

#[test]
fn texts_are_the_same_however_few_graphs_and_bytes_there_is_room_for() {
    let options = DeviceOptions {
        devices: DeviceSelection::Named(vec!["cpu".to_owned()]),
        activations: Activations::Float,
        ..DeviceOptions::default()
    };
    let weights = Some(WeightFormat::F32);
    let options = ModelOptions { devices: options, weights, context: Some(CONTEXT), ..ModelOptions::default() };
    let source = ModelSource::Folder(fixture("llama3-gqa"));
    let model = Model::load(source, &options, &mut |_| {}).expect("the model");
    let graph_options = GraphOptions {
        capacity: CONTEXT,
        context: CONTEXT,
        weights: WeightFormat::F32,
        embedding: WeightFormat::F32,
        cache: DType::F32,
        logits: RowSelection::Last,
    };
    let graph = graph::build(model.config(), &graph_options);
    let prompts: Vec<Vec<u32>> = [5, 40, 33, 90, 2, 64, 71, 40]
        .map(|length| (0..length).map(|i| (7 * i + length) % model.config().vocab as u32).collect())
        .into();
    let texts = |team: &Arc<Team>| -> Vec<Vec<u32>> {
        let mut session = Session::new(&model.with_team(Arc::clone(team))).expect("a session");
        prompts.iter().map(|prompt| greedy(&mut session, prompt, 4)).collect()
    };
    let mut expected = None;
    for (max_graphs, budget, preparation) in [
        (1024, None, Preparation::Ahead),
        (8, None, Preparation::Ahead),
        (4, None, Preparation::OnUse { n_steps: 8 }),
        (1024, Some(120_000), Preparation::Ahead),
        (5, Some(60_000), Preparation::OnUse { n_steps: 8 }),
    ] {
        let bench = phone(max_graphs.max(64), Numerics::None);
        let phone = phone(max_graphs, Numerics::Reference);
        let infos: Vec<DeviceInfo> = devices(&phone).iter().map(|device| device.info().clone()).collect();
        let measuring = MeasureOptions { blank_weight: Some(blank_weight), ..MeasureOptions::in_virtual_time() };
        let clock = PhoneClock(Arc::clone(&bench));
        let profile = measure_all(&devices(&bench), &graph.graph, &clock, &measuring).expect("a profile");
        let known = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
        let costs = ProfiledCosts::new(&profile, &infos, &graph.graph, &known);
        let clock = Arc::new(PhoneClock(Arc::clone(&phone)));
        let executor = ExecutorOptions { clock, ..ExecutorOptions::default() };
        let memory_budget = budget;
        let solve = SolveOptions { memory_budget, preparation, ..SolveOptions::new(DeviceSet::first(2)) };
        let team = Team::new(devices(&phone), Arc::new(costs), TeamOptions { solve, executor, is_strict: true });
        let texts = texts(&team);
        assert_eq!(&texts, expected.get_or_insert(texts.clone()), "{max_graphs} graphs, {budget:?} bytes");
        let usage = phone.usage();
        let npu = usage.iter().find(|usage| usage.kind == DeviceKind::Npu).expect("it is there");
        assert!(npu.operations > 0.0, "{max_graphs} graphs, {budget:?} bytes: the NPU has a part in it");
        assert!(budget.is_none_or(|budget| team.own_bytes() <= budget), "{} bytes", team.own_bytes());
    }
}
