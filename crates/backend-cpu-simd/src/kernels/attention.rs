//! Causal grouped-query attention over the key and value caches.
//!
//! Keys are taken in blocks of 64, at multiples of 64. A block of keys is transposed and a block of values converted
//! once for all query rows of the cut, that is for all heads of the group and several positions:
//!
//! ```text
//! for each block of keys:
//!     scores = query * keys^T                          [rows, 64]
//!     new    = max(largest, scores);  shrink = exp(largest - new)
//!     p      = exp(scores - new), 0 where the key is in the row's future
//!     total  = total * shrink + sum(p);  output = output * shrink + p * values
//! output / total
//! ```

use core::ops::Range;

use super::convert::{Element, Storage, StoredBf16, StoredF16, StoredF32};
use super::rows::{Rows, RowsMut};
use crate::simd::{LANES, Simd, exp};

/// Attention of one layer.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[positions, kv_heads * group * head_dim]`, after rotation; the heads of a group are neighbours.
    pub query: Rows<f32>,
    /// `[kv_heads, context, head_dim]` of `element`.
    pub keys: Rows<u8>,
    /// `[kv_heads, context, head_dim]` of `element`.
    pub values: Rows<u8>,
    /// How both caches are stored.
    pub element: Element,
    /// `[positions, kv_heads * group * head_dim]`; not the query.
    pub output: RowsMut<f32>,
    /// Positions before row 0 of the query: row `r` sees keys `0..=past + r`.
    pub past: usize,
    /// Positions that a cache has room for.
    pub context: usize,
    /// Query heads of one key-value head.
    pub group: usize,
    /// Values a head.
    pub head_dim: usize,
    /// What scores are multiplied by, `1 / sqrt(head_dim)` as a rule.
    pub scale: f32,
}

/// The part of an [`Attention`] that one call computes; results do not depend on the cut.
#[derive(Clone, Debug)]
pub struct AttentionCut {
    /// The key-value head.
    pub kv_head: usize,
    /// The query heads of its group, within `0..group`.
    pub heads: Range<usize>,
    /// The positions, rows of the query.
    pub positions: Range<usize>,
}

/// Keys of a block.
const KEYS: usize = 64;
/// Vectors of a block of keys.
const KEY_VECTORS: usize = KEYS / LANES;
/// Query rows (positions times heads) that share one transposed block of keys.
const ROWS: usize = 64;

/// 64-byte aligned lanes, so that no vector straddles two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Lanes([f32; LANES]);

/// One thread's working memory for [`Attention`]; made once, used by every call.
#[derive(Debug)]
pub struct AttentionScratch {
    /// The widest head that fits.
    max_head_dim: usize,
    /// `[64 rows, head_dim padded to 16]`, times the scale.
    query: Vec<Lanes>,
    /// `[64 rows, head_dim padded to 16]`, not yet divided by the totals.
    output: Vec<Lanes>,
    /// `[head_dim padded to 16, 64 keys]`.
    keys: Vec<Lanes>,
    /// `[64 keys, head_dim padded to 16]`.
    values: Vec<Lanes>,
    /// `[64 rows, 64 keys]`; only a few rows are in use at once.
    scores: Vec<Lanes>,
    /// `[64 rows, 16]`, sums of exponentials, lane by lane.
    totals: Vec<Lanes>,
    /// `[64 rows]`, the largest score so far.
    largest: [f32; ROWS],
}

impl AttentionScratch {
    /// Room for heads of up to `max_head_dim` values.
    pub fn new(max_head_dim: usize) -> Self {
        let vectors = max_head_dim.div_ceil(LANES);
        let zeros = |count: usize| vec![Lanes([0.0; LANES]); count];
        Self {
            max_head_dim,
            query: zeros(ROWS * vectors),
            output: zeros(ROWS * vectors),
            keys: zeros(vectors * LANES * KEY_VECTORS),
            values: zeros(KEYS * vectors),
            scores: zeros(ROWS * KEY_VECTORS),
            totals: zeros(ROWS),
            largest: [0.0; ROWS],
        }
    }
}

