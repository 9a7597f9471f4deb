//! Attention over a cache, and the writing of the cache.

use hetero_core::{DType, Op, OpSpec, WeightFormat};

use super::FLOATS;
use super::lookup::is_lossless;
use crate::Case;

pub(super) fn push(cases: &mut Vec<Case>) {
    for cache in FLOATS {
        for dtype in FLOATS {
            for shape in CACHES {
                cases.push(cache_write(dtype, cache, shape));
            }
        }
        for dtype in FLOATS {
            for shape in SHAPES {
                cases.push(attention(dtype, cache, shape));
            }
        }
    }
}

/// Heads of keys and values, head_dim, context, capacity, past, rows in use.
const CACHES: [(usize, usize, usize, usize, usize, usize); 5] = [
    (1, 20, 1, 1, 0, 1),
    (2, 32, 40, 7, 31, 3),
    (3, 64, 33, 33, 0, 33),
    (1, 80, 103, 16, 100, 3),
    (4, 128, 17, 2, 1, 2),
];

fn cache_write(
    dtype: DType,
    cache: DType,
    (kv_heads, head_dim, context, capacity, past, rows): (usize, usize, usize, usize, usize, usize),
) -> Case {
    let spec = OpSpec { op: Op::CacheWrite { kv_heads, head_dim, context }, inputs: vec![dtype], output: cache };
    // The last step fills the cache to its end.
    let last = capacity.min(context);
    let steps = [(past, rows), (0, 1), (context - last, last)];
    let case = Case::single(spec, WeightFormat::F32, capacity, &steps);
    Case { exact: is_lossless(dtype, cache), ..case }
}

/// Query heads, key and value heads, head_dim, context, capacity, past, rows in use.
pub(super) type Shape = (usize, usize, usize, usize, usize, usize, usize);

const SHAPES: [Shape; 10] = [
    // One key.
    (1, 1, 20, 1, 1, 0, 1),
    (2, 2, 32, 9, 7, 0, 3),
    (4, 2, 64, 40, 1, 31, 1),
    (4, 1, 32, 40, 16, 1, 7),
    (2, 1, 80, 33, 33, 0, 33),
    (8, 2, 64, 128, 2, 100, 2),
    (2, 1, 128, 140, 1, 100, 1),
    (4, 4, 128, 40, 3, 31, 2),
    (6, 3, 20, 17, 16, 1, 16),
    // Many keys of one head: where a kernel splits the cache among workers.
    (4, 2, 64, 520, 1, 519, 1),
];

pub(super) fn attention(
    dtype: DType,
    cache: DType,
    (heads, kv_heads, head_dim, context, capacity, past, rows): Shape,
) -> Case {
    let spec = OpSpec {
        op: Op::Attention { heads, kv_heads, head_dim, context, scale: 1.0 / (head_dim as f32).sqrt() },
        inputs: vec![dtype, cache, cache],
        output: dtype,
    };
    // The last step sees the full cache.
    let last = capacity.min(context);
    let mut steps = vec![(past, rows), (0, 1), (context - last, last)];
    steps.dedup();
    Case::single(spec, WeightFormat::F32, capacity, &steps)
}
