//! Linear layers on f32 activations with exact weights of every format, accumulated in f32.
//!
//! For each output: `sum over groups of 32 columns of scale * (sum over the group of activation * weight)`, both in the
//! order of k. Short inner sums keep rounding errors small, and they let a quantised weight stay an integer inside.

use core::ops::Range;

use super::rows::{Rows, RowsMut};
use super::weights::{GROUP, PANEL_ROWS, PanelWeights, WeightFormat};
use super::{check_range, store_panel};
use crate::simd::{LANES, Simd};

/// `output = activations * weights^T + bias`, with weights of any format.
#[derive(Clone, Debug)]
pub struct LinearFloat {
    /// `[n, k]`.
    pub weights: PanelWeights,
    /// `[positions, k]`.
    pub activations: Rows<f32>,
    /// `[positions, n]`; columns from `n` on are not touched.
    pub output: RowsMut<f32>,
    /// `[1, n]`.
    pub bias: Option<Rows<f32>>,
    /// Positions of the activations and the output.
    pub positions: usize,
    /// The panels (16 columns of the output each) to compute.
    pub panels: Range<usize>,
}

/// Most positions that share one unpacking of the weights.
const MAX_POSITIONS: usize = 64;
/// Bytes of activations that are used for all panels of a call before the next ones are.
const ACTIVATION_BLOCK_BYTES: usize = 768 * 1024;
/// Values of one group of one panel.
const GROUP_VALUES: usize = GROUP * PANEL_ROWS;

/// A group of one panel as f32, `[32, 16]`: column by column.
#[repr(align(64))]
struct UnpackedGroup([f32; GROUP_VALUES]);

/// How a format becomes f32; the scale is applied to sums.
trait FloatFormat {
    const FORMAT: WeightFormat;
    /// Writes a group as f32 without its scale, or returns where it lies as f32 already.
    ///
    /// # Safety
    ///
    /// `FORMAT.group_bytes()` readable bytes at `group`.
    unsafe fn unpack<S: Simd>(s: S, group: *const u8, scratch: &mut UnpackedGroup) -> *const f32;
}

struct F32;
struct F16;
struct Bf16;
struct W8;
struct W4;

impl FloatFormat for F32 {
    const FORMAT: WeightFormat = WeightFormat::F32;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(_: S, group: *const u8, _: &mut UnpackedGroup) -> *const f32 {
        group.cast()
    }
}

impl FloatFormat for F16 {
    const FORMAT: WeightFormat = WeightFormat::F16;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8, scratch: &mut UnpackedGroup) -> *const f32 {
        let to = scratch.0.as_mut_ptr();
        for word in 0..GROUP / 2 {
            // SAFETY: the group has 16 words of 16 rows, which make 32 columns of 16 values.
            unsafe {
                let (low, high) = s.f16_pair(s.load_block(group.add(64 * word)));
                s.store(to.add(2 * word * LANES), low);
                s.store(to.add((2 * word + 1) * LANES), high);
            }
        }
        to
    }
}

impl FloatFormat for Bf16 {
    const FORMAT: WeightFormat = WeightFormat::Bf16;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8, scratch: &mut UnpackedGroup) -> *const f32 {
        let to = scratch.0.as_mut_ptr();
        for word in 0..GROUP / 2 {
            // SAFETY: the group has 16 words of 16 rows, which make 32 columns of 16 values.
            unsafe {
                let (low, high) = s.bf16_pair(s.load_block(group.add(64 * word)));
                s.store(to.add(2 * word * LANES), low);
                s.store(to.add((2 * word + 1) * LANES), high);
            }
        }
        to
    }
}

impl FloatFormat for W8 {
    const FORMAT: WeightFormat = WeightFormat::W8G32;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8, scratch: &mut UnpackedGroup) -> *const f32 {
        let to = scratch.0.as_mut_ptr();
        for word in 0..GROUP / 4 {
            // SAFETY: the group has 8 words of 16 rows, which make 32 columns of 16 values.
            unsafe {
                let block = s.load_block(group.add(64 * word));
                for byte in 0..4 {
                    s.store(to.add((4 * word + byte) * LANES), s.byte_f32(block, byte as u32));
                }
            }
        }
        to
    }
}