/// The scratch as addresses, and the sizes of this call.
#[derive(Clone, Copy)]
struct Work {
    query: *mut f32,
    output: *mut f32,
    keys: *mut f32,
    values: *mut f32,
    scores: *mut f32,
    totals: *mut f32,
    largest: *mut f32,
    /// Vectors of a head.
    vectors: usize,
    head_dim: usize,
}

/// Transposes the keys of a block and converts its values; vectors of keys beyond `count` keep what they had.
///
/// # Safety
///
/// `count <= 64` rows of `head_dim` stored values at `keys` and at `values`.
#[inline(always)]
unsafe fn load_block<S: Simd, E: Storage>(s: S, work: Work, keys: *const u8, values: *const u8, count: usize) {
    let row_bytes = work.head_dim * E::BYTES;
    for vector in 0..work.vectors {
        let lanes = LANES.min(work.head_dim - vector * LANES);
        let offset = vector * LANES * E::BYTES;
        // SAFETY: rows below `count` have `lanes` values from the offset on; the scratch has 64 keys of `vectors`.
        unsafe {
            for first in (0..count).step_by(LANES) {
                let mut tile = [s.splat(0.0); LANES];
                for (i, tile) in tile.iter_mut().enumerate().take(count - first) {
                    *tile = E::load(s, keys.add((first + i) * row_bytes + offset), lanes);
                }
                s.transpose(&mut tile);
                for (i, tile) in tile.into_iter().enumerate() {
                    s.store(work.keys.add((vector * LANES + i) * KEYS + first), tile);
                }
            }
            for key in 0..count {
                let value = E::load(s, values.add(key * row_bytes + offset), lanes);
                s.store(work.values.add((key * work.vectors + vector) * LANES), value);
            }
        }
    }
}

