//! Linear layers of bf16 weights on activations rounded to bf16, for CPUs with an instruction for it.
//!
//! For each output: one sum in f32 over pairs of columns, in the order of k.

use core::ops::Range;

use super::rows::{Rows, RowsMut};
use super::weights::{GROUP, PanelWeights, WeightFormat};
use super::{check_range, store_panel};
use crate::simd::{Bf16Dot, Simd};

/// `output = activations * weights^T + bias`, with bf16 weights and bf16 activations.
#[derive(Clone, Debug)]
pub struct LinearBf16 {
    /// `[n, k]`.
    pub weights: PanelWeights,
    /// `[positions, k padded with zeros to a multiple of 32]`, as bf16 bits; see [`super::Convert`].
    pub activations: Rows<u16>,
    /// `[positions, n]`; columns from `n` on are not touched.
    pub output: RowsMut<f32>,
    /// `[1, n]`.
    pub bias: Option<Rows<f32>>,
    /// Positions of the activations and the output.
    pub positions: usize,
    /// The panels (16 columns of the output each) to compute.
    pub panels: Range<usize>,
}

/// Bytes of panels that are used for all positions before the next ones are; they stay in a core's second-level cache.
const PANEL_BLOCK_BYTES: usize = 512 * 1024;

/// Words (pairs of columns) of a group.
const CHUNK: usize = GROUP / 2;

/// A group of columns of `R` rows of activations.
#[repr(align(64))]
struct Copied<const R: usize>([[u32; CHUNK]; R]);

/// `P` panels times `R` positions.
///
/// # Safety
///
/// As for [`linear_bf16`].
#[inline(always)]
unsafe fn panels_times_positions<D: Bf16Dot, const P: usize, const R: usize>(
    d: D,
    params: &LinearBf16,
    panel: usize,
    row: usize,
) {
    let s = d.base();
    let words = params.weights.groups() * GROUP / 2;
    let mut sums = [[s.splat(0.0); P]; R];
    // SAFETY: a panel has `words` blocks of 64 bytes, and a row of activations as many pairs.
    unsafe {
        let mut panels = [core::ptr::null(); P];
        for (p, start) in panels.iter_mut().enumerate() {
            *start = params.weights.panel(panel + p);
        }
        let mut copy = Copied([[0; CHUNK]; R]);
        for first in (0..words).step_by(CHUNK) {
            // Rows often lie a power of two apart, where they compete for the same few places of a cache: some words
            // of each are copied side by side first.
            for (r, copy) in copy.0.iter_mut().enumerate() {
                let from = params.activations.row(row + r).add(2 * first).cast::<u8>();
                s.store_block(copy.as_mut_ptr().cast(), s.load_block(from));
            }
            for word in 0..CHUNK {
                let mut weights = [s.load_block(panels[0].add(64 * (first + word))); P];
                for p in 1..P {
                    weights[p] = s.load_block(panels[p].add(64 * (first + word)));
                }
                for (sums, copy) in sums.iter_mut().zip(&copy.0) {
                    for p in 0..P {
                        sums[p] = d.dot(sums[p], weights[p], copy[word]);
                    }
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (p, sums) in sums.into_iter().enumerate() {
                store_panel(s, sums, params.output.row(row + r), params.bias, panel + p, params.weights.n);
            }
        }
    }
}

/// # Safety
///
/// As for [`linear_bf16`].
#[inline(always)]
unsafe fn panels_times_all<D: Bf16Dot, const P: usize>(d: D, params: &LinearBf16, panels: Range<usize>) {
    let panel_bytes = params.weights.format.panel_bytes(params.weights.k);
    let block = (PANEL_BLOCK_BYTES / (P * panel_bytes)).max(1) * P;
    let mut first = panels.start;
    while first < panels.end {
        let last = (first + block).min(panels.end);
        let mut row = 0;
        while row < params.positions {
            let left = params.positions - row;
            let step = match left {
                12.. => 12,
                8.. => 8,
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            for panel in (first..last).step_by(P) {
                // SAFETY: forwarded; each call gets at most the positions that are left.
                unsafe {
                    match step {
                        12 => panels_times_positions::<D, P, 12>(d, params, panel, row),
                        8 => panels_times_positions::<D, P, 8>(d, params, panel, row),
                        4 => panels_times_positions::<D, P, 4>(d, params, panel, row),
                        2 => panels_times_positions::<D, P, 2>(d, params, panel, row),
                        _ => panels_times_positions::<D, P, 1>(d, params, panel, row),
                    }
                }
            }
            row += step;
        }
        first = last;
    }
}

/// # Safety
///
/// Weights, activations and bias are readable in their whole shape and nobody writes them; the output's columns of the
/// panels are writable in every position's row, and nobody else uses those columns.
#[inline(always)]
pub(crate) unsafe fn linear_bf16<D: Bf16Dot>(d: D, params: &LinearBf16) {
    check_range(&params.panels, params.weights.n_panels());
    assert_eq!(params.weights.format, WeightFormat::Bf16, "the bf16 kernel takes bf16 weights");
    let Range { start, end } = params.panels;
    let in_fours = start + (end - start) / 4 * 4;
    // SAFETY: forwarded.
    unsafe {
        if params.positions <= 2 {
            // Few positions are few independent sums: more panels at once hide the instruction's latency.
            panels_times_all::<D, 4>(d, params, start..in_fours);
            panels_times_all::<D, 1>(d, params, in_fours..end);
        } else {
            let paired = start + (end - start) / 2 * 2;
            panels_times_all::<D, 2>(d, params, start..paired);
            panels_times_all::<D, 1>(d, params, paired..end);
        }
    }
}
