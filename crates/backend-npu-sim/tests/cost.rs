//! Properties of the cost model: staircase, operand order, shape, fixed shapes, and that parts cost no less than they do.

use std::sync::Arc;

use backend_npu_sim::cost::{Demand, compile_seconds, node_demand};
use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, Soc, blank_weight};
use hetero_core::{
    Binding, Bindings, DType, DeviceKind, Graph, GraphBuilder, NodeId, Op, OperandOrder, Part, RowSelection, Segment,
    SegmentNode, SharedTensor, StepParams, WeightFormat, WeightLayout, WeightRows,
};
use proptest::prelude::*;

use DeviceKind::{Cpu, Gpu, Npu};
use OperandOrder::{ActivationStationary, WeightStationary};

const KINDS: [DeviceKind; 3] = [Cpu, Gpu, Npu];

fn phone() -> Soc {
    Soc::builtin("snapdragon-8-gen-3").unwrap()
}

/// A product of `m` rows of activations with `[n, k]` weights.
fn product_graph(m: usize, n: usize, k: usize, format: WeightFormat) -> Graph {
    let mut builder = GraphBuilder::new(m);
    let x = builder.input("x", k, DType::F16);
    let weight = builder.weight("w", WeightLayout::panels(format, n, k));
    let op = Op::Linear { in_features: k, out_features: n, format, bias: false };
    let y = builder.node("product", op, &[x], &[weight], DType::F16);
    builder.output(y);
    builder.finish()
}

/// Every operator once, 64 features.
fn graph_of_all(capacity: usize) -> Graph {
    const FEATURES: usize = 64;
    let mut b = GraphBuilder::new(capacity);
    let ids = b.input("ids", 1, DType::U32);
    let table = b.weight("table", WeightLayout::table(WeightFormat::F16, 100, FEATURES));
    let norm = b.weight("norm", WeightLayout::table(WeightFormat::F32, 1, FEATURES));
    let x = b.node("embed", Op::Embed { vocabulary: 100, features: FEATURES }, &[ids], &[table], DType::F16);
    let x = b.node("norm", Op::RmsNorm { features: FEATURES, epsilon: 1e-5 }, &[x], &[norm], DType::F16);
    let rope = Op::Rope { heads: 4, head_dim: 16, frequencies: vec![1.0; 8].into() };
    let queries = b.node("rope", rope, &[x], &[], DType::F16);
    let keys = b.state("keys", 4 * CONTEXT, 16, DType::F16);
    b.update("write", Op::CacheWrite { kv_heads: 4, head_dim: 16, context: CONTEXT }, &[x], keys);
    let attention = Op::Attention { heads: 4, kv_heads: 4, head_dim: 16, context: CONTEXT, scale: 0.25 };
    let attended = b.node("attention", attention, &[queries, keys, keys], &[], DType::F16);
    let gated = b.node("swiglu", Op::Swiglu { features: FEATURES }, &[x, attended], &[], DType::F16);
    let sum = b.node("add", Op::Add { features: FEATURES }, &[x, gated], &[], DType::F16);
    let wide = Op::Convert { rows: RowSelection::All, features: FEATURES };
    let wide = b.node("convert", wide, &[sum], &[], DType::F32);
    let last = Op::Convert { rows: RowSelection::Last, features: FEATURES };
    let last = b.node("last", last, &[wide], &[], DType::F16);
    b.node("softmax", Op::Softmax { features: FEATURES }, &[last], &[], DType::F16);
    b.finish()
}

const CONTEXT: usize = 2048;

fn whole(graph: &Graph, idx: usize) -> SegmentNode {
    let output = graph.tensor_desc(graph.node(NodeId(idx)).output);
    let part = Part::whole(output.rows, output.columns);
    SegmentNode { node: NodeId(idx), part, weights: Vec::new(), operand_order: OperandOrder::default() }
}

fn product(soc: &Soc, kind: DeviceKind, m: usize, n: usize, k: usize, order: OperandOrder) -> Demand {
    let graph = product_graph(m, n, k, WeightFormat::W4G32);
    let node = SegmentNode { operand_order: order, ..whole(&graph, 0) };
    node_demand(soc, kind, &graph, &node, StepParams { past: 0, rows: m })
}

fn seconds(kind: DeviceKind, m: usize, n: usize, k: usize) -> f64 {
    product(&phone(), kind, m, n, k, ActivationStationary).alone_seconds()
}

fn assert_sound(demand: &Demand, what: &str) {
    let Demand { fixed_seconds, compute_seconds, bytes, bytes_per_second, operations } = *demand;
    for number in [fixed_seconds, compute_seconds, bytes, operations] {
        assert!(number.is_finite() && number >= 0.0, "{what}: {demand:?}");
    }
    assert!(bytes_per_second.is_finite() && bytes_per_second > 0.0, "{what}: {demand:?}");
    assert!(demand.alone_seconds() < 1e4, "{what}: {demand:?}");
}

