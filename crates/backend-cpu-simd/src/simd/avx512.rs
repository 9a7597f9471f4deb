//! [`Simd`] with AVX-512 (F, BW, DQ, VL and VNNI), and bf16 dot products where AVX512-BF16 is there too.

use core::arch::x86_64::*;

use super::vector::{Bf16Dot, LANES, Simd};

/// AVX-512 F, BW, DQ, VL and VNNI, with AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

/// Evaluates intrinsics that touch registers only.
macro_rules! registers {
    ($expression:expr) => {
        // SAFETY: the instructions exist, because an `Avx512` value exists; no memory is touched.
        unsafe { $expression }
    };
}

impl Simd for Avx512 {
    type F32 = __m512;
    type I32 = __m512i;
    type Block = __m512i;

    // 8 positions times 2 panels are 16 integer sums under way; their f32 sums are in memory.
    const INT_POSITIONS: usize = 8;
    const WORD_MAJOR: bool = true;
    const FLOAT_POSITIONS: usize = 12;
    const FLOAT_PANELS: usize = 2;
    // High nibbles stay where they are and low ones join them. 32 products of at most 240 * 127 fit easily.
    const NIBBLE_UNIT: i32 = 16;
    // The instruction multiplies unsigned by signed bytes: flipping the top bit adds 128.
    const I8_BIAS: i32 = 128;

    fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        registers!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(self, pointer: *const f32) -> __m512 {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe { _mm512_loadu_ps(pointer) }
    }

