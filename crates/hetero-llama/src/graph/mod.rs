//! The forward pass of the Llama family as a graph.
//!
//! One builder serves every architecture: they differ in names of tensors and in biases, both of which are data.
//! Reads top to bottom as the model computes: embedding, decoder layers, norm, output head.

mod attention;
mod feed_forward;

use std::sync::Arc;

use hetero_core::{
    Backend, BackendError, DType, Graph, GraphBuilder, Op, RowSelection, ValueId, WeightFormat, WeightId, WeightLayout,
};
use hetero_sched::State;

use crate::config::{ModelConfig, rope_frequencies};

/// What a graph is built for, besides the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphOptions {
    /// The most positions of one step.
    pub capacity: usize,
    /// Positions that the KV cache has room for.
    pub context: usize,
    /// What linear weights are held in.
    pub weights: WeightFormat,
    /// What the embedding table is held in.
    pub embedding: WeightFormat,
    /// Element type of the KV cache.
    pub cache: DType,
    /// Of which positions logits are computed.
    pub logits: RowSelection,
}

/// A model's forward pass, and how to feed it.
#[derive(Clone, Debug)]
pub struct ModelGraph {
    /// The computation. Its state is, for each layer, the cache of keys and then that of values, each
    /// `[kv_heads * context, head_dim]`.
    pub graph: Arc<Graph>,
    /// Input: token ids, `[positions, 1]` u32.
    pub tokens: ValueId,
    /// Output: logits, f32 `[positions, vocabulary]`, or `[1, vocabulary]` when only the last are asked for.
    pub logits: ValueId,
    /// For each of the graph's weights, in order, which of the model's it is.
    pub weights: Vec<WeightKey>,
}

impl ModelGraph {
    /// The graph's state, an empty KV cache.
    pub fn allocate_state(&self, allocator: &dyn Backend) -> Result<Arc<State>, BackendError> {
        State::allocate(&self.graph, allocator)
    }
}

/// One of the model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightKey {
    /// Token embedding, `[vocabulary, hidden]`.
    Embedding,
    /// One of a decoder layer's.
    Layer {
        /// The layer, from 0.
        layer: usize,
        /// Which.
        weight: LayerWeight,
    },
    /// Scale of the norm before the output head, `[1, hidden]`.
    OutputNorm,
    /// Output head, `[vocabulary, hidden]`; the embedding again where they are tied.
    OutputHead,
}

/// One of a decoder layer's weights. Matrices are `[output features, input features]`, the rest is `[1, features]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the published ones")]
pub enum LayerWeight {
    AttentionNorm,
    Query,
    QueryBias,
    Key,
    KeyBias,
    Value,
    ValueBias,
    AttentionOutput,
    AttentionOutputBias,
    FeedForwardNorm,
    Gate,
    GateBias,
    Up,
    UpBias,
    Down,
    DownBias,
}

/// Builds the forward pass of `config`.
pub fn build(config: &ModelConfig, options: &GraphOptions) -> ModelGraph {
    let mut b = ModelBuilder {
        config,
        options,
        graph: GraphBuilder::new(options.capacity),
        weights: Vec::new(),
        layer: None,
        frequencies: rope_frequencies(config).into(),
    };
    let hidden = config.hidden;
    let tokens = b.graph.input("tokens", 1, DType::U32);
    let table = b.table(WeightKey::Embedding, options.embedding, config.vocab, hidden);
    let embed = Op::Embed { vocabulary: config.vocab, features: hidden };
    let mut x = b.graph.node("embed", embed, &[tokens], &[table], DType::F32);

    for layer in 0..config.layers {
        b.layer = Some(layer);
        b.graph.set_layer(Some(layer));
        x = attention::build(&mut b, x);
        x = feed_forward::build(&mut b, x);
    }
    b.layer = None;
    b.graph.set_layer(None);

    if options.logits == RowSelection::Last {
        let last = Op::Convert { rows: RowSelection::Last, features: hidden };
        x = b.graph.node("last_position", last, &[x], &[], DType::F32);
    }
    let x = b.norm("output_norm", WeightKey::OutputNorm, x);
    let logits = b.linear("output_head", x, WeightKey::OutputHead, None, [config.vocab, hidden]);
    b.graph.output(logits);
    ModelGraph { graph: Arc::new(b.graph.finish()), tokens, logits, weights: b.weights }
}

