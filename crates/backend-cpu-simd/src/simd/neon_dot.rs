//! Dot products on Arm: `sdot` for bytes, widening products for CPUs without it, and `bfdot` for bf16.
//!
//! The intrinsics of both instructions are not stable in the standard library, so they are written as assembly.

use core::arch::aarch64::*;
use core::arch::asm;

use super::neon::NeonIsa;
use super::vector::{Bf16Dot, Simd};

/// NEON with the dot-product instructions of Armv8.2.
pub(crate) type NeonDot = NeonIsa<true>;

/// Adds to each lane the four products of its bytes of `weights` and word `WORD` of `activations`: `vdotq_laneq_s32`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lane<const WORD: i32>(mut sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
    // SAFETY: registers only, and the feature of this function guarantees that the instruction exists.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {activations:v}.4b[{word}]",
            sum = inlateout(vreg) sum,
            weights = in(vreg) weights,
            activations = in(vreg) activations,
            word = const WORD,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// A group's 32 products for each of 16 rows.
///
/// # Safety
///
/// 32 readable bytes at `activations`; the CPU has the dot-product instructions.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn sdot_group(
    mut sum: [int32x4_t; 4],
    weights: &[[uint8x16_t; 4]; 8],
    activations: *const i8,
) -> [int32x4_t; 4] {
    // SAFETY: the caller vouches for 32 bytes.
    let (first, second) = unsafe { (vld1q_s8(activations), vld1q_s8(activations.add(16))) };
    for quarter in 0..4 {
        let mut lanes = sum[quarter];
        lanes = sdot_lane::<0>(lanes, weights[0][quarter], first);
        lanes = sdot_lane::<1>(lanes, weights[1][quarter], first);
        lanes = sdot_lane::<2>(lanes, weights[2][quarter], first);
        lanes = sdot_lane::<3>(lanes, weights[3][quarter], first);
        lanes = sdot_lane::<0>(lanes, weights[4][quarter], second);
        lanes = sdot_lane::<1>(lanes, weights[5][quarter], second);
        lanes = sdot_lane::<2>(lanes, weights[6][quarter], second);
        lanes = sdot_lane::<3>(lanes, weights[7][quarter], second);
        sum[quarter] = lanes;
    }
    sum
}

/// Adds, for four rows, the 16-bit sums of each row's four bytes.
#[inline(always)]
fn fold(sum: int32x4_t, low: int16x8_t, high: int16x8_t) -> int32x4_t {
    // SAFETY: NEON is part of the target's baseline; no memory is touched.
    unsafe { vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))) }
}

/// A group's 32 products for each of 16 rows, with weight bytes of 0..=15.
///
/// # Safety
///
/// 32 readable bytes at `activations`.
#[inline(always)]
pub(crate) unsafe fn widening_group_nibble(
    mut sum: [int32x4_t; 4],
    weights: &[[uint8x16_t; 4]; 8],
    activations: *const i8,
) -> [int32x4_t; 4] {
    for quarter in 0..4 {
        // SAFETY: the caller vouches for 32 bytes; NEON is part of the target's baseline.
        unsafe {
            // Eight products of at most 15 * 127 fit in 16 bits, so all words are added up before they are widened.
            let mut low = vdupq_n_s16(0);
            let mut high = vdupq_n_s16(0);
            for (word, weights) in weights.iter().enumerate() {
                let activations = activations.add(4 * word).cast::<i32>().read_unaligned();
                let activations = vreinterpret_s8_s32(vdup_n_s32(activations));
                let weights = vreinterpretq_s8_u8(weights[quarter]);
                low = vmlal_s8(low, vget_low_s8(weights), activations);
                high = vmlal_s8(high, vget_high_s8(weights), activations);
            }
            sum[quarter] = fold(sum[quarter], low, high);
        }
    }
    sum
}

/// A group's 32 products for each of 16 rows, with weight bytes of -127..=127.
///
/// # Safety
///
/// 32 readable bytes at `activations`.
#[inline(always)]
pub(crate) unsafe fn widening_group_i8(
    mut sum: [int32x4_t; 4],
    weights: &[[uint8x16_t; 4]; 8],
    activations: *const i8,
) -> [int32x4_t; 4] {
    for quarter in 0..4 {
        for pair in 0..4 {
            // SAFETY: the caller vouches for 32 bytes; NEON is part of the target's baseline.
            unsafe {
                // Two products of at most 127 * 127 fit in 16 bits, so words are added up in pairs.
                let mut low = vdupq_n_s16(0);
                let mut high = vdupq_n_s16(0);
                for word in [2 * pair, 2 * pair + 1] {
                    let activations = activations.add(4 * word).cast::<i32>().read_unaligned();
                    let activations = vreinterpret_s8_s32(vdup_n_s32(activations));
                    let weights = vreinterpretq_s8_u8(weights[word][quarter]);
                    low = vmlal_s8(low, vget_low_s8(weights), activations);
                    high = vmlal_s8(high, vget_high_s8(weights), activations);
                }
                sum[quarter] = fold(sum[quarter], low, high);
            }
        }
    }
    sum
}

/// [`NeonDot`] with the bf16 instructions of Armv8.6.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeonBf16(NeonDot);

/// Adds to each lane the two products of its bf16 pairs: `vbfdotq_f32`.
#[inline]
#[target_feature(enable = "neon,bf16")]
fn bfdot(mut sum: float32x4_t, weights: uint8x16_t, activations: uint32x4_t) -> float32x4_t {
    // SAFETY: registers only, and the feature of this function guarantees that the instruction exists.
    unsafe {
        asm!(
            "bfdot {sum:v}.4s, {weights:v}.8h, {activations:v}.8h",
            sum = inlateout(vreg) sum,
            weights = in(vreg) weights,
            activations = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl Bf16Dot for NeonBf16 {
    type Base = NeonDot;

    fn new() -> Option<Self> {
        let base = NeonDot::new()?;
        std::arch::is_aarch64_feature_detected!("bf16").then_some(Self(base))
    }

    #[inline(always)]
    unsafe fn assume() -> Self {
        // SAFETY: forwarded.
        Self(unsafe { NeonDot::assume() })
    }

    #[inline(always)]
    fn base(self) -> NeonDot {
        self.0
    }

    #[inline(always)]
    fn dot(self, mut sum: [float32x4_t; 4], weights: [uint8x16_t; 4], activations: u32) -> [float32x4_t; 4] {
        for quarter in 0..4 {
            // SAFETY: a `NeonBf16` value exists, so the instruction does.
            sum[quarter] = unsafe { bfdot(sum[quarter], weights[quarter], vdupq_n_u32(activations)) };
        }
        sum
    }
}