impl FloatFormat for W4 {
    const FORMAT: WeightFormat = WeightFormat::W4G32;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, group: *const u8, scratch: &mut UnpackedGroup) -> *const f32 {
        let to = scratch.0.as_mut_ptr();
        for word in 0..4 {
            // SAFETY: the group has 4 words of 16 rows, which make 32 columns of 16 values.
            unsafe {
                let block = s.load_block(group.add(64 * word));
                for byte in 0..4 {
                    let column = 4 * word + byte;
                    s.store(to.add(column * LANES), s.nibble_f32(block, 8 * byte as u32));
                    s.store(to.add((16 + column) * LANES), s.nibble_f32(block, 8 * byte as u32 + 4));
                }
            }
        }
        to
    }
}

/// A group of columns of `R` rows of activations.
#[repr(align(64))]
struct Copied<const R: usize>([[f32; GROUP]; R]);

/// The sums of a block of positions for `P` panels.
#[repr(align(64))]
struct Sums<const P: usize>([[[f32; LANES]; P]; MAX_POSITIONS]);

/// Adds one group of `P` panels to the sums of `R` positions.
///
/// # Safety
///
/// 32 rows of 16 values at each of `weights`, zeros from `columns` on; `columns` activations in each of `R` rows from `activations`.
#[inline(always)]
unsafe fn group_times_positions<S: Simd, const P: usize, const R: usize>(
    s: S,
    weights: [*const f32; P],
    scales: Option<[S::F32; P]>,
    activations: Rows<f32>,
    columns: usize,
    sums: &mut [[[f32; LANES]; P]],
) {
    // Rows often lie a power of two apart, where they compete for the same few places of a cache: many of them are
    // copied side by side first. The copy's zeros beyond `columns` meet the zeros that fill up a panel.
    let mut copy = Copied([[0.0; GROUP]; R]);
    let (activations, columns) = if R >= 4 {
        for (r, copy) in copy.0.iter_mut().enumerate() {
            // SAFETY: row r has `columns` values, at most 32, and the copy has room for 32.
            unsafe {
                let (from, to) = (activations.row(r), copy.as_mut_ptr());
                if columns == GROUP {
                    s.store(to, s.load(from));
                    s.store(to.add(LANES), s.load(from.add(LANES)));
                } else {
                    core::ptr::copy_nonoverlapping(from, to, columns);
                }
            }
        }
        (Rows::of(copy.0.as_flattened(), GROUP), GROUP)
    } else {
        (activations, columns)
    };
    let mut group = [[s.splat(0.0); P]; R];
    for k in 0..columns {
        let mut column = [s.splat(0.0); P];
        for p in 0..P {
            // SAFETY: column k exists.
            column[p] = unsafe { s.load(weights[p].add(k * LANES)) };
        }
        for (r, group) in group.iter_mut().enumerate() {
            // SAFETY: row r and column k exist.
            let activation = s.splat(unsafe { *activations.row(r).add(k) });
            for p in 0..P {
                group[p] = s.mul_add(column[p], activation, group[p]);
            }
        }
    }
    for (group, sums) in group.into_iter().zip(sums) {
        for p in 0..P {
            let sum = sums[p].as_mut_ptr();
            // SAFETY: 16 values at `sum`.
            unsafe {
                let before = s.load(sum);
                let after = match scales {
                    Some(scales) => s.mul_add(group[p], scales[p], before),
                    None => s.add(group[p], before),
                };
                s.store(sum, after);
            }
        }
    }
}