/// Scores of `R` rows against the block.
///
/// # Safety
///
/// Rows `row..row + R` are below 64.
#[inline(always)]
unsafe fn scores<S: Simd, const R: usize>(s: S, work: Work, row: usize) {
    let width = work.vectors * LANES;
    let mut sums = [[s.splat(0.0); KEY_VECTORS]; R];
    // SAFETY: the scratch has 64 rows of queries and scores, and `width` rows of keys.
    unsafe {
        for d in 0..work.head_dim {
            let mut keys = [s.splat(0.0); KEY_VECTORS];
            for (i, keys) in keys.iter_mut().enumerate() {
                *keys = s.load(work.keys.add(d * KEYS + i * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let query = s.splat(*work.query.add((row + r) * width + d));
                for i in 0..KEY_VECTORS {
                    sums[i] = s.mul_add(keys[i], query, sums[i]);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (i, sums) in sums.into_iter().enumerate() {
                s.store(work.scores.add((row + r) * KEYS + i * LANES), sums);
            }
        }
    }
}

/// Turns a row's scores into weights, given that it sees the first `visible` keys of the block.
/// Returns what the row's output so far must be multiplied by.
///
/// # Safety
///
/// `row` is below 64 and `visible` at most 64.
#[inline(always)]
unsafe fn weigh<S: Simd>(s: S, work: Work, row: usize, visible: usize) -> f32 {
    // SAFETY: the scratch has 64 rows of 64 scores, of totals and of largest scores.
    unsafe {
        let scores = work.scores.add(row * KEYS);
        for key in visible..KEYS {
            *scores.add(key) = f32::NEG_INFINITY;
        }
        if visible == 0 {
            for key in 0..KEYS {
                *scores.add(key) = 0.0;
            }
            return 1.0;
        }
        let before = *work.largest.add(row);
        let mut largest = s.splat(before);
        for i in 0..KEY_VECTORS {
            largest = s.max(s.load(scores.add(i * LANES)), largest);
        }
        let after = s.reduce_max(largest);
        *work.largest.add(row) = after;
        let mut total = s.splat(0.0);
        for i in 0..KEY_VECTORS {
            let weights = scores.add(i * LANES);
            s.store(weights, exp(s, s.sub(s.load(weights), s.splat(after))));
            // What the row must not see weighs nothing at all, not just little.
            for key in (visible.max(i * LANES) - i * LANES).min(LANES)..LANES {
                *weights.add(key) = 0.0;
            }
            total = s.add(total, s.load(weights));
        }
        let shrink = if before == after {
            1.0
        } else if before == f32::NEG_INFINITY {
            0.0
        } else {
            let mut lanes = [0.0; LANES];
            s.store(lanes.as_mut_ptr(), exp(s, s.splat(before - after)));
            lanes[0]
        };
        let totals = work.totals.add(row * LANES);
        s.store(totals, s.mul_add(s.load(totals), s.splat(shrink), total));
        shrink
    }
}

/// Adds the weighted values of `keys` keys to `R` rows, for `C` vectors of the head from `vector` on.
///
/// # Safety
///
/// The rows are below 64, the vectors below the head's, the keys at most 64.
#[inline(always)]
unsafe fn add_values<S: Simd, const R: usize, const C: usize>(
    s: S,
    work: Work,
    row: usize,
    vector: usize,
    shrink: [f32; R],
    keys: usize,
) {
    let width = work.vectors * LANES;
    let mut sums = [[s.splat(0.0); C]; R];
    // SAFETY: the scratch has 64 rows of outputs and scores and 64 keys of values, all as wide as the head.
    unsafe {
        let output = work.output.add(row * width + vector * LANES);
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sums) in sums.iter_mut().enumerate() {
                *sums = s.mul(s.load(output.add(r * width + c * LANES)), s.splat(shrink[r]));
            }
        }
        for key in 0..keys {
            let mut values = [s.splat(0.0); C];
            for (c, values) in values.iter_mut().enumerate() {
                *values = s.load(work.values.add(key * width + (vector + c) * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = s.splat(*work.scores.add((row + r) * KEYS + key));
                for c in 0..C {
                    sums[c] = s.mul_add(values[c], weight, sums[c]);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sums) in sums.into_iter().enumerate() {
                s.store(output.add(r * width + c * LANES), sums);
            }
        }
    }
}

/// `R` rows against the block that was loaded last; row `r` of them sees `visible[r]` of its keys.
///
/// # Safety
///
/// Rows `row..row + R` are below 64.
#[inline(always)]
unsafe fn attend<S: Simd, const R: usize>(s: S, work: Work, row: usize, visible: [usize; R]) {
    let keys = visible.into_iter().max().unwrap_or(0);
    if keys == 0 {
        return;
    }
    let mut shrink = [1.0; R];
    // SAFETY: forwarded.
    unsafe {
        scores::<S, R>(s, work, row);
        for r in 0..R {
            shrink[r] = weigh(s, work, row + r, visible[r]);
        }
        let mut vector = 0;
        while vector + 4 <= work.vectors {
            add_values::<S, R, 4>(s, work, row, vector, shrink, keys);
            vector += 4;
        }
        while vector < work.vectors {
            add_values::<S, R, 1>(s, work, row, vector, shrink, keys);
            vector += 1;
        }
    }
}

/// At most 64 query rows: row `i` of `rows` is head `heads.start + i % heads.len()` of position
/// `positions.start + i / heads.len()`.
///
/// # Safety
///
/// As for [`attention`].
#[inline(always)]
unsafe fn attend_rows<S: Simd, E: Storage>(
    s: S,
    params: &Attention,
    cut: &AttentionCut,
    rows: Range<usize>,
    work: Work,
) {
    let (head_dim, width) = (params.head_dim, work.vectors * LANES);
    let heads = cut.heads.len();
    let place = |row: usize| {
        let head = cut.kv_head * params.group + cut.heads.start + row % heads;
        (cut.positions.start + row / heads, head * head_dim)
    };
    let sees = |row: usize| params.past + place(row).0 + 1;
    let head_bytes = params.context * head_dim * E::BYTES;
    let n_rows = rows.len();
    // SAFETY: at most 64 rows of the caller's query and output, and as many of the scratch; no row sees more keys than
    // the last one, and the cache has as many.
    unsafe {
        for i in 0..n_rows {
            let (position, column) = place(rows.start + i);
            let query = params.query.row(position).add(column);
            for vector in 0..work.vectors {
                let lanes = LANES.min(head_dim - vector * LANES);
                let query = StoredF32::load(s, query.add(vector * LANES).cast(), lanes);
                s.store(work.query.add(i * width + vector * LANES), s.mul(query, s.splat(params.scale)));
                s.store(work.output.add(i * width + vector * LANES), s.splat(0.0));
            }
            s.store(work.totals.add(i * LANES), s.splat(0.0));
            *work.largest.add(i) = f32::NEG_INFINITY;
        }
        let end = sees(rows.end - 1);
        for first in (0..end).step_by(KEYS) {
            let start = cut.kv_head * head_bytes + first * head_dim * E::BYTES;
            let count = KEYS.min(end - first);
            load_block::<S, E>(s, work, params.keys.first.add(start), params.values.first.add(start), count);
            let visible = |i: usize| sees(rows.start + i).saturating_sub(first).min(KEYS);
            let mut i = 0;
            while S::FLOAT_PANELS == 2 && i + 4 <= n_rows {
                attend::<S, 4>(s, work, i, [visible(i), visible(i + 1), visible(i + 2), visible(i + 3)]);
                i += 4;
            }
            while i < n_rows {
                attend::<S, 1>(s, work, i, [visible(i)]);
                i += 1;
            }
        }
        for i in 0..n_rows {
            let (position, column) = place(rows.start + i);
            let output = params.output.row(position).add(column);
            let factor = s.splat(1.0 / s.reduce_sum(s.load(work.totals.add(i * LANES))));
            for vector in 0..work.vectors {
                let lanes = LANES.min(head_dim - vector * LANES);
                let value = s.mul(s.load(work.output.add(i * width + vector * LANES)), factor);
                StoredF32::store(s, output.add(vector * LANES).cast(), value, lanes);
            }
        }
    }
}

/// # Safety
///
/// The query is readable in the heads and positions of the cut, both caches in the key-value head's rows
/// `0..past + positions.end`; the output is writable in the cut and nobody else uses it there.
#[inline(always)]
pub(crate) unsafe fn attention<S: Simd>(s: S, params: &Attention, cut: &AttentionCut, scratch: &mut AttentionScratch) {
    assert!(params.head_dim <= scratch.max_head_dim, "heads are wider than the attention scratch");
    assert!(params.past + cut.positions.end <= params.context, "attention beyond the end of the cache");
    super::check_range(&cut.heads, params.group);
    let work = Work {
        query: scratch.query.as_mut_ptr().cast(),
        output: scratch.output.as_mut_ptr().cast(),
        keys: scratch.keys.as_mut_ptr().cast(),
        values: scratch.values.as_mut_ptr().cast(),
        scores: scratch.scores.as_mut_ptr().cast(),
        totals: scratch.totals.as_mut_ptr().cast(),
        largest: scratch.largest.as_mut_ptr(),
        vectors: params.head_dim.div_ceil(LANES),
        head_dim: params.head_dim,
    };
    let n_rows = cut.heads.len() * cut.positions.len();
    for first in (0..n_rows).step_by(ROWS) {
        let rows = first..(first + ROWS).min(n_rows);
        // SAFETY: forwarded.
        unsafe {
            match params.element {
                Element::Bf16 => attend_rows::<S, StoredBf16>(s, params, cut, rows, work),
                Element::F16 => attend_rows::<S, StoredF16>(s, params, cut, rows, work),
                Element::F32 => attend_rows::<S, StoredF32>(s, params, cut, rows, work),
            }
        }
    }
}
