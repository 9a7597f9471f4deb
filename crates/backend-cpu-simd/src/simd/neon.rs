//! [`Simd`] with NEON, which every 64-bit Arm CPU has: a logical vector is four registers.

use core::arch::aarch64::*;

use super::neon_dot::{sdot_group, widening_group_i8, widening_group_nibble};
use super::vector::{LANES, Simd};

/// NEON; with `DOT`, also the dot-product instructions of Armv8.2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeonIsa<const DOT: bool>(());

/// The baseline.
pub(crate) type Neon = NeonIsa<false>;

type Floats = [float32x4_t; 4];
type Ints = [int32x4_t; 4];
type Block = [uint8x16_t; 4];

/// Evaluates intrinsics that touch registers only.
macro_rules! registers {
    ($expression:expr) => {
        // SAFETY: the instructions exist, because NEON is part of the target's baseline; no memory is touched.
        unsafe { $expression }
    };
}

/// Applies an operation to each of the four registers of its operands.
macro_rules! each {
    (|$($operand:ident),+| $expression:expr) => {{
        let mut out = [registers!(vdupq_n_f32(0.0)); 4];
        for (i, out) in out.iter_mut().enumerate() {
            $(let $operand = $operand[i];)+
            *out = registers!($expression);
        }
        out
    }};
}

/// Rounds four values to the upper halves of words: nearest even; a NaN keeps its top bits and is made quiet.
#[inline(always)]
fn bf16_bits(value: float32x4_t) -> uint16x4_t {
    registers!({
        let bits = vreinterpretq_u32_f32(value);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
        let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
        let number = vceqq_f32(value, value);
        vshrn_n_u32::<16>(vbslq_u32(number, rounded, quiet))
    })
}

/// 4 × 4 values, transposed.
#[inline(always)]
fn transpose4(rows: [float32x4_t; 4]) -> [float32x4_t; 4] {
    registers!({
        let even = [vtrn1q_f32(rows[0], rows[1]), vtrn1q_f32(rows[2], rows[3])].map(|v| vreinterpretq_f64_f32(v));
        let odd = [vtrn2q_f32(rows[0], rows[1]), vtrn2q_f32(rows[2], rows[3])].map(|v| vreinterpretq_f64_f32(v));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(even[0], even[1])),
            vreinterpretq_f32_f64(vtrn1q_f64(odd[0], odd[1])),
            vreinterpretq_f32_f64(vtrn2q_f64(even[0], even[1])),
            vreinterpretq_f32_f64(vtrn2q_f64(odd[0], odd[1])),
        ]
    })
}

impl<const DOT: bool> Simd for NeonIsa<DOT> {
    type F32 = Floats;
    type I32 = Ints;
    type Block = Block;

    const INT_POSITIONS: usize = 4;
    const FLOAT_POSITIONS: usize = 4;
    const FLOAT_PANELS: usize = 1;
    const NIBBLE_UNIT: i32 = 1;
    const I8_BIAS: i32 = 0;

