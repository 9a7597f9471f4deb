//! Embedding and conversion: results are copies, exact where nothing is rounded.

use hetero_core::{DType, Op, OpSpec, RowSelection, WeightFormat};

use super::FLOATS;
use crate::Case;

pub(super) fn push(cases: &mut Vec<Case>) {
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16] {
        for output in FLOATS {
            for (vocabulary, features, capacity, rows) in [(50, 33, 7, 3), (300, 64, 1, 1), (2, 257, 33, 16)] {
                let op = Op::Embed { vocabulary, features };
                let spec = OpSpec { op, inputs: vec![DType::U32], output };
                let steps = [(0, rows), (4, capacity), (0, 1)];
                let case = Case::single(spec, format, capacity, &steps);
                let table = Option::<DType>::from(format).expect("tables hold plain numbers");
                cases.push(Case { exact: is_lossless(table, output), ..case });
            }
        }
    }
    for from in FLOATS {
        for to in FLOATS {
            for (rows, features, capacity, in_use) in [
                (RowSelection::All, 1, 1, 1),
                (RowSelection::All, 33, 7, 3),
                (RowSelection::All, 257, 16, 16),
                (RowSelection::Last, 60, 7, 3),
                (RowSelection::Last, 257, 33, 33),
            ] {
                let spec = OpSpec { op: Op::Convert { rows, features }, inputs: vec![from], output: to };
                let steps = [(0, in_use), (9, 1), (0, capacity)];
                let case = Case::single(spec, WeightFormat::F32, capacity, &steps);
                cases.push(Case { exact: is_lossless(from, to), ..case });
            }
        }
    }
}

/// Whether every value of one type is a value of the other.
pub(super) fn is_lossless(from: DType, to: DType) -> bool {
    from == to || to == DType::F32
}
