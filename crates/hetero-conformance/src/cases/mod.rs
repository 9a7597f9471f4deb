//! The cases, by operator.

mod attention;
mod edges;
mod elementwise;
mod linear;
mod lookup;
mod segments;

use hetero_core::{DType, Op, OpSpec};

use crate::Case;

/// Element types of activations.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Every case, operators before segments.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    lookup::push(&mut cases);
    elementwise::push(&mut cases);
    linear::push(&mut cases);
    attention::push(&mut cases);
    edges::push(&mut cases);
    segments::push(&mut cases);
    cases
}

/// An operator all of whose inputs have the type of the output.
fn uniform(op: Op, dtype: DType) -> OpSpec {
    OpSpec { inputs: vec![dtype; op.input_columns().len()], output: dtype, op }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Cut;

    #[test]
    fn names_are_unique_so_that_one_case_can_be_chosen() {
        let mut seen = HashSet::new();
        for case in all() {
            assert!(!case.cuts.is_empty());
            for &cut in &case.cuts {
                let name = case.name(cut);
                assert!(seen.insert(name.clone()), "two cases are called {name}");
            }
        }
    }

    #[test]
    fn every_operator_is_cut_in_every_way_that_its_rule_allows() {
        let cases = all();
        let is_cut = |op: &str, cut| cases.iter().any(|case| case.op == op && case.cuts.contains(&cut));
        for op in ["embed", "linear", "rope", "attention", "swiglu", "add", "convert"] {
            for cut in Cut::ALL {
                assert!(is_cut(op, cut), "{op} in {cut}");
            }
        }
        for op in ["rms_norm", "softmax"] {
            assert!(is_cut(op, Cut::Rows), "{op}");
            assert!(!is_cut(op, Cut::Columns), "{op}");
        }
        assert!(is_cut("cache_write", Cut::Whole));
    }
}
