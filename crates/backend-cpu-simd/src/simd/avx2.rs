//! [`Simd`] with AVX2, FMA and F16C: a logical vector is two registers.

use core::arch::x86_64::*;

use super::vector::{LANES, Simd};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

/// Evaluates intrinsics that touch registers only.
macro_rules! registers {
    ($expression:expr) => {
        // SAFETY: the instructions exist, because an `Avx2` value exists; no memory is touched.
        unsafe { $expression }
    };
}

type Floats = [__m256; 2];
type Ints = [__m256i; 2];

/// Sums of four adjacent products of unsigned by signed bytes, where no sum of two exceeds 16 bits.
#[inline(always)]
fn dot4(_: Avx2, sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    registers!({
        let pairs = _mm256_maddubs_epi16(unsigned, signed);
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    })
}

/// 8 × 8 values, transposed.
#[inline(always)]
fn transpose8(_: Avx2, rows: [__m256; 8]) -> [__m256; 8] {
    registers!({
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..2 {
            let (a, b, c, d) = (pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]);
            fours[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
            fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        let mut columns = fours;
        for i in 0..4 {
            columns[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]);
            columns[4 + i] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]);
        }
        columns
    })
}

impl Simd for Avx2 {
    type F32 = Floats;
    type I32 = Ints;
    type Block = Ints;

    const INT_POSITIONS: usize = 4;
    const FLOAT_POSITIONS: usize = 4;
    const FLOAT_PANELS: usize = 1;
    const NIBBLE_UNIT: i32 = 1;
    const I8_BIAS: i32 = 0;

    fn new() -> Option<Self> {
        let found =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        let value = registers!(_mm256_set1_ps(value));
        [value, value]
    }

