//! Profiles: measuring in pieces, keeping, refusing, predicting.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::threads::{Habits, Threaded};
use hetero_conformance::ReferenceBackend;
use hetero_core::{Backend, DType, DeviceKind, Graph, GraphBuilder, Op, StepParams, WeightFormat, WeightLayout};
use hetero_sched::cost::{CostModel, DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::predict::{Model, Predictor};
use hetero_sched::profile::{
    Identity, MeasureOptions, Measured, Profile, ProfileError, Progress, Sample, measure, measure_all,
};
use hetero_sched::sync::SystemClock;
use hetero_sched::{ExecutorOptions, SolveOptions, Team, TeamOptions, Wanted, solve};

const ROWS: usize = 8;

/// Norm, gate, up, SwiGLU, down and the rest of a small layer.
fn graph() -> Arc<Graph> {
    let mut b = GraphBuilder::new(ROWS);
    let x = b.input("x", 64, DType::F32);
    let scale = b.weight("norm", WeightLayout::table(WeightFormat::F32, 1, 64));
    let normed = b.node("norm", Op::RmsNorm { features: 64, epsilon: 1e-5 }, &[x], &[scale], DType::F32);
    let mut linear = |name, x, in_features, out_features| {
        let weight = b.weight(name, WeightLayout::panels(WeightFormat::W4G32, out_features, in_features));
        let op = Op::Linear { in_features, out_features, format: WeightFormat::W4G32, bias: false };
        b.node(name, op, &[x], &[weight], DType::F32)
    };
    let gate = linear("gate", normed, 64, 128);
    let up = linear("up", normed, 64, 128);
    let gated = b.node("swiglu", Op::Swiglu { features: 128 }, &[gate, up], &[], DType::F32);
    let weight = b.weight("down", WeightLayout::panels(WeightFormat::W4G32, 64, 128));
    let op = Op::Linear { in_features: 128, out_features: 64, format: WeightFormat::W4G32, bias: false };
    let down = b.node("down", op, &[gated], &[weight], DType::F32);
    let out = b.node("add", Op::Add { features: 64 }, &[x, down], &[], DType::F32);
    b.output(out);
    Arc::new(b.finish())
}

fn backends() -> Vec<Arc<dyn Backend>> {
    vec![Arc::new(ReferenceBackend::new()), Arc::new(ReferenceBackend::new())]
}

fn identities(backends: &[Arc<dyn Backend>], kernel_version: &str) -> Vec<Identity> {
    backends.iter().map(|backend| Identity::of(backend.info(), kernel_version)).collect()
}

fn options() -> MeasureOptions {
    MeasureOptions { rows: vec![1, 2, 4, 8], n_repeats: 1, kernel_version: "1".to_owned(), ..MeasureOptions::default() }
}

fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn measure_within(backends: &[Arc<dyn Backend>], known: Option<Profile>, budget_seconds: f64) -> Measured {
    let options = MeasureOptions { budget_seconds, ..options() };
    measure(backends, &graph(), &SystemClock::new(), &options, known, &mut go_on)
}

fn measured(backends: &[Arc<dyn Backend>]) -> Profile {
    measure_all(backends, &graph(), &SystemClock::new(), &options()).expect("nothing fails")
}

#[test]
fn measuring_goes_on_where_it_was_stopped() {
    let backends = backends();
    let begun = measure_within(&backends, None, 0.0);
    assert!(!begun.is_complete && begun.n_new == 0);
    assert_eq!(begun.is_covered, [false, false], "nothing is known of any operator");
    let whole = measure_within(&backends, Some(begun.profile), 1e9);
    assert!(whole.is_complete && whole.failures.is_empty());
    assert_eq!(whole.is_covered, [true, true]);
    // Norm, SwiGLU and addition with 4 numbers of rows, two linear operators with those and a quarter of the columns.
    assert_eq!(whole.profile.n_samples(), 2 * (3 * 4 + 2 * 4 * 2));
    let again = measure_within(&backends, Some(whole.profile.clone()), 0.0);
    assert!(again.is_complete && again.n_new == 0, "there is nothing left to measure");
    assert_eq!(again.profile, whole.profile);
    let overheads = whole.profile.devices.iter().map(|device| device.overheads);
    assert!(overheads.clone().all(|overheads| overheads.submit_seconds > 0.0));
    assert!(overheads.clone().all(|overheads| overheads.copy_seconds_per_byte > 0.0));
    assert_eq!(whole.profile.together.len(), 2, "one row and many");
    assert!(whole.profile.together.iter().flat_map(|together| &together.slowdowns).all(|&slowdown| slowdown >= 1.0));
}

#[test]
fn progress_counts_up_to_all() {
    let (mut seen, mut known) = (Vec::new(), Vec::new());
    let mut watch = |progress: &Progress<'_>| {
        if progress.is_new {
            seen.push((progress.n_done, progress.n_all, progress.is_new));
            known.push(progress.profile.n_samples());
        }
        go_on(progress)
    };
    measure(&backends(), &graph(), &SystemClock::new(), &options(), None, &mut watch);
    let n_all = seen[0].1;
    assert_eq!(seen, (1..=n_all).map(|n_done| (n_done, n_all, true)).collect::<Vec<_>>());
    let n_pairings = 2;
    assert_eq!(known[..n_all - n_pairings], (1..=n_all - n_pairings).collect::<Vec<_>>(), "each is there to be kept");
}

