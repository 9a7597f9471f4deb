//! What the tests on fixtures share: finding them, reading what transformers computed, loading models.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hetero_core::WeightFormat;
use hetero_llama::{Activations, CancelToken, DeviceOptions, Model, ModelOptions, ModelSource, Session};
use safetensors::SafeTensors;

/// All fixture models, sorted by name.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.join("expected.safetensors").exists())
        .collect();
    folders.sort();
    assert!(folders.len() >= 12, "the fixtures are part of the repository; found {}", folders.len());
    folders
}

/// One fixture model.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What transformers computed for a fixture.
pub(crate) struct Expected {
    /// The prompt.
    pub(crate) tokens: Vec<u32>,
    /// `[positions, vocabulary]`, row by row.
    pub(crate) logits: Vec<f32>,
    /// The greedy continuation.
    pub(crate) greedy: Vec<u32>,
}

impl Expected {
    /// Reads a file of a fixture's folder.
    pub(crate) fn read(folder: &Path, file: &str) -> Expected {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
        let ids = |name: &str| -> Vec<u32> {
            let Ok(tensor) = tensors.tensor(name) else { return Vec::new() };
            tensor.data().as_chunks().0.iter().map(|&x| i64::from_le_bytes(x) as u32).collect()
        };
        let logits = tensors.tensor("logits").expect("logits");
        let logits = logits.data().as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
        Expected { tokens: ids("tokens"), logits, greedy: ids("greedy") }
    }
}

/// Loads a model with float activations.
pub(crate) fn load(folder: &Path, weights: Option<WeightFormat>) -> Arc<Model> {
    load_with(folder, weights, Activations::Float)
}

/// Loads a model on two threads.
pub(crate) fn load_with(folder: &Path, weights: Option<WeightFormat>, activations: Activations) -> Arc<Model> {
    let devices = DeviceOptions { threads: Some(2), activations, ..DeviceOptions::default() };
    let options = ModelOptions { devices, weights, ..ModelOptions::default() };
    let source = ModelSource::Folder(folder.to_path_buf());
    Model::load(source, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// The logits of all positions.
pub(crate) fn logits(model: &Arc<Model>, tokens: &[u32]) -> Vec<f32> {
    let mut session = Session::for_scoring(model).expect("a session");
    let mut all = Vec::new();
    let collect = |_: usize, logits: &[f32]| all.extend_from_slice(logits);
    session.score(tokens, &CancelToken::default(), collect).expect("logits");
    all
}

/// The best next tokens, one after the other.
pub(crate) fn greedy(session: &mut Session, prompt: &[u32], n_tokens: usize) -> Vec<u32> {
    greedy_with_lead(session, prompt, n_tokens).0
}

/// The best next tokens one after the other, and by how much the best was ahead at least, as a part of the largest
/// logit.
pub(crate) fn greedy_with_lead(session: &mut Session, prompt: &[u32], n_tokens: usize) -> (Vec<u32>, f32) {
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

/// The first of the largest.
pub(crate) fn best_token(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (token, &logit)| if logit > best.1 { (token, logit) } else { best });
    best.0 as u32
}

/// `sqrt(sum of squared differences / sum of squared expected values)`.
pub(crate) fn normalised_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = actual.iter().zip(expected).map(|(a, e)| square(a - e)).sum();
    (difference / expected.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}
