//! Which dispatches a decoder layer becomes: nodes in a row are one where that changes no number, and nowhere else.

use std::convert::Infallible;
use std::sync::Arc;

use hetero_conformance::layer::{LayerShape, decoder_layer};
use hetero_core::{
    BackendError, DType, DeviceId, Graph, GraphBuilder, HostTensor, NodeId, OperandOrder, Part, Segment, SegmentNode,
    TensorDesc, ValueId, Weight, WeightFormat, WeightLayout, WeightMatrix, WeightRows, quantize,
};
use hetero_shaders::program::{Buffers, Dispatch, Operand, Piece, Pieces, Program, choose, program};
use hetero_shaders::{Kernel, Knobs, Limits, Step, Tiles, Variant};

/// Buffers that are only names.
struct Names {
    knobs: Knobs,
    max_storage_buffers: u32,
}

impl Buffers for Names {
    type Buffer = ();
    type Weight = NamedWeight;

    fn constant(&mut self, _: &[u8]) -> Result<(), BackendError> {
        Ok(())
    }

    fn scratch(&mut self, bytes: u64) -> Result<(), BackendError> {
        assert!(bytes > 0);
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { is_software: false, workgroup_bytes: 32 << 10, workgroup_invocations: 256, matrices: None }
    }

    fn max_storage_buffers(&self) -> u32 {
        self.max_storage_buffers
    }

    fn knobs(&self) -> &Knobs {
        &self.knobs
    }
}

#[derive(Debug)]
struct NamedWeight {
    rows: WeightRows,
    pieces: Vec<Piece<()>>,
}

impl Weight for NamedWeight {
    fn rows(&self) -> &WeightRows {
        &self.rows
    }

    fn device(&self) -> DeviceId {
        DeviceId::next()
    }

    fn own_bytes(&self) -> u64 {
        0
    }
}

impl Pieces<()> for NamedWeight {
    fn pieces(&self) -> &[Piece<()>] {
        &self.pieces
    }
}

/// One decoder layer, with biases where `bias` says so. `gate` is read by the caller where `is_gate_output`.
fn layer(bias: bool, is_gate_output: bool) -> Graph {
    let shape = LayerShape {
        format: WeightFormat::W4G32,
        bias,
        dtype: DType::F32,
        cache: DType::F16,
        features: 64,
        hidden: 96,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        context: 2048,
    };
    let mut builder = GraphBuilder::new(64);
    let x = builder.input("x", shape.features, shape.dtype);
    let values = decoder_layer(&mut builder, &shape, x);
    builder.output(values.output);
    if is_gate_output {
        builder.output(values.gate);
    }
    builder.finish()
}

/// The whole of a graph as a segment; values with the same number share a tensor.
fn segment(graph: Graph, tensor_of: impl Fn(ValueId) -> usize) -> Segment {
    let graph = Arc::new(graph);
    let device = DeviceId::next();
    let weight = |layout: WeightLayout| -> Arc<dyn Weight> {
        let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
        let memory = Arc::new(HostTensor::new(device, desc).expect("it is small"));
        let built = WeightMatrix::build("weight", layout, memory, |bytes| {
            if layout.arrangement == hetero_core::Arrangement::Panels {
                for panel in bytes.chunks_exact_mut(layout.panel_bytes()) {
                    quantize::pack_panel(&layout, &[], panel);
                }
            }
            Ok::<(), Infallible>(())
        });
        let rows = WeightRows::all(built.unwrap_or_else(|never| match never {}));
        let pieces = vec![Piece { buffer: (), first_row: 0, n_rows: layout.rows }];
        Arc::new(NamedWeight { rows, pieces })
    };
    let nodes = graph.nodes().iter().enumerate().map(|(idx, node)| {
        let desc = graph.tensor_desc(node.output);
        SegmentNode {
            node: NodeId(idx),
            part: Part::whole(desc.rows, desc.columns),
            weights: node.weights.iter().map(|id| weight(graph.weights()[id.0].layout)).collect(),
            operand_order: OperandOrder::default(),
        }
    });
    let nodes = nodes.collect();
    Segment::with_storage(graph, nodes, tensor_of)
}