/// A graph under construction and what its parts have in common.
struct ModelBuilder<'a> {
    config: &'a ModelConfig,
    options: &'a GraphOptions,
    graph: GraphBuilder,
    weights: Vec<WeightKey>,
    /// The layer under construction.
    layer: Option<usize>,
    /// RoPE, radians per position.
    frequencies: Arc<[f32]>,
}

impl ModelBuilder<'_> {
    /// A weight of the layer under construction.
    fn key(&self, weight: LayerWeight) -> WeightKey {
        let layer = self.layer.expect("layer weights are asked for inside a layer");
        WeightKey::Layer { layer, weight }
    }

    fn norm(&mut self, name: &'static str, key: WeightKey, x: ValueId) -> ValueId {
        let features = self.config.hidden;
        let weight = self.table(key, WeightFormat::F32, 1, features);
        let op = Op::RmsNorm { features, epsilon: self.config.rms_norm_eps };
        self.graph.node(name, op, &[x], &[weight], DType::F32)
    }

    /// `shape` is `[output features, input features]`.
    fn linear(
        &mut self,
        name: &'static str,
        x: ValueId,
        matrix: WeightKey,
        bias: Option<WeightKey>,
        shape: [usize; 2],
    ) -> ValueId {
        let [out_features, in_features] = shape;
        let format = self.options.weights;
        let mut weights = vec![self.weight(matrix, WeightLayout::panels(format, out_features, in_features))];
        if let Some(bias) = bias {
            weights.push(self.table(bias, WeightFormat::F32, 1, out_features));
        }
        let op = Op::Linear { in_features, out_features, format, bias: bias.is_some() };
        self.graph.node(name, op, &[x], &weights, DType::F32)
    }

    fn add(&mut self, name: &'static str, a: ValueId, b: ValueId) -> ValueId {
        let op = Op::Add { features: self.config.hidden };
        self.graph.node(name, op, &[a, b], &[], DType::F32)
    }

    fn table(&mut self, key: WeightKey, format: WeightFormat, rows: usize, columns: usize) -> WeightId {
        self.weight(key, WeightLayout::table(format, rows, columns))
    }

    fn weight(&mut self, key: WeightKey, layout: WeightLayout) -> WeightId {
        self.weights.push(key);
        self.graph.weight(key.to_string(), layout)
    }
}

/// The name under which `hetero quantize` stores the weight, so it must not change.
impl std::fmt::Display for WeightKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WeightKey::Embedding => f.write_str("embedding"),
            WeightKey::Layer { layer, weight } => write!(f, "layers.{layer}.{}", weight.name()),
            WeightKey::OutputNorm => f.write_str("output_norm"),
            WeightKey::OutputHead => f.write_str("output_head"),
        }
    }
}

impl LayerWeight {
    fn name(self) -> &'static str {
        match self {
            LayerWeight::AttentionNorm => "attention_norm",
            LayerWeight::Query => "query",
            LayerWeight::QueryBias => "query_bias",
            LayerWeight::Key => "key",
            LayerWeight::KeyBias => "key_bias",
            LayerWeight::Value => "value",
            LayerWeight::ValueBias => "value_bias",
            LayerWeight::AttentionOutput => "attention_output",
            LayerWeight::AttentionOutputBias => "attention_output_bias",
            LayerWeight::FeedForwardNorm => "ffn_norm",
            LayerWeight::Gate => "ffn_gate",
            LayerWeight::GateBias => "ffn_gate_bias",
            LayerWeight::Up => "ffn_up",
            LayerWeight::UpBias => "ffn_up_bias",
            LayerWeight::Down => "ffn_down",
            LayerWeight::DownBias => "ffn_down_bias",
        }
    }
}
