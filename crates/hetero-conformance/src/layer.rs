//! A small decoder layer as the models have it, for cases of many nodes and for tests of whole layers.

use std::sync::Arc;

use hetero_core::{DType, GraphBuilder, Op, ValueId, WeightFormat, WeightLayout};

const EPSILON: f32 = 1e-5;

/// Sizes and types of a decoder layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerShape {
    /// Format of the linear weights.
    pub format: WeightFormat,
    /// Whether linear operators add a bias.
    pub bias: bool,
    /// Type of the activations.
    pub dtype: DType,
    /// Type of the KV cache.
    pub cache: DType,
    /// Features of the residual stream.
    pub features: usize,
    /// Features between gate, up and down.
    pub hidden: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Positions of the KV cache.
    pub context: usize,
}

/// Values of a decoder layer that tests look at.
#[derive(Clone, Copy, Debug)]
pub struct LayerValues {
    /// What `swiglu` gates with: `[positions, hidden]`.
    pub gate: ValueId,
    /// The layer's result: `[positions, features]`.
    pub output: ValueId,
}

/// Attention and feed-forward network behind `x`, `[positions, features]`, with a KV cache of their own.
pub fn decoder_layer(builder: &mut GraphBuilder, shape: &LayerShape, x: ValueId) -> LayerValues {
    let x = attention_block(builder, shape, x);
    feed_forward(builder, shape, x)
}

/// Norm, q, k, v, rope, cache, attention, o, add.
pub(crate) fn attention_block(builder: &mut GraphBuilder, shape: &LayerShape, x: ValueId) -> ValueId {
    let &LayerShape { dtype, cache, features, heads, kv_heads, head_dim, context, .. } = shape;
    let normed = norm(builder, "attention_norm", shape, x);
    let q = linear(builder, "q", shape, [features, heads * head_dim], normed);
    let k = linear(builder, "k", shape, [features, kv_heads * head_dim], normed);
    let v = linear(builder, "v", shape, [features, kv_heads * head_dim], normed);
    let mut rope = |name, heads, x| {
        let frequencies = frequencies(head_dim);
        let op = Op::Rope { heads, head_dim, frequencies };
        builder.node(name, op, &[x], &[], dtype)
    };
    let q = rope("rope_q", heads, q);
    let k = rope("rope_k", kv_heads, k);
    let write = Op::CacheWrite { kv_heads, head_dim, context };
    let keys = builder.state("keys", kv_heads * context, head_dim, cache);
    let values = builder.state("values", kv_heads * context, head_dim, cache);
    builder.update("write_keys", write.clone(), &[k], keys);
    builder.update("write_values", write, &[v], values);
    let op = Op::Attention { heads, kv_heads, head_dim, context, scale: 1.0 / (head_dim as f32).sqrt() };
    let attended = builder.node("attention", op, &[q, keys, values], &[], dtype);
    let o = linear(builder, "o", shape, [heads * head_dim, features], attended);
    builder.node("attention_add", Op::Add { features }, &[x, o], &[], dtype)
}

/// Norm, gate, up, swiglu, down, add.
pub(crate) fn feed_forward(builder: &mut GraphBuilder, shape: &LayerShape, x: ValueId) -> LayerValues {
    let &LayerShape { dtype, features, hidden, .. } = shape;
    let normed = norm(builder, "ffn_norm", shape, x);
    let gate = linear(builder, "gate", shape, [features, hidden], normed);
    let up = linear(builder, "up", shape, [features, hidden], normed);
    let op = Op::Swiglu { features: hidden };
    let activated = builder.node("swiglu", op, &[gate, up], &[], dtype);
    let down = linear(builder, "down", shape, [hidden, features], activated);
    let output = builder.node("ffn_add", Op::Add { features }, &[x, down], &[], dtype);
    LayerValues { gate, output }
}

/// A product with a weight of the shape's format and, if the shape says so, a bias.
pub(crate) fn linear(
    builder: &mut GraphBuilder,
    name: &'static str,
    shape: &LayerShape,
    [in_features, out_features]: [usize; 2],
    x: ValueId,
) -> ValueId {
    let &LayerShape { format, bias, dtype, .. } = shape;
    let mut weights = vec![builder.weight(name, WeightLayout::panels(format, out_features, in_features))];
    if bias {
        weights.push(builder.weight("bias", WeightLayout::table(WeightFormat::F32, 1, out_features)));
    }
    builder.node(name, Op::Linear { in_features, out_features, format, bias }, &[x], &weights, dtype)
}

/// A norm over the features of the residual stream.
pub(crate) fn norm(builder: &mut GraphBuilder, name: &'static str, shape: &LayerShape, x: ValueId) -> ValueId {
    let &LayerShape { features, dtype, .. } = shape;
    let weight = builder.weight(name, WeightLayout::table(WeightFormat::F32, 1, features));
    builder.node(name, Op::RmsNorm { features, epsilon: EPSILON }, &[x], &[weight], dtype)
}

/// The usual ones, `10000^(-2i / head_dim)`.
pub(crate) fn frequencies(head_dim: usize) -> Arc<[f32]> {
    (0..head_dim / 2).map(|i| 10_000.0f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
}
