//! Operators on rows: add, swiglu, norm, softmax, rope.

use hetero_core::{DType, Op, OpSpec, WeightFormat};

use super::{FLOATS, uniform};
use crate::Case;
use crate::layer::frequencies;

pub(super) fn push(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for (features, capacity, rows) in SHAPES {
            let steps = [(0, rows), (5, 1), (0, capacity)];
            for op in [Op::Add { features }, Op::Swiglu { features }, Op::Softmax { features }] {
                cases.push(Case::single(uniform(op, dtype), WeightFormat::F32, capacity, &steps));
            }
            for table in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16] {
                let op = Op::RmsNorm { features, epsilon: 1e-5 };
                cases.push(Case::single(uniform(op, dtype), table, capacity, &steps));
            }
        }
        for (heads, head_dim, capacity, past, rows) in
            [(1, 20, 1, 0, 1), (3, 32, 7, 1, 3), (2, 64, 16, 31, 16), (4, 80, 3, 100, 2), (2, 128, 33, 0, 33)]
        {
            let op = Op::Rope { heads, head_dim, frequencies: frequencies(head_dim) };
            let steps = [(past, rows), (0, 1), (57, capacity)];
            cases.push(Case::single(uniform(op, dtype), WeightFormat::F32, capacity, &steps));
        }
    }
    // A residual stream may be wider than what is added to it.
    for other in [DType::F16, DType::BF16] {
        let mixed =
            |inputs: [DType; 2], output| OpSpec { op: Op::Add { features: 60 }, inputs: inputs.to_vec(), output };
        for spec in [
            mixed([DType::F32, other], DType::F32),
            mixed([other, other], DType::F32),
            mixed([DType::F32, DType::F32], other),
        ] {
            cases.push(Case::single(spec, WeightFormat::F32, 7, &[(0, 3), (0, 7)]));
        }
        let norm = OpSpec { op: Op::RmsNorm { features: 96, epsilon: 1e-6 }, inputs: vec![DType::F32], output: other };
        cases.push(Case::single(norm, WeightFormat::F32, 7, &[(0, 3), (0, 7)]));
    }
}

/// Features, capacity, rows in use.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (32, 2, 2), (60, 3, 1), (92, 16, 7), (257, 33, 33), (2048, 3, 2)];
