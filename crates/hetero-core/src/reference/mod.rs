//! Every operator as a plain loop, which is its meaning.
//!
//! Written to be read, not to be fast: f32 throughout, one element after the other. Backends are compared with this by
//! the conformance suite; a simulator may compute with it.

mod attention;
mod elementwise;
mod linear;
mod lookup;
mod normalize;
mod rope;

use std::ops::Range;

use crate::{Binding, Bindings, Op, Part, Segment, SegmentNode, StepCheck, StepParams};

/// Computes a segment, node by node.
///
/// # Panics
/// When bindings do not fit the segment or the step does not fit the graph: see [`crate::Executable::submit`].
pub fn run_segment(segment: &Segment, bindings: &mut Bindings, step: StepParams) {
    check_step(segment, bindings, step);
    for node in &segment.nodes {
        run_node(segment, node, bindings, step);
    }
}

/// The checks that every backend makes on [`crate::Executable::submit`]; one that runs a segment many times keeps a
/// [`StepCheck`].
///
/// # Panics
/// When bindings do not fit the segment or the step does not fit the graph.
pub fn check_step(segment: &Segment, bindings: &Bindings, step: StepParams) {
    StepCheck::new(segment).check(bindings, step);
}

/// Computes one node of a segment, after [`check_step`] has seen the bindings.
pub fn run_node(segment: &Segment, segment_node: &SegmentNode, bindings: &mut Bindings, step: StepParams) {
    with_operands(segment, segment_node, bindings, step, |inputs, output, part| {
        let weights = &segment_node.weights;
        match &segment.graph.node(segment_node.node).op {
            Op::Embed { .. } => lookup::embed(inputs[0], &*weights[0], output, part),
            Op::Linear { .. } => linear::linear(inputs[0], weights, output, part),
            Op::RmsNorm { epsilon, .. } => normalize::rms_norm(inputs[0], &*weights[0], *epsilon, output, part),
            Op::Rope { head_dim, frequencies, .. } => {
                rope::rope(inputs[0], *head_dim, frequencies, step.past, output, part);
            }
            Op::CacheWrite { kv_heads, head_dim, context } => {
                attention::cache_write(inputs[0], [*kv_heads, *head_dim, *context], step, output);
            }
            Op::Attention { heads, kv_heads, head_dim, context, scale } => {
                let shape = attention::Shape {
                    group: heads / kv_heads,
                    head_dim: *head_dim,
                    context: *context,
                    past: step.past,
                    scale: *scale,
                };
                attention::attention(inputs[0], inputs[1], inputs[2], &shape, output, part);
            }
            Op::Swiglu { .. } => elementwise::swiglu(inputs[0], inputs[1], output, part),
            Op::Add { .. } => elementwise::add(inputs[0], inputs[1], output, part),
            Op::Convert { rows, .. } => lookup::convert(inputs[0], *rows, step, output, part),
            Op::Softmax { .. } => normalize::softmax(inputs[0], output, part),
        }
    });
}

/// Finds what a node reads and writes among the bindings of its segment: `compute` gets the inputs in order, the
/// output, and the rectangle of it that this step computes, which is empty when the part lies behind the rows in use.
pub fn with_operands(
    segment: &Segment,
    segment_node: &SegmentNode,
    bindings: &mut Bindings,
    step: StepParams,
    compute: impl FnOnce(&[&Binding], &mut Binding, &Part),
) {
    let node = segment.graph.node(segment_node.node);
    let output_idx = segment.binding_idx(node.output);
    // The output leaves the list while the inputs are read; `Bindings` has no hole to offer, so a view or slot of the
    // same tensor cannot be an input. Operators that update state in place read nothing of it.
    let mut output = bindings.tensors.swap_remove(output_idx);
    let last = bindings.tensors.len();
    let inputs: Vec<&Binding> = node
        .inputs
        .iter()
        .map(|&input| {
            let idx = segment.binding_idx(input);
            assert_ne!(idx, output_idx, "{}: an operator does not read what it writes", node.name);
            // `swap_remove` moved the last binding into the hole.
            &bindings.tensors[if idx == last { output_idx } else { idx }]
        })
        .collect();
    let part = Part { rows: rows_in_use(&segment_node.part.rows, node, segment, step), ..segment_node.part.clone() };
    compute(&inputs, &mut output, &part);
    drop(inputs);
    bindings.tensors.push(output);
    let last = bindings.tensors.len() - 1;
    bindings.tensors.swap(output_idx, last);
}

/// The rows of a part that a step computes.
fn rows_in_use(rows: &Range<usize>, node: &crate::Node, segment: &Segment, step: StepParams) -> Range<usize> {
    match segment.graph.value(node.output).rows {
        crate::Rows::Positions => rows.start.min(step.rows)..rows.end.min(step.rows),
        crate::Rows::Fixed(_) => rows.clone(),
    }
}

/// Computes each row of a part from the same columns of two inputs.
fn zip_rows(a: &Binding, b: &Binding, output: &mut Binding, part: &Part, f: impl Fn(f32, f32) -> f32) {
    let (mut left, mut right) = (vec![0.0; part.columns.len()], vec![0.0; part.columns.len()]);
    for row in part.rows.clone() {
        a.read_f32(row, part.columns.start, &mut left);
        b.read_f32(row, part.columns.start, &mut right);
        for (x, y) in left.iter_mut().zip(&right) {
            *x = f(*x, *y);
        }
        output.write_f32(row, part.columns.start, &left);
    }
}
