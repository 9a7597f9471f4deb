//! Nodes that are one dispatch compute the same bits as one dispatch each, prompts and replies, also where the cache is
//! long.

use std::convert::Infallible;
use std::sync::Arc;

use backend_gpu_vulkano::{VulkanBackend, VulkanOptions};
use hetero_core::{
    Arrangement, Backend, Bindings, DType, DeviceId, Graph, GraphBuilder, NodeId, Op, OperandOrder, Part, Segment,
    SegmentNode, SharedTensor, StepParams, ValueKind, Weight, WeightFormat, WeightLayout, WeightMatrix, WeightRows,
    quantize,
};

const FEATURES: usize = 96;
const HIDDEN: usize = 160;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const CONTEXT: usize = 700;
const CAPACITY: usize = 40;

#[test]
fn a_decoder_layer_gives_the_same_bits_fused_and_not() {
    let unfused = "linear_vector=-fused,linear_tiled=-fused,rope_cache=-fused";
    for (format, bias) in [(WeightFormat::W4G32, false), (WeightFormat::F16, true)] {
        let graph = Arc::new(layer(format, bias));
        let fused = run(&graph, "");
        assert!(fused.iter().flatten().any(|byte| *byte != 0), "something is computed");
        assert_eq!(fused, run(&graph, unfused), "{format}, bias: {bias}");
    }
}

/// The bytes of the state and the output after each of some steps.
fn run(graph: &Arc<Graph>, knobs: &str) -> Vec<Vec<u8>> {
    let options = VulkanOptions { knobs: knobs.parse().expect("knobs"), ..VulkanOptions::default() };
    let backend = VulkanBackend::new(&options).unwrap_or_else(|error| panic!("{error}; {}", error.fix()));
    let nodes = graph.nodes().iter().enumerate().map(|(idx, node)| {
        let desc = graph.tensor_desc(node.output);
        SegmentNode {
            node: NodeId(idx),
            part: Part::whole(desc.rows, desc.columns),
            weights: node.weights.iter().map(|id| weight(&backend, graph.weights()[id.0].layout, id.0)).collect(),
            operand_order: OperandOrder::default(),
        }
    });
    let segment = Segment::new(Arc::clone(graph), nodes.collect());
    let tensor = |&value: &_| SharedTensor::new(backend.allocate(&graph.tensor_desc(value)).expect("memory"));
    let tensors: Vec<Arc<SharedTensor>> = segment.values().iter().map(tensor).collect();
    let executable = backend.compile(&segment).expect("kernels");
    let mut found = Vec::new();
    for (past, rows) in [(0, 40), (40, 3), (43, 1), (600, 1), (601, 4), (660, 40)] {
        let mut input = tensors[0].slot();
        for row in 0..rows {
            let numbers = input.row_mut::<f32>(row).iter_mut().enumerate();
            numbers.for_each(|(idx, number)| *number = noise(past + row, idx));
        }
        drop(input);
        let device = DeviceId::next();
        let lend = |(idx, tensor): (usize, &Arc<SharedTensor>)| tensor.lend(segment.claim_of(idx), device);
        let bindings = Bindings { tensors: tensors.iter().enumerate().map(lend).collect() };
        executable
            .submit(bindings, StepParams { past, rows })
            .and_then(|ticket| ticket.wait())
            .map(drop)
            .expect("a step");
        for (idx, &value) in segment.values().iter().enumerate() {
            let desc = graph.tensor_desc(value);
            let n_rows = match graph.value(value).kind {
                ValueKind::State => desc.rows,
                ValueKind::Output => rows,
                _ => continue,
            };
            let mut bytes = vec![0; n_rows * desc.columns * desc.dtype.size()];
            tensors[idx].view().read_bytes(&Part::whole(n_rows, desc.columns), &mut bytes).expect("it is mapped");
            found.push(bytes);
        }
    }
    assert!(backend.complaints().is_empty(), "{:#?}", backend.complaints());
    found
}

