//! Several processors write the text that the CPU writes alone, whichever of them fails.

#![cfg(all(feature = "cpu-simd", feature = "npu-sim"))]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{fixture, greedy};
use hetero_core::WeightFormat;
use hetero_llama::{Activations, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource, Session};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const N_PROMPTS: usize = 50;
const N_TOKENS: usize = 6;

fn load(folder: &Path, devices: &str, faults: Option<&str>) -> Arc<Model> {
    let names = devices.split(',').map(str::to_owned).collect();
    let devices = DeviceOptions {
        devices: DeviceSelection::Named(names),
        threads: Some(2),
        activations: Activations::Float,
        faults: faults.map(str::to_owned),
        ..DeviceOptions::default()
    };
    let options =
        ModelOptions { devices, weights: Some(WeightFormat::F32), context: Some(96), ..ModelOptions::default() };
    let source = ModelSource::Folder(folder.to_path_buf());
    Model::load(source, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// Prompts of random tokens and lengths.
fn prompts(vocabulary: usize) -> Vec<Vec<u32>> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut below = |n: usize| random.next_u32() as usize % n;
    (0..N_PROMPTS).map(|_| (0..1 + below(80)).map(|_| below(vocabulary) as u32).collect()).collect()
}

#[test]
fn fifty_prompts_give_the_same_tokens_with_and_without_faults() {
    let folder = fixture("llama3-gqa");
    let alone = load(&folder, "cpu", None);
    let prompts = prompts(alone.config().vocab);
    let mut session = Session::new(&alone).expect("a session");
    let expected: Vec<Vec<u32>> = prompts.iter().map(|prompt| greedy(&mut session, prompt, N_TOKENS)).collect();

    for (devices, faults) in [
        ("npu-sim", None),
        ("gpu-sim", None),
        ("cpu,npu-sim", None),
        ("cpu,gpu-sim,npu-sim", None),
        ("gpu-sim,npu-sim", Some("npu:late=2ms@every=50")),
        ("gpu-sim,npu-sim", Some("npu:lost@600+")),
        ("cpu,gpu-sim,npu-sim", Some("gpu:stuck@700; timeout=200ms")),
        ("cpu,gpu-sim,npu-sim", Some("npu:lost@500+; gpu:lost@900+")),
    ] {
        let model = load(&folder, devices, faults);
        let mut session = Session::new(&model).expect("a session");
        for (prompt, expected) in prompts.iter().zip(&expected) {
            let tokens = greedy(&mut session, prompt, N_TOKENS);
            assert_eq!(tokens, *expected, "{devices}, {faults:?}, {} tokens", prompt.len());
        }
        for loss in model.team().losses() {
            assert!(faults.is_some(), "{devices}: {} was lost without a fault: {}", loss.device, loss.reason);
        }
    }
}
