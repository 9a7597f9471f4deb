//! Operators that compute each element on its own.

use super::zip_rows;
use crate::{Binding, Part};

/// `y = a + b`.
pub(super) fn add(a: &Binding, b: &Binding, output: &mut Binding, part: &Part) {
    zip_rows(a, b, output, part, |a, b| a + b);
}

/// `y = gate * sigmoid(gate) * up`.
pub(super) fn swiglu(gate: &Binding, up: &Binding, output: &mut Binding, part: &Part) {
    zip_rows(gate, up, output, part, |gate, up| gate / (1.0 + (-gate).exp()) * up);
}
