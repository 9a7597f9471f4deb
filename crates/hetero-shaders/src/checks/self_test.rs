//! Small computations on a device, compared with the plain loops of `hetero-core`.

use std::convert::Infallible;
use std::sync::Arc;

use hetero_core::{
    Arrangement, Backend, BackendError, Binding, Bindings, DType, DeviceId, Graph, GraphBuilder, HostTensor, NodeId,
    Op, OpSpec, OperandOrder, Part, RowSelection, Rows, Segment, SegmentNode, SharedTensor, StepParams, TensorDesc,
    ValueId, ValueKind, WeightFormat, WeightLayout, WeightMatrix, WeightRows, quantize, reference,
};

use super::Restrict;
use crate::program::VECTOR_ROWS;
use crate::{Knobs, Variant};

/// How a test ends that does not end well.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trouble {
    /// The device does something else than it should.
    Wrong(String),
    /// Nothing was seen: the device is lost, or there is no memory.
    Unseen,
}

impl From<BackendError> for Trouble {
    fn from(error: BackendError) -> Trouble {
        match error {
            BackendError::DeviceLost { .. } | BackendError::OutOfMemory { .. } | BackendError::TimedOut { .. } => {
                Trouble::Unseen
            }
            error => Trouble::Wrong(error.to_string()),
        }
    }
}

/// Whether a device computes an operator as the plain loops do, on these element types; if not, what it does.
pub(super) fn check_op(backend: &dyn Restrict, spec: &OpSpec) -> Result<(), Trouble> {
    let tables: &[WeightFormat] = match spec.op {
        Op::RmsNorm { .. } | Op::Embed { .. } => &[WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16],
        _ => &[WeightFormat::F32],
    };
    for &table in tables {
        let (graph, steps) = single(&small(spec), table);
        check(backend, &Arc::new(graph), steps, 1.0)?;
    }
    Ok(())
}

/// Whether a device computes a decoder layer right: kernels that stand for several operators are in it.
pub(super) fn check_layer(backend: &dyn Restrict, format: WeightFormat, dtype: DType) -> Result<(), Trouble> {
    // Errors of one operator grow in those behind it.
    check(backend, &Arc::new(layer(format, dtype)), &[(0, 1), (1, 3), (4, 20), (24, 1)], 8.0)
}

/// The same operator on the same types, with as few elements as still show all kernels that compute it.
pub(super) fn small(spec: &OpSpec) -> OpSpec {
    let op = match &spec.op {
        Op::Linear { in_features, format, bias, .. } => Op::Linear {
            in_features: if in_features.is_multiple_of(32) { 96 } else { 60 },
            out_features: 80,
            format: *format,
            bias: *bias,
        },
        Op::Embed { .. } => Op::Embed { vocabulary: 40, features: 70 },
        Op::RmsNorm { epsilon, .. } => Op::RmsNorm { features: 300, epsilon: *epsilon },
        Op::Rope { head_dim, frequencies, .. } => {
            Op::Rope { heads: 2, head_dim: *head_dim, frequencies: Arc::clone(frequencies) }
        }
        Op::CacheWrite { head_dim, .. } => Op::CacheWrite { kv_heads: 2, head_dim: *head_dim, context: 300 },
        Op::Attention { head_dim, heads, kv_heads, .. } => {
            let group = if heads == kv_heads { 1 } else { 2 };
            let scale = 1.0 / (*head_dim as f32).sqrt();
            Op::Attention { heads: 2 * group, kv_heads: 2, head_dim: *head_dim, context: 300, scale }
        }
        Op::Swiglu { .. } => Op::Swiglu { features: 300 },
        Op::Add { .. } => Op::Add { features: 300 },
        Op::Convert { rows, .. } => Op::Convert { rows: *rows, features: 300 },
        Op::Softmax { .. } => Op::Softmax { features: 300 },
        other => other.clone(),
    };
    OpSpec { op, ..spec.clone() }
}

