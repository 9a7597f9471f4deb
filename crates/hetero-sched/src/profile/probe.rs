//! One operator made ready to be measured on one device.

use std::sync::Arc;

use hetero_core::{
    Backend, BackendError, Binding, Bindings, Executable, GraphBuilder, NodeId, Op, OpSpec, OperandOrder, Part,
    Segment, SegmentNode, SharedTensor, StepParams, Ticket, ValueId, ValueKind, WeightFormat, WeightId, WeightLayout,
    WeightMatrix, WeightRows,
};

use super::MeasureOptions;
use crate::sync::Clock;

/// What weights and activations are filled with. As 32-bit float, as half and as scale of a group it is a small
/// number, and it is not zero: memory of zeros may be shared by the system and is read faster.
const FILLING: u8 = 0x11;

/// The most rows of an embedding table: a step reads few of them.
const TABLE_ROWS: usize = 1024;

/// Caches have room for a multiple of so many positions.
const CACHE_POSITIONS: usize = 1024;

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct ProbeShape {
    pub(super) spec: OpSpec,
    pub(super) rows: usize,
    pub(super) past: usize,
    /// Columns of the output; all of them but for linear operators.
    pub(super) columns: usize,
    pub(super) order: OperandOrder,
}

/// A segment of some equal nodes, with weights of their own, and the tensors that it uses.
#[derive(Debug)]
pub(super) struct Probe {
    executable: Arc<dyn Executable>,
    /// For each binding the tensor, and whether it is written.
    tensors: Vec<(Arc<SharedTensor>, bool)>,
    /// Empty between runs.
    bindings: Bindings,
    step: StepParams,
    pub(super) compile_seconds: f64,
    pub(super) own_bytes: u64,
}

impl ProbeShape {
    /// Bytes of one node's weights.
    pub(super) fn weight_bytes(&self) -> usize {
        match self.spec.op {
            Op::Linear { in_features, format, .. } => WeightLayout::panels(format, self.columns, in_features).bytes(),
            _ => 0,
        }
    }

    /// The operator with the columns that are measured.
    fn op(&self) -> Op {
        match self.spec.op.clone() {
            Op::Linear { in_features, format, bias, .. } => {
                Op::Linear { in_features, out_features: self.columns, format, bias }
            }
            Op::Embed { vocabulary, features } => Op::Embed { vocabulary: vocabulary.min(TABLE_ROWS), features },
            Op::CacheWrite { kv_heads, head_dim, context } => {
                Op::CacheWrite { kv_heads, head_dim, context: self.context(context) }
            }
            Op::Attention { heads, kv_heads, head_dim, context, scale } => {
                Op::Attention { heads, kv_heads, head_dim, context: self.context(context), scale }
            }
            op => op,
        }
    }

    /// Positions of a cache: no more than the step needs, because a cache for a long context takes gigabytes.
    fn context(&self, context: usize) -> usize {
        context.min((self.past + self.rows).next_multiple_of(CACHE_POSITIONS))
    }
}

