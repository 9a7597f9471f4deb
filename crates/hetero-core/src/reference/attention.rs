//! Causal grouped-query attention over a KV cache, and the writing of that cache.

use super::normalize::softmax_row;
use crate::{Binding, Part, StepParams};

/// What attention needs to know besides its tensors.
pub(super) struct Shape {
    /// Query heads that share one head of keys and values.
    pub(super) group: usize,
    /// Features of a head.
    pub(super) head_dim: usize,
    /// Positions that the caches have room for.
    pub(super) context: usize,
    /// Position of the first row.
    pub(super) past: usize,
    /// Multiplies the scores.
    pub(super) scale: f32,
}

/// Row `m`, head `h`: the values of positions `0..=past + m`, weighted by the softmax of query times key.
pub(super) fn attention(
    queries: &Binding,
    keys: &Binding,
    values: &Binding,
    shape: &Shape,
    output: &mut Binding,
    part: &Part,
) {
    let &Shape { group, head_dim, context, past, scale } = shape;
    let mut query = vec![0.0; head_dim];
    let mut row = vec![0.0; head_dim];
    let mut sum = vec![0.0; head_dim];
    let mut weights = Vec::with_capacity(past + part.rows.end);
    let heads = part.columns.start / head_dim..part.columns.end / head_dim;
    for m in part.rows.clone() {
        for head in heads.clone() {
            queries.read_f32(m, head * head_dim, &mut query);
            let first = head / group * context;
            weights.clear();
            weights.extend((0..=past + m).map(|position| {
                keys.read_f32(first + position, 0, &mut row);
                scale * query.iter().zip(&row).map(|(q, k)| q * k).sum::<f32>()
            }));
            softmax_row(&mut weights);
            sum.fill(0.0);
            for (position, weight) in weights.iter().enumerate() {
                values.read_f32(first + position, 0, &mut row);
                for (sum, v) in sum.iter_mut().zip(&row) {
                    *sum += weight * v;
                }
            }
            output.write_f32(m, head * head_dim, &sum);
        }
    }
}

/// Row `m`, head `h` of the input becomes row `h * context + past + m` of the cache. `shape` is
/// `[kv_heads, head_dim, context]`.
pub(super) fn cache_write(input: &Binding, shape: [usize; 3], step: StepParams, cache: &mut Binding) {
    let [kv_heads, head_dim, context] = shape;
    let mut row = vec![0.0; head_dim];
    for m in 0..step.rows {
        for head in 0..kv_heads {
            input.read_f32(m, head * head_dim, &mut row);
            cache.write_f32(head * context + step.past + m, 0, &row);
        }
    }
}
