//! Segments of many nodes: what models are made of, submitted at once.

use hetero_core::{DType, Graph, GraphBuilder, Op, RowSelection, ValueId, WeightFormat, WeightLayout};

use super::FLOATS;
use super::elementwise::frequencies;
use crate::{Case, Cut};

const EPSILON: f32 = 1e-5;

pub(super) fn push(cases: &mut Vec<Case>) {
    for format in WeightFormat::ALL {
        for dtype in FLOATS {
            let name =
                |case: Case| Case { weight_format: Some(format), format: format.to_string(), ..case.detail(dtype) };
            let mlp = mlp(format, dtype, 7, 64, 160);
            let case = Case::of_graph("mlp", mlp, &[(0, 3), (0, 7), (9, 1)]);
            let case = Case { precision: dtype, ..case };
            cases.push(name(case.cuts_allowed(&[Cut::Whole, Cut::Rows])));

            let case = Case::of_graph("gate_up", gate_up(format, dtype), &[(0, 5), (9, 1)]);
            let case = Case { precision: dtype, ..case };
            cases.push(name(case.cuts_allowed(&Cut::ALL)));

            let case = Case::of_graph("shared_input", shared_input(format, dtype), &[(0, 2), (0, 3), (3, 1)]);
            cases.push(name(Case { precision: dtype, ..case }));

            for cache in [DType::F32, DType::F16] {
                let precision = narrowest(dtype, cache);
                let shape = Shape { format, dtype, cache, ..SMALL };
                let mut builder = GraphBuilder::new(7);
                let x = builder.input("x", shape.features, dtype);
                let y = attention_block(&mut builder, &shape, x);
                builder.output(y);
                let steps = [(31, 3), (0, 7), (100, 1)];
                let case = Case::of_graph("attention_block", builder.finish(), &steps);
                cases.push(name(Case { precision, ..case.detail(format!("cache-{cache}")) }));

                let steps = [(0, 7), (7, 3), (10, 1), (11, 1), (12, 1)];
                let case = Case::of_graph("decoder", decoder(&shape, 7), &steps);
                cases.push(name(Case { precision, carries_state: true, ..case.detail(format!("cache-{cache}")) }));
            }
        }
    }
}

/// Shapes of a small decoder.
#[derive(Clone, Copy)]
struct Shape {
    format: WeightFormat,
    dtype: DType,
    cache: DType,
    features: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    vocabulary: usize,
}

const SMALL: Shape = Shape {
    format: WeightFormat::F32,
    dtype: DType::F32,
    cache: DType::F32,
    features: 96,
    hidden: 160,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    context: 107,
    vocabulary: 70,
};

fn narrowest(a: DType, b: DType) -> DType {
    let precision = |dtype| match dtype {
        DType::BF16 => 0,
        DType::F16 => 1,
        _ => 2,
    };
    if precision(a) <= precision(b) { a } else { b }
}

/// Norm, gate, up, swiglu, down, add.
fn mlp(format: WeightFormat, dtype: DType, capacity: usize, features: usize, hidden: usize) -> Graph {
    let mut builder = GraphBuilder::new(capacity);
    let x = builder.input("x", features, dtype);
    let shape = Shape { format, dtype, features, hidden, ..SMALL };
    let y = feed_forward(&mut builder, &shape, x);
    builder.output(y);
    builder.finish()
}

/// Gate, up, swiglu: nodes that are cut alike by columns, each part a segment without a join.
fn gate_up(format: WeightFormat, dtype: DType) -> Graph {
    let mut builder = GraphBuilder::new(7);
    let x = builder.input("x", 96, dtype);
    let gate = linear(&mut builder, "gate", format, [96, 130], x, dtype);
    let up = linear(&mut builder, "up", format, [96, 130], x, dtype);
    let y = builder.node("swiglu", Op::Swiglu { features: 130 }, &[gate, up], &[], dtype);
    builder.output(y);
    builder.finish()
}

/// Linear operators of different widths on one input, which a backend may fuse or prepare once.
fn shared_input(format: WeightFormat, dtype: DType) -> Graph {
    let mut builder = GraphBuilder::new(3);
    let x = builder.input("x", 92, dtype);
    for (name, out_features) in [("a", 64), ("b", 33), ("c", 1)] {
        let y = linear(&mut builder, name, format, [92, out_features], x, dtype);
        builder.output(y);
    }
    builder.finish()
}

/// Two layers between embedding and logits of the last position.
fn decoder(shape: &Shape, capacity: usize) -> Graph {
    let mut builder = GraphBuilder::new(capacity);
    let &Shape { format, dtype, features, vocabulary, .. } = shape;
    let ids = builder.input("ids", 1, DType::U32);
    let table = builder.weight("table", WeightLayout::table(WeightFormat::F16, vocabulary, features));
    let op = Op::Embed { vocabulary, features };
    let mut x = builder.node("embed", op, &[ids], &[table], dtype);
    for layer in 0..2 {
        builder.set_layer(Some(layer));
        x = attention_block(&mut builder, shape, x);
        x = feed_forward(&mut builder, shape, x);
    }
    builder.set_layer(None);
    let op = Op::Convert { rows: RowSelection::Last, features };
    x = builder.node("last", op, &[x], &[], dtype);
    x = norm(&mut builder, "final_norm", features, x, dtype);
    let logits = linear(&mut builder, "logits", format, [features, vocabulary], x, DType::F32);
    builder.output(logits);
    builder.finish()
}

fn attention_block(builder: &mut GraphBuilder, shape: &Shape, x: ValueId) -> ValueId {
    let &Shape { format, dtype, cache, features, heads, kv_heads, head_dim, context, .. } = shape;
    let normed = norm(builder, "attention_norm", features, x, dtype);
    let q = linear(builder, "q", format, [features, heads * head_dim], normed, dtype);
    let k = linear(builder, "k", format, [features, kv_heads * head_dim], normed, dtype);
    let v = linear(builder, "v", format, [features, kv_heads * head_dim], normed, dtype);
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
    let o = linear(builder, "o", format, [heads * head_dim, features], attended, dtype);
    builder.node("attention_add", Op::Add { features }, &[x, o], &[], dtype)
}

fn feed_forward(builder: &mut GraphBuilder, shape: &Shape, x: ValueId) -> ValueId {
    let &Shape { format, dtype, features, hidden, .. } = shape;
    let normed = norm(builder, "ffn_norm", features, x, dtype);
    let gate = linear(builder, "gate", format, [features, hidden], normed, dtype);
    let up = linear(builder, "up", format, [features, hidden], normed, dtype);
    let op = Op::Swiglu { features: hidden };
    let activated = builder.node("swiglu", op, &[gate, up], &[], dtype);
    let down = linear(builder, "down", format, [hidden, features], activated, dtype);
    builder.node("ffn_add", Op::Add { features }, &[x, down], &[], dtype)
}

fn linear(
    builder: &mut GraphBuilder,
    name: &'static str,
    format: WeightFormat,
    [in_features, out_features]: [usize; 2],
    x: ValueId,
    dtype: DType,
) -> ValueId {
    let weight = builder.weight(name, WeightLayout::panels(format, out_features, in_features));
    let op = Op::Linear { in_features, out_features, format, bias: false };
    builder.node(name, op, &[x], &[weight], dtype)
}

fn norm(builder: &mut GraphBuilder, name: &'static str, features: usize, x: ValueId, dtype: DType) -> ValueId {
    let weight = builder.weight(name, WeightLayout::table(WeightFormat::F32, 1, features));
    let op = Op::RmsNorm { features, epsilon: EPSILON };
    builder.node(name, op, &[x], &[weight], dtype)
}
