//! The kernels: plain functions on shapes and pointers, written once for every instruction set.
//!
//! Each computes a sub-range of its output, so that the worker pool can cut it, and allocates nothing.
//! An element of a result depends on its inputs and the instruction set only: never on how many positions the call has,
//! on the ranges that it was cut into, or on the number of threads.
//! Callers reach them through the function pointers of [`crate::dispatch::Kernels`].

use core::ops::Range;

mod attention;
mod convert;
mod elementwise;
mod linear_bf16;
mod linear_float;
mod linear_int8;
mod quantize;
mod rope;
mod rows;
#[cfg(test)]
mod tests;
mod weights;

pub use attention::{Attention, AttentionCut, AttentionScratch};
pub use convert::{CacheWrite, Convert, Element, EmbedRow};
pub use elementwise::{Elementwise, RmsNorm, Softmax};
pub use linear_bf16::LinearBf16;
pub use linear_float::LinearFloat;
pub use linear_int8::LinearInt8;
pub use quantize::{QuantizeActivations, QuantizedRows};
pub use rope::Rope;
pub use rows::{Rows, RowsMut};
pub use weights::{GROUP, PANEL_ROWS, PanelWeights, WeightFormat};

pub(crate) use attention::attention;
pub(crate) use convert::{cache_write, convert, embed_row};
pub(crate) use elementwise::{add, rms_norm, softmax, swiglu};
pub(crate) use linear_bf16::linear_bf16;
pub(crate) use linear_float::linear_float;
pub(crate) use linear_int8::linear_int8;
pub(crate) use quantize::quantize_activations;
pub(crate) use rope::rope;

/// Writes a panel's 16 sums of one position to columns `panel * 16..` of the output, but none from `n` on.
///
/// # Safety
///
/// `row` is the position's row of at least `n` writable values, and `bias`, if any, has `n` readable ones.
#[inline(always)]
unsafe fn store_panel<S: crate::simd::Simd>(
    s: S,
    sums: S::F32,
    row: *mut f32,
    bias: Option<Rows<f32>>,
    panel: usize,
    n: usize,
) {
    let column = panel * PANEL_ROWS;
    let count = PANEL_ROWS.min(n - column);
    // SAFETY: columns `column..column + count` are below `n`, which the caller vouches for.
    unsafe {
        if count == PANEL_ROWS {
            let sums = match bias {
                Some(bias) => s.add(sums, s.load(bias.first.add(column))),
                None => sums,
            };
            s.store(row.add(column), sums);
        } else {
            let sums = match bias {
                Some(bias) => s.add(sums, s.load_partial(bias.first.add(column), count)),
                None => sums,
            };
            s.store_partial(row.add(column), sums, count);
        }
    }
}

/// Asserts that a range of a call lies within what there is.
#[inline(always)]
fn check_range(range: &Range<usize>, end: usize) {
    assert!(range.start <= range.end && range.end <= end, "range {range:?} of a kernel call exceeds {end}");
}