#[test]
fn npu_latency_is_flat_within_a_tile_and_rises_with_the_next() {
    // Activations that fill tiles up do not come from memory, so a load's pace differs and its rounding with it.
    let same = |a: f64, b: f64, what: &str| assert!((a - b).abs() < 1e-12 * b, "{what}: {a} and {b} seconds");
    // Above the floor of unpacking the weights, which does not depend on rows.
    for step in 4..16 {
        let (first, last) = (seconds(Npu, step * 32 + 1, 4096, 4096), seconds(Npu, (step + 1) * 32, 4096, 4096));
        same(first, last, "rows within a tile");
        assert!(seconds(Npu, step * 32, 4096, 4096) < first * 0.97, "no step at {} rows", step * 32);
    }
    same(seconds(Npu, 128, 4065, 4096), seconds(Npu, 128, 4096, 4096), "output features within a tile");
    same(seconds(Npu, 128, 4096, 4065), seconds(Npu, 128, 4096, 4096), "input features within a tile");
}

#[test]
fn what_fills_a_tile_up_is_computed_but_does_not_cross_the_bus() {
    let soc = phone();
    let of = |m| product(&soc, Npu, m, 4096, 4096, ActivationStationary);
    let (one, tile) = (of(1), of(32));
    assert_eq!(one.operations, tile.operations);
    // 31 rows of f16, in and out.
    assert_eq!(tile.bytes - one.bytes, 31.0 * 2.0 * 2.0 * 4096.0);
}

#[test]
fn the_wrong_operand_in_the_array_costs_six_times_at_the_papers_sizes() {
    let soc = phone();
    let of = |order| product(&soc, Npu, 256, 14336, 4096, order).alone_seconds();
    let ratio = of(WeightStationary) / of(ActivationStationary);
    assert!((5.1..6.9).contains(&ratio), "{ratio}");
    for kind in [Cpu, Gpu] {
        let of = |order| product(&soc, kind, 256, 14336, 4096, order);
        assert_eq!(of(WeightStationary), of(ActivationStationary), "{kind} has no order");
    }
}

#[test]
fn only_ffn_down_gains_little_from_the_npu() {
    for m in (256..=1024).step_by(64) {
        let down = seconds(Gpu, m, 4096, 14336) / seconds(Npu, m, 4096, 14336);
        assert!((0.5..1.6).contains(&down), "FFN-down, {m} rows: {down}");
        let up = seconds(Gpu, m, 14336, 4096) / seconds(Npu, m, 14336, 4096);
        assert!(up > 4.0, "FFN-up, {m} rows: {up}");
    }
}

#[test]
fn gpu_speed_grows_with_size_and_then_is_flat() {
    let soc = phone();
    let rate = |m: usize| 2.0 * m as f64 * 4096.0 * 4096.0 / seconds(Gpu, m, 4096, 4096);
    let rates: Vec<f64> = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192].map(rate).to_vec();
    assert!(rates.is_sorted(), "{rates:?}");
    assert!(rates[1] > 1.6 * rates[0], "not linear at first: {rates:?}");
    assert!(rates[8] < 1.05 * rates[7], "not flat at last: {rates:?}");
    assert!(rates[8] <= soc.gpu.kernels.operations_per_second);
}

#[test]
fn an_npu_computes_its_full_shape_and_others_the_rows_in_use() {
    let soc = phone();
    let graph = product_graph(256, 4096, 4096, WeightFormat::W4G32);
    let of = |kind, rows| node_demand(&soc, kind, &graph, &whole(&graph, 0), StepParams { past: 0, rows });
    assert_eq!(of(Npu, 1), of(Npu, 256));
    for kind in [Cpu, Gpu] {
        assert!(of(kind, 1).alone_seconds() < of(kind, 256).alone_seconds(), "{kind}");
    }
    // A part that lies behind the rows in use costs nothing but its start.
    let part = Part { rows: 128..256, columns: 0..4096 };
    let behind = SegmentNode { part, ..whole(&graph, 0) };
    let idle = node_demand(&soc, Gpu, &graph, &behind, StepParams { past: 0, rows: 100 });
    assert_eq!((idle.compute_seconds, idle.bytes, idle.operations), (0.0, 0.0, 0.0));
}

#[test]
fn one_row_of_quantised_weights_goes_to_the_integer_units() {
    let mut soc = phone();
    let before = [1, 2].map(|m| product(&soc, Npu, m, 4096, 4096, ActivationStationary));
    soc.npu.kernels.integer.operations_per_second /= 1e4;
    let after = [1, 2].map(|m| product(&soc, Npu, m, 4096, 4096, ActivationStationary));
    assert!(after[0].alone_seconds() > 2.0 * before[0].alone_seconds());
    assert_eq!(after[1], before[1]);
}

#[test]
fn a_larger_graph_takes_longer_to_compile_on_the_npu_only() {
    let soc = phone();
    let of = |kind, capacity: usize| {
        let graph = Arc::new(product_graph(capacity, 4096, 4096, WeightFormat::W4G32));
        let node = whole(&graph, 0);
        compile_seconds(&soc, kind, &Segment::new(graph, vec![node]))
    };
    assert!(of(Npu, 512) > of(Npu, 256));
    assert_eq!(of(Npu, 225), of(Npu, 256), "shapes are filled up to the tile");
    assert_eq!(of(Gpu, 512), of(Gpu, 256));
}

