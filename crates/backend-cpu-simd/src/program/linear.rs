//! Linear operators: quantise or convert the input once, then cut all weight panels among the workers.

use std::ops::Range;

use hetero_core::{Op, Segment, SegmentNode, WeightFormat, WeightLayout};

use super::scratch::{Scratch, ScratchNeed};
use super::{KeptWeights, Run, part_rows};
use crate::backend::ActivationMode;
use crate::dispatch::Kernels;
use crate::kernels::{
    Convert, Element, LinearBf16, LinearFloat, LinearInt8, PanelWeights, QuantizeActivations, Rows, RowsMut,
};
use crate::weight::downcast;

/// Linear operators that read the same input.
#[derive(Debug)]
pub(super) struct LinearGroup {
    /// Binding `[positions, k]` f32.
    input: usize,
    k: usize,
    rows: Range<usize>,
    follows_step: bool,
    inputs_as: InputAs,
    targets: Vec<Target>,
}

/// In which form the kernels take the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputAs {
    Int8,
    Bf16,
    Float,
}

/// One operator of the group.
#[derive(Debug)]
struct Target {
    weights: PanelWeights,
    /// `[1, n]`.
    bias: Option<Rows<f32>>,
    /// Binding `[positions, columns]` f32.
    output: usize,
    /// Where the weights' first row goes.
    first_column: usize,
    /// What `weights` and `bias` point into.
    _kept: KeptWeights,
}

impl LinearGroup {
    pub(super) fn new(
        segment: &Segment,
        node: &SegmentNode,
        kernels: &Kernels,
        activations: ActivationMode,
    ) -> LinearGroup {
        let spec = segment.graph.node(node.node);
        let Op::Linear { in_features, format, .. } = spec.op else { unreachable!("a linear node") };
        let weight = downcast(&node.weights[0]);
        let rows = &hetero_core::Weight::rows(weight).rows;
        assert_eq!(*rows, node.part.columns, "{}: the rows that were loaded", spec.name);
        let bias = node.weights.get(1).map(|bias| {
            let row = downcast(bias).row();
            Rows::of(&row[node.part.columns.clone()], row.len())
        });
        let inputs_as = match (activations, format) {
            (ActivationMode::Fast, WeightFormat::W8G32 | WeightFormat::W4G32) => InputAs::Int8,
            (ActivationMode::Fast, WeightFormat::Bf16) if kernels.prefers_bf16 && kernels.linear_bf16.is_some() => {
                InputAs::Bf16
            }
            _ => InputAs::Float,
        };
        let (rows, follows_step) = part_rows(segment, node);
        let target = Target {
            weights: weight.panels(),
            bias,
            output: segment.binding_idx(spec.output),
            first_column: node.part.columns.start,
            _kept: node.weights.clone(),
        };
        LinearGroup {
            input: segment.binding_idx(spec.inputs[0]),
            k: in_features,
            rows,
            follows_step,
            inputs_as,
            targets: vec![target],
        }
    }

    pub(super) fn input(&self) -> usize {
        self.input
    }

    /// Whether another operator can be computed along with these.
    pub(super) fn accepts(&self, other: &LinearGroup) -> bool {
        let shape =
            |group: &LinearGroup| (group.input, group.k, group.rows.clone(), group.follows_step, group.inputs_as);
        let format = |group: &LinearGroup| group.targets[0].weights.format;
        shape(self) == shape(other) && format(self) == format(other)
    }

    pub(super) fn merge(&mut self, other: LinearGroup) {
        self.targets.extend(other.targets);
    }

    pub(super) fn scratch_need(&self, capacity: usize) -> ScratchNeed {
        let rows = if self.follows_step { capacity } else { self.rows.end };
        let elements = rows * self.k.next_multiple_of(WeightLayout::GROUP_COLUMNS);
        match self.inputs_as {
            InputAs::Int8 => ScratchNeed { quantized: elements, ..Default::default() },
            InputAs::Bf16 => ScratchNeed { bf16: elements, ..Default::default() },
            InputAs::Float => ScratchNeed::default(),
        }
    }

