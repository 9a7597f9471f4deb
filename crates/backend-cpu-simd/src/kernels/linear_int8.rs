//! Linear layers of 4-bit and 8-bit weights on quantised activations: integer dot products within a group, f32 between.
//!
//! For each output: `sum over groups of float(integer dot product) * (weight scale * activation scale)`, groups in order.
//! The integer part is exact, so blocking cannot change a result.

use core::ops::Range;

use super::quantize::{QuantizedRows, TILE};
use super::rows::{Rows, RowsMut};
use super::weights::{GROUP, PANEL_ROWS, PanelWeights, WeightFormat};
use super::{check_range, store_panel};
use crate::simd::Simd;

/// `output = activations * weights^T + bias`, with the weights `w4g32` or `w8g32`.
#[derive(Clone, Debug)]
pub struct LinearInt8 {
    /// `[n, k]`.
    pub weights: PanelWeights,
    /// `[positions, k]`.
    pub activations: QuantizedRows,
    /// `[positions, n]`; columns from `n` on are not touched.
    pub output: RowsMut<f32>,
    /// `[1, n]`.
    pub bias: Option<Rows<f32>>,
    /// The panels (16 columns of the output each) to compute.
    pub panels: Range<usize>,
}

/// Bytes of panels that are used for all positions before the next ones are; they stay in a core's second-level cache.
const PANEL_BLOCK_BYTES: usize = 256 * 1024;

/// How far ahead of a single position's weights memory is asked for.
const PREFETCH_BYTES: usize = 8192;

/// What differs between the two formats.
trait QuantFormat {
    const GROUP_BYTES: usize;
    /// Whether dot products count in steps of [`Simd::NIBBLE_UNIT`].
    const IN_NIBBLE_UNITS: bool;
    /// The group's weights, in the form that `dot` takes.
    ///
    /// # Safety
    ///
    /// `GROUP_BYTES` readable bytes at `group`.
    unsafe fn unpack<S: Simd>(s: S, group: *const u8) -> [S::Block; 8];
    /// Words `word` and `word + 4` of the group, below 4, in the form that `dot` takes.
    ///
    /// # Safety
    ///
    /// `GROUP_BYTES` readable bytes at `group`.
    unsafe fn unpack_words<S: Simd>(s: S, group: *const u8, word: usize) -> [S::Block; 2];
    /// The group's exact dot products with one position; `correction` is that position's.
    ///
    /// # Safety
    ///
    /// 32 readable bytes at `activations`.
    unsafe fn dot<S: Simd>(s: S, weights: &[S::Block; 8], activations: *const i8, correction: i32) -> S::I32;
    /// `dot` of `unpack`, for weights that meet one position only.
    ///
    /// # Safety
    ///
    /// As for both.
    #[inline(always)]
    unsafe fn dot_once<S: Simd>(s: S, group: *const u8, activations: *const i8, correction: i32) -> S::I32 {
        // SAFETY: forwarded.
        unsafe { Self::dot(s, &Self::unpack(s, group), activations, correction) }
    }
}

struct W4;
struct W8;

/// Loads four packed blocks.
///
/// # Safety
///
/// 256 readable bytes at `group`.
#[inline(always)]
unsafe fn load_packed<S: Simd>(s: S, group: *const u8) -> [S::Block; 4] {
    // SAFETY: the caller vouches for the bytes.
    unsafe {
        [s.load_block(group), s.load_block(group.add(64)), s.load_block(group.add(128)), s.load_block(group.add(192))]
    }
}

