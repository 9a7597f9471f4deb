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
use crate::graph::{self, GraphOptions, ModelGraph};
use crate::loader::{self, LoadProgress, LoadStage, LoadedWeights, StoredWeights};
use crate::memory::{self, Fit};
use crate::mode::Mode;
use crate::packed::PackedCheckpoint;
use crate::profiling::ProfilingFacts;
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
    /// Time to open and load, without measuring processors.
    pub load: Duration,
    /// What was measured of the processors; `None` where there is one alone.
    pub profiling: Option<ProfilingFacts>,
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
        let devices = open(options)?;
        let checkpoint = source.checkpoint()?;
        let stored = match config.packed_weights {
            Some(_) => StoredWeights::Packed(PackedCheckpoint::new(checkpoint)),
            None => StoredWeights::Tensors(Box::new(ModelTensors::resolve(&checkpoint, &config)?)),
        };
        let parameters = config.parameter_count();
        let embedding = loader::format_of(stored.embedding_dtype(&config)?);
        let mut graph_options = graph_options(&source.name(), &config, options, embedding)?;
        let graph = graph::build(&config, &graph_options);
        let fit = Fit::of(&graph, graph_options.cache, memory::available_bytes());
        graph_options.context = fit.context(options.context, config.max_positions)?;
        let context_lowered_from =
            (options.context.is_none() && graph_options.context < config.max_positions).then_some(config.max_positions);

        let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let weights_loaded = loader::load(&stored, &graph, &*devices[0], n_threads, progress)?;
        let load = start.elapsed();
        let prefill = prefill_graph(&config, graph_options);
        let (team, profiling) = team::team(devices, &prefill.graph, options, &mut |measured| {
            progress(LoadProgress {
                stage: LoadStage::Measuring,
                name: measured.operator,
                done: measured.n_done as u64,
                total: measured.n_all as u64,
            });
        })?;
        let facts = ModelFacts {
            parameters,
            weights: graph_options.weights,
            context: graph_options.context,
            context_lowered_from,
            weight_bytes: weights_loaded.resident_bytes(),
            cache_bytes: fit.cache_bytes(graph_options.context),
            load,
            profiling,
        };
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

    /// The same model on other processors, or with other plans. The weights in memory are shared, so the processors must
    /// reach those that the model was loaded for.
    pub fn with_team(&self, team: Arc<Team>) -> Arc<Model> {
        Arc::new(Model {
            source: self.source.clone(),
            config: self.config.clone(),
            generation: self.generation.clone(),
            team,
            weights: self.weights.clone(),
            tokenizer: OnceLock::new(),
            facts: self.facts.clone(),
            graph_options: self.graph_options,
        })
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

/// Opens the processors that take part.
pub(crate) fn open(options: &ModelOptions) -> Result<Vec<Arc<dyn Backend>>, LlamaError> {
    let devices = backends::open(&options.devices)?;
    options.together.mode.map_or(Ok(devices.clone()), |mode| Mode::select(mode, devices))
}

/// The graph with whose operators processors are measured: that of a full prefill step.
pub(crate) fn prefill_graph(config: &ModelConfig, options: GraphOptions) -> ModelGraph {
    graph::build(config, &GraphOptions { capacity: PREFILL_CHUNK.min(options.context), ..options })
}

/// The graphs' options for a context as long as the model allows.
pub(crate) fn graph_options(
    name: &str,
    config: &ModelConfig,
    options: &ModelOptions,
    embedding: WeightFormat,
) -> Result<GraphOptions, LlamaError> {
    let weights = choose_weights(name, config, options.weights)?;
    let float = options.devices.activations == Activations::Float || weights == WeightFormat::F32;
    Ok(GraphOptions {
        capacity: 1,
        context: config.max_positions,
        weights,
        embedding,
        // Halves suffice for keys and values beside narrow weights; who asks for floats gets them here too.
        cache: if float { DType::F32 } else { DType::F16 },
        logits: RowSelection::Last,
    })
}

/// What linear weights are held in: as asked for, or as they are stored in panels, or by the size of the model.
fn choose_weights(name: &str, config: &ModelConfig, asked: Option<WeightFormat>) -> Result<WeightFormat, LlamaError> {
    match (config.packed_weights, asked) {
        (Some(stored), Some(asked)) if stored != asked => {
            Err(LlamaError::PackedOtherwise { model: name.to_owned(), stored, asked })
        }
        (Some(stored), _) => Ok(stored),
        (None, Some(asked)) => Ok(asked),
        (None, None) if config.parameter_count() > QUANTIZE_ABOVE_PARAMETERS => Ok(WeightFormat::W4G32),
        (None, None) => Ok(WeightFormat::Bf16),
    }
}
