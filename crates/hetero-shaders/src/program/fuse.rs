//! Nodes in a row that are one dispatch.
//!
//! | nodes | kernel | what is no longer written |
//! |---|---|---|
//! | linear, linear, swiglu of both | linear, gated | gate and up |
//! | two or three linear on one input | linear, several | |
//! | linear, add of its output | linear, with a residual | the product |
//! | rope, rope, cache write of the second, cache write | rope and cache | the keys before the cache |
//!
//! Results are those of the kernels by themselves, bit for bit: every number is computed by the same operations in the
//! same order, and what is no longer written was in f32, so it was not rounded on its way through memory either.
//!
//! A value is left out only when nobody else reads it: not in this segment and, because a rectangle of it is read by those
//! who compute the same rectangle of its reader, not in another one. Nodes are fused only when the output is in no tensor
//! that they read, which values that share tensors can bring about.

use hetero_core::{BackendError, Graph, Op, Part, SegmentNode, ValueId, ValueKind, Weight};

use super::{Buffers, Builder, Choice, Dispatch, Operand, element, gpu_weight, only_piece};
use crate::knobs::Variant;
use crate::program::Pieces;
use crate::{Columns, Element, Form, Kernel, Linear, Params};

/// For each value, how many nodes read it.
pub(super) fn readers(graph: &Graph) -> Vec<usize> {
    let mut readers = vec![0; graph.values().len()];
    graph.nodes().iter().flat_map(|node| &node.inputs).for_each(|input| readers[input.0] += 1);
    readers
}

