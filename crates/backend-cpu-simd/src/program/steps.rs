//! The steps of a program, one kind for each operator.

use std::ops::Range;
use std::sync::Arc;

use hetero_core::{DType, Op, RowSelection, Segment, SegmentNode, Weight};

use super::linear::LinearGroup;
use super::scratch::{Angles, Scratch, ScratchNeed};
use super::{Run, part_rows};
use crate::kernels::{
    Attention, AttentionCut, CacheWrite, Convert, Element, Elementwise, RmsNorm, Rope, Rows, RowsMut, Softmax,
};
use crate::weight::downcast;
use crate::worker_pool::ChunkCounter;

/// One or several operators as kernel calls.
#[derive(Debug)]
pub(super) enum Step {
    /// Linear operators that share an input.
    Linear(LinearGroup),
    /// Everything else.
    Other(Node),
}

/// One node with its values as indices of bindings.
#[derive(Debug)]
pub(super) struct Node {
    op: Op,
    inputs: Vec<usize>,
    /// Element types of the inputs.
    input_dtypes: Vec<DType>,
    output: usize,
    output_dtype: DType,
    rows: Range<usize>,
    follows_step: bool,
    columns: Range<usize>,
    weights: Vec<Arc<dyn Weight>>,
}

impl Step {
    /// # Panics
    /// When the node is linear: those are grouped.
    pub(super) fn new(segment: &Segment, node: &SegmentNode) -> Step {
        let spec = segment.graph.node(node.node);
        let (rows, follows_step) = part_rows(segment, node);
        assert!(!matches!(spec.op, Op::Linear { .. }), "linear operators are grouped");
        Step::Other(Node {
            op: spec.op.clone(),
            inputs: spec.inputs.iter().map(|&input| segment.binding_idx(input)).collect(),
            input_dtypes: spec.inputs.iter().map(|&input| segment.graph.value(input).dtype).collect(),
            output: segment.binding_idx(spec.output),
            output_dtype: segment.graph.value(spec.output).dtype,
            rows,
            follows_step,
            columns: node.part.columns.clone(),
            weights: node.weights.clone(),
        })
    }