impl Probe {
    /// Loads weights and compiles the segment.
    pub(super) fn new(
        backend: &dyn Backend,
        clock: &dyn Clock,
        shape: &ProbeShape,
        n_nodes: usize,
        options: &MeasureOptions,
    ) -> Result<Probe, BackendError> {
        let op = shape.op();
        let mut b = GraphBuilder::new(shape.rows);
        let inputs: Vec<ValueId> = (op.input_columns().into_iter().zip(&shape.spec.inputs).enumerate())
            .map(|(idx, (columns, &dtype))| match op {
                Op::Attention { kv_heads, head_dim, context, .. } if idx > 0 => {
                    b.state(format!("cache {idx}"), kv_heads * context, head_dim, dtype)
                }
                _ => b.input(format!("input {idx}"), columns, dtype),
            })
            .collect();
        let layouts = layouts(&op);
        for node in 0..n_nodes {
            let weights: Vec<WeightId> = layouts.iter().map(|layout| b.weight("weight", *layout)).collect();
            if let Op::CacheWrite { kv_heads, head_dim, context } = op {
                let cache = b.state(format!("cache {node}"), kv_heads * context, head_dim, shape.spec.output);
                b.update("probe", op.clone(), &inputs, cache);
            } else {
                let output = b.node("probe", op.clone(), &inputs, &weights, shape.spec.output);
                b.output(output);
            }
        }
        let graph = Arc::new(b.finish());
        let mut own_bytes = 0;
        let mut nodes = Vec::with_capacity(n_nodes);
        for node in 0..n_nodes {
            let output = graph.tensor_desc(graph.node(NodeId(node)).output);
            let mut weights = Vec::with_capacity(layouts.len());
            for layout in &layouts {
                let weight = backend.load_weight(WeightRows::all(matrix(backend, *layout, options)?))?;
                own_bytes = weight.own_bytes().max(own_bytes);
                weights.push(weight);
            }
            nodes.push(SegmentNode {
                node: NodeId(node),
                part: Part::whole(output.rows, output.columns),
                weights,
                operand_order: shape.order,
            });
        }
        let segment = Segment::new(Arc::clone(&graph), nodes);
        let begin = clock.now();
        let executable = backend.compile(&segment)?;
        let compile_seconds = clock.now() - begin;
        let mut tensors = Vec::with_capacity(segment.n_bindings());
        for binding_idx in 0..segment.n_bindings() {
            let value = segment.values_of(binding_idx).next().expect("a binding holds a value");
            let tensor = SharedTensor::new(backend.allocate(&graph.tensor_desc(value))?);
            if options.fills_operands && graph.value(value).kind == ValueKind::Input {
                fill_activations(&tensor);
            }
            tensors.push((tensor, segment.writes(value)));
        }
        let bindings = Bindings { tensors: Vec::with_capacity(tensors.len()) };
        let step = StepParams { past: shape.past, rows: shape.rows };
        Ok(Probe { executable, tensors, bindings, step, compile_seconds, own_bytes })
    }

    /// Submits one run.
    pub(super) fn submit(&mut self) -> Result<Ticket, BackendError> {
        let mut bindings = std::mem::take(&mut self.bindings);
        bindings.tensors.extend(self.tensors.iter().map(|(tensor, is_written)| {
            if *is_written { Binding::Write(tensor.slot()) } else { Binding::Read(tensor.view()) }
        }));
        self.executable.submit(bindings, self.step)
    }

    /// Takes back what a run used, after it has finished.
    pub(super) fn collect(&mut self, ticket: Ticket) -> Result<(), BackendError> {
        self.bindings = ticket.wait()?;
        self.bindings.tensors.clear();
        Ok(())
    }

    /// Seconds from before the submission until polling sees the end.
    pub(super) fn run(&mut self, clock: &dyn Clock) -> Result<f64, BackendError> {
        let begin = clock.now();
        let ticket = self.submit()?;
        while !ticket.is_complete() {
            // The device may be threads of this machine, and they may need the core.
            std::thread::yield_now();
        }
        let seconds = clock.now() - begin;
        self.collect(ticket)?;
        Ok(seconds)
    }
}

fn layouts(op: &Op) -> Vec<WeightLayout> {
    match *op {
        Op::Linear { in_features, out_features, format, bias } => {
            let bias = bias.then(|| WeightLayout::table(WeightFormat::F32, 1, out_features));
            [WeightLayout::panels(format, out_features, in_features)].into_iter().chain(bias).collect()
        }
        Op::Embed { vocabulary, features } => vec![WeightLayout::table(WeightFormat::F16, vocabulary, features)],
        Op::RmsNorm { features, .. } => vec![WeightLayout::table(WeightFormat::F32, 1, features)],
        _ => Vec::new(),
    }
}

fn matrix(
    backend: &dyn Backend,
    layout: WeightLayout,
    options: &MeasureOptions,
) -> Result<Arc<WeightMatrix>, BackendError> {
    if let (false, Some(blank)) = (options.fills_operands, options.blank_weight) {
        return blank("probe", layout);
    }
    let tensor = WeightMatrix::allocate(&layout, backend)?;
    WeightMatrix::build("probe", layout, tensor, |bytes| {
        if options.fills_operands {
            bytes.fill(FILLING);
        }
        Ok(())
    })
}

fn fill_activations(tensor: &Arc<SharedTensor>) {
    let desc = *tensor.desc();
    if desc.dtype.is_float() && tensor.tensor().host_ptr().is_some() {
        let mut binding = Binding::Write(tensor.slot());
        let numbers: Vec<f32> = (0..desc.columns).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        (0..desc.rows).for_each(|row| binding.write_f32(row, 0, &numbers));
    }
}
