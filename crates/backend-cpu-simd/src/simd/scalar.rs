//! [`Simd`] in plain loops: the path of every other CPU, and a cross-check of the others.

use super::vector::{LANES, Simd};
use half::{bf16, f16};

/// No instruction set in particular.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

type Floats = [f32; LANES];

#[inline(always)]
fn zip(a: Floats, b: Floats, f: impl Fn(f32, f32) -> f32) -> Floats {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

#[inline(always)]
fn map_words<T: Copy + Default>(words: [u32; LANES], f: impl Fn(u32) -> T) -> [T; LANES] {
    let mut out = [T::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(words[lane]);
    }
    out
}

impl Simd for Scalar {
    type F32 = Floats;
    type I32 = [i32; LANES];
    type Block = [u32; LANES];

    const INT_POSITIONS: usize = 1;
    const FLOAT_POSITIONS: usize = 1;
    const FLOAT_PANELS: usize = 1;
    const NIBBLE_UNIT: i32 = 1;
    const I8_BIAS: i32 = 0;

    fn new() -> Option<Self> {
        Some(Self)
    }

    unsafe fn assume() -> Self {
        Self
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, pointer: *const f32) -> Floats {
        // SAFETY: the caller vouches for 16 values.
        unsafe { pointer.cast::<Floats>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, pointer: *mut f32, value: Floats) {
        // SAFETY: the caller vouches for 16 values.
        unsafe { pointer.cast::<Floats>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, pointer: *const u16) -> Floats {
        // SAFETY: the caller vouches for 16 values.
        let bits = unsafe { pointer.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn store_f16(self, pointer: *mut u16, value: Floats) {
        let bits = value.map(|value| f16::from_f32(value).to_bits());
        // SAFETY: the caller vouches for 16 values.
        unsafe { pointer.cast::<[u16; LANES]>().write_unaligned(bits) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, pointer: *const u16) -> Floats {
        // SAFETY: the caller vouches for 16 values.
        let bits = unsafe { pointer.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| bf16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn store_bf16(self, pointer: *mut u16, value: Floats) {
        let bits = value.map(|value| bf16::from_f32(value).to_bits());
        // SAFETY: the caller vouches for 16 values.
        unsafe { pointer.cast::<[u16; LANES]>().write_unaligned(bits) }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        // Two roundings: a fused operation without the instruction is a slow library call.
        zip(zip(a, b, |a, b| a * b), c, |product, c| product + c)
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn reduce_sum(self, mut value: Floats) -> f32 {
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                value[lane] += value[lane + width];
            }
            width /= 2;
        }
        value[0]
    }

    #[inline(always)]
    fn reduce_max(self, value: Floats) -> f32 {
        value.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Floats; LANES]) {
        let before = *rows;
        for (i, row) in rows.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = before[j][i];
            }
        }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn to_f32(self, value: [i32; LANES]) -> Floats {
        value.map(|value| value as f32)
    }

    #[inline(always)]
    fn round(self, value: Floats) -> [i32; LANES] {
        // Adding 1.5 * 2^23 leaves the integer, rounded to even, in the low bits; larger values take the library.
        value.map(|value| {
            if value.abs() < 4_194_304.0 {
                (value + 12_582_912.0 - 12_582_912.0) as i32
            } else {
                value.round_ties_even() as i32
            }
        })
    }

    #[inline(always)]
    fn pow2(self, exponent: [i32; LANES]) -> Floats {
        exponent.map(|exponent| f32::from_bits(((exponent + 127) as u32) << 23))
    }

    #[inline(always)]
    fn reduce_sum_i32(self, value: [i32; LANES]) -> i32 {
        value.into_iter().sum()
    }

    #[inline(always)]
    unsafe fn store_i8(self, pointer: *mut i8, value: [i32; LANES]) {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { pointer.cast::<[i8; LANES]>().write_unaligned(value.map(|value| value as i8)) }
    }

    #[inline(always)]
    unsafe fn load_block(self, pointer: *const u8) -> [u32; LANES] {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { pointer.cast::<[u32; LANES]>().read_unaligned() }.map(u32::from_le)
    }

    #[inline(always)]
    unsafe fn store_block(self, pointer: *mut u8, block: [u32; LANES]) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { pointer.cast::<[u32; LANES]>().write_unaligned(block.map(u32::to_le)) }
    }

    #[inline(always)]
    fn low_nibbles(self, block: [u32; LANES]) -> [u32; LANES] {
        map_words(block, |word| word & 0x0f0f_0f0f)
    }

    #[inline(always)]
    fn high_nibbles(self, block: [u32; LANES]) -> [u32; LANES] {
        map_words(block, |word| (word >> 4) & 0x0f0f_0f0f)
    }

    #[inline(always)]
    fn prepare_i8(self, block: [u32; LANES]) -> [u32; LANES] {
        block
    }

    #[inline(always)]
    unsafe fn dot_nibble_group(
        self,
        start: [i32; LANES],
        weights: &[[u32; LANES]; 8],
        activations: *const i8,
    ) -> [i32; LANES] {
        // A nibble is the same number as a signed byte.
        // SAFETY: forwarded.
        unsafe { self.dot_i8_group(start, weights, activations) }
    }

    #[inline(always)]
    unsafe fn dot_i8_group(
        self,
        mut start: [i32; LANES],
        weights: &[[u32; LANES]; 8],
        activations: *const i8,
    ) -> [i32; LANES] {
        // SAFETY: the caller vouches for 32 bytes.
        let activations = unsafe { activations.cast::<[[i8; 4]; 8]>().read_unaligned() };
        for (block, activations) in weights.iter().zip(activations) {
            for (sum, word) in start.iter_mut().zip(block) {
                for (byte, activation) in word.to_le_bytes().into_iter().zip(activations) {
                    *sum += i32::from(byte as i8) * i32::from(activation);
                }
            }
        }
        start
    }

    #[inline(always)]
    fn f16_pair(self, block: [u32; LANES]) -> (Floats, Floats) {
        (
            map_words(block, |word| f16::from_bits(word as u16).to_f32()),
            map_words(block, |word| f16::from_bits((word >> 16) as u16).to_f32()),
        )
    }

    #[inline(always)]
    fn bf16_pair(self, block: [u32; LANES]) -> (Floats, Floats) {
        (
            map_words(block, |word| f32::from_bits(word << 16)),
            map_words(block, |word| f32::from_bits(word & 0xffff_0000)),
        )
    }

    #[inline(always)]
    fn byte_f32(self, block: [u32; LANES], index: u32) -> Floats {
        map_words(block, |word| f32::from((word >> (8 * index)) as u8 as i8))
    }

    #[inline(always)]
    fn nibble_f32(self, block: [u32; LANES], shift: u32) -> Floats {
        map_words(block, |word| ((word >> shift) & 15) as f32 - 8.0)
    }
}