fn build(segment: &Segment, knobs: &str, max_storage_buffers: u32) -> Program<()> {
    let mut names = Names { knobs: knobs.parse().expect("knobs"), max_storage_buffers };
    program(&mut names, segment).expect("buffers cost nothing")
}

/// The families of the kernels that a step runs.
fn run(program: &Program<()>, past: u32, rows: u32) -> Vec<&'static str> {
    let step = Step::new(past, rows);
    let family = |dispatch: &Dispatch<()>| {
        choose(&dispatch.choices, &dispatch.params, &step).map(|(idx, _)| dispatch.choices[idx].kernel.family())
    };
    program.dispatches.iter().filter_map(family).collect()
}

#[test]
fn a_decoder_layer_takes_eight_dispatches_instead_of_seventeen() {
    for bias in [false, true] {
        let segment = segment(layer(bias, false), |value| value.0);
        let fused = build(&segment, "", 8);
        let expected = [
            "rms_norm",
            "linear_vector",
            "rope_cache",
            "attention",
            "linear_vector",
            "rms_norm",
            "linear_vector",
            "linear_vector",
        ];
        assert_eq!(run(&fused, 10, 1), expected);
        assert_eq!(run(&build(&segment, "*=plain", 8), 10, 1).len(), 17);
    }
}

#[test]
fn attention_goes_by_the_rows_and_the_length_of_the_cache() {
    let segment = segment(layer(false, false), |value| value.0);
    let attention = |knobs: &str, past: u32, rows: u32| -> Vec<&'static str> {
        let families = run(&build(&segment, knobs, 8), past, rows);
        families.into_iter().filter(|family| family.starts_with("attention")).collect()
    };
    assert_eq!(attention("", 255, 1), ["attention"]);
    assert_eq!(attention("", 256, 1), ["attention_tiled", "attention_merge"]);
    assert_eq!(attention("", 2044, 4), ["attention_tiled", "attention_merge"]);
    assert_eq!(attention("", 2000, 5), ["attention_tiled"]);
    assert_eq!(attention("", 0, 64), ["attention_tiled"]);
    assert_eq!(attention("attention_tiled=-split", 2000, 1), ["attention"]);
    assert_eq!(attention("attention_tiled=-tiled", 0, 64), ["attention"]);
}

#[test]
fn commands_recorded_for_a_length_serve_it_until_it_has_doubled() {
    let segment = segment(layer(false, false), |value| value.0);
    let program = build(&segment, "", 8);
    let groups = |past| -> Vec<_> {
        let step = Step::new(past, 1);
        program.dispatches.iter().map(|dispatch| choose(&dispatch.choices, &dispatch.params, &step)).collect()
    };
    for (first, last) in [(256, 511), (512, 1023), (1024, 2047)] {
        assert_eq!(Step::new(first, 1).recorded_for(), Step::new(last, 1).recorded_for());
        assert_eq!(groups(first), groups(last));
        assert_ne!(Step::new(last, 1).recorded_for(), Step::new(last + 1, 1).recorded_for());
    }
}

#[test]
fn what_somebody_else_reads_is_written() {
    let segment = segment(layer(false, true), |value| value.0);
    let families = run(&build(&segment, "", 8), 10, 1);
    assert!(families.contains(&"swiglu"), "gate is an output: {families:?}");
}

#[test]
fn what_would_overwrite_its_own_input_is_not_fused() {
    let graph = layer(false, false);
    let named = |name: &str| graph.nodes().iter().find(|node| node.name == name).expect("a node").clone();
    // The residual's sum takes the tensor of what the product reads, whose last reader the product is.
    let (attended, sum) = (named("attention").output, named("attention_add").output);
    let tensor_of = move |value: ValueId| if value == sum { attended.0 } else { value.0 };
    let families = run(&build(&segment(graph, tensor_of), "", 8), 10, 1);
    assert_eq!(families.iter().filter(|family| **family == "add").count(), 1, "{families:?}");
}

