//! Functions of a whole vector that are built from the operations of [`Simd`] alone.

use super::vector::Simd;

/// `e^x`; relative error below 2^-22 between -87 and 88, saturating outside.
///
/// The argument is split into `n * ln 2 + r` with `|r| <= ln 2 / 2`; the series of `e^r` to the seventh power is then
/// exact to rounding, and `2^n` is written into the exponent. `exp(0)` is exactly 1.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let x = s.max(s.min(x, s.splat(88.0)), s.splat(-87.0));
    let n = s.round(s.mul(x, s.splat(core::f32::consts::LOG2_E)));
    let n_float = s.to_f32(n);
    // ln 2 in two parts; the first has few bits, so that its product with n is exact.
    let r = s.mul_add(n_float, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n_float, s.splat(2.121_944_4e-4), r);
    let mut sum = s.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = s.mul_add(sum, r, s.splat(coefficient));
    }
    s.mul(sum, s.pow2(n))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    s.div(x, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}