#[test]
fn who_watches_may_end_it_and_go_on_later() {
    let backends = backends();
    let mut n_seen = 0;
    let mut watch = |_: &Progress<'_>| {
        n_seen += 1;
        if n_seen == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let begun = measure(&backends, &graph(), &SystemClock::new(), &options(), None, &mut watch);
    assert!(!begun.is_complete);
    assert_eq!((n_seen, begun.profile.n_samples()), (5, 5));
    let whole = measure_within(&backends, Some(begun.profile), 1e9);
    assert!(whole.is_complete);
    assert_eq!(whole.n_new + 5, whole.profile.n_samples() + whole.profile.together.len());
}

/// Fails at its nth submission, and at all later ones.
fn failing(nth: u64) -> Arc<dyn Backend> {
    Threaded::backend("faulty", Habits { fails_at: Some(nth), ..Habits::default() })
}

#[test]
fn a_device_that_fails_is_left_out_of_the_rest() {
    for nth in [1, 4, 30, 100] {
        let backends = vec![failing(nth), Arc::new(ReferenceBackend::new()) as Arc<dyn Backend>];
        let measured = measure_within(&backends, None, 1e9);
        let failed: Vec<usize> = measured.failures.iter().map(|failure| failure.device_idx).collect();
        assert_eq!(failed, [0], "at submission {nth}");
        assert_eq!(measured.is_covered, [false, true], "at submission {nth}");
        let n_samples = |device_idx: usize| -> usize {
            measured.profile.devices[device_idx].operators.iter().map(|operator| operator.samples.len()).sum()
        };
        assert_eq!(n_samples(1), 3 * 4 + 2 * 4 * 2);
        assert!(n_samples(0) < n_samples(1));
        assert!(measured.profile.together.is_empty());
        let error = measure_all(&[failing(nth)], &graph(), &SystemClock::new(), &options()).unwrap_err();
        assert_eq!(error.device_idx(), Some(0));
    }
}

#[test]
fn a_measured_profile_is_enough_to_solve() {
    let backends = backends();
    let profile = measured(&backends);
    let infos: Vec<_> = backends.iter().map(|backend| backend.info().clone()).collect();
    let graph = graph();
    let costs = ProfiledCosts::new(&profile, &infos, &graph, &ProfiledOptions::default());
    let solution =
        solve(&graph, &costs, StepParams { rows: 5, past: 0 }, &SolveOptions::new(DeviceSet::first(2))).unwrap();
    assert!(solution.prediction.seconds > 0.0 && solution.prediction.seconds < 10.0);
    assert!(costs.errors().count() > 0 && costs.devices().len() == 2);
}

