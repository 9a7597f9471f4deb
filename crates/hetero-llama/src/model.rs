//! A model, loaded and ready to be talked to.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hetero_core::{Backend, DType, RowSelection, WeightFormat};
use hetero_sched::Team;

use crate::LlamaError;
use crate::backends::{self, Activations, DeviceOptions};
use crate::chat_template::ChatTemplate;
use crate::config::ModelConfig;
use crate::generation_config::GenerationConfig;
use crate::graph::{self, GraphOptions};
use crate::loader::{self, LoadProgress, LoadedWeights, StoredWeights};
use crate::memory::{self, Fit};
use crate::packed::PackedCheckpoint;
use crate::session::PREFILL_CHUNK;
use crate::source::ModelSource;
use crate::team::{self, TogetherOptions};
use crate::tokenizer::Tokenizer;
use crate::weights::ModelTensors;

/// Above so many parameters, weights that are stored as floats are held in 4 bits unless the user says otherwise.
const QUANTIZE_ABOVE_PARAMETERS: u64 = 1_000_000_000;

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Processors and how they compute.
    pub devices: DeviceOptions,
    /// How they work together, when they are several.
    pub together: TogetherOptions,
    /// What linear weights are held in; `None` chooses w4g32 above a billion parameters and bf16 below.
    pub weights: Option<WeightFormat>,
    /// Positions of the KV cache; `None` means the model's own limit, lowered to what memory has room for.
    pub context: Option<usize>,
}

/// A model in memory: weights, tokenizer, devices. Sessions share it.
#[derive(Debug)]
pub struct Model {
    source: ModelSource,
    config: ModelConfig,
    generation: GenerationConfig,
    team: Arc<Team>,
    weights: LoadedWeights,
    /// Read when it is first needed, because a measurement needs none.
    tokenizer: OnceLock<Tokenizer>,
    facts: ModelFacts,
    graph_options: GraphOptions,
}

/// What was decided and measured while a model was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// Number of weights.
    pub parameters: u64,
    /// What linear weights are held in.
    pub weights: WeightFormat,
    /// Positions of the KV cache.
    pub context: usize,
    /// The model's own limit, when memory has lowered it.
    pub context_lowered_from: Option<usize>,
    /// Bytes of weights in memory.
    pub weight_bytes: u64,
    /// Bytes of the KV cache of one session.
    pub cache_bytes: u64,
    /// Time to open and load.
    pub load: Duration,
}

impl Model {
    /// Opens and loads a model. `progress` is called after each weight.
    pub fn load(
        source: ModelSource,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Arc<Model>, LlamaError> {
        let start = Instant::now();
        let config = source.config()?;
        let generation = source.generation_config(&config)?;
        let devices = backends::open(&options.devices)?;
        let checkpoint = source.checkpoint()?;
        let stored = match config.packed_weights {
            Some(_) => StoredWeights::Packed(PackedCheckpoint::new(checkpoint)),
            None => StoredWeights::Tensors(Box::new(ModelTensors::resolve(&checkpoint, &config)?)),
        };
        let parameters = config.parameter_count();
        let weights = choose_weights(&source, &config, options.weights)?;
        let float = options.devices.activations == Activations::Float || weights == WeightFormat::F32;
        let mut graph_options = GraphOptions {
            capacity: 1,
            context: config.max_positions,
            weights,
            embedding: loader::format_of(stored.embedding_dtype(&config)?),
            // Halves suffice for keys and values beside narrow weights; who asks for floats gets them here too.
            cache: if float { DType::F32 } else { DType::F16 },
            logits: RowSelection::Last,
        };
        let graph = graph::build(&config, &graph_options);
        let fit = Fit::of(&graph, graph_options.cache, memory::available_bytes());
        graph_options.context = fit.context(options.context, config.max_positions)?;
        let context_lowered_from =
            (options.context.is_none() && graph_options.context < config.max_positions).then_some(config.max_positions);

        let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let weights_loaded = loader::load(&stored, &graph, &*devices[0], n_threads, progress)?;
        let facts = ModelFacts {
            parameters,
            weights,
            context: graph_options.context,
            context_lowered_from,
            weight_bytes: weights_loaded.resident_bytes(),
            cache_bytes: fit.cache_bytes(graph_options.context),
            load: start.elapsed(),
        };
        let capacity = PREFILL_CHUNK.min(graph_options.context);
        let prefill = graph::build(&config, &GraphOptions { capacity, ..graph_options });
        let team = team::team(devices, &prefill, &options.together, &mut |_| {})?;
        Ok(Arc::new(Model {
            source,
            config,
            generation,
            team,
            weights: weights_loaded,
            tokenizer: OnceLock::new(),
            facts,
            graph_options,
        }))
    }

    /// What the model is made of.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How its makers want it to be sampled.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The tokens that end a text.
    pub fn eos_tokens(&self) -> &[u32] {
        &self.generation.eos_tokens
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> Result<&Tokenizer, LlamaError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let tokenizer = self.source.tokenizer(self.config.vocab)?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// The model's chat template.
    pub fn chat_template(&self) -> Result<ChatTemplate, LlamaError> {
        self.source.chat_template()
    }

    /// The processors that it runs on.
    pub fn devices(&self) -> &[Arc<dyn Backend>] {
        self.team.devices()
    }

    /// The processors as a team, with those that have failed.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// The most tokens of a session.
    pub fn context(&self) -> usize {
        self.graph_options.context
    }

    /// What was decided and measured while it was loaded.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    pub(crate) fn weights(&self) -> &LoadedWeights {
        &self.weights
    }

    pub(crate) fn graph_options(&self) -> GraphOptions {
        self.graph_options
    }
}

/// What linear weights are held in: as asked for, or as they are stored in panels, or by the size of the model.
fn choose_weights(
    source: &ModelSource,
    config: &ModelConfig,
    asked: Option<WeightFormat>,
) -> Result<WeightFormat, LlamaError> {
    match (config.packed_weights, asked) {
        (Some(stored), Some(asked)) if stored != asked => {
            Err(LlamaError::PackedOtherwise { model: source.name(), stored, asked })
        }
        (Some(stored), _) => Ok(stored),
        (None, Some(asked)) => Ok(asked),
        (None, None) if config.parameter_count() > QUANTIZE_ABOVE_PARAMETERS => Ok(WeightFormat::W4G32),
        (None, None) => Ok(WeightFormat::Bf16),
    }
}
