//! A model with fifty prompts and the tokens that the CPU alone writes behind them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hetero_core::{DType, DeviceKind, RowSelection, WeightFormat};
use hetero_llama::graph::{self, GraphOptions, ModelGraph};
use hetero_llama::{Activations, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource, Session};
use hetero_sched::cost::ProfiledCosts;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::common::{fixture, greedy, greedy_with_lead};

const N_PROMPTS: usize = 50;
/// Tokens that are written at most behind a prompt.
const MOST_TOKENS: usize = 5;
const CONTEXT: usize = 96;
/// Lengths around those for which an NPU has graphs.
const BORDERS: [usize; 7] = [1, 32, 33, 31, 64, 65, 63];
/// The best token must be ahead of the next one by this part of the largest logit: sums in another order differ by a
/// millionth of it.
const LEAST_LEAD: f32 = 1e-4;

/// A model and what it writes.
pub(crate) struct Subject {
    folder: PathBuf,
    /// On the CPU.
    pub(crate) alone: Arc<Model>,
    /// What token embeddings are stored in.
    embedding: WeightFormat,
    pub(crate) prompts: Vec<Prompt>,
    /// What processors cost, as far as a mode has asked for it.
    pub(crate) costs: Mutex<HashMap<&'static [DeviceKind], Arc<ProfiledCosts>>>,
}

/// A prompt and what follows it.
pub(crate) struct Prompt {
    tokens: Vec<u32>,
    expected: Vec<u32>,
}

impl Subject {
    /// A model of random weights.
    pub(crate) fn random() -> Subject {
        Self::new(fixture("llama3-gqa"), WeightFormat::F32, &BORDERS, 80)
    }

    /// The model inside the binary, which is trained.
    pub(crate) fn demo() -> Subject {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hetero-cli/demo-model");
        // It is some fifty times as large, and simulated processors compute by plain loops.
        Self::new(folder, WeightFormat::Bf16, &BORDERS[..3], 6)
    }

    /// The first prompts have these lengths, and the others up to `usual_length`.
    fn new(folder: PathBuf, embedding: WeightFormat, first: &[usize], usual_length: usize) -> Subject {
        let alone = load(&folder, "cpu", None);
        let mut session = Session::new(&alone).expect("a session");
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut below = |n: usize| random.next_u32() as usize % n;
        let mut prompts = Vec::with_capacity(N_PROMPTS);
        let mut n_drawn = 0;
        while prompts.len() < N_PROMPTS {
            n_drawn += 1;
            assert!(n_drawn < 2 * N_PROMPTS, "the model hardly ever knows what comes next");
            let length = first.get(prompts.len()).copied().unwrap_or_else(|| 1 + below(usual_length));
            let tokens: Vec<u32> = (0..length).map(|_| below(alone.config().vocab) as u32).collect();
            let n_tokens = 1 + below(MOST_TOKENS);
            let (expected, lead) = greedy_with_lead(&mut session, &tokens, n_tokens);
            if lead >= LEAST_LEAD {
                prompts.push(Prompt { tokens, expected });
            }
        }
        Subject { folder, alone, embedding, prompts, costs: Mutex::default() }
    }

    /// The model on devices with these names.
    pub(crate) fn load(&self, devices: &str, faults: Option<&str>) -> Arc<Model> {
        load(&self.folder, devices, faults)
    }

    /// The graph of prefill as sessions have it.
    pub(crate) fn prefill(&self) -> ModelGraph {
        let options = GraphOptions {
            capacity: CONTEXT,
            context: CONTEXT,
            weights: WeightFormat::F32,
            embedding: self.embedding,
            cache: DType::F32,
            logits: RowSelection::Last,
        };
        graph::build(self.alone.config(), &options)
    }
}

impl Prompt {
    /// Holds a session to the expected tokens; `what` is what differs from the CPU alone.
    pub(crate) fn check(&self, session: &mut Session, what: &str) {
        assert_eq!(self.answer(session), self.expected, "{what}, {} tokens", self.tokens.len());
    }

    /// Whether a session writes the expected tokens.
    pub(crate) fn is_answered(&self, session: &mut Session) -> bool {
        self.answer(session) == self.expected
    }

    fn answer(&self, session: &mut Session) -> Vec<u32> {
        greedy(session, &self.tokens, self.expected.len())
    }
}

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
        ModelOptions { devices, weights: Some(WeightFormat::F32), context: Some(CONTEXT), ..ModelOptions::default() };
    let source = ModelSource::Folder(folder.to_path_buf());
    Model::load(source, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}