    /// # Safety
    ///
    /// As for `Program::run`.
    pub(super) unsafe fn run(&self, run: &Run<'_>, scratch: &mut Scratch) {
        let rows = if self.follows_step { run.rows_in_use(&self.rows) } else { self.rows.clone() };
        if rows.is_empty() {
            return;
        }
        // SAFETY: the input has the step's rows and `k` columns, and is held as a view or as this segment's slot.
        unsafe {
            let input = run.rows::<f32>(self.input, rows.start, 0);
            match self.inputs_as {
                InputAs::Int8 => self.run_int8(run, scratch, input, &rows),
                InputAs::Bf16 => self.run_bf16(run, scratch, input, &rows),
                InputAs::Float => self.each_cut(run, &rows, |target, output, panels| {
                    (run.kernels.linear_float)(&LinearFloat {
                        weights: target.weights,
                        activations: input,
                        output,
                        bias: target.bias,
                        positions: rows.len(),
                        panels,
                    });
                }),
            }
        }
    }

    /// # Safety
    ///
    /// As for `Program::run`; `input` has `rows.len()` rows.
    unsafe fn run_int8(&self, run: &Run<'_>, scratch: &mut Scratch, input: Rows<f32>, rows: &Range<usize>) {
        let quantized = scratch.quantized(rows.len(), self.k);
        let groups = quantized.groups();
        // One position is cut by groups of columns, several by positions.
        let by_position = rows.len() > 1;
        let n_items = if by_position { rows.len() } else { groups };
        run.parallel(n_items, rows.len() * self.k, |items| {
            let (positions, groups) = if by_position { (items, 0..groups) } else { (0..1, items) };
            let params = QuantizeActivations { input, output: quantized, positions, groups };
            // SAFETY: the cuts are disjoint; the scratch is this run's alone and was made for this shape.
            unsafe { (run.kernels.quantize_activations)(&params) }
        });
        // SAFETY: forwarded.
        unsafe {
            self.each_cut(run, rows, |target, output, panels| {
                (run.kernels.linear_int8)(&LinearInt8 {
                    weights: target.weights,
                    activations: quantized,
                    output,
                    bias: target.bias,
                    panels,
                });
            });
        }
    }

    /// # Safety
    ///
    /// As for `Program::run`; `input` has `rows.len()` rows.
    unsafe fn run_bf16(&self, run: &Run<'_>, scratch: &mut Scratch, input: Rows<f32>, rows: &Range<usize>) {
        let kernel = run.kernels.linear_bf16.expect("chosen only where the kernel exists");
        let padded = self.k.next_multiple_of(WeightLayout::GROUP_COLUMNS);
        let converted = RowsMut { first: scratch.bf16(rows.len() * padded), stride: padded };
        let params = Convert {
            input: Rows { first: input.first.cast(), stride: input.stride * 4 },
            input_element: Element::F32,
            output: RowsMut { first: converted.first.cast(), stride: padded * 2 },
            output_element: Element::Bf16,
            features: self.k,
            padded_features: padded,
            positions: 0..0,
        };
        run.parallel(rows.len(), rows.len() * self.k, |positions| {
            // SAFETY: the cuts are disjoint; the scratch is this run's alone and was made for this shape.
            unsafe { (run.kernels.convert)(&Convert { positions, ..params.clone() }) }
        });
        // SAFETY: forwarded.
        unsafe {
            self.each_cut(run, rows, |target, output, panels| {
                kernel(&LinearBf16 {
                    weights: target.weights,
                    activations: converted.as_rows(),
                    output,
                    bias: target.bias,
                    positions: rows.len(),
                    panels,
                });
            });
        }
    }

    /// Cuts the panels of all targets, laid end to end, into one run for each worker.
    ///
    /// # Safety
    ///
    /// As for `Program::run`; `kernel` writes the columns of its panels and reads what the group names.
    unsafe fn each_cut(
        &self,
        run: &Run<'_>,
        rows: &Range<usize>,
        kernel: impl Fn(&Target, RowsMut<f32>, Range<usize>) + Sync,
    ) {
        let n_panels = self.targets.iter().map(|target| target.weights.n_panels()).sum();
        let cost = n_panels * WeightLayout::PANEL_ROWS * self.k * rows.len() / PRODUCTS_PER_ELEMENT;
        run.parallel(n_panels, cost, |cut| {
            let mut before = 0;
            for target in &self.targets {
                let n = target.weights.n_panels();
                let panels = cut.start.saturating_sub(before).min(n)..cut.end.saturating_sub(before).min(n);
                before += n;
                if !panels.is_empty() {
                    // SAFETY: the column and rows are inside the node's part, of which the segment holds the slot.
                    let output = unsafe { run.rows_mut::<f32>(target.output, rows.start, target.first_column) };
                    kernel(target, output, panels);
                }
            }
        });
    }
}

/// Products of a matrix that are done in the time of one element of simple arithmetic.
const PRODUCTS_PER_ELEMENT: usize = 16;
