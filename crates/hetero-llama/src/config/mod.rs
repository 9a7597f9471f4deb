//! The model's configuration: `config.json` of the Llama family, parsed into plain data.
//!
//! [`ModelConfig`] is only made by [`ModelConfig::parse`] and its callers, which refuse what this crate cannot compute
//! rightly. Whoever holds one may therefore multiply its sizes and index with its token ids without a second look.

mod json;
mod parse;
mod rope;
mod shapes;

use hetero_core::{DType, WeightFormat};

pub(crate) use self::json::{Object, parse_object};
pub use self::rope::rope_frequencies;
pub use self::shapes::SHAPE_NAMES;

/// The largest value of every size in a configuration except the vocabulary, the positions and the layers.
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 28;
const MAX_LAYERS: usize = 4096;

/// `quantization_config.quant_method` of a checkpoint that hetero has quantised.
pub(crate) const PACKED_METHOD: &str = "hetero";
/// `quantization_config.version` of the same: that of the panel layout and the tensors' names.
pub(crate) const PACKED_VERSION: u64 = 1;

/// What a Llama-family model is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which naming and which biases the weights have.
    pub architecture: Architecture,
    /// Features of the residual stream.
    pub hidden: usize,
    /// Features inside the feed-forward block.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads of a layer; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    /// Features of one head; even, because RoPE turns pairs.
    pub head_dim: usize,
    /// Rows of the embedding: every token id is below it.
    pub vocab: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// The longest sequence in tokens. A session never goes past it.
    pub max_positions: usize,
    /// How positions are encoded.
    pub rope: Rope,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Whether the projections to queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Whether the projection out of attention has a bias.
    pub attention_output_bias: bool,
    /// Whether the three feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// The token that opens a sequence.
    pub bos_token: Option<u32>,
    /// The tokens that end a sequence; may be empty.
    pub eos_tokens: Vec<u32>,
    /// The token that fills a batch; not used for generation.
    pub pad_token: Option<u32>,
    /// The element type that the configuration gives for the weights. Each tensor's own header is what counts.
    pub stored_dtype: Option<DType>,
    /// The format of linear weights that are stored in panels already, by `hetero quantize`.
    pub packed_weights: Option<WeightFormat>,
}

/// The families whose forward pass this crate knows. They differ in names of tensors and in biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2 and everything that copies them.
    Llama,
    /// Mistral without a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// InternLM2: queries, keys and values in one packed matrix.
    InternLm2,
}

/// Rotary position encoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: pair `i` turns by `position / theta^(2i / head_dim)`.
    pub theta: f32,
    /// What is done to the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// The published changes to RoPE's frequencies that this crate computes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// Above 0.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Above 0.
        factor: f32,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided. Below `high_freq_factor`.
        low_freq_factor: f32,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Length in tokens that the model was first trained on.
        original_max_positions: usize,
    },
}

impl ModelConfig {
    /// Query features: `heads * head_dim`.
    pub fn query_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Key features, and as many value features: `kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Number of weights, biases and norms; a tied embedding counts once.
    pub fn parameter_count(&self) -> u64 {
        let [hidden, inter, vocab, query, kv] =
            [self.hidden, self.intermediate, self.vocab, self.query_dim(), self.kv_dim()].map(|size| size as u64);
        let attention = hidden * (2 * query + 2 * kv);
        let feed_forward = 3 * hidden * inter;
        let biases = u64::from(self.attention_bias) * (query + 2 * kv)
            + u64::from(self.attention_output_bias) * hidden
            + u64::from(self.mlp_bias) * (2 * inter + hidden);
        let layer = attention + feed_forward + biases + 2 * hidden;
        let embeddings = vocab * hidden * if self.tied_embeddings { 1 } else { 2 };
        self.layers as u64 * layer + embeddings + hidden
    }
}