/// Saves a profile, changes the text and loads it for these devices.
fn reload(change: impl Fn(String) -> String, kernel_version: &str) -> Result<Profile, ProfileError> {
    let backends = backends();
    let profile = measured(&backends);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.json");
    profile.save(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(text)).unwrap();
    let loaded = Profile::load(&path, &identities(&backends, kernel_version));
    if let Ok(loaded) = &loaded {
        assert_eq!(*loaded, profile, "what was saved is loaded");
    }
    loaded
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    assert!(reload(|text| text, "1").is_ok());
    let check = |change: &dyn Fn(String) -> String, kernel_version: &str, expected: &str| {
        let message = reload(change, kernel_version).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    check(&|text| text, "2", "kernels 1, and version");
    check(&|text| text[..text.len() / 2].to_owned(), "1", "is damaged");
    check(&|text| text.replace("\"format\": 5", "\"format\": 99"), "1", "has format 99, and format 5 is needed");
    check(&|text| text.replacen("\"name\": \"reference\"", "\"name\": \"gpu\"", 1), "1", "is of the devices");
    check(&|text| text.replacen("\"seconds\": ", "\"seconds\": -", 1), "1", "impossible value for seconds of");
    check(&|text| text.replacen("\"samples\"", "\"simples\"", 1), "1", "is damaged");
    let missing = Profile::load(Path::new("no such file"), &[]).unwrap_err();
    assert!(matches!(missing, ProfileError::Io { .. }));
}

#[test]
fn what_was_measured_on_a_busy_machine_is_measured_again() {
    let backends = backends();
    let mut busy = measured(&backends);
    for sample in busy.devices[0].operators.iter_mut().flat_map(|operator| &mut operator.samples) {
        (sample.seconds, sample.error, sample.spread) = (1.0, 1e3, 1e3);
    }
    assert!(busy.noise().is_busy() && busy.noise().noisy_share >= 0.5, "{:?}", busy.noise());
    let n_busy = busy.devices[0].operators.iter().map(|operator| operator.samples.len()).sum::<usize>();
    let again = |seconds: f64| {
        let options = MeasureOptions { again_seconds: seconds, budget_seconds: 1e9, ..options() };
        measure(&backends, &graph(), &SystemClock::new(), &options, Some(busy.clone()), &mut go_on)
    };
    let none = again(0.0);
    assert_eq!((none.n_new, none.n_again, &none.profile), (0, 0, &busy));
    let all = again(1e9);
    assert!(all.n_new == 0 && all.n_again >= n_busy && all.is_complete, "{} of {n_busy}", all.n_again);
    let samples = || all.profile.devices[0].operators.iter().flat_map(|operator| &operator.samples);
    assert!(samples().all(|sample| sample.seconds < 1.0 && sample.error < 1e3), "the better ones are kept");
}

#[test]
fn a_start_does_not_wait_for_what_plans_can_do_without() {
    let backends = backends();
    let options = MeasureOptions { extra_seconds: [0.0; 2], budget_seconds: 1e9, ..options() };
    let clock = SystemClock::new();
    let first = measure(&backends, &graph(), &clock, &options, None, &mut go_on);
    assert!(!first.is_complete && first.n_new > 0);
    assert_eq!((first.is_covered, first.profile.together.len()), (vec![true, true], 2), "plans can be made");
    let second = measure(&backends, &graph(), &clock, &options, Some(first.profile.clone()), &mut go_on);
    assert_eq!((second.n_new, second.is_complete, &second.profile), (0, false, &first.profile));
    let whole = measure_within(&backends, Some(second.profile), 1e9);
    assert!(whole.is_complete && whole.n_new > 0);
}

/// The plan for two devices, the second of which is slower by a half, when measurements may be off by so much; and why
/// it is for one, if it is.
fn planned(error: f64, weighs_errors: bool) -> (DeviceSet, Option<String>) {
    let (backends, graph) = (backends(), graph());
    let mut profile = measured(&backends);
    (profile.together, profile.bus) = (Vec::new(), None);
    for (device, factor) in profile.devices.iter_mut().zip([1.0, 1.5]) {
        device.overheads = Default::default();
        for sample in device.operators.iter_mut().flat_map(|operator| &mut operator.samples) {
            sample.seconds = factor * 1e-6 * (sample.rows * sample.columns) as f64;
            (sample.error, sample.spread) = (error, error);
        }
    }
    let infos: Vec<_> = backends.iter().map(|backend| backend.info().clone()).collect();
    let known = ProfiledOptions { is_polling: true, weighs_errors, ..ProfiledOptions::default() };
    let costs = ProfiledCosts::new(&profile, &infos, &graph, &known);
    let solve = SolveOptions::new(DeviceSet::first(2));
    let options = TeamOptions { solve, executor: ExecutorOptions::default(), is_strict: true };
    let team = Team::new(backends, Arc::new(costs), options);
    let first = StepParams { past: 0, rows: ROWS };
    let wanted = Wanted { graph: &graph, weights: &[], first, n_steps: 1.0 };
    let (solution, explanation) = team.explain(&[wanted], 0).expect("a plan");
    let used = solution.plan.placements().iter().flatten().map(|placed| placed.device_idx).collect();
    (used, explanation.margin)
}

#[test]
fn a_plan_for_several_devices_has_to_gain_more_than_measurements_may_be_off_by() {
    // Two devices share the work three to two, which gains 40 %.
    assert_eq!(planned(0.0, true), (DeviceSet::first(2), None));
    assert_eq!(planned(0.02, true), (DeviceSet::first(2), None));
    assert_eq!(planned(5.0, false), (DeviceSet::first(2), None), "where errors do not count");
    let (used, margin) = planned(5.0, true);
    assert_eq!(used, DeviceSet::one(0), "the faster one");
    let margin = margin.expect("a reason");
    assert!(margin.contains("alone at 8 positions") && margin.contains("within the profile's error of"), "{margin}");
}

/// A measurement that nothing disturbed.
fn exact(rows: usize, past: usize, columns: usize, seconds: f64) -> Sample {
    let (is_weight_stationary, compile_seconds, error, spread) = (false, 0.0, 0.0, 0.0);
    Sample { rows, past, columns, is_weight_stationary, seconds, compile_seconds, error, spread }
}

fn samples(seconds: impl Fn(usize, usize) -> f64) -> Vec<Sample> {
    let mut samples = Vec::new();
    for rows in [1, 32, 64, 96, 128, 256, 512, 1024] {
        for columns in [1024, 4096] {
            let seconds = seconds(rows, columns);
            samples.push(exact(rows, 0, columns, seconds));
        }
    }
    samples
}

#[test]
fn linear_devices_are_predicted_by_pieces() {
    let truth = |rows: usize, columns: usize| 1e-5 + 1e-9 * columns as f64 * (rows as f64).max(64.0);
    let predictor = Predictor::fit(&samples(truth), DeviceKind::Gpu).unwrap();
    assert_eq!(*predictor.model(), Model::Pieces);
    for (rows, columns) in [(48, 1024), (200, 4096), (777, 2048), (1024, 3000)] {
        let error = predictor.seconds(rows, 0, columns, false) / truth(rows, columns) - 1.0;
        assert!(error.abs() < 0.05, "{rows} rows and {columns} columns are off by {error}");
    }
    assert!(predictor.errors().n > 0 && predictor.errors().median < 0.2, "{:?}", predictor.errors());
}

#[test]
fn padding_devices_are_predicted_by_a_staircase() {
    let truth = |rows: usize, columns: usize| {
        1e-5 + 1e-9 * rows.next_multiple_of(32) as f64 * columns.next_multiple_of(32) as f64
    };
    let predictor = Predictor::fit(&samples(truth), DeviceKind::Npu).unwrap();
    assert_eq!(*predictor.model(), Model::Staircase);
    for (rows, columns) in [(33, 1024), (100, 4096), (130, 4095), (1000, 2000)] {
        let error = predictor.seconds(rows, 0, columns, false) / truth(rows, columns) - 1.0;
        assert!(error.abs() < 0.01, "{rows} rows and {columns} columns are off by {error}");
    }
    assert_eq!(predictor.seconds(33, 0, 4096, false), predictor.seconds(64, 0, 4096, false));
}

#[test]
fn devices_that_jump_between_kernels_are_predicted_by_a_tree() {
    // From 200 rows on another kernel runs, which is eight times as fast.
    let truth = |rows: usize, columns: usize| (rows * columns) as f64 * if rows < 200 { 8e-12 } else { 1e-12 };
    let mut few = samples(truth);
    for rows in [190, 199, 200, 210] {
        let seconds = truth(rows, 4096);
        few.push(exact(rows, 0, 4096, seconds));
    }
    let predictor = Predictor::fit(&few, DeviceKind::Gpu).unwrap();
    assert!(matches!(predictor.model(), Model::Tree(_)), "{:?} {:?}", predictor.model(), predictor.errors());
    for rows in [70, 150, 230, 700] {
        let error = predictor.seconds(rows, 0, 4096, false) / truth(rows, 4096) - 1.0;
        assert!(error.abs() < 0.05, "{rows} rows are off by {error}");
    }
}

#[test]
fn attention_grows_with_the_positions_before_it() {
    let sample = |rows: usize, past: usize| exact(rows, past, 4096, 1e-5 + 1e-8 * (rows * past) as f64);
    let samples: Vec<Sample> =
        [(1, 0), (64, 0), (256, 0), (1, 256), (1, 1024)].map(|(rows, past)| sample(rows, past)).into();
    let predictor = Predictor::fit(&samples, DeviceKind::Gpu).unwrap();
    for past in [0, 100, 512, 2000] {
        let error = predictor.seconds(1, past, 4096, false) / sample(1, past).seconds - 1.0;
        assert!(error.abs() < 0.01, "after {past} positions: off by {error}");
    }
}
