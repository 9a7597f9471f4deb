//! Rotary position embedding.

use core::ops::Range;

use super::rows::{Rows, RowsMut};
use crate::simd::{LANES, Simd};

/// Rotates each head's pairs `(i, i + head_dim / 2)` in place.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `[positions, heads * head_dim]`, in place.
    pub data: RowsMut<f32>,
    /// `[positions, head_dim / 2]`.
    pub cos: Rows<f32>,
    /// `[positions, head_dim / 2]`.
    pub sin: Rows<f32>,
    /// Values a head; even.
    pub head_dim: usize,
    /// The positions to do.
    pub positions: Range<usize>,
    /// The heads to do.
    pub heads: Range<usize>,
}

/// # Safety
///
/// The tables have a row for every position; the heads of the ranges are writable and nobody else uses them.
#[inline(always)]
pub(crate) unsafe fn rope<S: Simd>(s: S, params: &Rope) {
    assert!(params.head_dim.is_multiple_of(2), "rotary embedding of an odd head dimension");
    let half = params.head_dim / 2;
    for position in params.positions.clone() {
        for head in params.heads.clone() {
            // SAFETY: the head lies within the caller's ranges and both halves have `half` values, as the tables do.
            unsafe {
                let low = params.data.row(position).add(head * params.head_dim);
                let high = low.add(half);
                let (cos, sin) = (params.cos.row(position), params.sin.row(position));
                let mut i = 0;
                while i + LANES <= half {
                    let (a, b) = (s.load(low.add(i)), s.load(high.add(i)));
                    let (c, d) = (s.load(cos.add(i)), s.load(sin.add(i)));
                    s.store(low.add(i), s.sub(s.mul(a, c), s.mul(b, d)));
                    s.store(high.add(i), s.add(s.mul(b, c), s.mul(a, d)));
                    i += LANES;
                }
                let rest = half - i;
                if rest > 0 {
                    let (a, b) = (s.load_partial(low.add(i), rest), s.load_partial(high.add(i), rest));
                    let (c, d) = (s.load_partial(cos.add(i), rest), s.load_partial(sin.add(i), rest));
                    s.store_partial(low.add(i), s.sub(s.mul(a, c), s.mul(b, d)), rest);
                    s.store_partial(high.add(i), s.add(s.mul(b, c), s.mul(a, d)), rest);
                }
            }
        }
    }
}
