//! Graphs set up on a simulated processor: what the tests of this crate share.

use std::sync::Arc;

use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, Soc};
use hetero_core::quantize::pack_panel;
use hetero_core::{
    Arrangement, Backend, BackendError, Binding, Bindings, DType, DeviceKind, Executable, Graph, GraphBuilder, NodeId,
    Op, OperandOrder, Part, RowSelection, Segment, SegmentNode, SharedTensor, StepParams, Ticket, WeightFormat,
    WeightLayout, WeightMatrix, WeightRows,
};

/// The paper's phone.
pub(crate) fn soc() -> Soc {
    Soc::builtin("snapdragon-8-gen-3").expect("a built-in system")
}

/// The paper's phone, switched on.
pub(crate) fn phone(options: SimOptions) -> Arc<SimulatedSoc> {
    SimulatedSoc::new(soc(), options)
}

/// The paper's phone, for timing alone.
pub(crate) fn timed() -> Arc<SimulatedSoc> {
    phone(SimOptions { numerics: Numerics::None, ..SimOptions::default() })
}

/// A graph as one segment on one processor, with tensors of its own.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) graph: Arc<Graph>,
    executable: Arc<dyn Executable>,
    segment: Segment,
    /// One for each binding.
    tensors: Vec<Arc<SharedTensor>>,
}

impl Run {
    /// Sets a graph up. Weights are random numbers when `weights` says so, else blank.
    pub(crate) fn new(
        backend: &dyn Backend,
        graph: Graph,
        order: OperandOrder,
        weights: bool,
    ) -> Result<Run, BackendError> {
        let graph = Arc::new(graph);
        let mut nodes = Vec::new();
        for (idx, node) in graph.nodes().iter().enumerate() {
            let output = graph.tensor_desc(node.output);
            let matrices = node.weights.iter().map(|id| {
                let desc = &graph.weights()[id.0];
                if weights { random_matrix(backend, &desc.layout) } else { blank(&desc.layout) }
            });
            let weights =
                matrices.map(|matrix| backend.load_weight(WeightRows::all(matrix))).collect::<Result<_, _>>()?;
            nodes.push(SegmentNode {
                node: NodeId(idx),
                part: Part::whole(output.rows, output.columns),
                weights,
                operand_order: order,
            });
        }
        let segment = Segment::new(Arc::clone(&graph), nodes);
        let executable = backend.compile(&segment)?;
        let tensors =
            segment.values().iter().map(|value| Ok(SharedTensor::new(backend.allocate(&graph.tensor_desc(*value))?)));
        let tensors = tensors.collect::<Result<_, BackendError>>()?;
        Ok(Run { executable, segment, tensors, graph })
    }

    /// The tensor of a value by its place in the graph's order of values.
    pub(crate) fn tensor(&self, value_idx: usize) -> &Arc<SharedTensor> {
        &self.tensors[self.segment.binding_idx(hetero_core::ValueId(value_idx))]
    }

    pub(crate) fn submit(&self, past: usize, rows: usize) -> Result<Ticket, BackendError> {
        let bind = |(tensor, value): (&Arc<SharedTensor>, _)| match self.segment.writes(value) {
            true => Binding::Write(tensor.slot()),
            false => Binding::Read(tensor.view()),
        };
        let tensors = self.tensors.iter().zip(self.segment.values().iter().copied()).map(bind).collect();
        self.executable.submit(Bindings { tensors }, StepParams { past, rows })
    }

    /// Seconds on the phone's clock from submission to the end of a blocking wait.
    pub(crate) fn seconds(&self, phone: &SimulatedSoc, rows: usize) -> f64 {
        let start = phone.clock().now();
        self.submit(0, rows).expect("a step").wait().expect("nothing fails");
        phone.clock().now() - start
    }
}

/// Seconds that a processor is busy with one product `[rows, k] x [k, n]` with 4-bit weights.
pub(crate) fn product_seconds(kind: DeviceKind, [rows, n, k]: [usize; 3], order: OperandOrder) -> f64 {
    let phone = timed();
    let run = Run::new(&*phone.backend(kind), linear(rows, n, k), order, false).expect("a product");
    phone.reset_usage();
    run.seconds(&phone, rows);
    busy_seconds(&phone, kind)
}

/// Seconds that a processor was busy since the counts were reset.
pub(crate) fn busy_seconds(phone: &SimulatedSoc, kind: DeviceKind) -> f64 {
    phone.usage().iter().find(|usage| usage.kind == kind).expect("three processors").busy_seconds
}

/// One product with 4-bit weights, for up to `rows` positions. Value 0 is the input, value 1 the output.
pub(crate) fn linear(rows: usize, n: usize, k: usize) -> Graph {
    let mut builder = GraphBuilder::new(rows);
    let x = builder.input("x", k, DType::F16);
    let y = product(&mut builder, "linear", x, n, k);
    builder.output(y);
    builder.finish()
}

/// Sizes of a Llama.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) n_layers: usize,
    pub(crate) features: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
}

/// Llama 3 8B.
pub(crate) const LLAMA_8B: Sizes =
    Sizes { n_layers: 32, features: 4096, hidden: 14336, heads: 32, kv_heads: 8, vocabulary: 128_256, context: 2048 };

/// A Llama that is computed in no time.
pub(crate) const TINY: Sizes =
    Sizes { n_layers: 2, features: 64, hidden: 160, heads: 2, kv_heads: 1, vocabulary: 100, context: 64 };

