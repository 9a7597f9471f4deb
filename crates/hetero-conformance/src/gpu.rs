//! What GPU backends are tested for alike: variants of kernels, and what they keep between runs.

use std::path::Path;
use std::sync::Arc;

use hetero_core::{
    Backend, BackendError, DType, Graph, GraphBuilder, NodeId, Op, OperandOrder, Part, Segment, SegmentNode,
    TensorDesc, WeightFormat,
};

use crate::{Expectations, Tolerance};

/// Columns of all values of [`doubling`].
const COLUMNS: usize = 64;

/// The whole suite, of which a GPU must support what a model needs.
pub fn everything() -> Expectations {
    let needed = Expectations::new().requires("attention/f16+f16+f16-f16").requires("decoder/w4g32");
    WeightFormat::ALL.iter().fold(needed, |needed, format| needed.requires(&format!("linear/{format}")))
}

/// What is computed otherwise without subgroups and 16-bit floats: sums over a workgroup, and results in f16.
pub fn of_plain_kernels() -> Expectations {
    only(&["linear/", "rms_norm/", "softmax/", "attention/", "/f16", "decoder/w4g32"])
}

/// Matrices with some hundred rows and embeddings, for limits so low (40,000 bytes) that they come in several pieces.
pub fn of_pieces() -> Expectations {
    only(&["in257-out257", "in96-out257", "in60-out128", "embed/f32/u32-f32-300x64"])
}

/// Products of rows that are rounded to 8-bit integers.
pub fn of_integers() -> Expectations {
    // Rounding to 1/127 of a group's largest value is an error of about 0.5 % of a value, in a sum as in one term; a
    // segment of several operators adds some of them up.
    let mut expectations = Expectations::new();
    for format in [WeightFormat::W8G32, WeightFormat::W4G32] {
        expectations = expectations.requires(&format!("linear/{format}"));
        for (op, factor) in [("linear", 1.0), ("shared_input", 1.0), ("gate_up", 2.0), ("mlp", 3.0), ("decoder", 6.0)] {
            let tolerance = Tolerance::normalised(1.5e-2 * factor);
            let reason = "activations are 8-bit integers per group of 32";
            expectations = expectations.only(&format!("{op}/{format}")).tolerance(op, Some(format), tolerance, reason);
        }
    }
    expectations
}

/// Products in 16-bit floats.
pub fn of_half_precision() -> Expectations {
    let mut expectations = Expectations::new();
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::W8G32, WeightFormat::W4G32] {
        let (cases, tolerance) = (format!("linear/{format}/f32-f32"), Tolerance::normalised(1e-3));
        let reason = "prompts are multiplied in 16-bit floats";
        expectations = expectations.only(&cases).requires(&cases).tolerance("linear", Some(format), tolerance, reason);
    }
    expectations
}

/// Products by units for small matrices.
pub fn of_matrix_units() -> Expectations {
    only(&["linear/w4g32/f32-f32", "linear/f32/f32-f32", "linear/bf16/f32-f32", "gate_up/w8g32"])
}

/// Those cases whose names contain one of the patterns.
pub fn only(patterns: &[&str]) -> Expectations {
    patterns.iter().fold(Expectations::new(), |expectations, pattern| expectations.only(pattern))
}

/// Values of one row of 64 `f32` that are each twice the one before.
pub fn doubling(n_nodes: usize) -> Graph {
    let mut builder = GraphBuilder::new(1);
    let mut x = builder.input("x", COLUMNS, DType::F32);
    for _ in 0..n_nodes {
        x = builder.node("twice", Op::Add { features: COLUMNS }, &[x, x], &[], DType::F32);
    }
    builder.output(x);
    builder.finish()
}

/// A whole node of [`doubling`].
pub fn doubling_node(node: usize) -> SegmentNode {
    SegmentNode {
        node: NodeId(node),
        part: Part::whole(1, COLUMNS),
        weights: vec![],
        operand_order: OperandOrder::default(),
    }
}

/// What a driver has compiled is kept in the folder, as one file, and a damaged file is replaced.
///
/// `open` opens a GPU that keeps it there, and nothing else.
///
/// # Panics
/// When it is not.
pub fn assert_compiled_is_kept<B: Backend>(folder: &Path, open: impl Fn() -> B) {
    let segment = Segment::new(Arc::new(doubling(1)), vec![doubling_node(0)]);
    let run = || {
        let backend = open();
        drop(backend.compile(&segment).expect("GPUs add"));
        drop(backend);
        let files = std::fs::read_dir(folder).expect("a folder");
        let files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        (std::fs::read(&files[0]).expect("a file"), files[0].clone())
    };
    let (kept, file) = run();
    assert!(kept.len() > 100, "{} bytes", kept.len());
    std::fs::write(&file, &kept[..kept.len() / 2]).expect("a file");
    let (again, _) = run();
    assert!(again.len() > kept.len() / 2, "{} bytes", again.len());
}

/// A tensor that is larger than the GPU binds is an error, after which it goes on.
///
/// # Panics
/// When it is none, or the GPU does not go on.
pub fn assert_too_large_is_out_of_memory(gpu: &dyn Backend) {
    let most = gpu.info().max_tensor_bytes.expect("GPUs have a limit") as usize;
    let desc = TensorDesc { rows: 1, columns: most / 4 + 4, dtype: DType::F32 };
    assert!(matches!(gpu.allocate(&desc), Err(BackendError::OutOfMemory { .. })));
    assert!(gpu.allocate(&TensorDesc { columns: 64, ..desc }).is_ok());
}
