//! Segments of many nodes: what models are made of, submitted at once.

use hetero_core::{DType, Graph, GraphBuilder, Op, RowSelection, WeightFormat, WeightLayout};

use super::FLOATS;
use crate::layer::{LayerShape, attention_block, decoder_layer, feed_forward, linear, norm};
use crate::{Case, Cut};

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
                let shape = LayerShape { format, dtype, cache, ..SMALL };
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

const SMALL: LayerShape = LayerShape {
    format: WeightFormat::F32,
    bias: false,
    dtype: DType::F32,
    cache: DType::F32,
    features: 96,
    hidden: 160,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    context: 107,
};

const VOCABULARY: usize = 70;

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
    let shape = LayerShape { format, dtype, features, hidden, ..SMALL };
    let y = feed_forward(&mut builder, &shape, x).output;
    builder.output(y);
    builder.finish()
}

/// Gate, up, swiglu: nodes that are cut alike by columns, each part a segment without a join.
fn gate_up(format: WeightFormat, dtype: DType) -> Graph {
    let shape = LayerShape { format, dtype, ..SMALL };
    let mut builder = GraphBuilder::new(7);
    let x = builder.input("x", 96, dtype);
    let gate = linear(&mut builder, "gate", &shape, [96, 130], x);
    let up = linear(&mut builder, "up", &shape, [96, 130], x);
    let y = builder.node("swiglu", Op::Swiglu { features: 130 }, &[gate, up], &[], dtype);
    builder.output(y);
    builder.finish()
}

/// Linear operators of different widths on one input, which a backend may fuse or prepare once.
fn shared_input(format: WeightFormat, dtype: DType) -> Graph {
    let shape = LayerShape { format, dtype, ..SMALL };
    let mut builder = GraphBuilder::new(3);
    let x = builder.input("x", 92, dtype);
    for (name, out_features) in [("a", 64), ("b", 33), ("c", 1)] {
        let y = linear(&mut builder, name, &shape, [92, out_features], x);
        builder.output(y);
    }
    builder.finish()
}

/// Two layers between embedding and logits of the last position.
fn decoder(shape: &LayerShape, capacity: usize) -> Graph {
    let mut builder = GraphBuilder::new(capacity);
    let &LayerShape { dtype, features, .. } = shape;
    let vocabulary = VOCABULARY;
    let ids = builder.input("ids", 1, DType::U32);
    let table = builder.weight("table", WeightLayout::table(WeightFormat::F16, vocabulary, features));
    let op = Op::Embed { vocabulary, features };
    let mut x = builder.node("embed", op, &[ids], &[table], dtype);
    for layer in 0..2 {
        builder.set_layer(Some(layer));
        x = decoder_layer(&mut builder, shape, x).output;
    }
    builder.set_layer(None);
    let op = Op::Convert { rows: RowSelection::Last, features };
    x = builder.node("last", op, &[x], &[], dtype);
    x = norm(&mut builder, "final_norm", shape, x);
    let logits = linear(&mut builder, "logits", &LayerShape { dtype: DType::F32, ..*shape }, [features, vocabulary], x);
    builder.output(logits);
    builder.finish()
}
