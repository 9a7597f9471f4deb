//! The GPU alone writes the text that the CPU writes alone, for fifty prompts, on models of random and of trained
//! weights, in single precision and in 4 bits.

#![cfg(all(feature = "cpu-simd", feature = "gpu-wgpu"))]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hetero_core::WeightFormat;
use hetero_llama::backends::{self, Availability};
use hetero_llama::{
    Activations, CancelToken, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource, Session,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use common::{best_token, fixture};

const N_PROMPTS: usize = 50;
const CONTEXT: usize = 96;
/// The best token must be ahead of the next one by this part of the largest logit: sums in another order differ by a
/// millionth of it.
const LEAST_LEAD: f32 = 1e-4;
/// Lengths of the first prompts: those at which the GPU takes other kernels, and one beside each.
const FIRST_LENGTHS: [usize; 8] = [1, 2, 3, 4, 5, 16, 17, 65];

#[test]
fn fifty_prompts_on_a_random_model() {
    same_tokens(&fixture("llama3-gqa"), WeightFormat::F32, 80);
}

#[test]
fn fifty_prompts_on_the_demo_model() {
    same_tokens(&demo_model(), WeightFormat::F32, 12);
}

#[test]
fn fifty_prompts_on_the_demo_model_in_4_bits() {
    same_tokens(&demo_model(), WeightFormat::W4G32, 12);
}

#[test]
fn a_conversation_goes_on_behind_what_is_kept_of_it() {
    let folder = fixture("llama3-gqa");
    let mut logits = Vec::new();
    for device in ["cpu", "wgpu"] {
        let model = load(&folder, device, WeightFormat::F32);
        let mut session = Session::new(&model).expect("a session");
        let cancel = CancelToken::default();
        session.feed(&[3, 1, 4, 1, 5, 9, 2, 6], &cancel).expect("tokens that fit");
        session.truncate(5);
        session.feed(&[7, 8], &cancel).expect("tokens that fit");
        session.feed(&[2], &cancel).expect("a token that fits");
        logits.push(session.logits().to_vec());
    }
    let largest = logits[0].iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
    for (cpu, gpu) in logits[0].iter().zip(&logits[1]) {
        assert!((cpu - gpu).abs() <= 1e-4 * largest, "{cpu} and {gpu}");
    }
}

#[test]
fn every_gpu_is_listed_and_auto_means_none_of_them() {
    let devices = backends::list(&DeviceOptions::default()).expect("a list");
    let gpus: Vec<_> = devices.iter().filter(|device| device.name.starts_with("wgpu")).collect();
    assert!(gpus.iter().any(|device| device.name == "wgpu:0"), "{devices:?}");
    for gpu in gpus {
        assert!(matches!(gpu.availability, Availability::Usable { .. }), "{gpu:?}");
    }
    let opened = backends::open(&DeviceOptions::default()).expect("the CPU");
    assert!(opened.iter().all(|device| device.info().is_host_visible));
    let missing = DeviceOptions { devices: DeviceSelection::Named(vec!["wgpu:99".into()]), ..DeviceOptions::default() };
    let error = backends::open(&missing).map(drop).unwrap_err();
    assert!(error.to_string().contains("number 99") && error.fix().contains("hetero devices"), "{error}");
}

fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hetero-cli/demo-model")
}

fn same_tokens(folder: &Path, weights: WeightFormat, usual_length: usize) {
    let (cpu, gpu) = (load(folder, "cpu", weights), load(folder, "wgpu", weights));
    let (mut alone, mut session) = (Session::new(&cpu).expect("a session"), Session::new(&gpu).expect("a session"));
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut below = |n: usize| random.next_u32() as usize % n;
    let mut n_compared = 0;
    for n_drawn in 0.. {
        assert!(n_drawn < 2 * N_PROMPTS, "the model hardly ever knows what comes next");
        let length = FIRST_LENGTHS.get(n_drawn).copied().unwrap_or_else(|| 1 + below(usual_length));
        let prompt: Vec<u32> = (0..length).map(|_| below(cpu.config().vocab) as u32).collect();
        let n_tokens = 1 + below(5);
        let (expected, lead) = greedy(&mut alone, &prompt, n_tokens);
        if lead >= LEAST_LEAD {
            let (found, _) = greedy(&mut session, &prompt, n_tokens);
            assert_eq!(found, expected, "prompt {n_drawn} of {length} tokens");
            n_compared += 1;
            if n_compared == N_PROMPTS {
                return;
            }
        }
    }
}

fn load(folder: &Path, device: &str, weights: WeightFormat) -> Arc<Model> {
    let devices = DeviceOptions {
        devices: DeviceSelection::Named(vec![device.to_owned()]),
        threads: Some(2),
        activations: Activations::Float,
        ..DeviceOptions::default()
    };
    let options = ModelOptions { devices, weights: Some(weights), context: Some(CONTEXT), ..ModelOptions::default() };
    let source = ModelSource::Folder(folder.to_path_buf());
    Model::load(source, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// The best next tokens one after the other, and by how much the best was ahead at least, as a part of the largest
/// logit.
fn greedy(session: &mut Session, prompt: &[u32], n_tokens: usize) -> (Vec<u32>, f32) {
    let cancel = CancelToken::default();
    session.truncate(0);
    session.feed(prompt, &cancel).expect("a prompt that fits");
    let mut tokens = Vec::new();
    let mut least_lead = f32::INFINITY;
    loop {
        let logits = session.logits();
        let best = best_token(logits);
        let others = logits.iter().enumerate().filter(|&(token, _)| token != best as usize);
        let second = others.map(|(_, &logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        let largest = logits.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        least_lead = least_lead.min((logits[best as usize] - second) / largest);
        tokens.push(best);
        if tokens.len() == n_tokens {
            return (tokens, least_lead);
        }
        session.feed(&[best], &cancel).expect("a token that fits");
    }
}
