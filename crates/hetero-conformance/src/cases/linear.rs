//! Linear operators: every weight format with every element type, sizes that fill no panel and no group.

use hetero_core::{DType, Op, OpSpec, WeightFormat};

use super::FLOATS;
use crate::Case;
use crate::case::WeightPlace;

pub(super) fn push(cases: &mut Vec<Case>) {
    for format in WeightFormat::ALL {
        for dtype in FLOATS {
            for (idx, shape) in SHAPES.into_iter().enumerate() {
                // Biases in every format of tables.
                let table = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16][idx % 3];
                cases.push(linear(format, [dtype, dtype], shape, table));
            }
        }
        for types in
            [[DType::F32, DType::F16], [DType::F16, DType::F32], [DType::F32, DType::BF16], [DType::BF16, DType::F32]]
        {
            cases.push(linear(format, types, (96, 65, 7, 3, false), WeightFormat::F32));
            cases.push(linear(format, types, (92, 17, 1, 1, true), WeightFormat::F32));
        }
        let case = linear(format, [DType::F32; 2], (92, 33, 3, 3, true), WeightFormat::F16);
        cases.push(Case { weight_memory: WeightPlace::UnalignedBytes, ..case }.detail("unaligned"));
    }
}

/// In, out, capacity, rows in use, bias.
const SHAPES: [(usize, usize, usize, usize, bool); 14] = [
    (32, 1, 1, 1, false),
    (60, 15, 2, 2, true),
    (92, 16, 3, 1, false),
    (96, 17, 7, 3, true),
    (257, 33, 16, 16, false),
    (257, 257, 1, 1, true),
    (96, 257, 33, 33, false),
    (64, 64, 33, 7, true),
    (32, 96, 2, 1, false),
    (60, 128, 16, 2, false),
    (1, 31, 3, 2, false),
    (2048, 65, 1, 1, false),
    (2048, 33, 7, 3, true),
    (128, 96, 64, 64, false),
];

pub(super) fn linear(
    format: WeightFormat,
    [input, output]: [DType; 2],
    (in_features, out_features, capacity, rows, bias): (usize, usize, usize, usize, bool),
    table: WeightFormat,
) -> Case {
    let spec = OpSpec { op: Op::Linear { in_features, out_features, format, bias }, inputs: vec![input], output };
    let others = [(3, 1), (0, capacity)].into_iter();
    let steps: Vec<(usize, usize)> = [(0, rows)].into_iter().chain(others.filter(|other| other.1 != rows)).collect();
    Case {
        // Inputs have a deviation of 0.6, and the weights keep it.
        floor: 0.3,
        ..Case::single(spec, table, capacity, &steps)
    }
}
