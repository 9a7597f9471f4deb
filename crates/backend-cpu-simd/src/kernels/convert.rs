//! Kernels that move values from one type or place to another: conversion, cache writes, rows of an embedding.

use core::ops::Range;

use half::{bf16, f16};

use super::rows::Rows;
use super::weights::{GROUP, PANEL_ROWS, PanelWeights, WeightFormat};
use crate::simd::{LANES, Simd};

/// How a plain value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl Element {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Copies rows from one element type to another, rounding to nearest even.
#[derive(Clone, Debug)]
pub struct Convert {
    /// `[positions, features]` of `input_element`, as bytes: the stride is in bytes too.
    pub input: Rows<u8>,
    /// How the input is stored.
    pub input_element: Element,
    /// `[positions, padded_features]` of `output_element`, as bytes: the stride is in bytes too.
    pub output: super::RowsMut<u8>,
    /// How the output is stored.
    pub output_element: Element,
    /// Values a row of the input.
    pub features: usize,
    /// Values a row of the output; those from `features` on become zero.
    pub padded_features: usize,
    /// The positions to do.
    pub positions: Range<usize>,
}

/// Writes new keys or values into a cache.
#[derive(Clone, Debug)]
pub struct CacheWrite {
    /// `[positions, kv_heads * head_dim]`.
    pub input: Rows<f32>,
    /// `[kv_heads, context, head_dim]` of `element`.
    pub cache: super::RowsMut<u8>,
    /// How the cache is stored; f16 or f32.
    pub element: Element,
    /// Positions that the cache has room for.
    pub context: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Where position 0 of the input goes.
    pub past: usize,
    /// The positions of the input to do.
    pub positions: Range<usize>,
    /// The heads to do.
    pub kv_heads: Range<usize>,
}

/// Reads rows of a weight matrix as f32: token embeddings.
#[derive(Clone, Debug)]
pub struct EmbedRow {
    /// `[n, k]`.
    pub weights: PanelWeights,
    /// The row, below `n`.
    pub row: usize,
    /// `[1, k]`.
    pub output: super::RowsMut<f32>,
}

/// An element type as 16 lanes.
pub(super) trait Storage {
    const BYTES: usize;
    /// # Safety
    ///
    /// `count` values at `pointer`, at most 16.
    unsafe fn load<S: Simd>(s: S, pointer: *const u8, count: usize) -> S::F32;
    /// # Safety
    ///
    /// Room for `count` values at `pointer`, at most 16.
    unsafe fn store<S: Simd>(s: S, pointer: *mut u8, value: S::F32, count: usize);
}

pub(super) struct StoredF32;
pub(super) struct StoredF16;
pub(super) struct StoredBf16;

impl Storage for StoredF32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, pointer: *const u8, count: usize) -> S::F32 {
        // SAFETY: forwarded.
        unsafe { if count == LANES { s.load(pointer.cast()) } else { s.load_partial(pointer.cast(), count) } }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, pointer: *mut u8, value: S::F32, count: usize) {
        // SAFETY: forwarded.
        unsafe {
            if count == LANES { s.store(pointer.cast(), value) } else { s.store_partial(pointer.cast(), value, count) }
        }
    }
}

/// Loads fewer than 16 two-byte values by way of a buffer.
///
/// # Safety
///
/// `count` values at `pointer`, at most 16.
#[inline(always)]
unsafe fn buffered(pointer: *const u8, count: usize) -> [u16; LANES] {
    let mut buffer = [0u16; LANES];
    debug_assert!(count <= LANES);
    // SAFETY: the caller vouches for the values, and the buffer has room for 16.
    unsafe { core::ptr::copy_nonoverlapping(pointer.cast::<u16>(), buffer.as_mut_ptr(), count) };
    buffer
}

impl Storage for StoredF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, pointer: *const u8, count: usize) -> S::F32 {
        // SAFETY: forwarded, or from a buffer of 16 values.
        unsafe {
            if count == LANES { s.load_f16(pointer.cast()) } else { s.load_f16(buffered(pointer, count).as_ptr()) }
        }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, pointer: *mut u8, value: S::F32, count: usize) {
        // SAFETY: forwarded, or by way of a buffer of 16 values.
        unsafe {
            if count == LANES {
                s.store_f16(pointer.cast(), value);
            } else {
                let mut buffer = [0u16; LANES];
                s.store_f16(buffer.as_mut_ptr(), value);
                core::ptr::copy_nonoverlapping(buffer.as_ptr(), pointer.cast(), count);
            }
        }
    }
}

impl Storage for StoredBf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, pointer: *const u8, count: usize) -> S::F32 {
        // SAFETY: forwarded, or from a buffer of 16 values.
        unsafe {
            if count == LANES { s.load_bf16(pointer.cast()) } else { s.load_bf16(buffered(pointer, count).as_ptr()) }
        }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, pointer: *mut u8, value: S::F32, count: usize) {
        // SAFETY: forwarded, or by way of a buffer of 16 values.
        unsafe {
            if count == LANES {
                s.store_bf16(pointer.cast(), value);
            } else {
                let mut buffer = [0u16; LANES];
                s.store_bf16(buffer.as_mut_ptr(), value);
                core::ptr::copy_nonoverlapping(buffer.as_ptr(), pointer.cast(), count);
            }
        }
    }
}