/// Positions `rows` of `P` panels from `panel` on.
///
/// # Safety
///
/// As for [`linear_float`]; at most `MAX_POSITIONS` rows.
#[inline(always)]
unsafe fn panels_times_block<S: Simd, F: FloatFormat, const P: usize>(
    s: S,
    params: &LinearFloat,
    panel: usize,
    rows: Range<usize>,
    sums: &mut Sums<P>,
    scratch: &mut [UnpackedGroup; P],
) {
    let (k, groups) = (params.weights.k, params.weights.groups());
    let positions = rows.len();
    let group_bytes = F::FORMAT.group_bytes();
    for sums in &mut sums.0[..positions] {
        *sums = [[0.0; LANES]; P];
    }
    for group in 0..groups {
        let mut weights = [core::ptr::null(); P];
        let mut scales = [s.splat(0.0); P];
        for (p, scratch) in scratch.iter_mut().enumerate() {
            // SAFETY: the panel exists and has this group; its scales follow the last group.
            unsafe {
                let start = params.weights.panel(panel + p);
                weights[p] = F::unpack(s, start.add(group * group_bytes), scratch);
                if F::FORMAT.is_quantized() {
                    scales[p] = s.load_f16(start.add(groups * group_bytes + group * PANEL_ROWS * 2).cast());
                }
            }
        }
        let scales = if F::FORMAT.is_quantized() { Some(scales) } else { None };
        let column = group * GROUP;
        let columns = GROUP.min(k - column);
        let mut row = 0;
        while row < positions {
            let left = (positions - row).min(S::FLOAT_POSITIONS);
            let sums = &mut sums.0[row..];
            // SAFETY: at most the rows that are left, and the columns that are left in them.
            row += unsafe {
                let from = Rows {
                    first: params.activations.row(rows.start + row).add(column),
                    stride: params.activations.stride,
                };
                match left {
                    12.. => {
                        group_times_positions::<S, P, 12>(s, weights, scales, from, columns, sums);
                        12
                    }
                    8.. => {
                        group_times_positions::<S, P, 8>(s, weights, scales, from, columns, sums);
                        8
                    }
                    4.. => {
                        group_times_positions::<S, P, 4>(s, weights, scales, from, columns, sums);
                        4
                    }
                    2.. => {
                        group_times_positions::<S, P, 2>(s, weights, scales, from, columns, sums);
                        2
                    }
                    _ => {
                        group_times_positions::<S, P, 1>(s, weights, scales, from, columns, sums);
                        1
                    }
                }
            };
        }
    }
    for (row, sums) in rows.zip(&sums.0) {
        for (p, sums) in sums.iter().enumerate() {
            // SAFETY: the row and the panel are the caller's.
            unsafe {
                let sums = s.load(sums.as_ptr());
                store_panel(s, sums, params.output.row(row), params.bias, panel + p, params.weights.n);
            }
        }
    }
}

/// All positions, block by block, for `P` panels at a time.
///
/// # Safety
///
/// As for [`linear_float`].
#[inline(always)]
unsafe fn all_blocks<S: Simd, F: FloatFormat, const P: usize>(s: S, params: &LinearFloat, panels: Range<usize>) {
    let step = S::FLOAT_POSITIONS;
    let fitting = ACTIVATION_BLOCK_BYTES / (params.weights.k.max(1) * 4);
    let block = (fitting.min(MAX_POSITIONS) / step * step).max(step);
    let mut sums = Sums([[[0.0; LANES]; P]; MAX_POSITIONS]);
    let mut scratch = [const { UnpackedGroup([0.0; GROUP_VALUES]) }; P];
    let mut row = 0;
    while row < params.positions {
        let rows = row..(row + block).min(params.positions);
        for panel in panels.clone().step_by(P) {
            // SAFETY: forwarded; a block has at most `MAX_POSITIONS` positions.
            unsafe { panels_times_block::<S, F, P>(s, params, panel, rows.clone(), &mut sums, &mut scratch) }
        }
        row += block;
    }
}

/// # Safety
///
/// As for [`linear_float`].
#[inline(always)]
unsafe fn with_format<S: Simd, F: FloatFormat>(s: S, params: &LinearFloat) {
    let Range { start, end } = params.panels;
    // SAFETY: forwarded.
    unsafe {
        if S::FLOAT_PANELS == 2 {
            let paired = start + (end - start) / 2 * 2;
            all_blocks::<S, F, 2>(s, params, start..paired);
            all_blocks::<S, F, 1>(s, params, paired..end);
        } else {
            all_blocks::<S, F, 1>(s, params, start..end);
        }
    }
}

/// # Safety
///
/// Weights, activations and bias are readable in their whole shape and nobody writes them; the output's columns of the
/// panels are writable in every position's row, and nobody else uses those columns.
#[inline(always)]
pub(crate) unsafe fn linear_float<S: Simd>(s: S, params: &LinearFloat) {
    check_range(&params.panels, params.weights.n_panels());
    // SAFETY: forwarded.
    unsafe {
        match params.weights.format {
            WeightFormat::Bf16 => with_format::<S, Bf16>(s, params),
            WeightFormat::F16 => with_format::<S, F16>(s, params),
            WeightFormat::F32 => with_format::<S, F32>(s, params),
            WeightFormat::W4G32 => with_format::<S, W4>(s, params),
            WeightFormat::W8G32 => with_format::<S, W8>(s, params),
        }
    }
}
