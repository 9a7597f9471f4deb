//! Plans follow processors that become slower or faster while a model runs.

#![cfg(all(feature = "cpu-simd", feature = "npu-sim"))]

mod common;

use std::sync::Arc;

use backend_npu_sim::{FaultPlan, Numerics, SimOptions, SimulatedSoc, Soc, TimeMode, blank_weight};
use common::{best_token, fixture};
use hetero_core::{Backend, DType, DeviceInfo, DeviceKind, RowSelection, StepParams, WeightFormat};
use hetero_llama::config::ModelConfig;
use hetero_llama::graph::{self, GraphOptions, ModelGraph};
use hetero_llama::simulate::PhoneClock;
use hetero_llama::{
    Activations, CancelToken, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource, Session,
};
use hetero_sched::cost::{DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::{ExecutorOptions, Replan, Runner, SolveOptions, Team, TeamOptions};

const CONTEXT: usize = 112;
const N_STEPS: usize = 96;
const TOLERANCE: f64 = 0.2;

/// A phone on which compiling, starting and waiting cost next to nothing, so that even a small model is shared.
fn phone(faults: &str, numerics: Numerics) -> Arc<SimulatedSoc> {
    phone_that_waits(faults, numerics, 1e-9)
}

/// The same, on which the host learns of an end so many seconds late.
fn phone_that_waits(faults: &str, numerics: Numerics, wait_seconds: f64) -> Arc<SimulatedSoc> {
    let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    for overheads in [&mut soc.gpu.overheads, &mut soc.npu.overheads] {
        overheads.submit_seconds = 1e-9;
        overheads.submit_idle_seconds = 0.0;
        overheads.wait_seconds = wait_seconds;
        overheads.poll_seconds = wait_seconds;
        overheads.start_seconds = 0.0;
    }
    for compile in [&mut soc.gpu.compile, &mut soc.npu.compile] {
        (compile.graph_seconds, compile.tile_seconds) = (0.0, 0.0);
    }
    (soc.gpu.node_seconds, soc.npu.node_seconds) = (0.0, 0.0);
    soc.host.sleep_seconds = 1e-9;
    let faults = FaultPlan::parse(faults).expect("faults");
    SimulatedSoc::new(soc, SimOptions { numerics, time: TimeMode::Virtual, faults, ..SimOptions::default() })
}

fn devices(phone: &SimulatedSoc) -> Vec<Arc<dyn Backend>> {
    [DeviceKind::Gpu, DeviceKind::Npu].map(|kind| phone.backend(kind)).into()
}

/// The small model on the CPU, whose weights the phones share.
fn model() -> Arc<Model> {
    let devices = DeviceOptions {
        devices: DeviceSelection::Named(vec!["cpu".to_owned()]),
        activations: Activations::Float,
        ..DeviceOptions::default()
    };
    let options =
        ModelOptions { devices, weights: Some(WeightFormat::F32), context: Some(CONTEXT), ..ModelOptions::default() };
    Model::load(ModelSource::Folder(fixture("llama3-gqa")), &options, &mut |_| {}).expect("the model")
}

/// What a conversation came to.
struct Outcome {
    tokens: Vec<u32>,
    team: Arc<Team>,
}

/// GPU and NPU of a phone, measured on another one for a graph.
fn team(phone: &Arc<SimulatedSoc>, bench: &Arc<SimulatedSoc>, graph: &ModelGraph, adapts: bool) -> Arc<Team> {
    let infos: Vec<DeviceInfo> = devices(bench).iter().map(|device| device.info().clone()).collect();
    let measuring = MeasureOptions::in_virtual_time();
    let clock = PhoneClock(Arc::clone(bench));
    let profile = measure_all(&devices(bench), &graph.graph, &clock, &measuring).expect("a profile");
    let known = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
    let costs = ProfiledCosts::new(&profile, &infos, &graph.graph, &known);
    let clock = PhoneClock(Arc::clone(phone));
    let executor = ExecutorOptions { clock: Arc::new(clock), ..ExecutorOptions::default() };
    let options = TeamOptions { solve: SolveOptions::new(DeviceSet::first(2)), executor, is_strict: true };
    let team = Team::new(devices(phone), Arc::new(costs), options);
    if adapts {
        team.adapt(TOLERANCE);
    }
    team
}

/// Decodes on GPU and NPU of a phone with faults, with or without adapting.
fn decode(model: &Model, faults: &str, adapts: bool) -> Outcome {
    decode_on(model, phone(faults, Numerics::Reference), adapts)
}

/// Decodes on GPU and NPU of a phone, with what was measured on another one.
fn decode_on(model: &Model, phone: Arc<SimulatedSoc>, adapts: bool) -> Outcome {
    let bench = self::phone("", Numerics::None);
    let graph = graph::build(
        model.config(),
        &GraphOptions {
            capacity: CONTEXT,
            context: CONTEXT,
            weights: WeightFormat::F32,
            embedding: WeightFormat::F32,
            cache: DType::F32,
            logits: RowSelection::Last,
        },
    );
    let team = team(&phone, &bench, &graph, adapts);
    let mut session = Session::new(&model.with_team(Arc::clone(&team))).expect("a session");
    let cancel = CancelToken::default();
    session.feed(&[1, 2, 3], &cancel).expect("a prompt");
    let mut tokens = Vec::new();
    for _ in 0..N_STEPS {
        let token = best_token(session.logits());
        session.feed(&[token], &cancel).expect("a token");
        tokens.push(token);
    }
    Outcome { tokens, team }
}

#[test]
fn a_plan_that_moves_changes_no_token() {
    let model = model();
    let undisturbed = decode(&model, "", false);
    let mut n_replans = 0;
    for fault in ["npu:late=4x@60+", "gpu:late=4x@60+", "npu:late=20x@every=40"] {
        let adapted = decode(&model, fault, true);
        assert_eq!(adapted.tokens, undisturbed.tokens, "{fault}");
        n_replans += adapted.team.replans().len();
    }
    assert!(n_replans > 0, "nothing drifted");
}

/// Seconds of each token of Llama-3.2-1B on GPU and NPU of a phone with faults, and the plans that were reconsidered.
fn time_large(faults: &str, adapts: bool) -> (Vec<f64>, Vec<Replan>) {
    let (seconds, team) = time_waiting(faults, adapts, 1.0, DeviceSet::first(2));
    (seconds, team.replans())
}

/// The same on some of the devices of a phone on which meeting takes so many times as long as where it was measured.
fn time_waiting(faults: &str, adapts: bool, waits: f64, usable: DeviceSet) -> (Vec<f64>, Arc<Team>) {
    let phone = |faults: &str, waits: f64| {
        let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
        for overheads in [&mut soc.gpu.overheads, &mut soc.npu.overheads] {
            overheads.submit_seconds *= waits;
            overheads.poll_seconds *= waits;
        }
        let faults = FaultPlan::parse(faults).expect("faults");
        let (numerics, time) = (Numerics::None, TimeMode::Virtual);
        SimulatedSoc::new(soc, SimOptions { numerics, time, faults, ..SimOptions::default() })
    };
    let config = ModelConfig::shape("llama-3.2-1b").expect("a shape");
    let options = GraphOptions {
        capacity: 1,
        context: 1024,
        weights: WeightFormat::W4G32,
        embedding: WeightFormat::Bf16,
        cache: DType::F16,
        logits: RowSelection::Last,
    };
    let graph = graph::build(&config, &options);
    let phone_with_faults = phone(faults, waits);
    let team = team(&phone_with_faults, &phone("", 1.0), &graph, adapts);
    (0..2).filter(|&idx| !usable.contains(idx)).for_each(|idx| team.leave_out(idx, "another one computes alone"));
    let state = graph.allocate_state(&*team.devices()[0]).expect("memory");
    let weights: Vec<_> =
        (graph.graph.weights().iter()).map(|desc| blank_weight(&desc.name, desc.layout).expect("no memory")).collect();
    let first = StepParams { past: 1, rows: 1 };
    let mut runner = Runner::new(&team, &graph.graph, &weights, &state, first).expect("ready");
    let mut seconds = Vec::new();
    for past in 1..=N_STEPS {
        let begin = phone_with_faults.clock().now();
        runner.step(StepParams { past, rows: 1 }, &|| false).expect("a step");
        seconds.push(phone_with_faults.clock().now() - begin);
    }
    (seconds, team)
}

/// The median of the last half, which what is compiled for a new plan does not move.
fn late_half(seconds: &[f64]) -> f64 {
    let mut last = seconds[N_STEPS / 2..].to_vec();
    last.sort_by(f64::total_cmp);
    last[last.len() / 2]
}

#[test]
fn work_moves_away_from_a_processor_that_becomes_late() {
    for (late, fault) in [("npu-sim", "npu:late=3x@1500+"), ("gpu-sim", "gpu:late=3x@1500+")] {
        let (steady, _) = time_large(fault, false);
        let (adapted, replans) = time_large(fault, true);
        assert!(replans.iter().any(|replan| replan.is_new && replan.device == late), "{fault}: {replans:?}");
        assert!(replans.len() <= 4, "{fault}: plans settle: {replans:?}");
        let [before, after] = [steady, adapted].map(|seconds| late_half(&seconds));
        println!("{fault}: {before:.4} s a token without adapting, {after:.4} s with it");
        assert!(after < 0.9 * before, "{fault}: {after} s, without adapting {before} s: {replans:?}");
    }
}

#[test]
fn outliers_move_nothing() {
    for fault in ["", "npu:late=20x@every=97; gpu:late=10x@every=101"] {
        let (_, replans) = time_large(fault, true);
        assert_eq!(replans, [], "{fault}");
    }
}

/// The steps after which a plan for several processors that takes longer than one of them must have given way.
const N_UNTIL_ALONE: usize = 12;

#[test]
fn a_plan_that_promises_too_much_gives_way_to_a_single_processor() {
    // Processors meet hundreds of times in a token, and here that takes far longer than where they were measured.
    let waits = 40.0;
    let (blind, _) = time_waiting("", false, waits, DeviceSet::first(2));
    let alone = [0, 1].map(|idx| late_half(&time_waiting("", false, waits, DeviceSet::one(idx)).0));
    let (adapted, team) = time_waiting("", true, waits, DeviceSet::first(2));
    let best = alone[0].min(alone[1]);
    println!("blind {:.4} s, alone {alone:.4?} s, adapted {:.4?} s", late_half(&blind), &adapted[..20]);
    assert!(late_half(&blind) > 2.0 * best, "the plan is bad: {} s, alone {best} s", late_half(&blind));
    for (idx, seconds) in adapted.iter().enumerate().skip(N_UNTIL_ALONE) {
        assert!(*seconds < 1.03 * best, "step {idx}: {seconds} s, alone {best} s");
    }
    let fallbacks = team.fallbacks();
    assert!(matches!(&fallbacks[..], [only] if only.is_alone && only.rows == 1), "{fallbacks:?}");
}

#[test]
fn a_plan_that_keeps_its_promise_stays() {
    let (steady, _) = time_waiting("", false, 1.0, DeviceSet::first(2));
    let (adapted, team) = time_waiting("", true, 1.0, DeviceSet::first(2));
    assert_eq!(team.fallbacks(), []);
    let [before, after] = [steady, adapted].map(|seconds| seconds.iter().sum::<f64>());
    println!("{N_STEPS} steps: {before:.4} s without trials, {after:.4} s with them");
    assert!(after < 1.04 * before, "trials cost little: {before} s without them, {after} s with them");
}

#[test]
fn falling_back_changes_no_token() {
    let model = model();
    let undisturbed = decode(&model, "", false);
    let adapted = decode_on(&model, phone_that_waits("", Numerics::Reference, 1e-3), true);
    assert_eq!(adapted.tokens, undisturbed.tokens);
    assert!(adapted.team.fallbacks().iter().any(|fallback| fallback.is_alone), "{:?}", adapted.team.fallbacks());
}