    pub(super) fn scratch_need(&self, capacity: usize) -> ScratchNeed {
        match self {
            Step::Linear(group) => group.scratch_need(capacity),
            Step::Other(node) => match &node.op {
                Op::Rope { frequencies, .. } => {
                    ScratchNeed { angles: capacity * frequencies.len(), ..Default::default() }
                }
                Op::Attention { head_dim, .. } => ScratchNeed { head_dim: *head_dim, ..Default::default() },
                _ => ScratchNeed::default(),
            },
        }
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    pub(super) unsafe fn run(&self, run: &Run<'_>, scratch: &mut Scratch) {
        // SAFETY: forwarded.
        unsafe {
            match self {
                Step::Linear(group) => group.run(run, scratch),
                Step::Other(node) => node.run(run, scratch),
            }
        }
    }
}

impl Node {
    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn run(&self, run: &Run<'_>, scratch: &mut Scratch) {
        let rows = if self.follows_step { run.rows_in_use(&self.rows) } else { self.rows.clone() };
        if rows.is_empty() {
            return;
        }
        // SAFETY: forwarded.
        unsafe {
            match &self.op {
                Op::Embed { .. } => self.embed(run, &rows),
                Op::RmsNorm { epsilon, .. } => self.rms_norm(run, &rows, *epsilon),
                Op::Rope { head_dim, frequencies, .. } => self.rope(run, scratch, &rows, *head_dim, frequencies),
                Op::CacheWrite { kv_heads, head_dim, context } => {
                    self.cache_write(run, [*kv_heads, *head_dim, *context]);
                }
                Op::Attention { .. } => self.attention(run, scratch, &rows),
                Op::Swiglu { .. } => self.elementwise(run, &rows, run.kernels.swiglu),
                Op::Add { .. } => self.elementwise(run, &rows, run.kernels.add),
                Op::Convert { rows: selection, .. } => self.convert(run, &rows, *selection),
                Op::Softmax { features } => self.softmax(run, &rows, *features),
                other => unreachable!("`CpuBackend::support` refuses {}", other.name()),
            }
        }
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn embed(&self, run: &Run<'_>, rows: &Range<usize>) {
        let table = &downcast(&self.weights[0]).rows().matrix;
        let layout = *table.layout();
        let whole = self.columns == (0..layout.columns);
        run.parallel(rows.len(), rows.len() * layout.columns, |items| {
            let mut buffer = if whole { Vec::new() } else { vec![0.0; layout.columns] };
            for row in rows.start + items.start..rows.start + items.end {
                // SAFETY: the ids have this row and one column.
                let id = unsafe { *run.rows::<u32>(self.inputs[0], row, 0).first } as usize;
                assert!(id < layout.rows, "token id {id} with a vocabulary of {}", layout.rows);
                // SAFETY: the slot owns these columns of the row, and this worker alone has the row.
                let output = unsafe {
                    let first = run.rows_mut::<f32>(self.output, row, self.columns.start).first;
                    std::slice::from_raw_parts_mut(first, self.columns.len())
                };
                if whole {
                    table.read_row(id, output);
                } else {
                    table.read_row(id, &mut buffer);
                    output.copy_from_slice(&buffer[self.columns.clone()]);
                }
            }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn rms_norm(&self, run: &Run<'_>, rows: &Range<usize>, epsilon: f32) {
        let weight = downcast(&self.weights[0]).row();
        let features = weight.len();
        // SAFETY: both tensors have these rows and `features` columns.
        let (input, output) = unsafe { (run.rows(self.inputs[0], 0, 0), run.rows_mut(self.output, 0, 0)) };
        run.parallel(rows.len(), rows.len() * features, |items| {
            let positions = rows.start + items.start..rows.start + items.end;
            let weight = Rows::of(weight, features);
            // SAFETY: the cuts are disjoint rows of the part.
            unsafe { (run.kernels.rms_norm)(&RmsNorm { input, weight, output, epsilon, features, positions }) }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn rope(
        &self,
        run: &Run<'_>,
        scratch: &mut Scratch,
        rows: &Range<usize>,
        head_dim: usize,
        frequencies: &Arc<[f32]>,
    ) {
        let half = head_dim / 2;
        let Angles { cos, sin, is_filled } = scratch.angles(frequencies, run.step.rows);
        let (cos, sin) = (RowsMut { first: cos, stride: half }, RowsMut { first: sin, stride: half });
        if !is_filled {
            // All positions of the step, whatever the part: the tables serve every layer's queries and keys.
            run.parallel(run.step.rows, run.step.rows * half * ANGLE_COST, |items| {
                for row in items {
                    let position = (run.step.past + row) as f32;
                    for (i, frequency) in frequencies.iter().enumerate() {
                        let (s, c) = (position * frequency).sin_cos();
                        // SAFETY: the scratch has room for `step.rows * half` and this worker alone has the row.
                        unsafe {
                            *cos.row(row).add(i) = c;
                            *sin.row(row).add(i) = s;
                        }
                    }
                }
            });
        }
        let heads = self.columns.start / head_dim..self.columns.end / head_dim;
        // SAFETY: both tensors have these rows and the part's columns.
        let (input, data) =
            unsafe { (run.rows::<f32>(self.inputs[0], 0, self.columns.start), run.rows_mut::<f32>(self.output, 0, 0)) };
        run.parallel(rows.len(), rows.len() * self.columns.len(), |items| {
            let positions = rows.start + items.start..rows.start + items.end;
            for row in positions.clone() {
                // SAFETY: input and output are different tensors; both have the row and the part's columns.
                unsafe {
                    let from = input.row(row);
                    let to = data.row(row).add(self.columns.start);
                    from.copy_to_nonoverlapping(to, self.columns.len());
                }
            }
            let (cos, sin, heads) = (cos.as_rows(), sin.as_rows(), heads.clone());
            // SAFETY: the cuts are disjoint rows of the part; the tables are filled for all rows of the step.
            unsafe { (run.kernels.rope)(&Rope { data, cos, sin, head_dim, positions, heads }) }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn cache_write(&self, run: &Run<'_>, [kv_heads, head_dim, context]: [usize; 3]) {
        let element = element(self.output_dtype);
        // SAFETY: the input has the step's rows, the cache `[kv_heads * context, head_dim]` elements.
        let (input, cache) = unsafe { (run.rows(self.inputs[0], 0, 0), bytes_of(run, self.output, element)) };
        run.parallel(run.step.rows, run.step.rows * kv_heads * head_dim, |positions| {
            let past = run.step.past;
            let params =
                CacheWrite { input, cache, element, context, head_dim, past, positions, kv_heads: 0..kv_heads };
            // SAFETY: the cuts are disjoint positions, all below `context` by `StepCheck`.
            unsafe { (run.kernels.cache_write)(&params) }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn attention(&self, run: &Run<'_>, scratch: &Scratch, rows: &Range<usize>) {
        let Op::Attention { heads, kv_heads, head_dim, context, scale } = self.op else {
            unreachable!("called for attention only")
        };
        let element = element(self.input_dtypes[1]);
        let group = heads / kv_heads;
        // SAFETY: queries and output have these rows, the caches `[kv_heads * context, head_dim]` elements.
        let params = unsafe {
            Attention {
                query: run.rows(self.inputs[0], 0, 0),
                keys: bytes_of(run, self.inputs[1], element).as_rows(),
                values: bytes_of(run, self.inputs[2], element).as_rows(),
                element,
                output: run.rows_mut(self.output, 0, 0),
                past: run.step.past,
                context,
                group,
                head_dim,
                scale,
            }
        };
        let kv_heads = self.columns.start / (group * head_dim)..self.columns.end / (group * head_dim);
        // Query rows that share a block of keys: several positions of all heads of a group.
        let block = (ATTENTION_ROWS / group).max(1);
        let n_blocks = rows.len().div_ceil(block);
        // With few items, such as one position, the heads of a group are cut as well.
        let n_workers = run.pool.n_workers();
        let head_cuts = if n_blocks * kv_heads.len() < n_workers { group } else { 1 };
        let n_items = n_blocks * kv_heads.len() * head_cuts;
        let counter = ChunkCounter::new();
        let one_item = |item: usize, scratch: &mut _| {
            // Later positions see more keys, so they are handed out first and the short ones fill the gaps.
            let block_idx = n_blocks - 1 - item / (kv_heads.len() * head_cuts);
            let kv_head = kv_heads.start + item / head_cuts % kv_heads.len();
            let heads_of_cut = group / head_cuts;
            let first_head = item % head_cuts * heads_of_cut;
            let first_row = rows.start + block_idx * block;
            let cut = AttentionCut {
                kv_head,
                heads: first_head..first_head + heads_of_cut,
                positions: first_row..(first_row + block).min(rows.end),
            };
            // SAFETY: the cuts are disjoint rows and heads of the part; `grow` has made the scratch wide enough.
            unsafe { (run.kernels.attention)(&params, &cut, scratch) }
        };
        // A key and a value for each position and feature, in vectors.
        let cost = rows.len() * (run.step.past + rows.end) * self.columns.len() / 4;
        if n_workers == 1 || n_items == 1 || cost < super::SERIAL_COST {
            let mut scratch = scratch.attention()[0].lock();
            (0..n_items).for_each(|item| one_item(item, &mut scratch));
            return;
        }
        run.run_all(|worker| {
            let mut scratch = scratch.attention()[worker.index()].lock();
            while let Some(items) = counter.take(n_items, 1) {
                items.for_each(|item| one_item(item, &mut scratch));
            }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn elementwise(&self, run: &Run<'_>, rows: &Range<usize>, kernel: unsafe fn(&Elementwise)) {
        // SAFETY: all three tensors have these rows and the part's columns.
        let (a, b, output) = unsafe {
            (run.rows(self.inputs[0], 0, 0), run.rows(self.inputs[1], 0, 0), run.rows_mut(self.output, 0, 0))
        };
        run.parallel(rows.len(), rows.len() * self.columns.len(), |items| {
            let positions = rows.start + items.start..rows.start + items.end;
            let features = self.columns.clone();
            // SAFETY: the cuts are disjoint rows of the part.
            unsafe { kernel(&Elementwise { a, b, output, positions, features }) }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn convert(&self, run: &Run<'_>, rows: &Range<usize>, selection: RowSelection) {
        let (from, to) = (element(self.input_dtypes[0]), element(self.output_dtype));
        let features = self.columns.len();
        run.parallel(rows.len(), rows.len() * features, |items| {
            for row in rows.start + items.start..rows.start + items.end {
                let source = match selection {
                    RowSelection::All => row,
                    RowSelection::Last => run.step.rows - 1,
                };
                // SAFETY: the input has the source row, the slot owns the part's columns of the output's row.
                unsafe {
                    let (input, output) = (bytes_of(run, self.inputs[0], from), bytes_of(run, self.output, to));
                    let at = |rows: RowsMut<u8>, row: usize, element: Element| RowsMut {
                        first: rows.first.add(row * rows.stride + self.columns.start * element.bytes()),
                        stride: rows.stride,
                    };
                    (run.kernels.convert)(&Convert {
                        input: at(input, source, from).as_rows(),
                        input_element: from,
                        output: at(output, row, to),
                        output_element: to,
                        features,
                        padded_features: features,
                        positions: 0..1,
                    });
                }
            }
        });
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    unsafe fn softmax(&self, run: &Run<'_>, rows: &Range<usize>, features: usize) {
        // SAFETY: both tensors have these rows and `features` columns.
        let (input, output) = unsafe { (run.rows(self.inputs[0], 0, 0), run.rows_mut(self.output, 0, 0)) };
        run.parallel(rows.len(), rows.len() * features, |items| {
            let positions = rows.start + items.start..rows.start + items.end;
            // SAFETY: the cuts are disjoint rows of the part.
            unsafe { (run.kernels.softmax)(&Softmax { input, output, features, positions }) }
        });
    }
}

/// Query rows that one call of the attention kernel takes together.
const ATTENTION_ROWS: usize = 64;

/// One angle costs about as much as so many elements of simple arithmetic.
const ANGLE_COST: usize = 16;

fn element(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        other => unreachable!("`CpuBackend::support` refuses {other}"),
    }
}

/// All rows of a tensor as bytes, the stride in bytes.
///
/// # Safety
///
/// The tensor holds elements of this type.
unsafe fn bytes_of(run: &Run<'_>, tensor_idx: usize, element: Element) -> RowsMut<u8> {
    let tensor = run.tensors[tensor_idx];
    RowsMut { first: tensor.start.as_ptr(), stride: tensor.columns * element.bytes() }
}
