//! Graphs for the tests of the solver.

use std::sync::Arc;

use hetero_core::{DType, Graph, GraphBuilder, Op, RowSelection, ValueId, WeightFormat, WeightLayout};

/// The sizes of a Llama-family model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
}

pub(crate) const LLAMA_8B: Sizes = Sizes {
    layers: 32,
    hidden: 4096,
    intermediate: 14336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    vocabulary: 128_256,
    context: 2048,
};

/// The forward pass of a Llama-family model for up to `capacity` positions, logits of the last one.
pub(crate) fn llama(sizes: &Sizes, capacity: usize) -> Arc<Graph> {
    let Sizes { hidden, intermediate, heads, kv_heads, head_dim, vocabulary, context, .. } = *sizes;
    let mut b = GraphBuilder::new(capacity);
    let tokens = b.input("tokens", 1, DType::U32);
    let table = b.weight("table", WeightLayout::table(WeightFormat::F16, vocabulary, hidden));
    let mut x = b.node("embed", Op::Embed { vocabulary, features: hidden }, &[tokens], &[table], DType::F32);
    let frequencies: Arc<[f32]> = vec![1.0; head_dim / 2].into();
    for layer in 0..sizes.layers {
        b.set_layer(Some(layer));
        let normed = norm(&mut b, "attention_norm", x, hidden);
        let [q_dim, kv_dim] = [heads, kv_heads].map(|heads| heads * head_dim);
        let q = linear(&mut b, "query", normed, hidden, q_dim);
        let k = linear(&mut b, "key", normed, hidden, kv_dim);
        let v = linear(&mut b, "value", normed, hidden, kv_dim);
        let rope = |heads| Op::Rope { heads, head_dim, frequencies: Arc::clone(&frequencies) };
        let q = b.node("query_rope", rope(heads), &[q], &[], DType::F32);
        let k = b.node("key_rope", rope(kv_heads), &[k], &[], DType::F32);
        let caches = [("key_cache", k), ("value_cache", v)].map(|(name, x)| {
            let state = b.state(name, kv_heads * context, head_dim, DType::F16);
            b.update(name, Op::CacheWrite { kv_heads, head_dim, context }, &[x], state);
            state
        });
        let attention = Op::Attention { heads, kv_heads, head_dim, context, scale: 0.1 };
        let attended = b.node("attention", attention, &[q, caches[0], caches[1]], &[], DType::F32);
        let output = linear(&mut b, "attention_output", attended, q_dim, hidden);
        x = b.node("attention_residual", Op::Add { features: hidden }, &[x, output], &[], DType::F32);
        let normed = norm(&mut b, "ffn_norm", x, hidden);
        let gate = linear(&mut b, "ffn_gate", normed, hidden, intermediate);
        let up = linear(&mut b, "ffn_up", normed, hidden, intermediate);
        let gated = b.node("ffn_swiglu", Op::Swiglu { features: intermediate }, &[gate, up], &[], DType::F32);
        let down = linear(&mut b, "ffn_down", gated, intermediate, hidden);
        x = b.node("ffn_residual", Op::Add { features: hidden }, &[x, down], &[], DType::F32);
    }
    b.set_layer(None);
    let last = Op::Convert { rows: RowSelection::Last, features: hidden };
    let x = b.node("last_position", last, &[x], &[], DType::F32);
    let x = norm(&mut b, "output_norm", x, hidden);
    let logits = linear(&mut b, "output_head", x, hidden, vocabulary);
    b.output(logits);
    Arc::new(b.finish())
}

pub(crate) fn norm(b: &mut GraphBuilder, name: &'static str, x: ValueId, features: usize) -> ValueId {
    let weight = b.weight(name, WeightLayout::table(WeightFormat::F32, 1, features));
    b.node(name, Op::RmsNorm { features, epsilon: 1e-5 }, &[x], &[weight], DType::F32)
}

pub(crate) fn linear(
    b: &mut GraphBuilder,
    name: &'static str,
    x: ValueId,
    in_features: usize,
    out_features: usize,
) -> ValueId {
    let format = WeightFormat::W4G32;
    let weight = b.weight(name, WeightLayout::panels(format, out_features, in_features));
    b.node(name, Op::Linear { in_features, out_features, format, bias: false }, &[x], &[weight], DType::F32)
}

/// Numbers from 0 to 1 that look random and are always the same for a seed.
pub(crate) fn numbers(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}
