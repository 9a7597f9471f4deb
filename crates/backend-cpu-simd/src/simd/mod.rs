//! The vector layer: one small trait over 16 logical lanes and its instruction-set implementations.
//!
//! A kernel is written once against [`Simd`] and compiled once per implementation, inside an entry function that
//! carries the instruction set's `#[target_feature]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
mod scalar;
#[cfg(test)]
mod tests;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16};
pub(crate) use math::{exp, silu};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon_dot::{NeonBf16, NeonDot};
pub(crate) use scalar::Scalar;
pub(crate) use vector::{Bf16Dot, LANES, Simd};