type Steps = &'static [(usize, usize)];

/// A graph of one operator, and steps that take all its kernels.
fn single(spec: &OpSpec, table: WeightFormat) -> (Graph, Steps) {
    let (capacity, steps): (usize, Steps) = match spec.op {
        Op::Linear { .. } => (70, &[(0, 1), (0, 2), (0, 4), (0, 16), (0, 30), (0, 70)]),
        Op::Attention { .. } => (20, &[(0, 1), (270, 1), (3, 20)]),
        Op::Convert { rows: RowSelection::Last, .. } => (5, &[(0, 1), (0, 5)]),
        _ => (5, &[(0, 1), (7, 5)]),
    };
    let mut builder = GraphBuilder::new(capacity);
    let columns = spec.op.input_columns();
    let mut weights = Vec::new();
    match spec.op {
        Op::Embed { vocabulary, features } => {
            weights.push(builder.weight("table", WeightLayout::table(table, vocabulary, features)));
        }
        Op::Linear { in_features, out_features, format, bias } => {
            weights.push(builder.weight("matrix", WeightLayout::panels(format, out_features, in_features)));
            if bias {
                weights.push(builder.weight("bias", WeightLayout::table(table, 1, out_features)));
            }
        }
        Op::RmsNorm { features, .. } => weights.push(builder.weight("norm", WeightLayout::table(table, 1, features))),
        _ => {}
    }
    let mut inputs = vec![builder.input("input 0", columns[0], spec.inputs[0])];
    for (idx, &dtype) in spec.inputs.iter().enumerate().skip(1) {
        inputs.push(match spec.op {
            Op::Attention { kv_heads, head_dim, context, .. } => {
                builder.state(format!("cache {idx}"), kv_heads * context, head_dim, dtype)
            }
            _ => builder.input(format!("input {idx}"), columns[idx], dtype),
        });
    }
    if let Op::CacheWrite { kv_heads, head_dim, context } = spec.op {
        let cache = builder.state("cache", kv_heads * context, head_dim, spec.output);
        builder.update("op", spec.op.clone(), &inputs, cache);
    } else {
        let output = builder.node("op", spec.op.clone(), &inputs, &weights, spec.output);
        builder.output(output);
    }
    (builder.finish(), steps)
}

/// A decoder layer of few features.
fn layer(format: WeightFormat, dtype: DType) -> Graph {
    const FEATURES: usize = 64;
    const HEAD_DIM: usize = 32;
    const CONTEXT: usize = 40;
    let mut graph = GraphBuilder::new(20);
    let linear = |graph: &mut GraphBuilder, name: &'static str, x, in_features, out_features| {
        let matrix = graph.weight(name, WeightLayout::panels(format, out_features, in_features));
        graph.node(name, Op::Linear { in_features, out_features, format, bias: false }, &[x], &[matrix], dtype)
    };
    let norm = |graph: &mut GraphBuilder, name: &'static str, x| {
        let table = graph.weight(name, WeightLayout::table(WeightFormat::F32, 1, FEATURES));
        graph.node(name, Op::RmsNorm { features: FEATURES, epsilon: 1e-5 }, &[x], &[table], dtype)
    };
    let frequencies: Arc<[f32]> = (0..HEAD_DIM / 2).map(|pair| 0.7f32.powi(pair as i32)).collect();
    let rope = |heads| Op::Rope { heads, head_dim: HEAD_DIM, frequencies: Arc::clone(&frequencies) };
    let x = graph.input("x", FEATURES, dtype);
    let normed = norm(&mut graph, "norm", x);
    let queries = linear(&mut graph, "queries", normed, FEATURES, 2 * HEAD_DIM);
    let keys = linear(&mut graph, "keys", normed, FEATURES, HEAD_DIM);
    let values = linear(&mut graph, "values", normed, FEATURES, HEAD_DIM);
    let queries = graph.node("turned queries", rope(2), &[queries], &[], dtype);
    let keys = graph.node("turned keys", rope(1), &[keys], &[], dtype);
    let caches = ["key cache", "value cache"].map(|name| graph.state(name, CONTEXT, HEAD_DIM, dtype));
    let write = Op::CacheWrite { kv_heads: 1, head_dim: HEAD_DIM, context: CONTEXT };
    graph.update("write keys", write.clone(), &[keys], caches[0]);
    graph.update("write values", write, &[values], caches[1]);
    let attention = Op::Attention { heads: 2, kv_heads: 1, head_dim: HEAD_DIM, context: CONTEXT, scale: 0.2 };
    let attended = graph.node("attention", attention, &[queries, caches[0], caches[1]], &[], dtype);
    let attended = linear(&mut graph, "output", attended, 2 * HEAD_DIM, FEATURES);
    let x = graph.node("add", Op::Add { features: FEATURES }, &[x, attended], &[], dtype);
    let normed = norm(&mut graph, "second norm", x);
    let gate = linear(&mut graph, "gate", normed, FEATURES, 96);
    let up = linear(&mut graph, "up", normed, FEATURES, 96);
    let inner = graph.node("swiglu", Op::Swiglu { features: 96 }, &[gate, up], &[], dtype);
    let down = linear(&mut graph, "down", inner, 96, FEATURES);
    let out = graph.node("second add", Op::Add { features: FEATURES }, &[x, down], &[], dtype);
    graph.output(out);
    graph.finish()
}

