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
const PANEL_BLOCK_BYTES: usize = 512 * 1024;

/// What differs between the two formats.
trait QuantFormat {
    const GROUP_BYTES: usize;
    /// The group's weights, in the form that `dot` takes.
    ///
    /// # Safety
    ///
    /// `GROUP_BYTES` readable bytes at `group`.
    unsafe fn unpack<S: Simd>(s: S, group: *const u8) -> [S::Block; 8];
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
        [
            s.load_block(group),
            s.load_block(group.add(64)),
            s.load_block(group.add(128)),
            s.load_block(group.add(192)),
        ]
    }
}

impl QuantFormat for W4 {
    const GROUP_BYTES: usize = WeightFormat::W4G32.group_bytes();

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8) -> [S::Block; 8] {
        // SAFETY: forwarded.
        unsafe { s.unpack_nibbles(&load_packed(s, group)) }
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
    unsafe fn dot<S: Simd>(s: S, weights: &[S::Block; 8], activations: *const i8, correction: i32) -> S::I32 {
        // The correction is for an offset of 8.
        let start = s.splat_i32(correction * (S::I8_BIAS / 8));
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
        let mut values = params.activations.values.cast_const().add((tile + row) * GROUP);
        let mut value_scales = params.activations.scales.cast_const().add(tile + row);
        let mut corrections = params.activations.corrections.cast_const().add(tile + row);
        for _ in 0..groups {
            let weight_scales = s.load_f16(scales);
            if R == 1 {
                let dot = F::dot_once(s, quants, values, *corrections);
                let scale = s.mul(weight_scales, s.splat(*value_scales));
                sums[0] = s.mul_add(s.to_f32(dot), scale, sums[0]);
            } else {
                let weights = F::unpack(s, quants);
                for r in 0..R {
                    let dot = F::dot(s, &weights, values.add(r * GROUP), *corrections.add(r));
                    let scale = s.mul(weight_scales, s.splat(*value_scales.add(r)));
                    sums[r] = s.mul_add(s.to_f32(dot), scale, sums[r]);
                }
            }
            quants = quants.add(F::GROUP_BYTES);
            scales = scales.add(PANEL_ROWS);
            values = values.add(stride * GROUP);
            value_scales = value_scales.add(stride);
            corrections = corrections.add(stride);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let output = params.output.row(tile_idx * TILE + row + r);
            store_panel(s, sums, output, params.bias, panel, params.weights.n);
        }
    }
}

/// One panel times all positions of a tile, as many at once as the registers hold.
///
/// # Safety
///
/// As for [`linear_int8`].
#[inline(always)]
unsafe fn panel_times_tile<S: Simd, F: QuantFormat>(s: S, params: &LinearInt8, panel: usize, tile: usize) {
    let (_, positions) = params.activations.tile(tile);
    let mut row = 0;
    while row < positions {
        let left = (positions - row).min(S::INT_POSITIONS);
        // SAFETY: forwarded; each call gets at most the positions that are left.
        row += unsafe {
            match left {
                16.. => {
                    panel_times_positions::<S, F, 16>(s, params, panel, tile, row);
                    16
                }
                8.. => {
                    panel_times_positions::<S, F, 8>(s, params, panel, tile, row);
                    8
                }
                4.. => {
                    panel_times_positions::<S, F, 4>(s, params, panel, tile, row);
                    4
                }
                2.. => {
                    panel_times_positions::<S, F, 2>(s, params, panel, tile, row);
                    2
                }
                _ => {
                    panel_times_positions::<S, F, 1>(s, params, panel, tile, row);
                    1
                }
            }
        };
    }
}

#[inline(always)]
unsafe fn all_tiles<S: Simd, F: QuantFormat>(s: S, params: &LinearInt8) {
    let tiles = params.activations.positions.div_ceil(TILE);
    let block = (PANEL_BLOCK_BYTES / params.weights.format.panel_bytes(params.weights.k)).max(1);
    let mut first = params.panels.start;
    while first < params.panels.end {
        let last = (first + block).min(params.panels.end);
        for tile in 0..tiles {
            for panel in first..last {
                // SAFETY: forwarded.
                unsafe { panel_times_tile::<S, F>(s, params, panel, tile) }
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
