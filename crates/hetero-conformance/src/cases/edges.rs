//! Numbers at the edges: zeros with and without a sign, large and tiny ones, rows of one value.

use hetero_core::{DType, Op, WeightFormat};

use super::attention::attention;
use super::linear::linear;
use super::{FLOATS, uniform};
use crate::Case;
use crate::case::Fill;

pub(super) fn push(cases: &mut Vec<Case>) {
    let features = 65;
    let norm = Op::RmsNorm { features, epsilon: 1e-5 };
    for dtype in FLOATS {
        let mut row_op = |op: Op, fills: &[Fill]| {
            for &fill in fills {
                let case = Case::single(uniform(op.clone(), dtype), WeightFormat::F32, 3, &[(0, 3), (0, 1)]);
                cases.push(filled(case, fill));
            }
        };
        row_op(norm.clone(), &[Fill::Zeros, Fill::NegativeZero, Fill::Tiny, Fill::Large, Fill::Equal]);
        row_op(Op::Softmax { features }, &[Fill::Zeros, Fill::NegativeZero, Fill::Tiny, Fill::Large, Fill::Equal]);
        row_op(Op::Add { features }, &[Fill::Zeros, Fill::NegativeZero, Fill::Tiny, Fill::Large]);
        row_op(Op::Swiglu { features }, &[Fill::Zeros, Fill::NegativeZero, Fill::Equal]);
        // The product of two large numbers is beyond f16.
        if dtype != DType::F16 {
            row_op(Op::Swiglu { features }, &[Fill::Large]);
        }
        for fill in [Fill::NegativeZero, Fill::Tiny, Fill::Large] {
            let op = Op::Convert { rows: hetero_core::RowSelection::All, features };
            let case = Case::single(uniform(op, dtype), WeightFormat::F32, 3, &[(0, 3)]);
            cases.push(filled(Case { exact: true, ..case }, fill));
        }
        for fill in [Fill::Zeros, Fill::NegativeZero, Fill::Large, Fill::Equal] {
            let case = attention(dtype, dtype, (2, 1, 32, 17, 3, 9, 3));
            cases.push(filled(case, fill));
        }
    }
    for format in WeightFormat::ALL {
        for (dtype, fill) in [
            (DType::F32, Fill::Zeros),
            (DType::F32, Fill::NegativeZero),
            (DType::F32, Fill::Large),
            (DType::F16, Fill::Large),
            (DType::F32, Fill::Tiny),
            (DType::F32, Fill::Equal),
        ] {
            let case = linear(format, [dtype; 2], (96, 33, 3, 2, false), WeightFormat::F32);
            let magnitude = match fill {
                Fill::Large => 10_000.0,
                Fill::Tiny => 1.0 / 8192.0,
                Fill::Random | Fill::Equal => 1.0,
                Fill::Zeros | Fill::NegativeZero => 0.0,
            };
            let floor = case.floor * magnitude;
            cases.push(filled(Case { floor, ..case }, fill));
        }
        for fill in [Fill::Zeros, Fill::NegativeZero, Fill::Tiny, Fill::Equal] {
            let case = linear(format, [DType::F32; 2], (96, 33, 3, 2, true), WeightFormat::F32);
            let case = Case { weights: fill, ..case };
            cases.push(case.detail(format!("weights-{fill:?}").to_lowercase()));
        }
    }
}

fn filled(case: Case, fill: Fill) -> Case {
    let case = Case { inputs: fill, ..case };
    case.detail(format!("inputs-{fill:?}").to_lowercase())
}
