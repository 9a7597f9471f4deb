//! What the kernels need from an instruction set: [`Simd`], always 16 logical lanes of 32 bits.

/// Lanes of every logical vector, and rows of every weight panel.
pub(crate) const LANES: usize = 16;

/// One instruction set, as operations on 16 lanes.
///
/// A value of an implementing type is a proof that this CPU has the instructions, because [`Simd::new`] detects them.
/// That makes the register-only operations safe; those that touch memory are `unsafe` for the pointer alone.
/// Every method is inlined into an entry function that enables the features (see `dispatch.rs`), so that no call is left.
///
/// Panels interleave 32-bit words, so the 64-byte [`Simd::Block`] at word `w` holds word `w` of 16 weight rows.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 × f32.
    type F32: Copy;
    /// 16 × i32.
    type I32: Copy;
    /// 64 bytes of weights: one 32-bit word for each of 16 rows.
    type Block: Copy;

    /// How many positions the int8 kernel keeps in registers at once.
    const INT_POSITIONS: usize;
    /// How many positions the float kernel keeps in registers at once for [`Simd::FLOAT_PANELS`] panels.
    const FLOAT_POSITIONS: usize;
    /// How many panels the float kernel computes at once; 1 or 2.
    const FLOAT_PANELS: usize;
    /// Whether one instruction does [`Simd::dot_word`] for all lanes: the int8 kernel then goes word by word through
    /// pairs of panels, so that each activation is fetched once for 32 rows and many independent sums are under way.
    const WORD_MAJOR: bool = false;
    /// What a step of a 4-bit weight counts in [`Simd::dot_nibble_group`]; 1 or 16, a power of two.
    const NIBBLE_UNIT: i32;
    /// What [`Simd::dot_i8_group`] adds to each weight; 0 or `8 * NIBBLE_UNIT`, so that the offset of 8 of a 4-bit
    /// weight and this one take the same correction, `-8 * NIBBLE_UNIT * sum(activations)`.
    const I8_BIAS: i32;

    /// The proof, if this CPU has the instructions.
    fn new() -> Option<Self>;

    /// The proof without detection.
    ///
    /// # Safety
    ///
    /// An earlier [`Simd::new`] on this machine must have returned `Some`.
    unsafe fn assume() -> Self;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::F32;
    /// Lanes `pointer[0..16]`.
    ///
    /// # Safety
    ///
    /// 16 readable values at `pointer`, of any alignment.
    unsafe fn load(self, pointer: *const f32) -> Self::F32;
    /// Writes `pointer[0..16]`.
    ///
    /// # Safety
    ///
    /// 16 writable values at `pointer`, of any alignment.
    unsafe fn store(self, pointer: *mut f32, value: Self::F32);
    /// Lanes `pointer[0..count]`, zero in the others; `count <= 16`.
    ///
    /// # Safety
    ///
    /// `count` readable values at `pointer`.
    #[inline(always)]
    unsafe fn load_partial(self, pointer: *const f32, count: usize) -> Self::F32 {
        let mut buffer = [0.0f32; LANES];
        debug_assert!(count <= LANES);
        // SAFETY: the caller vouches for `count` values and the buffer holds 16.
        unsafe {
            core::ptr::copy_nonoverlapping(pointer, buffer.as_mut_ptr(), count);
            self.load(buffer.as_ptr())
        }
    }
    /// Writes the first `count <= 16` lanes.
    ///
    /// # Safety
    ///
    /// `count` writable values at `pointer`.
    #[inline(always)]
    unsafe fn store_partial(self, pointer: *mut f32, value: Self::F32, count: usize) {
        let mut buffer = [0.0f32; LANES];
        debug_assert!(count <= LANES);
        // SAFETY: the caller vouches for `count` values and the buffer holds 16.
        unsafe {
            self.store(buffer.as_mut_ptr(), value);
            core::ptr::copy_nonoverlapping(buffer.as_ptr(), pointer, count);
        }
    }
    /// Converts `pointer[0..16]` from IEEE half precision.
    ///
    /// # Safety
    ///
    /// 16 readable values at `pointer`, of any alignment.
    unsafe fn load_f16(self, pointer: *const u16) -> Self::F32;
    /// Rounds to half precision, to nearest even, and writes `pointer[0..16]`.
    ///
    /// # Safety
    ///
    /// 16 writable values at `pointer`, of any alignment.
    unsafe fn store_f16(self, pointer: *mut u16, value: Self::F32);
    /// Converts `pointer[0..16]` from bfloat16.
    ///
    /// # Safety
    ///
    /// 16 readable values at `pointer`, of any alignment.
    unsafe fn load_bf16(self, pointer: *const u16) -> Self::F32;
    /// Rounds to bfloat16, to nearest even, and writes `pointer[0..16]`.
    ///
    /// # Safety
    ///
    /// 16 writable values at `pointer`, of any alignment.
    unsafe fn store_bf16(self, pointer: *mut u16, value: Self::F32);

    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, with one rounding where the instruction set has it.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of each lane.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each lane.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The sum of the lanes, in an order fixed for the implementation.
    fn reduce_sum(self, value: Self::F32) -> f32;
    /// The largest lane.
    fn reduce_max(self, value: Self::F32) -> f32;
    /// Transposes 16 × 16 values: lane `j` of row `i` becomes lane `i` of row `j`.
    fn transpose(self, rows: &mut [Self::F32; LANES]);

    /// `value` in every lane.
    fn splat_i32(self, value: i32) -> Self::I32;
    /// Converts, to nearest.
    fn to_f32(self, value: Self::I32) -> Self::F32;
    /// Rounds to the nearest integer, ties to even; the lanes are within the range of i32.
    fn round(self, value: Self::F32) -> Self::I32;
    /// `2^exponent`, for exponents from -126 to 127.
    fn pow2(self, exponent: Self::I32) -> Self::F32;
    /// The sum of the lanes.
    fn reduce_sum_i32(self, value: Self::I32) -> i32;
    /// Writes the lanes, which are within the range of i8, as `pointer[0..16]`.
    ///
    /// # Safety
    ///
    /// 16 writable bytes at `pointer`.
    unsafe fn store_i8(self, pointer: *mut i8, value: Self::I32);

    /// Loads 64 bytes.
    ///
    /// # Safety
    ///
    /// 64 readable bytes at `pointer`, of any alignment.
    unsafe fn load_block(self, pointer: *const u8) -> Self::Block;
    /// Asks for the 64 bytes at `pointer`, which will be read soon; any address will do.
    #[inline(always)]
    fn prefetch(self, _pointer: *const u8) {}
    /// Stores 64 bytes.
    ///
    /// # Safety
    ///
    /// 64 writable bytes at `pointer`, of any alignment.
    unsafe fn store_block(self, pointer: *mut u8, block: Self::Block);
    /// The low nibble of every byte, times [`Simd::NIBBLE_UNIT`].
    fn low_nibbles(self, block: Self::Block) -> Self::Block;
    /// The high nibble of every byte, as a number of 0..=15 times [`Simd::NIBBLE_UNIT`].
    fn high_nibbles(self, block: Self::Block) -> Self::Block;
    /// Brings signed bytes into the form that [`Simd::dot_i8_group`] takes.
    fn prepare_i8(self, block: Self::Block) -> Self::Block;
    /// `start + sum over a group's 32 k of weight * activation`, for blocks made by [`Simd::unpack_nibbles`], four k a
    /// word.
    ///
    /// # Safety
    ///
    /// 32 readable bytes at `activations`, each -127..=127.
    unsafe fn dot_nibble_group(self, start: Self::I32, weights: &[Self::Block; 8], activations: *const i8)
    -> Self::I32;
    /// `start + sum over a group's 32 k of (weight + I8_BIAS) * activation`, for blocks made by [`Simd::prepare_i8`].
    ///
    /// # Safety
    ///
    /// 32 readable bytes at `activations`, each -127..=127.
    unsafe fn dot_i8_group(self, start: Self::I32, weights: &[Self::Block; 8], activations: *const i8) -> Self::I32;
    /// `sum + the four products` of each lane's word with the word `activations`, for blocks as the group functions
    /// take them; only where [`Simd::WORD_MAJOR`] is set.
    #[inline(always)]
    fn dot_word(self, sum: Self::I32, _weights: Self::Block, _activations: i32) -> Self::I32 {
        debug_assert!(Self::WORD_MAJOR, "a dot product of words without an instruction for it");
        sum
    }
    /// The same as [`Simd::dot_nibble_group`] for four blocks that still hold two nibbles a byte.
    ///
    /// This is the path of a single position, where unpacking serves one product only.
    ///
    /// # Safety
    ///
    /// 32 readable bytes at `activations`, each -127..=127.
    #[inline(always)]
    unsafe fn dot_packed_group(self, start: Self::I32, packed: &[Self::Block; 4], activations: *const i8) -> Self::I32 {
        let weights = self.unpack_nibbles(packed);
        // SAFETY: forwarded.
        unsafe { self.dot_nibble_group(start, &weights, activations) }
    }
    /// Splits a group's four packed blocks into eight blocks of bytes, in the order of k.
    #[inline(always)]
    fn unpack_nibbles(self, packed: &[Self::Block; 4]) -> [Self::Block; 8] {
        [
            self.low_nibbles(packed[0]),
            self.low_nibbles(packed[1]),
            self.low_nibbles(packed[2]),
            self.low_nibbles(packed[3]),
            self.high_nibbles(packed[0]),
            self.high_nibbles(packed[1]),
            self.high_nibbles(packed[2]),
            self.high_nibbles(packed[3]),
        ]
    }

    /// The f16 values in the low and in the high half of each word.
    fn f16_pair(self, block: Self::Block) -> (Self::F32, Self::F32);
    /// The bf16 values in the low and in the high half of each word.
    fn bf16_pair(self, block: Self::Block) -> (Self::F32, Self::F32);
    /// Byte `index` (0..4) of each word, as a signed number.
    fn byte_f32(self, block: Self::Block, index: u32) -> Self::F32;
    /// The four bits from bit `shift` of each word, minus 8.
    fn nibble_f32(self, block: Self::Block, shift: u32) -> Self::F32;
}

/// A CPU with an instruction for dot products of bf16 pairs; it rounds otherwise than two f32 products do.
pub(crate) trait Bf16Dot: Copy + Send + Sync + 'static {
    /// The instruction set for everything else.
    type Base: Simd;
    /// The proof, if this CPU has the instruction.
    fn new() -> Option<Self>;
    /// The proof without detection.
    ///
    /// # Safety
    ///
    /// An earlier [`Bf16Dot::new`] on this machine must have returned `Some`.
    unsafe fn assume() -> Self;
    /// The proof of the base.
    fn base(self) -> Self::Base;
    /// `accumulator + low * low + high * high` of each word's pair, with `activations` the same pair in every lane.
    fn dot(
        self,
        accumulator: <Self::Base as Simd>::F32,
        weights: <Self::Base as Simd>::Block,
        activations: u32,
    ) -> <Self::Base as Simd>::F32;
}