fn layer(format: WeightFormat, bias: bool) -> Graph {
    let mut b = GraphBuilder::new(CAPACITY);
    let x = b.input("x", FEATURES, DType::F32);
    let norm = |b: &mut GraphBuilder, x| {
        let table = b.weight("norm", WeightLayout::table(WeightFormat::F32, 1, FEATURES));
        b.node("norm", Op::RmsNorm { features: FEATURES, epsilon: 1e-5 }, &[x], &[table], DType::F32)
    };
    let linear = |b: &mut GraphBuilder, name, x, [in_features, out_features]: [usize; 2]| {
        let mut weights = vec![b.weight(name, WeightLayout::panels(format, out_features, in_features))];
        if bias {
            weights.push(b.weight("bias", WeightLayout::table(WeightFormat::F32, 1, out_features)));
        }
        b.node(name, Op::Linear { in_features, out_features, format, bias }, &[x], &weights, DType::F32)
    };
    let normed = norm(&mut b, x);
    let q = linear(&mut b, "q", normed, [FEATURES, HEADS * HEAD_DIM]);
    let k = linear(&mut b, "k", normed, [FEATURES, KV_HEADS * HEAD_DIM]);
    let v = linear(&mut b, "v", normed, [FEATURES, KV_HEADS * HEAD_DIM]);
    let frequencies: Arc<[f32]> = (0..HEAD_DIM / 2).map(|i| 0.6f32.powi(i as i32)).collect();
    let rope = |heads| Op::Rope { heads, head_dim: HEAD_DIM, frequencies: Arc::clone(&frequencies) };
    let q = b.node("rope_q", rope(HEADS), &[q], &[], DType::F32);
    let k = b.node("rope_k", rope(KV_HEADS), &[k], &[], DType::F32);
    let write = Op::CacheWrite { kv_heads: KV_HEADS, head_dim: HEAD_DIM, context: CONTEXT };
    let keys = b.state("keys", KV_HEADS * CONTEXT, HEAD_DIM, DType::F16);
    let values = b.state("values", KV_HEADS * CONTEXT, HEAD_DIM, DType::F16);
    b.update("write_keys", write.clone(), &[k], keys);
    b.update("write_values", write, &[v], values);
    let attention =
        Op::Attention { heads: HEADS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, context: CONTEXT, scale: 0.2 };
    let attended = b.node("attention", attention, &[q, keys, values], &[], DType::F32);
    let o = linear(&mut b, "o", attended, [HEADS * HEAD_DIM, FEATURES]);
    let add = |b: &mut GraphBuilder, x, y| b.node("add", Op::Add { features: FEATURES }, &[x, y], &[], DType::F32);
    let x = add(&mut b, x, o);
    let normed = norm(&mut b, x);
    let gate = linear(&mut b, "gate", normed, [FEATURES, HIDDEN]);
    let up = linear(&mut b, "up", normed, [FEATURES, HIDDEN]);
    let gated = b.node("swiglu", Op::Swiglu { features: HIDDEN }, &[gate, up], &[], DType::F32);
    let down = linear(&mut b, "down", gated, [HIDDEN, FEATURES]);
    let y = add(&mut b, x, down);
    b.output(y);
    b.finish()
}

/// A weight of noise that follows from its place.
fn weight(backend: &VulkanBackend, layout: WeightLayout, seed: usize) -> Arc<dyn Weight> {
    let tensor = WeightMatrix::allocate(&layout, backend).expect("memory");
    let built = WeightMatrix::build("weight", layout, tensor, |bytes| {
        if layout.arrangement == Arrangement::Rows {
            for (idx, number) in bytes.chunks_exact_mut(4).enumerate() {
                number.copy_from_slice(&noise(seed, idx).to_le_bytes());
            }
        } else {
            for (panel_idx, panel) in bytes.chunks_exact_mut(layout.panel_bytes()).enumerate() {
                let n_rows = WeightLayout::PANEL_ROWS.min(layout.rows - panel_idx * WeightLayout::PANEL_ROWS);
                let rows: Vec<f32> =
                    (0..n_rows * layout.columns).map(|idx| 0.2 * noise(seed + 100 * panel_idx, idx)).collect();
                quantize::pack_panel(&layout, &rows, panel);
            }
        }
        Ok::<(), Infallible>(())
    });
    let matrix = built.unwrap_or_else(|never| match never {});
    backend.load_weight(WeightRows::all(matrix)).expect("it lies in the GPU's memory")
}

/// A number between -1 and 1 that follows from two others.
fn noise(a: usize, b: usize) -> f32 {
    let mixed = (a as u32).wrapping_mul(0x9e37_79b9).wrapping_add((b as u32).wrapping_mul(0x85eb_ca6b));
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x2c1b_3c6d);
    (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0
}
