//! Nodes that are one dispatch compute the same bits as one dispatch each, prompts and replies, also where the cache is
//! long.

use std::convert::Infallible;
use std::sync::Arc;

use backend_gpu_vulkano::{VulkanBackend, VulkanOptions};
use hetero_conformance::layer::{LayerShape, decoder_layer};
use hetero_core::{
    Arrangement, Backend, Bindings, DType, DeviceId, Graph, GraphBuilder, NodeId, OperandOrder, Part, Segment,
    SegmentNode, SharedTensor, StepParams, ValueKind, Weight, WeightFormat, WeightLayout, WeightMatrix, WeightRows,
    quantize,
};

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
    let shape = LayerShape {
        format,
        bias,
        dtype: DType::F32,
        cache: DType::F16,
        features: 96,
        hidden: 160,
        heads: 6,
        kv_heads: 2,
        head_dim: 32,
        context: 700,
    };
    let mut builder = GraphBuilder::new(40);
    let x = builder.input("x", shape.features, shape.dtype);
    let values = decoder_layer(&mut builder, &shape, x);
    builder.output(values.output);
    builder.finish()
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
