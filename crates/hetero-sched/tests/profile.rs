//! Profiles: measuring in pieces, keeping, refusing, predicting.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hetero_conformance::ReferenceBackend;
use hetero_core::{Backend, DType, DeviceKind, Graph, GraphBuilder, Op, StepParams, WeightFormat, WeightLayout};
use hetero_sched::cost::{CostModel, DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::predict::{Model, Predictor};
use hetero_sched::profile::{Identity, MeasureOptions, Profile, ProfileError, Sample, measure};
use hetero_sched::sync::SystemClock;
use hetero_sched::{SolveOptions, solve};

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

fn measure_all(backends: &[Arc<dyn Backend>], known: Option<Profile>, budget_seconds: f64) -> (Profile, bool) {
    let clock = SystemClock::new();
    let options = MeasureOptions { budget_seconds, ..options() };
    measure(backends, &graph(), &clock, &options, known, &mut |_| {}).unwrap()
}

fn n_samples(profile: &Profile) -> usize {
    profile.devices.iter().flat_map(|device| &device.operators).map(|operator| operator.samples.len()).sum()
}

#[test]
fn measuring_goes_on_where_it_was_stopped() {
    let backends = backends();
    let (begun, is_complete) = measure_all(&backends, None, 0.0);
    assert!(!is_complete);
    let (whole, is_complete) = measure_all(&backends, Some(begun), 1e9);
    assert!(is_complete);
    // Norm, SwiGLU and addition with 4 numbers of rows, two linear operators with those and a quarter of the columns.
    assert_eq!(n_samples(&whole), 2 * (3 * 4 + 2 * 4 * 2));
    let (again, is_complete) = measure_all(&backends, Some(whole.clone()), 0.0);
    assert!(is_complete, "there is nothing left to measure");
    assert_eq!(again, whole);
    assert!(whole.devices.iter().all(|device| device.overheads.submit_seconds > 0.0));
    assert!(whole.together.iter().flat_map(|together| &together.slowdowns).all(|&slowdown| slowdown >= 1.0));
}

#[test]
fn progress_counts_up_to_all() {
    let mut seen = Vec::new();
    let clock = SystemClock::new();
    measure(&backends(), &graph(), &clock, &options(), None, &mut |progress| seen.push(progress.clone())).unwrap();
    let n_all = seen[0].n_all;
    assert_eq!(seen.iter().map(|progress| progress.n_done).collect::<Vec<_>>(), (1..=n_all).collect::<Vec<_>>());
}

#[test]
fn a_measured_profile_is_enough_to_solve() {
    let backends = backends();
    let (profile, _) = measure_all(&backends, None, 1e9);
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
    let (profile, _) = measure_all(&backends, None, 1e9);
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
    check(&|text| text.replace("\"format\": 1", "\"format\": 99"), "1", "has format 99, and format 1 is needed");
    check(&|text| text.replacen("\"name\": \"reference\"", "\"name\": \"gpu\"", 1), "1", "is of the devices");
    check(&|text| text.replacen("\"seconds\": ", "\"seconds\": -", 1), "1", "impossible value for seconds of");
    check(&|text| text.replacen("\"samples\"", "\"simples\"", 1), "1", "is damaged");
    let missing = Profile::load(Path::new("no such file"), &[]).unwrap_err();
    assert!(matches!(missing, ProfileError::Io { .. }));
}

fn samples(seconds: impl Fn(usize, usize) -> f64) -> Vec<Sample> {
    let mut samples = Vec::new();
    for rows in [1, 32, 64, 96, 128, 256, 512, 1024] {
        for columns in [1024, 4096] {
            let seconds = seconds(rows, columns);
            samples.push(Sample { rows, past: 0, columns, is_weight_stationary: false, seconds, compile_seconds: 0.0 });
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
        few.push(Sample { rows, past: 0, columns: 4096, is_weight_stationary: false, seconds, compile_seconds: 0.0 });
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
    let sample = |rows: usize, past: usize| Sample {
        rows,
        past,
        columns: 4096,
        is_weight_stationary: false,
        seconds: 1e-5 + 1e-8 * (rows * past) as f64,
        compile_seconds: 0.0,
    };
    let samples: Vec<Sample> =
        [(1, 0), (64, 0), (256, 0), (1, 256), (1, 1024)].map(|(rows, past)| sample(rows, past)).into();
    let predictor = Predictor::fit(&samples, DeviceKind::Gpu).unwrap();
    for past in [0, 100, 512, 2000] {
        let error = predictor.seconds(1, past, 4096, false) / sample(1, past).seconds - 1.0;
        assert!(error.abs() < 0.01, "after {past} positions: off by {error}");
    }
}
