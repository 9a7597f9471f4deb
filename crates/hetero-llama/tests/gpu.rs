//! The GPU, alone and together with other processors, writes the text that the CPU writes alone: for fifty prompts, on
//! models of random and of trained weights, in single precision and in 4 bits.

#![cfg(all(feature = "cpu-simd", any(feature = "gpu-vulkano", feature = "gpu-wgpu")))]

mod common;
mod even_costs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hetero_core::{Backend, DeviceKind, WeightFormat};
use hetero_llama::backends::{self, Availability};
use hetero_llama::{
    Activations, CancelToken, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource, Session,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use common::{fixture, greedy_with_lead};

const N_PROMPTS: usize = 50;
const CONTEXT: usize = 96;
/// The best token must be ahead of the next one by this part of the largest logit: sums in another order differ by a
/// millionth of it.
const LEAST_LEAD: f32 = 1e-4;
/// Lengths of the first prompts: those at which the GPU takes other kernels, and one beside each.
const FIRST_LENGTHS: [usize; 8] = [1, 2, 3, 4, 5, 16, 17, 65];

/// Every way to a GPU that this build has.
const GPUS: &[&str] = &[
    #[cfg(feature = "gpu-vulkano")]
    "vulkan",
    #[cfg(feature = "gpu-wgpu")]
    "wgpu",
];

#[test]
fn fifty_prompts_on_a_random_model() {
    GPUS.iter().for_each(|gpu| alone(&fixture("llama3-gqa"), gpu, WeightFormat::F32, 80));
}

#[test]
fn fifty_prompts_on_the_demo_model() {
    GPUS.iter().for_each(|gpu| alone(&demo_model(), gpu, WeightFormat::F32, 12));
}

#[test]
fn fifty_prompts_on_the_demo_model_in_4_bits() {
    GPUS.iter().for_each(|gpu| alone(&demo_model(), gpu, WeightFormat::W4G32, 12));
}

#[test]
fn fifty_prompts_on_gpu_and_cpu_at_once() {
    for gpu in GPUS {
        together(&fixture("llama3-gqa"), &format!("cpu,{gpu}"), WeightFormat::F32, 80);
        together(&demo_model(), &format!("cpu,{gpu}"), WeightFormat::W4G32, 12);
    }
}

#[cfg(feature = "npu-sim")]
#[test]
fn fifty_prompts_on_gpu_npu_and_cpu_at_once() {
    for gpu in GPUS {
        together(&fixture("llama3-gqa"), &format!("{gpu},npu-sim,cpu"), WeightFormat::F32, 80);
    }
}

/// Two ways to the same GPU are two processors with memory of their own, and the cache is in both.
#[cfg(all(feature = "gpu-vulkano", feature = "gpu-wgpu"))]
#[test]
fn fifty_prompts_on_two_gpus_and_the_cpu_at_once() {
    together(&fixture("llama3-gqa"), "cpu,vulkan,wgpu", WeightFormat::F32, 80);
}

/// As users do it: the processors are measured, and whoever is faster computes.
#[cfg(feature = "gpu-vulkano")]
#[test]
fn measured_processors_write_the_same_text() {
    let folder = fixture("llama3-gqa");
    let (cpu, both) = (load(&folder, "cpu", WeightFormat::F32), load(&folder, "cpu,vulkan", WeightFormat::F32));
    let [first, second] = both.devices() else { panic!("two processors") };
    let desc = hetero_core::TensorDesc { rows: 3, columns: 100, dtype: hetero_core::DType::F32 };
    let shared = first.allocate(&desc).expect("memory");
    assert_eq!(second.access(&*shared), hetero_core::Access::Direct, "what the first allocates, both share");
    same_tokens(&cpu, &both, 80);
}

#[test]
fn a_conversation_goes_on_behind_what_is_kept_of_it() {
    let folder = fixture("llama3-gqa");
    let mut logits = Vec::new();
    for device in [&["cpu"], GPUS].concat() {
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
    for found in &logits[1..] {
        for (cpu, gpu) in logits[0].iter().zip(found) {
            assert!((cpu - gpu).abs() <= 1e-4 * largest, "{cpu} and {gpu}");
        }
    }
}

#[test]
fn every_gpu_is_listed_and_auto_means_none_of_them() {
    let devices = backends::list(&DeviceOptions::default()).expect("a list");
    for name in GPUS {
        let gpus: Vec<_> = devices.iter().filter(|device| device.name.starts_with(name)).collect();
        assert!(gpus.iter().any(|device| device.name == format!("{name}:0")), "{devices:?}");
        for gpu in gpus {
            assert!(matches!(gpu.availability, Availability::Usable { .. }), "{gpu:?}");
        }
        let missing = DeviceSelection::Named(vec![format!("{name}:99")]);
        let error =
            backends::open(&DeviceOptions { devices: missing, ..DeviceOptions::default() }).map(drop).unwrap_err();
        assert!(error.to_string().contains("number 99") && error.fix().contains("hetero devices"), "{error}");
    }
    let opened = backends::open(&DeviceOptions::default()).expect("the CPU");
    assert!(opened.iter().all(|device| device.info().kind == DeviceKind::Cpu));
}

fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hetero-cli/demo-model")
}

/// One GPU does everything.
fn alone(folder: &Path, gpu: &str, weights: WeightFormat, usual_length: usize) {
    same_tokens(&load(folder, "cpu", weights), &load(folder, gpu, weights), usual_length);
}

/// Every product is cut between the processors, however fast each is, and other operators go to this one and that.
fn together(folder: &Path, devices: &str, weights: WeightFormat, usual_length: usize) {
    let cpu = load(folder, "cpu", weights);
    let opened = backends::open(&device_options(devices)).expect("the processors");
    let model = cpu.with_team(even_costs::team(opened.into_iter().map(given_work_ahead).collect()));
    same_tokens(&cpu, &model, usual_length);
    let session = Session::new(&model).expect("a session");
    let has_copies = session.cache_bytes() > Session::new(&cpu).expect("a session").cache_bytes();
    // With a third processor there are plans that need the cache in one memory alone.
    assert!(has_copies || devices != "cpu,wgpu", "both processors attend, and each has the cache in its memory");
    assert!(!has_copies || devices.contains("wgpu"), "{devices}: one memory serves all");
    let shares = session.device_shares();
    assert!(shares.iter().all(|share| *share > 0.1), "{devices}: one had next to nothing to do: {shares:?}");
}

/// A GPU that is given work before its inputs exist wherever it can be, even by software, which gains nothing.
fn given_work_ahead(device: Arc<dyn Backend>) -> Arc<dyn Backend> {
    #[cfg(feature = "gpu-vulkano")]
    if device.info().name == "vulkan" {
        use backend_gpu_vulkano::{Ahead, VulkanBackend, VulkanOptions};
        return Arc::new(
            VulkanBackend::new(&VulkanOptions { ahead: Ahead::Always, ..VulkanOptions::default() }).expect("a GPU"),
        );
    }
    device
}

fn same_tokens(cpu: &Arc<Model>, model: &Arc<Model>, usual_length: usize) {
    let names: Vec<&str> = model.devices().iter().map(|device| device.info().name.as_str()).collect();
    let (mut alone, mut session) = (Session::new(cpu).expect("a session"), Session::new(model).expect("a session"));
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut below = |n: usize| random.next_u32() as usize % n;
    let mut n_compared = 0;
    for n_drawn in 0.. {
        assert!(n_drawn < 2 * N_PROMPTS, "the model hardly ever knows what comes next");
        let length = FIRST_LENGTHS.get(n_drawn).copied().unwrap_or_else(|| 1 + below(usual_length));
        let prompt: Vec<u32> = (0..length).map(|_| below(cpu.config().vocab) as u32).collect();
        let n_tokens = 1 + below(5);
        let (expected, lead) = greedy_with_lead(&mut alone, &prompt, n_tokens);
        if lead >= LEAST_LEAD {
            let (found, _) = greedy_with_lead(&mut session, &prompt, n_tokens);
            assert_eq!(found, expected, "{names:?}, prompt {n_drawn} of {length} tokens");
            n_compared += 1;
            if n_compared == N_PROMPTS {
                return;
            }
        }
    }
}

fn load(folder: &Path, devices: &str, weights: WeightFormat) -> Arc<Model> {
    let devices = device_options(devices);
    let options = ModelOptions { devices, weights: Some(weights), context: Some(CONTEXT), ..ModelOptions::default() };
    let source = ModelSource::Folder(folder.to_path_buf());
    Model::load(source, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// Processors with these names, which keep activations as floats.
fn device_options(names: &str) -> DeviceOptions {
    DeviceOptions {
        devices: DeviceSelection::Named(names.split(',').map(str::to_owned).collect()),
        threads: Some(2),
        activations: Activations::Float,
        ..DeviceOptions::default()
    }
}