#[test]
fn a_lone_operator_takes_on_the_clock_what_its_costs_add_up_to() {
    for kind in KINDS {
        let soc = phone();
        let phone = SimulatedSoc::new(soc.clone(), SimOptions { numerics: Numerics::None, ..SimOptions::default() });
        let backend = phone.backend(kind);
        let graph = Arc::new(product_graph(128, 512, 4096, WeightFormat::W4G32));
        let rows = WeightRows::all(blank_weight("w", graph.weights()[0].layout).unwrap());
        let weights = vec![backend.load_weight(rows).unwrap()];
        let node = SegmentNode { weights, ..whole(&graph, 0) };
        let step = StepParams { past: 0, rows: 128 };
        let demand = node_demand(&soc, kind, &graph, &node, step);
        let segment = Segment::new(Arc::clone(&graph), vec![node]);
        let executable = backend.compile(&segment).unwrap();
        let compiled = phone.clock().now();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b, "{kind}: {a} seconds, expected {b}");
        close(compiled, compile_seconds(&soc, kind, &segment));
        let tensor = |value| SharedTensor::new(backend.allocate(&graph.tensor_desc(value)).unwrap());
        let node = graph.node(NodeId(0));
        let (x, y) = (tensor(node.inputs[0]), tensor(node.output));
        let tensors = vec![Binding::Read(x.view()), Binding::Write(y.slot())];
        executable.submit(Bindings { tensors }, step).unwrap().wait().unwrap();
        let costs = soc.overheads(kind);
        let driving = costs.submit_seconds + costs.submit_idle_seconds + costs.start_seconds + costs.wait_seconds;
        close(phone.clock().now() - compiled, driving + demand.alone_seconds());
    }
}

proptest! {
    #[test]
    fn every_operator_costs_something_finite(capacity in 1usize..600, rows_share in 0.0f64..1.0, past in 0usize..1400) {
        let rows = 1 + ((capacity - 1) as f64 * rows_share) as usize;
        let graph = graph_of_all(capacity);
        let step = StepParams { past, rows };
        for name in Soc::builtin_names() {
            let soc = Soc::builtin(name).unwrap();
            for kind in KINDS {
                for idx in 0..graph.nodes().len() {
                    let demand = node_demand(&soc, kind, &graph, &whole(&graph, idx), step);
                    let node = graph.node(NodeId(idx));
                    assert_sound(&demand, node.name);
                    prop_assert!(demand.alone_seconds() > 0.0, "{} on {kind} is free", node.name);
                    // What is filled up is work as well: no processor does less than the step asks for.
                    if graph.value(node.output).rows == hetero_core::Rows::Positions {
                        let least = node.op.operations(rows, past) as f64;
                        prop_assert!(demand.operations >= 0.999 * least, "{} on {kind}", node.name);
                    }
                }
            }
        }
    }

    #[test]
    fn no_product_is_faster_than_memory_and_units_allow(m in 1usize..1200, n in 1usize..20_000, k in 1usize..20_000) {
        let soc = phone();
        let weight_bytes = (n * k) as f64 * 4.5 / 8.0;
        for kind in KINDS {
            let demand = product(&soc, kind, m, n, k, ActivationStationary);
            assert_sound(&demand, "product");
            prop_assert!(demand.bytes >= weight_bytes);
            prop_assert!(demand.operations >= 2.0 * (m * n * k) as f64);
            prop_assert!(demand.bytes_per_second <= soc.bytes_per_second(kind));
            let alone = demand.alone_seconds();
            prop_assert!(alone * soc.bytes_per_second(kind) >= weight_bytes);
        }
    }

    #[test]
    fn more_work_never_takes_less_time(m in 2usize..1000, n in 32usize..8192, k in 32usize..8192, more in 1usize..200) {
        for kind in KINDS {
            let before = seconds(kind, m, n, k);
            // A little less for rounding.
            let least = before * (1.0 - 1e-12);
            prop_assert!(seconds(kind, m + more, n, k) >= least, "{kind}: rows");
            prop_assert!(seconds(kind, m, n + more, k) >= least, "{kind}: output features");
            prop_assert!(seconds(kind, m, n, k + more) >= least, "{kind}: input features");
        }
    }

    #[test]
    fn two_parts_of_a_product_cost_no_less_than_the_whole(m in 2usize..512, panels in 2usize..200, cut in 0.0f64..1.0) {
        let (soc, n) = (phone(), panels * 32);
        let at = 32 * (1 + ((panels - 2) as f64 * cut) as usize);
        let graph = product_graph(m, n, 2048, WeightFormat::W4G32);
        let step = StepParams { past: 0, rows: m };
        for kind in KINDS {
            let part = |columns: std::ops::Range<usize>| {
                let node = SegmentNode { part: Part { rows: 0..m, columns }, ..whole(&graph, 0) };
                node_demand(&soc, kind, &graph, &node, step).alone_seconds()
            };
            prop_assert!(part(0..at) + part(at..n) >= part(0..n) * (1.0 - 1e-12), "{kind}");
        }
    }
}