#[test]
fn a_device_that_binds_few_buffers_gets_what_it_can_bind() {
    let segment = segment(layer(true, false), |value| value.0);
    let program = build(&segment, "", 4);
    let most = program.dispatches.iter().map(|dispatch| dispatch.outputs.len() + dispatch.inputs.len()).max();
    assert_eq!(most, Some(4));
}

#[test]
fn scratch_is_written_before_it_is_read() {
    let segment = segment(layer(false, false), |value| value.0);
    let program = build(&segment, "", 8);
    let is_scratch = |operand: &Operand<()>| matches!(operand, Operand::Scratch(_));
    let writer = program.dispatches.iter().position(|dispatch| dispatch.outputs.iter().any(is_scratch));
    let reader = program.dispatches.iter().position(|dispatch| dispatch.inputs.iter().any(is_scratch));
    assert!(writer.is_some() && writer < reader);
    assert_eq!(program.scratch.len(), 1);
}

#[test]
fn each_family_can_be_kept_from_fusing() {
    let segment = segment(layer(false, false), |value| value.0);
    let mut knobs = Knobs::default();
    knobs.forbid("rope_cache", Variant::Fused);
    let families = run(&build(&segment, &knobs.to_string(), 8), 10, 1);
    assert_eq!(families.iter().filter(|family| ["rope", "cache_write"].contains(*family)).count(), 4);
    assert_eq!(families.len(), 11);
}

#[test]
fn tiles_go_by_the_rows_and_the_device_unless_somebody_says_otherwise() {
    let segment = segment(layer(false, false), |value| value.0);
    let tile = |knobs: &str, rows: u32| {
        let program = build(&segment, knobs, 8);
        let step = Step::new(0, rows);
        program.dispatches.iter().find_map(|dispatch| {
            let (idx, _) = choose(&dispatch.choices, &dispatch.params, &step)?;
            match dispatch.choices[idx].kernel {
                Kernel::LinearTiled { tile, .. } => Some(tile),
                _ => None,
            }
        })
    };
    let [few, some, many] = Tiles::Large.tiles().map(Some);
    assert_eq!([4, 5, 16, 17, 32, 33, 64].map(|rows| tile("", rows)), [None, few, few, some, some, many, many]);
    assert_eq!(tile("tiles=small", 64), Some(Tiles::Small.tiles()[2]));
}

#[test]
fn rows_are_rounded_once_for_all_that_read_them_where_that_is_asked_for() {
    let segment = segment(layer(false, false), |value| value.0);
    let kernels = |knobs: &str, rows: u32| -> Vec<Kernel> {
        let program = build(&segment, knobs, 8);
        let step = Step::new(0, rows);
        let chosen = |dispatch: &Dispatch<()>| {
            let (idx, _) = choose(&dispatch.choices, &dispatch.params, &step)?;
            Some(dispatch.choices[idx].kernel)
        };
        program.dispatches.iter().filter_map(chosen).collect()
    };
    let count = |knobs: &str, rows: u32| {
        let kernels = kernels(knobs, rows);
        let is_integer = |kernel: &&Kernel| match kernel {
            Kernel::LinearVector { linear, .. } | Kernel::LinearTiled { linear, .. } => linear.is_integer,
            _ => false,
        };
        let n_rounded = kernels.iter().filter(|kernel| kernel.family() == "quantize").count();
        (n_rounded, kernels.iter().filter(is_integer).count(), kernels.len())
    };
    // Query, key and value read the same rows, and so do gate and up.
    for (knobs, few, many) in [
        ("", (0, 0, 8), (0, 0, 8)),
        ("linear_vector=+dot", (4, 4, 12), (0, 0, 8)),
        ("linear_tiled=+dot", (0, 0, 8), (4, 4, 12)),
        ("linear_tiled=+dot,linear_vector=+dot", (4, 4, 12), (4, 4, 12)),
        ("linear_tiled=+dot,linear_vector=-fused", (0, 0, 14), (4, 7, 18)),
    ] {
        assert_eq!((count(knobs, 4), count(knobs, 5)), (few, many), "{knobs}");
    }
}
