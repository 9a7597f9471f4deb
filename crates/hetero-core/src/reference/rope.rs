//! Rotary position embedding, in the half-split form that Hugging Face checkpoints are stored for.

use crate::{Binding, Part};

/// The pair `(i, i + head_dim / 2)` of each head is turned by `position * frequencies[i]`.
pub(super) fn rope(
    input: &Binding,
    head_dim: usize,
    frequencies: &[f32],
    past: usize,
    output: &mut Binding,
    part: &Part,
) {
    let half = head_dim / 2;
    let mut x = vec![0.0; part.columns.len()];
    for m in part.rows.clone() {
        input.read_f32(m, part.columns.start, &mut x);
        let position = (past + m) as f32;
        for head in x.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (sin, cos) = (position * frequencies[i]).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
        output.write_f32(m, part.columns.start, &x);
    }
}