    #[inline(always)]
    unsafe fn store(self, pointer: *mut f32, value: __m512) {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe { _mm512_storeu_ps(pointer, value) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, pointer: *const f32, count: usize) -> __m512 {
        debug_assert!(count <= LANES);
        let mask = ((1u32 << count) - 1) as __mmask16;
        // SAFETY: masked lanes are not read; the caller vouches for the others, `self` for the instruction.
        unsafe { _mm512_maskz_loadu_ps(mask, pointer) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, pointer: *mut f32, value: __m512, count: usize) {
        debug_assert!(count <= LANES);
        let mask = ((1u32 << count) - 1) as __mmask16;
        // SAFETY: masked lanes are not written; the caller vouches for the others, `self` for the instruction.
        unsafe { _mm512_mask_storeu_ps(pointer, mask, value) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, pointer: *const u16) -> __m512 {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(pointer.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, pointer: *mut u16, value: __m512) {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe {
            let half = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
            _mm256_storeu_si256(pointer.cast(), half);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, pointer: *const u16) -> __m512 {
        // SAFETY: the caller vouches for 16 values; `self` for the instruction.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(pointer.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, pointer: *mut u16, value: __m512) {
        // SAFETY: the caller vouches for 16 values; `self` for the instructions.
        unsafe {
            // Nearest even: add half a unit less the lowest kept bit. A NaN keeps its top bits and is made quiet.
            let bits = _mm512_castps_si512(value);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let bits = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
            let half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
            _mm256_storeu_si256(pointer.cast(), half);
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        registers!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn reduce_sum(self, value: __m512) -> f32 {
        registers!(_mm512_reduce_add_ps(value))
    }

    #[inline(always)]
    fn reduce_max(self, value: __m512) -> f32 {
        registers!(_mm512_reduce_max_ps(value))
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [__m512; LANES]) {
        // Pairs of rows, then fours, then the 128-bit quarters across all of them.
        let mut pairs = *rows;
        for i in 0..8 {
            pairs[2 * i] = registers!(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]));
            pairs[2 * i + 1] = registers!(_mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
        }
        // `fours[4 * i + c]` holds column `4 * quarter + c` of rows `4 * i..4 * i + 4` in each quarter.
        let mut fours = pairs;
        for i in 0..4 {
            let (a, b, c, d) = (pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]);
            fours[4 * i] = registers!(_mm512_shuffle_ps::<0x44>(a, c));
            fours[4 * i + 1] = registers!(_mm512_shuffle_ps::<0xee>(a, c));
            fours[4 * i + 2] = registers!(_mm512_shuffle_ps::<0x44>(b, d));
            fours[4 * i + 3] = registers!(_mm512_shuffle_ps::<0xee>(b, d));
        }
        for c in 0..4 {
            let (a, b, e, d) = (fours[c], fours[4 + c], fours[8 + c], fours[12 + c]);
            let low_even = registers!(_mm512_shuffle_f32x4::<0x88>(a, b));
            let low_odd = registers!(_mm512_shuffle_f32x4::<0xdd>(a, b));
            let high_even = registers!(_mm512_shuffle_f32x4::<0x88>(e, d));
            let high_odd = registers!(_mm512_shuffle_f32x4::<0xdd>(e, d));
            rows[c] = registers!(_mm512_shuffle_f32x4::<0x88>(low_even, high_even));
            rows[8 + c] = registers!(_mm512_shuffle_f32x4::<0xdd>(low_even, high_even));
            rows[4 + c] = registers!(_mm512_shuffle_f32x4::<0x88>(low_odd, high_odd));
            rows[12 + c] = registers!(_mm512_shuffle_f32x4::<0xdd>(low_odd, high_odd));
        }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        registers!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn to_f32(self, value: __m512i) -> __m512 {
        registers!(_mm512_cvtepi32_ps(value))
    }

    #[inline(always)]
    fn round(self, value: __m512) -> __m512i {
        registers!(_mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value))
    }

    #[inline(always)]
    fn pow2(self, exponent: __m512i) -> __m512 {
        registers!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(exponent, _mm512_set1_epi32(127)))))
    }

    #[inline(always)]
    fn reduce_sum_i32(self, value: __m512i) -> i32 {
        registers!(_mm512_reduce_add_epi32(value))
    }

    #[inline(always)]
    unsafe fn store_i8(self, pointer: *mut i8, value: __m512i) {
        // SAFETY: the caller vouches for 16 bytes; `self` for the instructions.
        unsafe { _mm_storeu_si128(pointer.cast(), _mm512_cvtepi32_epi8(value)) }
    }

    #[inline(always)]
    unsafe fn load_block(self, pointer: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 64 bytes; `self` for the instruction.
        unsafe { _mm512_loadu_si512(pointer.cast()) }
    }

    #[inline(always)]
    fn prefetch(self, pointer: *const u8) {
        // A prefetch of an address that cannot be read does nothing.
        registers!(_mm_prefetch::<_MM_HINT_T0>(pointer.cast()))
    }

    #[inline(always)]
    unsafe fn store_block(self, pointer: *mut u8, block: __m512i) {
        // SAFETY: the caller vouches for 64 bytes; `self` for the instruction.
        unsafe { _mm512_storeu_si512(pointer.cast(), block) }
    }

    #[inline(always)]
    fn low_nibbles(self, block: __m512i) -> __m512i {
        registers!(_mm512_and_si512(_mm512_slli_epi32::<4>(block), _mm512_set1_epi8(-16)))
    }

    #[inline(always)]
    fn high_nibbles(self, block: __m512i) -> __m512i {
        registers!(_mm512_and_si512(block, _mm512_set1_epi8(-16)))
    }

    #[inline(always)]
    fn prepare_i8(self, block: __m512i) -> __m512i {
        registers!(_mm512_xor_si512(block, _mm512_set1_epi8(-128)))
    }

    #[inline(always)]
    unsafe fn dot_nibble_group(self, start: __m512i, weights: &[__m512i; 8], activations: *const i8) -> __m512i {
        let mut sum = start;
        for (word, weights) in weights.iter().enumerate() {
            // SAFETY: the caller vouches for 32 bytes.
            let activations = unsafe { activations.add(4 * word).cast::<i32>().read_unaligned() };
            sum = self.dot_word(sum, *weights, activations);
        }
        sum
    }

    #[inline(always)]
    unsafe fn dot_i8_group(self, start: __m512i, weights: &[__m512i; 8], activations: *const i8) -> __m512i {
        // SAFETY: forwarded; the prepared bytes are unsigned, as nibbles are.
        unsafe { self.dot_nibble_group(start, weights, activations) }
    }

    #[inline(always)]
    fn dot_word(self, sum: __m512i, weights: __m512i, activations: i32) -> __m512i {
        registers!(_mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(activations)))
    }

    #[inline(always)]
    unsafe fn dot_packed_group(self, start: __m512i, packed: &[__m512i; 4], activations: *const i8) -> __m512i {
        // The sum of the low nibbles is moved up once: one shift a group instead of four.
        let (mut low, mut high) = (registers!(_mm512_setzero_si512()), start);
        for (word, packed) in packed.iter().enumerate() {
            // SAFETY: the caller vouches for 32 bytes; `self` for the instructions.
            unsafe {
                let first = activations.add(4 * word).cast::<i32>().read_unaligned();
                let second = activations.add(16 + 4 * word).cast::<i32>().read_unaligned();
                let low_weights = _mm512_and_si512(*packed, _mm512_set1_epi8(15));
                let high_weights = _mm512_andnot_si512(_mm512_set1_epi8(15), *packed);
                low = _mm512_dpbusd_epi32(low, low_weights, _mm512_set1_epi32(first));
                high = _mm512_dpbusd_epi32(high, high_weights, _mm512_set1_epi32(second));
            }
        }
        registers!(_mm512_add_epi32(high, _mm512_slli_epi32::<4>(low)))
    }

    #[inline(always)]
    fn f16_pair(self, block: __m512i) -> (__m512, __m512) {
        registers!((
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(block)),
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(block)))
        ))
    }

    #[inline(always)]
    fn bf16_pair(self, block: __m512i) -> (__m512, __m512) {
        registers!((
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(block)),
            _mm512_castsi512_ps(_mm512_and_si512(block, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
        ))
    }

    #[inline(always)]
    fn byte_f32(self, block: __m512i, index: u32) -> __m512 {
        registers!({
            let at_top = _mm512_sllv_epi32(block, _mm512_set1_epi32(24 - 8 * index as i32));
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(at_top))
        })
    }

    #[inline(always)]
    fn nibble_f32(self, block: __m512i, shift: u32) -> __m512 {
        // The permutation looks at four bits of an index only, so a table of 16 values needs no mask.
        registers!({
            let table = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
            _mm512_permutexvar_ps(_mm512_srlv_epi32(block, _mm512_set1_epi32(shift as i32)), table)
        })
    }
}

/// [`Avx512`] with AVX512-BF16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(Avx512);

impl Bf16Dot for Avx512Bf16 {
    type Base = Avx512;

    fn new() -> Option<Self> {
        let base = Avx512::new()?;
        is_x86_feature_detected!("avx512bf16").then_some(Self(base))
    }

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self(Avx512(()))
    }

    #[inline(always)]
    fn base(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn dot(self, accumulator: __m512, weights: __m512i, activations: u32) -> __m512 {
        // SAFETY: an `Avx512Bf16` value exists, so the instruction does; the casts are between plain 64-byte vectors.
        unsafe {
            let activations = _mm512_set1_epi32(activations as i32);
            _mm512_dpbf16_ps(
                accumulator,
                core::mem::transmute::<__m512i, __m512bh>(weights),
                core::mem::transmute::<__m512i, __m512bh>(activations),
            )
        }
    }
}