/// The whole forward pass of a Llama, ids to logits, for up to `rows` positions.
pub(crate) fn llama(rows: usize, sizes: Sizes) -> Graph {
    let Sizes { n_layers, features, hidden, heads, kv_heads, vocabulary, context } = sizes;
    let head_dim = features / heads;
    let mut builder = GraphBuilder::new(rows);
    let ids = builder.input("ids", 1, DType::U32);
    let table = builder.weight("table", WeightLayout::table(WeightFormat::F16, vocabulary, features));
    let mut x = builder.node("embed", Op::Embed { vocabulary, features }, &[ids], &[table], DType::F16);
    let frequencies: Arc<[f32]> = (0..head_dim / 2).map(|i| 0.5f32.powi(i as i32)).collect();
    for layer in 0..n_layers {
        builder.set_layer(Some(layer));
        let normed = norm(&mut builder, x, features);
        let q = product(&mut builder, "q", normed, features, features);
        let k = product(&mut builder, "k", normed, kv_heads * head_dim, features);
        let v = product(&mut builder, "v", normed, kv_heads * head_dim, features);
        let mut rope = |heads, x| {
            let op = Op::Rope { heads, head_dim, frequencies: Arc::clone(&frequencies) };
            builder.node("rope", op, &[x], &[], DType::F16)
        };
        let (q, k) = (rope(heads, q), rope(kv_heads, k));
        let keys = builder.state("keys", kv_heads * context, head_dim, DType::F16);
        let values = builder.state("values", kv_heads * context, head_dim, DType::F16);
        let write = Op::CacheWrite { kv_heads, head_dim, context };
        builder.update("write_keys", write.clone(), &[k], keys);
        builder.update("write_values", write, &[v], values);
        let op = Op::Attention { heads, kv_heads, head_dim, context, scale: 1.0 / (head_dim as f32).sqrt() };
        let attended = builder.node("attention", op, &[q, keys, values], &[], DType::F16);
        let o = product(&mut builder, "o", attended, features, features);
        x = builder.node("add", Op::Add { features }, &[x, o], &[], DType::F16);
        let normed = norm(&mut builder, x, features);
        let gate = product(&mut builder, "gate", normed, hidden, features);
        let up = product(&mut builder, "up", normed, hidden, features);
        let activated = builder.node("swiglu", Op::Swiglu { features: hidden }, &[gate, up], &[], DType::F16);
        let down = product(&mut builder, "down", activated, features, hidden);
        x = builder.node("add", Op::Add { features }, &[x, down], &[], DType::F16);
    }
    builder.set_layer(None);
    let last = Op::Convert { rows: RowSelection::Last, features };
    x = builder.node("last", last, &[x], &[], DType::F16);
    let normed = norm(&mut builder, x, features);
    let logits = product(&mut builder, "logits", normed, vocabulary, features);
    builder.output(logits);
    builder.finish()
}

fn product(
    builder: &mut GraphBuilder,
    name: &'static str,
    x: hetero_core::ValueId,
    n: usize,
    k: usize,
) -> hetero_core::ValueId {
    let format = WeightFormat::W4G32;
    let weight = builder.weight(name, WeightLayout::panels(format, n, k));
    let op = Op::Linear { in_features: k, out_features: n, format, bias: false };
    builder.node(name, op, &[x], &[weight], DType::F16)
}

fn norm(builder: &mut GraphBuilder, x: hetero_core::ValueId, features: usize) -> hetero_core::ValueId {
    let weight = builder.weight("norm", WeightLayout::table(WeightFormat::F32, 1, features));
    builder.node("norm", Op::RmsNorm { features, epsilon: 1e-5 }, &[x], &[weight], DType::F16)
}

fn blank(layout: &WeightLayout) -> Arc<WeightMatrix> {
    backend_npu_sim::blank_weight("weight", *layout).expect("address space")
}

fn random_matrix(backend: &dyn Backend, layout: &WeightLayout) -> Arc<WeightMatrix> {
    let desc = hetero_core::TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let tensor = backend.allocate(&desc).expect("a small matrix");
    let number = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) / (layout.columns as f32).sqrt();
    let fill = |bytes: &mut [u8]| -> Result<(), BackendError> {
        match layout.arrangement {
            Arrangement::Panels => {
                for (idx, panel) in bytes.chunks_mut(layout.panel_bytes()).enumerate() {
                    let first = idx * WeightLayout::PANEL_ROWS;
                    let n_rows = (layout.rows - first).min(WeightLayout::PANEL_ROWS);
                    let numbers = (0..n_rows * layout.columns).map(|i| number(first * layout.columns + i));
                    pack_panel(layout, &numbers.collect::<Vec<_>>(), panel);
                }
            }
            Arrangement::Rows if layout.format == WeightFormat::F32 => {
                bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|x| *x = 1.0f32.to_le_bytes());
            }
            Arrangement::Rows => {
                let numbers = (0..layout.rows * layout.columns).map(|i| half::f16::from_f32(number(i)).to_le_bytes());
                bytes.as_chunks_mut::<2>().0.iter_mut().zip(numbers).for_each(|(x, number)| *x = number);
            }
        }
        Ok(())
    };
    WeightMatrix::build("weight", *layout, tensor, fill).expect("numbers can be written")
}

/// Fills a tensor of f16 with numbers that differ, and rows from `rows` on with NaN.
pub(crate) fn fill(tensor: &Arc<SharedTensor>, rows: usize) {
    let mut slot = tensor.slot();
    for row in 0..tensor.desc().rows {
        for (column, x) in slot.row_mut::<half::f16>(row).iter_mut().enumerate() {
            let number = ((row * 31 + column * 17) % 23) as f32 / 11.5 - 1.0;
            *x = if row < rows { half::f16::from_f32(number) } else { half::f16::NAN };
        }
    }
}

/// The bits of a tensor of f16.
pub(crate) fn bits(tensor: &Arc<SharedTensor>) -> Vec<u16> {
    let view = tensor.view();
    (0..tensor.desc().rows)
        .flat_map(|row| view.row::<half::f16>(row).iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        .collect()
}
