//! Activations to int8, one scale for every 32 columns, in the order in which the int8 kernel reads them.

use core::ops::Range;

use super::check_range;
use super::rows::Rows;
use super::weights::GROUP;
use crate::simd::{LANES, Simd};

/// Positions that are interleaved group by group.
pub(crate) const TILE: usize = 16;

/// Quantised activations `[positions, k]`, in buffers that the caller owns.
///
/// Positions are taken in tiles of 16; the last tile has what is left. Within a tile of `t` positions the values lie as
/// `[groups, t, 32]`, scales and corrections as `[groups, t]`, and tiles follow one another, so the kernel reads
/// each buffer from front to back.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRows {
    /// `positions * groups * 32` values, -127..=127.
    pub values: *mut i8,
    /// `positions * groups` scales: a value stands for `scale * value`.
    pub scales: *mut f32,
    /// `positions * groups` times the sum of the group's values, times a factor of the instruction set (-8 or -128):
    /// what the offset of a weight adds too much. Only kernels of the same instruction set understand it.
    pub corrections: *mut i32,
    /// Positions in all; they decide where each one lies.
    pub positions: usize,
    /// Input features.
    pub k: usize,
}

// SAFETY: addresses and no more; only kernels follow them, and the contract of each kernel call says what must be
// readable, writable and not shared.
unsafe impl Send for QuantizedRows {}
// SAFETY: as above.
unsafe impl Sync for QuantizedRows {}

impl QuantizedRows {
    /// Groups of 32 columns, the last of which may be padded.
    pub const fn groups(&self) -> usize {
        self.k.div_ceil(GROUP)
    }

    /// Length of `scales` and of `corrections` for a shape; `values` has 32 times as many.
    pub const fn n_scales(positions: usize, k: usize) -> usize {
        positions * k.div_ceil(GROUP)
    }

    /// Where group 0 of a tile's first position lies among the scales, and how many positions the tile has.
    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> (usize, usize) {
        (tile * TILE * self.groups(), TILE.min(self.positions - tile * TILE))
    }
}

/// Quantises f32 rows.
#[derive(Clone, Debug)]
pub struct QuantizeActivations {
    /// `[positions, k]`.
    pub input: Rows<f32>,
    /// Where the result goes.
    pub output: QuantizedRows,
    /// The positions to do.
    pub positions: Range<usize>,
    /// The groups of 32 columns to do.
    pub groups: Range<usize>,
}

/// # Safety
///
/// All rows of the ranges are readable, all buffers of the output writable for them, and nobody else uses those.
#[inline(always)]
pub(crate) unsafe fn quantize_activations<S: Simd>(s: S, params: &QuantizeActivations) {
    let QuantizeActivations { input, output, positions, groups } = params;
    check_range(positions, output.positions);
    check_range(groups, output.groups());
    for position in positions.clone() {
        let (tile_start, tile_positions) = output.tile(position / TILE);
        for group in groups.clone() {
            let at = tile_start + group * tile_positions + position % TILE;
            let column = group * GROUP;
            let count = GROUP.min(output.k - column);
            // SAFETY: the position and group are within the caller's ranges and `count` columns are left in the row.
            unsafe {
                let from = input.row(position).add(column);
                let (low, high) = if count == GROUP {
                    (s.load(from), s.load(from.add(LANES)))
                } else if count > LANES {
                    (s.load(from), s.load_partial(from.add(LANES), count - LANES))
                } else {
                    (s.load_partial(from, count), s.splat(0.0))
                };
                let zero = s.splat(0.0);
                let magnitude = s.max(s.max(low, s.sub(zero, low)), s.max(high, s.sub(zero, high)));
                let largest = s.reduce_max(magnitude);
                // Below this the reciprocal overflows; such a group is zero for every purpose.
                let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
                let low = s.round(s.mul(low, s.splat(inverse)));
                let high = s.round(s.mul(high, s.splat(inverse)));
                s.store_i8(output.values.add(at * GROUP), low);
                s.store_i8(output.values.add(at * GROUP + LANES), high);
                *output.scales.add(at) = largest / 127.0;
                *output.corrections.add(at) = -8 * S::NIBBLE_UNIT * (s.reduce_sum_i32(low) + s.reduce_sum_i32(high));
            }
        }
    }
}
