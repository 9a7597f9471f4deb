//! `y = x Wᵀ + b`.

use std::sync::Arc;

use crate::{Binding, Part, Weight};

/// Column `n` of the output is row `n` of the matrix times a row of the input. The loaded weights hold exactly the
/// rows `part.columns`.
pub(super) fn linear(input: &Binding, weights: &[Arc<dyn Weight>], output: &mut Binding, part: &Part) {
    let rows = weights[0].rows();
    assert_eq!(rows.rows, part.columns, "the rows loaded of {:?}", rows.matrix);
    let in_features = rows.matrix.layout().columns;
    let mut bias = vec![0.0; rows.matrix.layout().rows];
    if let Some(weight) = weights.get(1) {
        weight.rows().matrix.read_row(0, &mut bias);
    }
    let mut inputs = vec![0.0; part.rows.len() * in_features];
    for (m, x) in part.rows.clone().zip(inputs.chunks_exact_mut(in_features)) {
        input.read_f32(m, 0, x);
    }
    let mut outputs = vec![0.0; part.rows.len() * part.columns.len()];
    let mut w = vec![0.0; in_features];
    // Weights outside, so that each row of the matrix is made into numbers once.
    for (column, n) in part.columns.clone().enumerate() {
        rows.matrix.read_row(n, &mut w);
        for (x, y) in inputs.chunks_exact(in_features).zip(outputs.chunks_exact_mut(part.columns.len())) {
            // Summing in f64 makes this the truth that f32 kernels with another order are compared with.
            let sum: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y[column] = (sum + f64::from(bias[n])) as f32;
        }
    }
    for (m, y) in part.rows.clone().zip(outputs.chunks_exact(part.columns.len())) {
        output.write_f32(m, part.columns.start, y);
    }
}