/// Runs a graph on the device and by the loops, and compares what they leave.
fn check(backend: &dyn Restrict, graph: &Arc<Graph>, steps: Steps, slack: f32) -> Result<(), Trouble> {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let knobs = backend.knobs();
    let mut matrices = Vec::with_capacity(graph.weights().len());
    for weight in graph.weights() {
        matrices.push(matrix(backend, &weight.name, weight.layout, &mut numbers)?);
    }
    let node = |(idx, node): (usize, &hetero_core::Node)| -> Result<SegmentNode, BackendError> {
        let output = graph.tensor_desc(node.output);
        let load = |id: &hetero_core::WeightId| backend.load_weight(WeightRows::all(Arc::clone(&matrices[id.0])));
        Ok(SegmentNode {
            node: NodeId(idx),
            part: Part::whole(output.rows, output.columns),
            weights: node.weights.iter().map(load).collect::<Result<_, _>>()?,
            operand_order: OperandOrder::default(),
        })
    };
    let nodes: Result<Vec<_>, _> = graph.nodes().iter().enumerate().map(node).collect();
    let segment = Segment::new(Arc::clone(graph), nodes?);
    let executable = backend.compile(&segment)?;
    let host = DeviceId::next();
    let descs: Vec<TensorDesc> = segment.values().iter().map(|&value| graph.tensor_desc(value)).collect();
    let mut expected = Vec::with_capacity(descs.len());
    let mut found = Vec::with_capacity(descs.len());
    for desc in &descs {
        expected.push(SharedTensor::new(Arc::new(HostTensor::new(host, *desc)?)));
        found.push(SharedTensor::new(backend.allocate(desc)?));
    }
    for &(past, rows) in steps {
        let step = StepParams { past, rows };
        for (idx, &value) in segment.values().iter().enumerate() {
            fill(&expected[idx], graph, value, &mut numbers);
            let whole = Part::whole(descs[idx].rows, descs[idx].columns);
            let mut bytes = vec![0; descs[idx].bytes()];
            expected[idx].view().read_bytes(&whole, &mut bytes)?;
            found[idx].slot().write_bytes(&whole, &bytes)?;
            if exact_rounding(graph, &knobs, step.rows) && graph.value(value).kind == ValueKind::Input {
                round_to_integers(&expected[idx]);
            }
        }
        let lend = |tensors: &[Arc<SharedTensor>], device| Bindings {
            tensors: tensors
                .iter()
                .enumerate()
                .map(|(idx, tensor)| tensor.lend(segment.claim_of(idx), device))
                .collect(),
        };
        reference::run_segment(&segment, &mut lend(&expected, host), step);
        let ticket = executable.submit(lend(&found, backend.info().id), step)?;
        ticket.wait().map(drop)?;
        for (idx, &value) in segment.values().iter().enumerate() {
            let rows = match (graph.value(value).kind, graph.value(value).rows) {
                (ValueKind::Output | ValueKind::State, Rows::Fixed(all)) => all,
                (ValueKind::Output, Rows::Positions) => rows,
                _ => continue,
            };
            let tolerance = slack * tolerance(found[idx].desc().dtype).max(rounding(graph, &knobs, step.rows));
            compare(&expected[idx], &found[idx], rows, tolerance).map_err(|what| {
                Trouble::Wrong(format!("{what} of {:?}, {rows} rows behind {past}", graph.value(value).name))
            })?;
        }
    }
    Ok(())
}

