//! Llama-8B as a graph with one of its equal layers.

use hetero_core::{DType, Graph, GraphBuilder, Op, RowSelection, ValueId, WeightFormat, WeightLayout};

/// Layers of the model.
pub(crate) const LAYERS: usize = 32;

const HIDDEN: usize = 4096;
const FEED_FORWARD: usize = 14336;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const VOCABULARY: usize = 128_256;
const CONTEXT: usize = 4096;

/// Embedding, one layer, and the output head for the last position, with 4-bit weights, for so many positions.
pub(crate) fn layer_graph(capacity: usize) -> Graph {
    let mut b = Builder(GraphBuilder::new(capacity));
    let tokens = b.0.input("tokens", 1, DType::U32);
    let table = b.0.weight("embedding", WeightLayout::table(WeightFormat::F16, VOCABULARY, HIDDEN));
    let embed = Op::Embed { vocabulary: VOCABULARY, features: HIDDEN };
    let x = b.0.node("embed", embed, &[tokens], &[table], DType::F32);

    b.0.set_layer(Some(0));
    let normed = b.norm("attention_norm", x);
    let queries = b.linear("query", normed, HEADS * HEAD_DIM, HIDDEN);
    let keys = b.linear("key", normed, KV_HEADS * HEAD_DIM, HIDDEN);
    let values = b.linear("value", normed, KV_HEADS * HEAD_DIM, HIDDEN);
    let queries = b.rope("query_rope", queries, HEADS);
    let keys = b.rope("key_rope", keys, KV_HEADS);
    let key_cache = b.cache("key_cache", keys);
    let value_cache = b.cache("value_cache", values);
    let attention =
        Op::Attention { heads: HEADS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, context: CONTEXT, scale: 0.09 };
    let attended = b.0.node("attention", attention, &[queries, key_cache, value_cache], &[], DType::F32);
    let output = b.linear("attention_output", attended, HIDDEN, HEADS * HEAD_DIM);
    let x = b.add("attention_residual", x, output);
    let normed = b.norm("ffn_norm", x);
    let gate = b.linear("ffn_gate", normed, FEED_FORWARD, HIDDEN);
    let up = b.linear("ffn_up", normed, FEED_FORWARD, HIDDEN);
    let gated = b.0.node("ffn_swiglu", Op::Swiglu { features: FEED_FORWARD }, &[gate, up], &[], DType::F32);
    let down = b.linear("ffn_down", gated, HIDDEN, FEED_FORWARD);
    let x = b.add("ffn_residual", x, down);
    b.0.set_layer(None);

    let last = Op::Convert { rows: RowSelection::Last, features: HIDDEN };
    let x = b.0.node("last_position", last, &[x], &[], DType::F32);
    let x = b.norm("output_norm", x);
    let logits = b.linear("output_head", x, VOCABULARY, HIDDEN);
    b.0.output(logits);
    b.0.finish()
}

struct Builder(GraphBuilder);

impl Builder {
    fn norm(&mut self, name: &'static str, x: ValueId) -> ValueId {
        let weight = self.0.weight(name, WeightLayout::table(WeightFormat::F32, 1, HIDDEN));
        self.0.node(name, Op::RmsNorm { features: HIDDEN, epsilon: 1e-5 }, &[x], &[weight], DType::F32)
    }

    fn linear(&mut self, name: &'static str, x: ValueId, out_features: usize, in_features: usize) -> ValueId {
        let format = WeightFormat::W4G32;
        let weight = self.0.weight(name, WeightLayout::panels(format, out_features, in_features));
        let op = Op::Linear { in_features, out_features, format, bias: false };
        self.0.node(name, op, &[x], &[weight], DType::F32)
    }

    fn rope(&mut self, name: &'static str, x: ValueId, heads: usize) -> ValueId {
        let op = Op::Rope { heads, head_dim: HEAD_DIM, frequencies: vec![0.0; HEAD_DIM / 2].into() };
        self.0.node(name, op, &[x], &[], DType::F32)
    }

    fn cache(&mut self, name: &'static str, x: ValueId) -> ValueId {
        let state = self.0.state(name, KV_HEADS * CONTEXT, HEAD_DIM, DType::F16);
        let op = Op::CacheWrite { kv_heads: KV_HEADS, head_dim: HEAD_DIM, context: CONTEXT };
        self.0.update(name, op, &[x], state);
        state
    }

    fn add(&mut self, name: &'static str, a: ValueId, b: ValueId) -> ValueId {
        self.0.node(name, Op::Add { features: HIDDEN }, &[a, b], &[], DType::F32)
    }
}