impl QuantFormat for W4 {
    const GROUP_BYTES: usize = WeightFormat::W4G32.group_bytes();
    const IN_NIBBLE_UNITS: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8) -> [S::Block; 8] {
        // SAFETY: forwarded.
        unsafe { s.unpack_nibbles(&load_packed(s, group)) }
    }

    #[inline(always)]
    unsafe fn unpack_words<S: Simd>(s: S, group: *const u8, word: usize) -> [S::Block; 2] {
        // SAFETY: the caller vouches for 256 bytes.
        let block = unsafe { s.load_block(group.add(64 * word)) };
        [s.low_nibbles(block), s.high_nibbles(block)]
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, weights: &[S::Block; 8], activations: *const i8, correction: i32) -> S::I32 {
        // SAFETY: forwarded.
        unsafe { s.dot_nibble_group(s.splat_i32(correction), weights, activations) }
    }

    #[inline(always)]
    unsafe fn dot_once<S: Simd>(s: S, group: *const u8, activations: *const i8, correction: i32) -> S::I32 {
        // SAFETY: forwarded.
        unsafe { s.dot_packed_group(s.splat_i32(correction), &load_packed(s, group), activations) }
    }
}

impl QuantFormat for W8 {
    const GROUP_BYTES: usize = WeightFormat::W8G32.group_bytes();
    const IN_NIBBLE_UNITS: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8) -> [S::Block; 8] {
        // SAFETY: the caller vouches for 512 bytes.
        unsafe {
            [
                s.prepare_i8(s.load_block(group)),
                s.prepare_i8(s.load_block(group.add(64))),
                s.prepare_i8(s.load_block(group.add(128))),
                s.prepare_i8(s.load_block(group.add(192))),
                s.prepare_i8(s.load_block(group.add(256))),
                s.prepare_i8(s.load_block(group.add(320))),
                s.prepare_i8(s.load_block(group.add(384))),
                s.prepare_i8(s.load_block(group.add(448))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn unpack_words<S: Simd>(s: S, group: *const u8, word: usize) -> [S::Block; 2] {
        // SAFETY: the caller vouches for 512 bytes.
        unsafe {
            [s.prepare_i8(s.load_block(group.add(64 * word))), s.prepare_i8(s.load_block(group.add(64 * (word + 4))))]
        }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, weights: &[S::Block; 8], activations: *const i8, correction: i32) -> S::I32 {
        let start = s.splat_i32(if S::I8_BIAS == 0 { 0 } else { correction });
        // SAFETY: forwarded.
        unsafe { s.dot_i8_group(start, weights, activations) }
    }
}

/// One panel times `R` positions of a tile.
///
/// `row` is the first of them within the tile, `tile` where the tile begins among the scales, `stride` its positions.
///
/// # Safety
///
/// As for [`linear_int8`]; `row + R <= stride`.
#[inline(always)]
unsafe fn panel_times_positions<S: Simd, F: QuantFormat, const R: usize>(
    s: S,
    params: &LinearInt8,
    panel: usize,
    tile_idx: usize,
    row: usize,
) {
    let groups = params.weights.groups();
    let (tile, stride) = params.activations.tile(tile_idx);
    let mut sums = [s.splat(0.0); R];
    // SAFETY: the panel holds `groups` groups and as many rows of scales; the tile's buffers hold `groups * stride`
    // entries from `tile` on, and `row + R` is at most `stride`.
    unsafe {
        let mut quants = params.weights.panel(panel);
        let mut scales = quants.add(groups * F::GROUP_BYTES).cast::<u16>();
        let mut positions = Positions {
            values: params.activations.values.cast_const().add((tile + row) * GROUP),
            scales: params.activations.scales.cast_const().add(tile + row),
            corrections: params.activations.corrections.cast_const().add(tile + row),
        };
        for _ in 0..groups {
            let weight_scales = load_scales::<S, F>(s, scales);
            if R == 1 {
                // A single position waits for memory, and the CPU's own prefetching keeps too short a lead.
                for line in (0..F::GROUP_BYTES).step_by(64) {
                    s.prefetch(quants.wrapping_add(PREFETCH_BYTES + line));
                }
                let dot = F::dot_once(s, quants, positions.values, *positions.corrections);
                let scale = s.mul(weight_scales, s.splat(*positions.scales));
                sums[0] = s.mul_add(s.to_f32(dot), scale, sums[0]);
            } else {
                let weights = F::unpack(s, quants);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let dot = F::dot(s, &weights, positions.values.add(r * GROUP), *positions.corrections.add(r));
                    let scale = s.mul(weight_scales, s.splat(*positions.scales.add(r)));
                    *sum = s.mul_add(s.to_f32(dot), scale, *sum);
                }
            }
            quants = quants.add(F::GROUP_BYTES);
            scales = scales.add(PANEL_ROWS);
            positions = positions.skip(stride);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let output = params.output.row(tile_idx * TILE + row + r);
            store_panel(s, sums, output, params.bias, panel, params.weights.n);
        }
    }
}

/// Where one group of some neighbouring positions lies.
#[derive(Clone, Copy)]
struct Positions {
    values: *const i8,
    scales: *const f32,
    corrections: *const i32,
}

impl Positions {
    /// What lies `count` entries further on.
    ///
    /// # Safety
    ///
    /// The buffers have as many entries, or end there.
    #[inline(always)]
    unsafe fn skip(self, count: usize) -> Self {
        // SAFETY: forwarded.
        unsafe {
            Self {
                values: self.values.add(count * GROUP),
                scales: self.scales.add(count),
                corrections: self.corrections.add(count),
            }
        }
    }
}

/// The scales of a group's 16 rows, for the unit in which its dot products count.
///
/// # Safety
///
/// 16 readable values at `scales`.
#[inline(always)]
unsafe fn load_scales<S: Simd, F: QuantFormat>(s: S, scales: *const u16) -> S::F32 {
    // SAFETY: forwarded.
    let scales = unsafe { s.load_f16(scales) };
    if F::IN_NIBBLE_UNITS && S::NIBBLE_UNIT != 1 {
        // A power of two: every result has the bits that it would have with a unit of one.
        s.mul(scales, s.splat(1.0 / S::NIBBLE_UNIT as f32))
    } else {
        scales
    }
}

/// Panels `panel` and `panel + 1` times `R` positions of a tile, word by word; the same results as one panel at a time.
///
/// # Safety
///
/// As for [`panel_times_positions`].
#[inline(always)]
unsafe fn two_panels_times_positions<S: Simd, F: QuantFormat, const R: usize>(
    s: S,
    params: &LinearInt8,
    panel: usize,
    tile_idx: usize,
    row: usize,
) {
    let groups = params.weights.groups();
    let (tile, stride) = params.activations.tile(tile_idx);
    let mut sums = [[s.splat(0.0); 2]; R];
    // SAFETY: as in `panel_times_positions`, for two panels.
    unsafe {
        let mut quants = [params.weights.panel(panel), params.weights.panel(panel + 1)];
        let mut scales = quants.map(|quants| quants.add(groups * F::GROUP_BYTES).cast::<u16>());
        let mut positions = Positions {
            values: params.activations.values.cast_const().add((tile + row) * GROUP),
            scales: params.activations.scales.cast_const().add(tile + row),
            corrections: params.activations.corrections.cast_const().add(tile + row),
        };
        for _ in 0..groups {
            let mut dots = [[s.splat_i32(0); 2]; R];
            if F::IN_NIBBLE_UNITS || S::I8_BIAS != 0 {
                for (r, dots) in dots.iter_mut().enumerate() {
                    *dots = [s.splat_i32(*positions.corrections.add(r)); 2];
                }
            }
            for word in 0..4 {
                let first = F::unpack_words(s, quants[0], word);
                let second = F::unpack_words(s, quants[1], word);
                for half in 0..2 {
                    for (r, dots) in dots.iter_mut().enumerate() {
                        let at = positions.values.add(r * GROUP + 4 * word + 16 * half);
                        let activations = at.cast::<i32>().read_unaligned();
                        dots[0] = s.dot_word(dots[0], first[half], activations);
                        dots[1] = s.dot_word(dots[1], second[half], activations);
                    }
                }
            }
            let weight_scales = [load_scales::<S, F>(s, scales[0]), load_scales::<S, F>(s, scales[1])];
            for r in 0..R {
                let scale = s.splat(*positions.scales.add(r));
                for p in 0..2 {
                    sums[r][p] = s.mul_add(s.to_f32(dots[r][p]), s.mul(weight_scales[p], scale), sums[r][p]);
                }
            }
            for p in 0..2 {
                quants[p] = quants[p].add(F::GROUP_BYTES);
                scales[p] = scales[p].add(PANEL_ROWS);
            }
            positions = positions.skip(stride);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let output = params.output.row(tile_idx * TILE + row + r);
            store_panel(s, sums[0], output, params.bias, panel, params.weights.n);
            store_panel(s, sums[1], output, params.bias, panel + 1, params.weights.n);
        }
    }
}

/// `P` panels, one or two, times `R` positions of a tile.
///
/// # Safety
///
/// As for [`panel_times_positions`].
#[inline(always)]
unsafe fn panels_times_positions<S: Simd, F: QuantFormat, const P: usize, const R: usize>(
    s: S,
    params: &LinearInt8,
    panel: usize,
    tile: usize,
    row: usize,
) -> usize {
    // SAFETY: forwarded.
    unsafe {
        if P == 2 && R > 1 {
            two_panels_times_positions::<S, F, R>(s, params, panel, tile, row);
        } else {
            for panel in panel..panel + P {
                panel_times_positions::<S, F, R>(s, params, panel, tile, row);
            }
        }
    }
    R
}

/// `P` panels times all positions of a tile, as many at once as the registers hold.
///
/// # Safety
///
/// As for [`linear_int8`].
#[inline(always)]
unsafe fn panels_times_tile<S: Simd, F: QuantFormat, const P: usize>(
    s: S,
    params: &LinearInt8,
    panel: usize,
    tile: usize,
) {
    let (_, positions) = params.activations.tile(tile);
    let mut row = 0;
    while row < positions {
        let left = (positions - row).min(S::INT_POSITIONS);
        // SAFETY: forwarded; each call gets at most the positions that are left.
        row += unsafe {
            match left {
                8.. => panels_times_positions::<S, F, P, 8>(s, params, panel, tile, row),
                4.. => panels_times_positions::<S, F, P, 4>(s, params, panel, tile, row),
                2.. => panels_times_positions::<S, F, P, 2>(s, params, panel, tile, row),
                _ => panels_times_positions::<S, F, P, 1>(s, params, panel, tile, row),
            }
        };
    }
}

/// # Safety
///
/// As for [`linear_int8`].
#[inline(always)]
unsafe fn all_tiles<S: Simd, F: QuantFormat>(s: S, params: &LinearInt8) {
    let tiles = params.activations.positions.div_ceil(TILE);
    let fitting = PANEL_BLOCK_BYTES / params.weights.format.panel_bytes(params.weights.k).max(1);
    let block = (fitting / 2 * 2).max(2);
    let mut first = params.panels.start;
    while first < params.panels.end {
        let last = (first + block).min(params.panels.end);
        for tile in 0..tiles {
            let mut panel = first;
            // SAFETY: forwarded.
            unsafe {
                while S::WORD_MAJOR && panel + 2 <= last {
                    panels_times_tile::<S, F, 2>(s, params, panel, tile);
                    panel += 2;
                }
                while panel < last {
                    panels_times_tile::<S, F, 1>(s, params, panel, tile);
                    panel += 1;
                }
            }
        }
        first = last;
    }
}

/// # Safety
///
/// Weights, activations and bias are readable in their whole shape and nobody writes them; the output's columns of the
/// panels are writable in every position's row, and nobody else uses those columns.
#[inline(always)]
pub(crate) unsafe fn linear_int8<S: Simd>(s: S, params: &LinearInt8) {
    check_range(&params.panels, params.weights.n_panels());
    assert_eq!(params.weights.k, params.activations.k, "a linear layer's activations have another K than its weights");
    // SAFETY: forwarded.
    unsafe {
        match params.weights.format {
            WeightFormat::W4G32 => all_tiles::<S, W4>(s, params),
            WeightFormat::W8G32 => all_tiles::<S, W8>(s, params),
            format => panic!("{format:?} weights have no int8 kernel"),
        }
    }
}
