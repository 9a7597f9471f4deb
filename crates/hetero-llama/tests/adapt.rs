//! Plans follow processors that become slower or faster while a model runs.

#![cfg(all(feature = "cpu-simd", feature = "npu-sim"))]

mod common;

use std::sync::Arc;

use backend_npu_sim::{FaultPlan, Numerics, SimOptions, SimulatedSoc, Soc, TimeMode};
use common::{best_token, fixture};
use hetero_core::{Backend, DType, DeviceInfo, DeviceKind, RowSelection, WeightFormat};
use hetero_llama::graph::{self, GraphOptions};
use hetero_llama::{
    Activations, CancelToken, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource, Session,
};
use hetero_sched::cost::{DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::sync::Clock;
use hetero_sched::{ExecutorOptions, SolveOptions, Team, TeamOptions};

const CONTEXT: usize = 112;
const N_STEPS: usize = 96;
const TOLERANCE: f64 = 0.2;

/// A phone on which compiling, starting and waiting cost next to nothing, so that even a small model is shared.
fn phone(faults: &str, numerics: Numerics) -> Arc<SimulatedSoc> {
    let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    for overheads in [&mut soc.gpu.overheads, &mut soc.npu.overheads] {
        overheads.submit_seconds = 1e-9;
        overheads.submit_idle_seconds = 0.0;
        overheads.wait_seconds = 1e-9;
        overheads.poll_seconds = 1e-9;
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
    /// Virtual seconds of each step of one token.
    seconds: Vec<f64>,
    team: Arc<Team>,
}

/// Decodes on GPU and NPU of a phone with faults, with or without adapting.
fn decode(model: &Model, faults: &str, adapts: bool) -> Outcome {
    let bench = phone("", Numerics::None);
    let infos: Vec<DeviceInfo> = devices(&bench).iter().map(|device| device.info().clone()).collect();
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
    let measuring = MeasureOptions {
        budget_seconds: f64::INFINITY,
        n_repeats: 1,
        fills_operands: false,
        ..MeasureOptions::default()
    };
    let clock = PhoneClock(Arc::clone(&bench));
    let profile = measure_all(&devices(&bench), &graph.graph, &clock, &measuring).expect("a profile");
    let known = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
    let costs = ProfiledCosts::new(&profile, &infos, &graph.graph, &known);

    let phone = phone(faults, Numerics::Reference);
    let clock = PhoneClock(Arc::clone(&phone));
    let executor = ExecutorOptions { clock: Arc::new(clock), ..ExecutorOptions::default() };
    let options = TeamOptions { solve: SolveOptions::new(DeviceSet::first(2)), executor, is_strict: true };
    let team = Team::new(devices(&phone), Arc::new(costs), options);
    if adapts {
        team.adapt(TOLERANCE);
    }
    let mut session = Session::new(&model.with_team(Arc::clone(&team))).expect("a session");
    let cancel = CancelToken::default();
    session.feed(&[1, 2, 3], &cancel).expect("a prompt");
    let (mut tokens, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..N_STEPS {
        let token = best_token(session.logits());
        let begin = phone.clock().now();
        session.feed(&[token], &cancel).expect("a token");
        seconds.push(phone.clock().now() - begin);
        tokens.push(token);
    }
    Outcome { tokens, seconds, team }
}

fn sum(seconds: &[f64]) -> f64 {
    seconds.iter().sum()
}

#[test]
fn work_moves_away_from_a_processor_that_becomes_late() {
    let model = model();
    let undisturbed = decode(&model, "", true);
    let rest = N_STEPS / 2;
    // Late from somewhere in the first steps on.
    for (late, fault) in [("npu-sim", "npu:late=4x@60+"), ("gpu-sim", "gpu:late=4x@60+")] {
        let steady = decode(&model, fault, false);
        let adapted = decode(&model, fault, true);
        assert_eq!(steady.tokens, undisturbed.tokens, "{fault}");
        assert_eq!(adapted.tokens, undisturbed.tokens, "{fault}");
        let replans = adapted.team.replans();
        assert!(steady.team.replans().is_empty());
        let moved = replans.iter().filter(|replan| replan.is_new && replan.device == late).count();
        assert!(moved >= 1, "{fault}: {replans:?}");
        assert!(replans.len() <= 4, "{fault}: plans settle: {replans:?}");
        let [before, after] = [&steady, &adapted].map(|outcome| sum(&outcome.seconds[rest..]));
        assert!(after < 0.9 * before, "{fault}: {after} s, without adapting {before} s: {replans:?}");
    }
}

#[test]
fn outliers_move_nothing() {
    let model = model();
    let undisturbed = decode(&model, "", true);
    assert_eq!(undisturbed.team.replans(), [], "predictions in virtual time are good enough");
    let disturbed = decode(&model, "npu:late=20x@every=40", true);
    assert_eq!(disturbed.tokens, undisturbed.tokens);
    assert_eq!(disturbed.team.replans(), []);
}

/// A phone's host clock.
#[derive(Debug)]
struct PhoneClock(Arc<SimulatedSoc>);

impl Clock for PhoneClock {
    fn now(&self) -> f64 {
        self.0.clock().now()
    }

    fn sleep(&self, seconds: f64) {
        self.0.clock().sleep(seconds);
    }
}