impl<S: Buffers> Builder<'_, S> {
    /// Adds the dispatch of some nodes from `idx` on: how many they are, 0 when the node is one by itself.
    pub(super) fn fused(&mut self, idx: usize) -> Result<usize, BackendError> {
        let nodes = &self.segment.nodes[idx..];
        let is_linear = |node: &SegmentNode| matches!(self.op(node), Op::Linear { .. });
        let n_linear = nodes.iter().take_while(|node| is_linear(node)).count();
        let knobs = self.buffers.knobs();
        let may_fuse_linear =
            knobs.allows("linear_vector", Variant::Fused) && knobs.allows("linear_tiled", Variant::Fused);
        let may_fuse_rope = knobs.allows("rope_cache", Variant::Fused);
        if n_linear > 0 && may_fuse_linear {
            if n_linear >= 2 && nodes.len() > 2 && self.gated(&nodes[..3])? {
                return Ok(3);
            }
            for n in [3, 2] {
                if n_linear >= n && self.several(&nodes[..n])? {
                    return Ok(n);
                }
            }
            if nodes.len() > 1 && self.residual(&nodes[0], &nodes[1]) {
                return Ok(2);
            }
        }
        if nodes.len() > 3 && may_fuse_rope && self.rope_cache(&nodes[..4])? {
            return Ok(4);
        }
        Ok(0)
    }

    /// Gate, up and swiglu.
    fn gated(&mut self, nodes: &[SegmentNode]) -> Result<bool, BackendError> {
        let [gate, up, swiglu] = nodes else { return Ok(false) };
        let (gate_value, up_value, output) = (self.output(gate), self.output(up), self.output(swiglu));
        let fits = matches!(self.op(swiglu), Op::Swiglu { .. })
            && self.segment.graph.node(swiglu.node).inputs == [gate_value, up_value]
            && [gate, up].iter().all(|node| node.part == swiglu.part && self.is_only_for_next(node))
            && self.is_alike(&nodes[..2]);
        if !fits || !self.is_apart(&[output], &[self.input(gate, 0)]) {
            return Ok(false);
        }
        let types = Linear { output: element(self.segment.graph.value(output).dtype), ..self.linear_types(gate) };
        self.grouped(&nodes[..2], Linear { form: Form::Gated, ..types }, vec![output], swiglu)
    }

    /// Linear operators on one input.
    fn several(&mut self, nodes: &[SegmentNode]) -> Result<bool, BackendError> {
        let outputs: Vec<ValueId> = nodes.iter().map(|node| self.output(node)).collect();
        if !self.is_alike(nodes) || !self.is_apart(&outputs, &[self.input(&nodes[0], 0)]) {
            return Ok(false);
        }
        let types = self.linear_types(&nodes[0]);
        self.grouped(nodes, Linear { form: Form::Several(nodes.len() as u32), ..types }, outputs, &nodes[0])
    }

    /// Linear operators as one dispatch, when their weights allow it. `last` has the part that is computed first.
    fn grouped(
        &mut self,
        nodes: &[SegmentNode],
        linear: Linear,
        outputs: Vec<ValueId>,
        last: &SegmentNode,
    ) -> Result<bool, BackendError> {
        let matrices: Vec<&S::Weight> = nodes.iter().map(|node| gpu_weight::<S>(&*node.weights[0])).collect();
        let Ok(biases) = self.biases(nodes) else { return Ok(false) };
        let linear = Linear { bias: biases.as_ref().map(|_| Element::F32), ..linear };
        let n_bound = linear.form.n_outputs() + linear.n_inputs();
        if matrices.iter().any(|matrix| matrix.pieces().len() != 1)
            || n_bound > self.buffers.max_storage_buffers() as usize
        {
            return Ok(false);
        }
        let graph = &self.segment.graph;
        let mut params =
            Params { panel_lines: (matrices[0].rows().matrix.layout().panel_bytes() / 16) as u32, ..self.params(last) };
        params.input_columns = graph.value(self.input(&nodes[0], 0)).columns as u32;
        for (idx, node) in nodes.iter().enumerate().skip(1) {
            params.others[idx - 1] = Columns {
                first: node.part.columns.start as u32,
                count: node.part.columns.len() as u32,
                total: graph.value(self.output(node)).columns as u32,
                bias: biases.as_ref().map_or(0, |biases| biases.starts[idx]),
            };
        }
        let mut inputs = vec![Operand::Value(self.input(&nodes[0], 0))];
        inputs.extend(matrices.iter().map(|matrix| Operand::Constant(only_piece(*matrix))));
        if let Some(biases) = biases {
            inputs.push(Operand::Constant(self.buffers.constant(bytemuck::cast_slice(&biases.numbers))?));
        }
        let outputs = outputs.into_iter().map(Operand::Value).collect();
        self.push_linear(&nodes[0], linear, params, outputs, inputs);
        Ok(true)
    }

    /// A product, and what is added to it.
    fn residual(&mut self, linear: &SegmentNode, add: &SegmentNode) -> bool {
        if !matches!(self.op(add), Op::Add { .. }) || linear.part != add.part || !self.is_only_for_next(linear) {
            return false;
        }
        let product = self.output(linear);
        let other = match self.segment.graph.node(add.node).inputs[..] {
            [a, b] if a == product => b,
            [a, b] if b == product => a,
            _ => return false,
        };
        let output = self.output(add);
        if !self.is_apart(&[output], &[self.input(linear, 0), other]) {
            return false;
        }
        let form = Form::Residual(element(self.segment.graph.value(other).dtype));
        let bias = (linear.weights.len() > 1).then_some(Element::F32);
        let n_bound = 1 + Linear { form, bias, ..self.linear_types(linear) }.n_inputs();
        if n_bound > self.buffers.max_storage_buffers() as usize {
            return false;
        }
        let params = self.params(linear);
        self.linear_into(linear, params, form, output, Some(other));
        true
    }

    /// Rotary embeddings of queries and keys, and the caches.
    fn rope_cache(&mut self, nodes: &[SegmentNode]) -> Result<bool, BackendError> {
        let graph = &self.segment.graph;
        let [rope_queries, rope_keys, write_keys, write_values] = nodes else { return Ok(false) };
        let (
            Op::Rope { head_dim, frequencies, .. },
            Op::Rope { head_dim: key_head_dim, frequencies: key_frequencies, heads: key_heads },
            Op::CacheWrite { kv_heads, head_dim: cache_head_dim, context },
        ) = (self.op(rope_queries), self.op(rope_keys), self.op(write_keys))
        else {
            return Ok(false);
        };
        let (queries, keys, values) =
            (self.input(rope_queries, 0), self.input(rope_keys, 0), self.input(write_values, 0));
        let outputs = [self.output(rope_queries), self.output(write_keys), self.output(write_values)];
        let cache = graph.value(outputs[1]).dtype;
        let kv_columns = kv_heads * head_dim;
        let fits = self.op(write_keys) == self.op(write_values)
            && (head_dim, frequencies) == (key_head_dim, key_frequencies)
            && (kv_heads, head_dim) == (key_heads, cache_head_dim)
            && self.input(write_keys, 0) == self.output(rope_keys)
            && values != self.output(rope_keys)
            && self.is_only_for_next(rope_keys)
            && graph.value(outputs[2]).dtype == cache
            && rope_queries.part.rows == (0..graph.capacity())
            && rope_keys.part == Part::whole(graph.capacity(), kv_columns)
            && [queries, keys, values, outputs[0]]
                .iter()
                .all(|value| element(graph.value(*value).dtype) == Element::F32);
        if !fits || !self.is_apart(&outputs, &[queries, keys, values]) || self.buffers.max_storage_buffers() < 7 {
            return Ok(false);
        }
        let columns = rope_queries.part.columns.len();
        let params = Params {
            // The kernel counts pairs.
            n_columns: (columns / 2 + kv_columns) as u32,
            head_dim: *head_dim as u32,
            context: *context as u32,
            others: [
                Columns { count: columns as u32, total: kv_columns as u32, ..Columns::default() },
                Columns::default(),
            ],
            ..self.params(rope_queries)
        };
        let kernel = Kernel::RopeCache { cache: element(cache) };
        let frequencies = std::sync::Arc::clone(frequencies);
        let frequencies = Operand::Constant(self.shared_constant(&frequencies)?);
        let inputs = [queries, keys, values].map(Operand::Value).into_iter().chain([frequencies]).collect();
        let outputs = outputs.map(Operand::Value).into();
        self.dispatches.push(Dispatch { choices: vec![Choice::always(kernel)], params, outputs, inputs });
        Ok(true)
    }

    /// Whether linear operators have the same input, rows, types and formats.
    fn is_alike(&self, nodes: &[SegmentNode]) -> bool {
        let first = &nodes[0];
        nodes.iter().all(|node| {
            self.input(node, 0) == self.input(first, 0)
                && node.part.rows == first.part.rows
                && self.linear_types(node) == self.linear_types(first)
        })
    }

    /// Whether some outputs lie in different tensors, and in none that is read.
    fn is_apart(&self, outputs: &[ValueId], inputs: &[ValueId]) -> bool {
        let binding = |value: &ValueId| self.segment.binding_idx(*value);
        outputs.iter().enumerate().all(|(idx, output)| {
            let others = outputs[..idx].iter().chain(inputs);
            others.into_iter().all(|other| binding(other) != binding(output))
        })
    }

    /// Whether what a node writes may stay unwritten when the node that reads it is computed with it.
    fn is_only_for_next(&self, node: &SegmentNode) -> bool {
        let value = self.output(node);
        let desc = self.segment.graph.value(value);
        desc.kind == ValueKind::Intermediate && element(desc.dtype) == Element::F32 && self.readers[value.0] == 1
    }

    fn op(&self, node: &SegmentNode) -> &Op {
        &self.segment.graph.node(node.node).op
    }

    fn output(&self, node: &SegmentNode) -> ValueId {
        self.segment.graph.node(node.node).output
    }

    fn input(&self, node: &SegmentNode, idx: usize) -> ValueId {
        self.segment.graph.node(node.node).inputs[idx]
    }
}