/// How far a result may be off, as a part of the largest: the device adds in another order, and rounds.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 1e-4,
    }
}

/// How far a product may be off in steps of so many rows, because its numbers are rounded where that is asked for.
fn rounding(graph: &Graph, knobs: &Knobs, rows: usize) -> f32 {
    let family = family(rows);
    let rounding = |node: &hetero_core::Node| match node.op {
        // The loops get the same integers, but a number between two of them may become the other one.
        Op::Linear { .. } if exact_rounding(graph, knobs, rows) => 2e-3,
        // Half a 127th of the largest of 32 inputs, which products of many inputs have less of.
        Op::Linear { format, .. } if is_integer(format, knobs, rows) => 1e-2,
        // Numbers, products and sums of 16 bits, of which 11 are digits.
        Op::Linear { .. } if knobs.allows(family, Variant::Half) => 4e-3,
        _ => 0.0,
    };
    graph.nodes().iter().map(rounding).fold(0.0, f32::max)
}

/// Whether the loops can be given the rows that the device rounds to integers: those of a single operator, in f32.
fn exact_rounding(graph: &Graph, knobs: &Knobs, rows: usize) -> bool {
    match graph.nodes() {
        [node] => {
            let is_f32 = graph.value(node.inputs[0]).dtype == DType::F32;
            is_f32 && matches!(node.op, Op::Linear { format, .. } if is_integer(format, knobs, rows))
        }
        _ => false,
    }
}

/// Whether rows of a product are rounded to integers.
fn is_integer(format: WeightFormat, knobs: &Knobs, rows: usize) -> bool {
    matches!(format, WeightFormat::W8G32 | WeightFormat::W4G32) && knobs.allows(family(rows), Variant::IntegerDot)
}

/// The kernels that multiply so many rows.
fn family(rows: usize) -> &'static str {
    if rows > VECTOR_ROWS as usize { "linear_tiled" } else { "linear_vector" }
}

/// Rounds rows of f32 to integers of 8 bits with a scale for every 32, and back.
fn round_to_integers(tensor: &Arc<SharedTensor>) {
    let n_rows = tensor.desc().rows;
    let mut slot = tensor.slot();
    for row in 0..n_rows {
        for group in slot.row_mut::<f32>(row).chunks_mut(32) {
            let largest = group.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
            let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
            group.iter_mut().for_each(|number| *number = (*number * inverse).round_ties_even() * (largest / 127.0));
        }
    }
}

