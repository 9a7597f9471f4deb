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
    let matrix: Vec<Vec<f32>> = part
        .columns
        .clone()
        .map(|n| {
            let mut row = vec![0.0; in_features];
            rows.matrix.read_row(n, &mut row);
            row
        })
        .collect();
    let mut x = vec![0.0; in_features];
    let mut y = vec![0.0; part.columns.len()];
    for m in part.rows.clone() {
        input.read_f32(m, 0, &mut x);
        for ((y, w), n) in y.iter_mut().zip(&matrix).zip(part.columns.clone()) {
            // Summing in f64 makes this the truth that f32 kernels with another order are compared with.
            let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            *y = (sum + f64::from(bias[n])) as f32;
        }
        output.write_f32(m, part.columns.start, &y);
    }
}