    #[inline(always)]
    unsafe fn load(self, pointer: *const f32) -> Floats {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe { [_mm256_loadu_ps(pointer), _mm256_loadu_ps(pointer.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(self, pointer: *mut f32, value: Floats) {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe {
            _mm256_storeu_ps(pointer, value[0]);
            _mm256_storeu_ps(pointer.add(8), value[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, pointer: *const u16) -> Floats {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(pointer.cast())), _mm256_cvtph_ps(_mm_loadu_si128(pointer.add(8).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, pointer: *mut u16, value: Floats) {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe {
            _mm_storeu_si128(pointer.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[0]));
            _mm_storeu_si128(pointer.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[1]));
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, pointer: *const u16) -> Floats {
        // SAFETY: the caller vouches for 16 values; `self` for the instructions.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(pointer.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(pointer.add(8).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, pointer: *mut u16, value: Floats) {
        for (half, value) in value.into_iter().enumerate() {
            // SAFETY: the caller vouches for 16 values; `self` for the instructions.
            unsafe {
                // Nearest even: add half a unit less the lowest kept bit. A NaN keeps its top bits and is made quiet.
                let bits = _mm256_castps_si256(value);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
                let bits = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
                let packed = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256::<1>(bits));
                _mm_storeu_si128(pointer.add(8 * half).cast(), packed);
            }
        }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        registers!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        registers!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        registers!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        registers!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        registers!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        registers!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        registers!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn reduce_sum(self, value: Floats) -> f32 {
        registers!({
            let eight = _mm256_add_ps(value[0], value[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }

    #[inline(always)]
    fn reduce_max(self, value: Floats) -> f32 {
        registers!({
            let eight = _mm256_max_ps(value[0], value[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Floats; LANES]) {
        let before = *rows;
        for row_half in 0..2 {
            for lane_half in 0..2 {
                let mut tile = [before[0][0]; 8];
                for (i, value) in tile.iter_mut().enumerate() {
                    *value = before[8 * row_half + i][lane_half];
                }
                let tile = transpose8(self, tile);
                for (i, value) in tile.into_iter().enumerate() {
                    rows[8 * lane_half + i][row_half] = value;
                }
            }
        }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Ints {
        let value = registers!(_mm256_set1_epi32(value));
        [value, value]
    }

    #[inline(always)]
    fn to_f32(self, value: Ints) -> Floats {
        registers!([_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])])
    }

    #[inline(always)]
    fn round(self, value: Floats) -> Ints {
        registers!({
            let nearest = [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value[1]),
            ];
            [_mm256_cvttps_epi32(nearest[0]), _mm256_cvttps_epi32(nearest[1])]
        })
    }

    #[inline(always)]
    fn pow2(self, exponent: Ints) -> Floats {
        registers!({
            let bias = _mm256_set1_epi32(127);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(exponent[0], bias))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(exponent[1], bias))),
            ]
        })
    }

    #[inline(always)]
    fn reduce_sum_i32(self, value: Ints) -> i32 {
        registers!({
            let eight = _mm256_add_epi32(value[0], value[1]);
            let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        })
    }

    #[inline(always)]
    unsafe fn store_i8(self, pointer: *mut i8, value: Ints) {
        // SAFETY: the caller vouches for 16 bytes; `self` for the instructions.
        unsafe {
            // Packing works within 128-bit halves; the permutation restores the order.
            let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(value[0], value[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(pointer.cast(), bytes);
        }
    }

    #[inline(always)]
    unsafe fn load_block(self, pointer: *const u8) -> Ints {
        // SAFETY: the caller vouches for 64 bytes; `self` for the instruction.
        unsafe { [_mm256_loadu_si256(pointer.cast()), _mm256_loadu_si256(pointer.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn store_block(self, pointer: *mut u8, block: Ints) {
        // SAFETY: the caller vouches for 64 bytes; `self` for the instruction.
        unsafe {
            _mm256_storeu_si256(pointer.cast(), block[0]);
            _mm256_storeu_si256(pointer.add(32).cast(), block[1]);
        }
    }

    #[inline(always)]
    fn low_nibbles(self, block: Ints) -> Ints {
        registers!({
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(block[0], mask), _mm256_and_si256(block[1], mask)]
        })
    }

    #[inline(always)]
    fn high_nibbles(self, block: Ints) -> Ints {
        registers!({
            let mask = _mm256_set1_epi8(15);
            [
                _mm256_and_si256(_mm256_srli_epi32::<4>(block[0]), mask),
                _mm256_and_si256(_mm256_srli_epi32::<4>(block[1]), mask),
            ]
        })
    }

    #[inline(always)]
    fn prepare_i8(self, block: Ints) -> Ints {
        block
    }

    #[inline(always)]
    unsafe fn dot_nibble_group(self, start: Ints, weights: &[Ints; 8], activations: *const i8) -> Ints {
        // All eight words are added up in 16 bits: 16 products of at most 15 * 127 make 30480.
        let mut sums = registers!([_mm256_setzero_si256(); 2]);
        for (word, weights) in weights.iter().enumerate() {
            // SAFETY: the caller vouches for 32 bytes; `self` for the instructions.
            unsafe {
                let activations = _mm256_set1_epi32(activations.add(4 * word).cast::<i32>().read_unaligned());
                sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(weights[0], activations));
                sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(weights[1], activations));
            }
        }
        registers!({
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(start[0], _mm256_madd_epi16(sums[0], ones)),
                _mm256_add_epi32(start[1], _mm256_madd_epi16(sums[1], ones)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn dot_i8_group(self, start: Ints, weights: &[Ints; 8], activations: *const i8) -> Ints {
        // The instruction wants one unsigned side: the weight gives its sign to the activation.
        // Two products of at most 127 * 127 make 32258, so its 16-bit sums do not saturate.
        let mut sum = start;
        for (word, weights) in weights.iter().enumerate() {
            // SAFETY: the caller vouches for 32 bytes; `self` for the instructions.
            unsafe {
                let activations = _mm256_set1_epi32(activations.add(4 * word).cast::<i32>().read_unaligned());
                for half in 0..2 {
                    let magnitude = _mm256_abs_epi8(weights[half]);
                    let signed = _mm256_sign_epi8(activations, weights[half]);
                    sum[half] = dot4(self, sum[half], magnitude, signed);
                }
            }
        }
        sum
    }

    #[inline(always)]
    fn f16_pair(self, block: Ints) -> (Floats, Floats) {
        registers!({
            let mask = _mm256_set1_epi32(0xffff);
            let low = _mm256_packus_epi32(_mm256_and_si256(block[0], mask), _mm256_and_si256(block[1], mask));
            let high = _mm256_packus_epi32(_mm256_srli_epi32::<16>(block[0]), _mm256_srli_epi32::<16>(block[1]));
            // Packing works within 128-bit halves; the permutation restores the order.
            let low = _mm256_permute4x64_epi64::<0xd8>(low);
            let high = _mm256_permute4x64_epi64::<0xd8>(high);
            (
                [_mm256_cvtph_ps(_mm256_castsi256_si128(low)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(low))],
                [_mm256_cvtph_ps(_mm256_castsi256_si128(high)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(high))],
            )
        })
    }

    #[inline(always)]
    fn bf16_pair(self, block: Ints) -> (Floats, Floats) {
        registers!({
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            (
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(block[0])),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(block[1])),
                ],
                [
                    _mm256_castsi256_ps(_mm256_and_si256(block[0], mask)),
                    _mm256_castsi256_ps(_mm256_and_si256(block[1], mask)),
                ],
            )
        })
    }

    #[inline(always)]
    fn byte_f32(self, block: Ints, index: u32) -> Floats {
        registers!({
            let left = _mm256_set1_epi32(24 - 8 * index as i32);
            [
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_sllv_epi32(block[0], left))),
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_sllv_epi32(block[1], left))),
            ]
        })
    }

    #[inline(always)]
    fn nibble_f32(self, block: Ints, shift: u32) -> Floats {
        registers!({
            let right = _mm256_set1_epi32(shift as i32);
            let mask = _mm256_set1_epi32(15);
            let eight = _mm256_set1_epi32(8);
            let low = _mm256_and_si256(_mm256_srlv_epi32(block[0], right), mask);
            let high = _mm256_and_si256(_mm256_srlv_epi32(block[1], right), mask);
            [_mm256_cvtepi32_ps(_mm256_sub_epi32(low, eight)), _mm256_cvtepi32_ps(_mm256_sub_epi32(high, eight))]
        })
    }
}
