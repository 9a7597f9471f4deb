//! Kernels whose rows do not meet: norm, gate, sum, softmax.

use core::ops::Range;

use super::rows::{Rows, RowsMut};
use crate::simd::{LANES, Simd, exp, silu};

/// `output = input * weight / sqrt(mean(input^2) + epsilon)`, row by row; the output may be the input.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[positions, features]`.
    pub input: Rows<f32>,
    /// `[1, features]`.
    pub weight: Rows<f32>,
    /// `[positions, features]`.
    pub output: RowsMut<f32>,
    /// Added to the mean of squares.
    pub epsilon: f32,
    /// Values a row.
    pub features: usize,
    /// The positions to do.
    pub positions: Range<usize>,
}

/// `output = a (op) b`, element by element; the output may be an input.
#[derive(Clone, Debug)]
pub struct Elementwise {
    /// `[positions, features]`; the gate of swiglu.
    pub a: Rows<f32>,
    /// `[positions, features]`; the factor of swiglu.
    pub b: Rows<f32>,
    /// `[positions, features]`.
    pub output: RowsMut<f32>,
    /// The positions to do.
    pub positions: Range<usize>,
    /// The columns to do.
    pub features: Range<usize>,
}

/// Softmax of each row; the output may be the input.
#[derive(Clone, Debug)]
pub struct Softmax {
    /// `[positions, features]`.
    pub input: Rows<f32>,
    /// `[positions, features]`.
    pub output: RowsMut<f32>,
    /// Values a row; at least one.
    pub features: usize,
    /// The positions to do.
    pub positions: Range<usize>,
}

/// Lanes of a vector that begins at `i` of `count` values.
#[inline(always)]
fn lanes_left(i: usize, count: usize) -> usize {
    LANES.min(count - i)
}

/// Loads a whole vector, or what is left of a row with zeros after it.
///
/// # Safety
///
/// `lanes` readable values at `pointer`.
#[inline(always)]
unsafe fn load_lanes<S: Simd>(s: S, pointer: *const f32, lanes: usize) -> S::F32 {
    // SAFETY: forwarded.
    unsafe { if lanes == LANES { s.load(pointer) } else { s.load_partial(pointer, lanes) } }
}

/// Stores a whole vector, or what is left of a row.
///
/// # Safety
///
/// `lanes` writable values at `pointer`.
#[inline(always)]
unsafe fn store_lanes<S: Simd>(s: S, pointer: *mut f32, value: S::F32, lanes: usize) {
    // SAFETY: forwarded.
    unsafe { if lanes == LANES { s.store(pointer, value) } else { s.store_partial(pointer, value, lanes) } }
}

/// # Safety
///
/// Rows of the range are readable and writable in `features` values, and nobody else uses the output's.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(s: S, params: &RmsNorm) {
    let features = params.features;
    for position in params.positions.clone() {
        // SAFETY: every access is to a column below `features` of a row of the range.
        unsafe {
            let (from, to) = (params.input.row(position), params.output.row(position));
            let mut squares = s.splat(0.0);
            for i in (0..features).step_by(LANES) {
                let x = load_lanes(s, from.add(i), lanes_left(i, features));
                squares = s.mul_add(x, x, squares);
            }
            let mean = s.reduce_sum(squares) / features as f32;
            let factor = s.splat(1.0 / (mean + params.epsilon).sqrt());
            for i in (0..features).step_by(LANES) {
                let lanes = lanes_left(i, features);
                let x = s.mul(load_lanes(s, from.add(i), lanes), factor);
                let weight = load_lanes(s, params.weight.first.add(i), lanes);
                store_lanes(s, to.add(i), s.mul(x, weight), lanes);
            }
        }
    }
}

/// What [`Elementwise`] computes.
trait Operation {
    fn apply<S: Simd>(s: S, a: S::F32, b: S::F32) -> S::F32;
}

struct Sum;
struct GatedSilu;

impl Operation for Sum {
    #[inline(always)]
    fn apply<S: Simd>(s: S, a: S::F32, b: S::F32) -> S::F32 {
        s.add(a, b)
    }
}

impl Operation for GatedSilu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, a: S::F32, b: S::F32) -> S::F32 {
        s.mul(silu(s, a), b)
    }
}

/// # Safety
///
/// Columns of the range are readable and writable in the rows of the range, and nobody else uses the output's.
#[inline(always)]
unsafe fn elementwise<S: Simd, O: Operation>(s: S, params: &Elementwise) {
    let Range { start, end } = params.features;
    for position in params.positions.clone() {
        for i in (start..end).step_by(LANES) {
            let lanes = lanes_left(i, end);
            // SAFETY: columns `i..i + lanes` lie within the range.
            unsafe {
                let a = load_lanes(s, params.a.row(position).add(i), lanes);
                let b = load_lanes(s, params.b.row(position).add(i), lanes);
                store_lanes(s, params.output.row(position).add(i), O::apply(s, a, b), lanes);
            }
        }
    }
}

/// `a + b`.
///
/// # Safety
///
/// As for [`elementwise`].
#[inline(always)]
pub(crate) unsafe fn add<S: Simd>(s: S, params: &Elementwise) {
    // SAFETY: forwarded.
    unsafe { elementwise::<S, Sum>(s, params) }
}

/// `a * sigmoid(a) * b`.
///
/// # Safety
///
/// As for [`elementwise`].
#[inline(always)]
pub(crate) unsafe fn swiglu<S: Simd>(s: S, params: &Elementwise) {
    // SAFETY: forwarded.
    unsafe { elementwise::<S, GatedSilu>(s, params) }
}

/// # Safety
///
/// Rows of the range are readable and writable in `features` values, and nobody else uses the output's.
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd>(s: S, params: &Softmax) {
    let features = params.features;
    let whole = features / LANES * LANES;
    let rest = features - whole;
    for position in params.positions.clone() {
        // SAFETY: every access is to a column below `features` of a row of the range.
        unsafe {
            let (from, to) = (params.input.row(position), params.output.row(position));
            let mut largest = f32::NEG_INFINITY;
            if whole > 0 {
                let mut lanes = s.load(from);
                for i in (0..whole).step_by(LANES) {
                    lanes = s.max(lanes, s.load(from.add(i)));
                }
                largest = s.reduce_max(lanes);
            }
            for i in whole..features {
                largest = largest.max(*from.add(i));
            }
            let mut sums = s.splat(0.0);
            for i in (0..whole).step_by(LANES) {
                let value = exp(s, s.sub(s.load(from.add(i)), s.splat(largest)));
                s.store(to.add(i), value);
                sums = s.add(sums, value);
            }
            if rest > 0 {
                let value = exp(s, s.sub(s.load_partial(from.add(whole), rest), s.splat(largest)));
                s.store_partial(to.add(whole), value, rest);
                sums = s.add(sums, s.load_partial(to.add(whole), rest));
            }
            let factor = s.splat(1.0 / s.reduce_sum(sums));
            for i in (0..features).step_by(LANES) {
                let lanes = lanes_left(i, features);
                store_lanes(s, to.add(i), s.mul(load_lanes(s, to.add(i), lanes), factor), lanes);
            }
        }
    }
}
