//! The attention block of a decoder layer: norm, queries, keys and values, RoPE, cache, attention, output, residual.

use std::sync::Arc;

use hetero_core::{DType, Op, ValueId};

use super::{LayerWeight, ModelBuilder};

/// Adds the block; `x` and the result are `[positions, hidden]`.
pub(super) fn build(b: &mut ModelBuilder<'_>, x: ValueId) -> ValueId {
    let config = b.config;
    let (hidden, query_dim, kv_dim) = (config.hidden, config.query_dim(), config.kv_dim());
    let key = b.key(LayerWeight::AttentionNorm);
    let normed = b.norm("attention_norm", key, x);

    let biases = [LayerWeight::QueryBias, LayerWeight::KeyBias, LayerWeight::ValueBias]
        .map(|bias| config.attention_bias.then(|| b.key(bias)));
    let matrices = [LayerWeight::Query, LayerWeight::Key, LayerWeight::Value].map(|matrix| b.key(matrix));
    let queries = b.linear("query", normed, matrices[0], biases[0], [query_dim, hidden]);
    let keys = b.linear("key", normed, matrices[1], biases[1], [kv_dim, hidden]);
    let values = b.linear("value", normed, matrices[2], biases[2], [kv_dim, hidden]);

    let queries = rope(b, "query_rope", queries, config.heads);
    let keys = rope(b, "key_rope", keys, config.kv_heads);
    let key_cache = cache(b, "key_cache", keys);
    let value_cache = cache(b, "value_cache", values);

    let attention = Op::Attention {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        context: b.options.context,
        scale: (config.head_dim as f32).sqrt().recip(),
    };
    let inputs = [queries, key_cache, value_cache];
    let attended = b.graph.node("attention", attention, &inputs, &[], DType::F32);

    let matrix = b.key(LayerWeight::AttentionOutput);
    let bias = config.attention_output_bias.then(|| b.key(LayerWeight::AttentionOutputBias));
    let output = b.linear("attention_output", attended, matrix, bias, [hidden, query_dim]);
    b.add("attention_residual", x, output)
}

fn rope(b: &mut ModelBuilder<'_>, name: &'static str, x: ValueId, heads: usize) -> ValueId {
    let head_dim = b.config.head_dim;
    let op = Op::Rope { heads, head_dim, frequencies: Arc::clone(&b.frequencies) };
    b.graph.node(name, op, &[x], &[], DType::F32)
}

/// Declares a cache, `[kv_heads * context, head_dim]`, and writes this step's rows into it.
fn cache(b: &mut ModelBuilder<'_>, name: &'static str, x: ValueId) -> ValueId {
    let (kv_heads, head_dim, context) = (b.config.kv_heads, b.config.head_dim, b.options.context);
    let full_name = format!("layers.{}.{name}", b.layer.unwrap_or_default());
    let state = b.graph.state(full_name, kv_heads * context, head_dim, b.options.cache);
    b.graph.update(name, Op::CacheWrite { kv_heads, head_dim, context }, &[x], state);
    state
}