    fn new() -> Option<Self> {
        let found = std::arch::is_aarch64_feature_detected!("neon")
            && (!DOT || std::arch::is_aarch64_feature_detected!("dotprod"));
        found.then_some(Self(()))
    }

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        [registers!(vdupq_n_f32(value)); 4]
    }

    #[inline(always)]
    unsafe fn load(self, pointer: *const f32) -> Floats {
        // SAFETY: the caller vouches for 16 values.
        unsafe {
            [vld1q_f32(pointer), vld1q_f32(pointer.add(4)), vld1q_f32(pointer.add(8)), vld1q_f32(pointer.add(12))]
        }
    }

    #[inline(always)]
    unsafe fn store(self, pointer: *mut f32, value: Floats) {
        for (i, value) in value.into_iter().enumerate() {
            // SAFETY: the caller vouches for 16 values.
            unsafe { vst1q_f32(pointer.add(4 * i), value) }
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, pointer: *const u16) -> Floats {
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            // SAFETY: the caller vouches for 16 values.
            *out = unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(pointer.add(4 * i)))) };
        }
        out
    }

    #[inline(always)]
    unsafe fn store_f16(self, pointer: *mut u16, value: Floats) {
        for (i, value) in value.into_iter().enumerate() {
            // SAFETY: the caller vouches for 16 values.
            unsafe { vst1_u16(pointer.add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(value))) }
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, pointer: *const u16) -> Floats {
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            // SAFETY: the caller vouches for 16 values.
            *out = unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(pointer.add(4 * i)))) };
        }
        out
    }

    #[inline(always)]
    unsafe fn store_bf16(self, pointer: *mut u16, value: Floats) {
        for (i, value) in value.into_iter().enumerate() {
            // SAFETY: the caller vouches for 16 values.
            unsafe { vst1_u16(pointer.add(4 * i), bf16_bits(value)) }
        }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        each!(|a, b| vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        each!(|a, b| vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        each!(|a, b| vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        each!(|a, b| vdivq_f32(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        each!(|a, b, c| vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        each!(|a, b| vmaxq_f32(a, b))
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        each!(|a, b| vminq_f32(a, b))
    }

    #[inline(always)]
    fn reduce_sum(self, value: Floats) -> f32 {
        registers!(vaddvq_f32(vaddq_f32(vaddq_f32(value[0], value[1]), vaddq_f32(value[2], value[3]))))
    }

    #[inline(always)]
    fn reduce_max(self, value: Floats) -> f32 {
        registers!(vmaxvq_f32(vmaxq_f32(vmaxq_f32(value[0], value[1]), vmaxq_f32(value[2], value[3]))))
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Floats; LANES]) {
        let before = *rows;
        for i in 0..4 {
            for j in 0..4 {
                let tile = [before[4 * i][j], before[4 * i + 1][j], before[4 * i + 2][j], before[4 * i + 3][j]];
                for (lane, value) in transpose4(tile).into_iter().enumerate() {
                    rows[4 * j + lane][i] = value;
                }
            }
        }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Ints {
        [registers!(vdupq_n_s32(value)); 4]
    }

    #[inline(always)]
    fn to_f32(self, value: Ints) -> Floats {
        each!(|value| vcvtq_f32_s32(value))
    }

    #[inline(always)]
    fn round(self, value: Floats) -> Ints {
        let mut out = self.splat_i32(0);
        for (out, value) in out.iter_mut().zip(value) {
            *out = registers!(vcvtnq_s32_f32(value));
        }
        out
    }

    #[inline(always)]
    fn pow2(self, exponent: Ints) -> Floats {
        each!(|exponent| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(exponent, vdupq_n_s32(127)))))
    }

    #[inline(always)]
    fn reduce_sum_i32(self, value: Ints) -> i32 {
        registers!(vaddvq_s32(vaddq_s32(vaddq_s32(value[0], value[1]), vaddq_s32(value[2], value[3]))))
    }

    #[inline(always)]
    unsafe fn store_i8(self, pointer: *mut i8, value: Ints) {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            let low = vcombine_s16(vmovn_s32(value[0]), vmovn_s32(value[1]));
            let high = vcombine_s16(vmovn_s32(value[2]), vmovn_s32(value[3]));
            vst1q_s8(pointer, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        }
    }

    #[inline(always)]
    unsafe fn load_block(self, pointer: *const u8) -> Block {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { [vld1q_u8(pointer), vld1q_u8(pointer.add(16)), vld1q_u8(pointer.add(32)), vld1q_u8(pointer.add(48))] }
    }

    #[inline(always)]
    unsafe fn store_block(self, pointer: *mut u8, block: Block) {
        for (quarter, value) in block.into_iter().enumerate() {
            // SAFETY: the caller vouches for 64 bytes.
            unsafe { vst1q_u8(pointer.add(16 * quarter), value) }
        }
    }

    #[inline(always)]
    fn low_nibbles(self, mut block: Block) -> Block {
        for quarter in &mut block {
            *quarter = registers!(vandq_u8(*quarter, vdupq_n_u8(15)));
        }
        block
    }

    #[inline(always)]
    fn high_nibbles(self, mut block: Block) -> Block {
        for quarter in &mut block {
            *quarter = registers!(vshrq_n_u8::<4>(*quarter));
        }
        block
    }

    #[inline(always)]
    fn prepare_i8(self, block: Block) -> Block {
        block
    }

    #[inline(always)]
    unsafe fn dot_nibble_group(self, start: Ints, weights: &[Block; 8], activations: *const i8) -> Ints {
        if DOT {
            // A nibble is the same number as a signed byte.
            // SAFETY: the caller vouches for 32 bytes; `self` for the dot-product instructions.
            unsafe { sdot_group(start, weights, activations) }
        } else {
            // SAFETY: the caller vouches for 32 bytes.
            unsafe { widening_group_nibble(start, weights, activations) }
        }
    }

    #[inline(always)]
    unsafe fn dot_i8_group(self, start: Ints, weights: &[Block; 8], activations: *const i8) -> Ints {
        if DOT {
            // SAFETY: the caller vouches for 32 bytes; `self` for the dot-product instructions.
            unsafe { sdot_group(start, weights, activations) }
        } else {
            // SAFETY: the caller vouches for 32 bytes.
            unsafe { widening_group_i8(start, weights, activations) }
        }
    }

    #[inline(always)]
    fn f16_pair(self, block: Block) -> (Floats, Floats) {
        (
            each!(|block| vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_u8(block))))),
            each!(|block| vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32::<16>(vreinterpretq_u32_u8(block))))),
        )
    }

    #[inline(always)]
    fn bf16_pair(self, block: Block) -> (Floats, Floats) {
        (
            each!(|block| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_u8(block)))),
            each!(|block| { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(block), vdupq_n_u32(0xffff_0000),)) }),
        )
    }

    #[inline(always)]
    fn byte_f32(self, block: Block, index: u32) -> Floats {
        let left = registers!(vdupq_n_s32(24 - 8 * index as i32));
        each!(|block| vcvtq_f32_s32(vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_u8(block), left))))
    }

    #[inline(always)]
    fn nibble_f32(self, block: Block, shift: u32) -> Floats {
        // A shift to the left by a negative number is a shift to the right.
        let right = registers!(vdupq_n_s32(-(shift as i32)));
        each!(|block| {
            let nibble = vandq_u32(vshlq_u32(vreinterpretq_u32_u8(block), right), vdupq_n_u32(15));
            vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(nibble), vdupq_n_s32(8)))
        })
    }
}