fn compare(
    expected: &Arc<SharedTensor>,
    found: &Arc<SharedTensor>,
    n_rows: usize,
    tolerance: f32,
) -> Result<(), String> {
    let desc = *expected.desc();
    let whole = Part::whole(desc.rows, desc.columns);
    let mut bytes = vec![0; desc.bytes()];
    let copy = HostTensor::new(DeviceId::next(), desc).map_err(|error| error.to_string())?;
    let copy = SharedTensor::new(Arc::new(copy));
    found.view().read_bytes(&whole, &mut bytes).map_err(|error| error.to_string())?;
    copy.slot().write_bytes(&whole, &bytes).map_err(|error| error.to_string())?;
    let (expected, found) = (Binding::Read(expected.view()), Binding::Read(copy.view()));
    let mut rows = [vec![0.0f32; desc.columns], vec![0.0f32; desc.columns]];
    let mut largest = 0.0f32;
    let mut worst = (0.0f32, [0.0f32; 2], [0; 2]);
    for row in 0..n_rows {
        expected.read_f32(row, 0, &mut rows[0]);
        found.read_f32(row, 0, &mut rows[1]);
        for (column, (right, is)) in rows[0].iter().zip(&rows[1]).enumerate() {
            largest = largest.max(right.abs());
            let error = (right - is).abs();
            let error = if error.is_nan() { f32::INFINITY } else { error };
            if error > worst.0 {
                worst = (error, [*right, *is], [row, column]);
            }
        }
    }
    if worst.0 <= tolerance * largest.max(1e-3) {
        return Ok(());
    }
    let (_, [right, is], [row, column]) = worst;
    Err(format!("{is} in the place of {right} at [{row}, {column}]"))
}

/// Numbers for what the device reads; what it writes is cleared.
fn fill(tensor: &Arc<SharedTensor>, graph: &Graph, value: ValueId, numbers: &mut Numbers) {
    let TensorDesc { rows, columns, dtype } = *tensor.desc();
    let is_read = matches!(graph.value(value).kind, ValueKind::Input | ValueKind::State);
    if dtype == DType::U32 {
        let mut slot = tensor.slot();
        // Ids of the smallest table that `small` makes.
        (0..rows).for_each(|row| slot.row_mut::<u32>(row).fill_with(|| numbers.bits() as u32 % 40));
        return;
    }
    let mut binding = Binding::Write(tensor.slot());
    for row in 0..rows {
        let values: Vec<f32> = (0..columns).map(|_| if is_read { numbers.next() } else { 0.0 }).collect();
        binding.write_f32(row, 0, &values);
    }
}

fn matrix(
    backend: &dyn Backend,
    name: &str,
    layout: WeightLayout,
    numbers: &mut Numbers,
) -> Result<Arc<WeightMatrix>, BackendError> {
    // What keeps results of the size of inputs.
    let scale = if layout.arrangement == Arrangement::Panels { (3.0 / layout.columns as f32).sqrt() } else { 1.0 };
    let values: Vec<f32> = (0..layout.rows * layout.columns).map(|_| scale * numbers.next()).collect();
    let bytes = match layout.arrangement {
        Arrangement::Panels => {
            let mut bytes = vec![0; layout.bytes()];
            let rows = values.chunks(WeightLayout::PANEL_ROWS * layout.columns);
            for (rows, panel) in rows.zip(bytes.chunks_exact_mut(layout.panel_bytes())) {
                quantize::pack_panel(&layout, rows, panel);
            }
            bytes
        }
        Arrangement::Rows => {
            let dtype = match layout.format {
                WeightFormat::F16 => DType::F16,
                WeightFormat::Bf16 => DType::BF16,
                _ => DType::F32,
            };
            let desc = TensorDesc { rows: 1, columns: values.len(), dtype };
            let tensor = SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc)?));
            Binding::Write(tensor.slot()).write_f32(0, 0, &values);
            let mut bytes = vec![0; desc.bytes()];
            tensor.view().read_bytes(&Part::whole(1, values.len()), &mut bytes)?;
            bytes
        }
    };
    let tensor = WeightMatrix::allocate(&layout, backend)?;
    let built = WeightMatrix::build(name, layout, tensor, |memory| {
        memory.copy_from_slice(&bytes[..memory.len()]);
        Ok::<(), Infallible>(())
    });
    Ok(built.unwrap_or_else(|never| match never {}))
}

/// Numbers that look random and are always the same (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    fn next(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
