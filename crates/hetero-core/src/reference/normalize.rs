//! Operators that scale a row by something computed from all of it.

use crate::{Binding, Part, Weight};

/// `y = x / sqrt(mean(x²) + epsilon) * w`.
pub(super) fn rms_norm(input: &Binding, weight: &dyn Weight, epsilon: f32, output: &mut Binding, part: &Part) {
    let features = part.columns.len();
    let mut w = vec![0.0; features];
    weight.rows().matrix.read_row(0, &mut w);
    let mut x = vec![0.0; features];
    for m in part.rows.clone() {
        input.read_f32(m, 0, &mut x);
        let mean = x.iter().map(|x| x * x).sum::<f32>() / features as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for (x, w) in x.iter_mut().zip(&w) {
            *x = *x * scale * w;
        }
        output.write_f32(m, 0, &x);
    }
}

/// `y = exp(x - max) / sum`.
pub(super) fn softmax(input: &Binding, output: &mut Binding, part: &Part) {
    let mut x = vec![0.0; part.columns.len()];
    for m in part.rows.clone() {
        input.read_f32(m, 0, &mut x);
        softmax_row(&mut x);
        output.write_f32(m, 0, &x);
    }
}

/// Softmax of one row in place. Subtracting the largest value keeps the exponentials finite and changes nothing.
pub(super) fn softmax_row(x: &mut [f32]) {
    let largest = x.iter().fold(f32::NEG_INFINITY, |largest, x| largest.max(*x));
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    for x in x {
        *x /= sum;
    }
}