/// # Safety
///
/// As for [`convert`].
#[inline(always)]
unsafe fn convert_rows<S: Simd, I: Storage, O: Storage>(s: S, params: &Convert) {
    for position in params.positions.clone() {
        // SAFETY: every access is to a column below `features`, or below `padded_features` of the output.
        unsafe {
            let (from, to) = (params.input.row(position), params.output.row(position));
            for i in (0..params.padded_features).step_by(LANES) {
                let count = LANES.min(params.padded_features - i);
                let present = count.min(params.features.saturating_sub(i));
                let value = if present > 0 { I::load(s, from.add(i * I::BYTES), present) } else { s.splat(0.0) };
                O::store(s, to.add(i * O::BYTES), value, count);
            }
        }
    }
}

/// # Safety
///
/// Rows of the range are readable and writable in their features, and nobody else uses the output's.
#[inline(always)]
pub(crate) unsafe fn convert<S: Simd>(s: S, params: &Convert) {
    assert!(params.features <= params.padded_features, "a conversion cuts its rows short");
    use Element::{Bf16, F16, F32};
    // SAFETY: forwarded.
    unsafe {
        match (params.input_element, params.output_element) {
            (F32, F32) => convert_rows::<S, StoredF32, StoredF32>(s, params),
            (F32, F16) => convert_rows::<S, StoredF32, StoredF16>(s, params),
            (F32, Bf16) => convert_rows::<S, StoredF32, StoredBf16>(s, params),
            (F16, F32) => convert_rows::<S, StoredF16, StoredF32>(s, params),
            (F16, F16) => convert_rows::<S, StoredF16, StoredF16>(s, params),
            (F16, Bf16) => convert_rows::<S, StoredF16, StoredBf16>(s, params),
            (Bf16, F32) => convert_rows::<S, StoredBf16, StoredF32>(s, params),
            (Bf16, F16) => convert_rows::<S, StoredBf16, StoredF16>(s, params),
            (Bf16, Bf16) => convert_rows::<S, StoredBf16, StoredBf16>(s, params),
        }
    }
}

/// # Safety
///
/// The heads of the ranges are readable; their rows `past + position` of the cache are writable and nobody uses those.
#[inline(always)]
pub(crate) unsafe fn cache_write<S: Simd>(s: S, params: &CacheWrite) {
    let CacheWrite { input, cache, element, context, head_dim, past, positions, kv_heads } = params;
    assert!(past + positions.end <= *context, "a cache of {context} positions has no room for the new ones");
    let row_bytes = head_dim * element.bytes();
    for head in kv_heads.clone() {
        // SAFETY: the head is one of the caller's, both in the input's columns and in the cache.
        unsafe {
            let rows = Convert {
                input: Rows {
                    first: input.first.add(head * head_dim).cast(),
                    stride: input.stride * Element::F32.bytes(),
                },
                input_element: Element::F32,
                output: super::RowsMut {
                    first: cache.first.add((head * context + past) * row_bytes),
                    stride: row_bytes,
                },
                output_element: *element,
                features: *head_dim,
                padded_features: *head_dim,
                positions: positions.clone(),
            };
            convert(s, &rows);
        }
    }
}

/// # Safety
///
/// The panel of the row is readable and the output writable in `k` values, and nobody else uses those.
#[inline(always)]
pub(crate) unsafe fn embed_row(params: &EmbedRow) {
    let weights = &params.weights;
    assert!(params.row < weights.n, "row {} of an embedding of {} rows", params.row, weights.n);
    let lane = params.row % PANEL_ROWS;
    let quants = weights.groups() * weights.format.group_bytes();
    for k in 0..weights.k {
        let (group, column) = (k / GROUP, k % GROUP);
        // SAFETY: every offset lies within the row's panel, by the layout of the format.
        let value = unsafe {
            let panel = weights.panel(params.row / PANEL_ROWS);
            let in_group = panel.add(group * weights.format.group_bytes());
            let word = |word: usize| in_group.add((word * PANEL_ROWS + lane) * 4);
            let scale = || {
                let bits = panel.add(quants + (group * PANEL_ROWS + lane) * 2).cast::<u16>().read();
                f16::from_bits(bits).to_f32()
            };
            match weights.format {
                WeightFormat::F32 => word(column).cast::<f32>().read(),
                WeightFormat::F16 => f16::from_bits(word(column / 2).cast::<u16>().add(column % 2).read()).to_f32(),
                WeightFormat::Bf16 => bf16::from_bits(word(column / 2).cast::<u16>().add(column % 2).read()).to_f32(),
                WeightFormat::W8G32 => scale() * f32::from(word(column / 4).add(column % 4).cast::<i8>().read()),
                WeightFormat::W4G32 => {
                    let byte = word(column % 16 / 4).add(column % 4).read();
                    let nibble = if column < 16 { byte & 15 } else { byte >> 4 };
                    scale() * (f32::from(nibble) - 8.0)
                }
            }
        };
        // SAFETY: the output has `k` values.
        unsafe { *params.output.first.add(k) = value }
    }
}
