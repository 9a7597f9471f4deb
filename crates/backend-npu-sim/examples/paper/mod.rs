//! What the HeteroLLM paper measured, done again on a simulated system: single operators, tokens, prompts of Llama-8B.
//!
//! Shared by the examples. Figures are sums over one layer's nodes times the number of layers, with nothing beside
//! each other: what the scheduler gains by running processors together is its own to show.
#![allow(dead_code, reason = "each example uses a part")]

mod llama;

use std::sync::Arc;

use backend_npu_sim::cost::{Demand, compile_seconds, node_demand, weight_bits};
use backend_npu_sim::soc::Soc;
use hetero_core::{
    DType, DeviceKind, Graph, GraphBuilder, Node, NodeId, Op, OperandOrder, Part, Segment, SegmentNode, StepParams,
    WeightFormat, WeightLayout,
};

pub(crate) use llama::{LAYERS, layer_graph};

/// What measuring a single operator on the GPU adds, in seconds, as `cargo xtask fit-soc` finds it.
pub(crate) const GPU_MEASUREMENT_SECONDS: f64 = 216.2e-6;

/// A matrix product: `m` rows of activations, `n` output features, `k` input features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Rows of the activations.
    pub(crate) m: usize,
    /// Output features.
    pub(crate) n: usize,
    /// Input features.
    pub(crate) k: usize,
}

/// A system and how its operators are measured.
#[derive(Clone, Debug)]
pub(crate) struct Phone {
    /// The system.
    pub(crate) soc: Soc,
    /// What the measurement of a single operator on the GPU adds for waiting, in seconds. The paper's table cannot
    /// contain its own 400 us for clFinish, so that this is not a parameter of the system.
    pub(crate) gpu_measurement_seconds: f64,
}

/// What a whole step took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    /// Time.
    pub(crate) seconds: f64,
    /// Energy of all processors, idle ones included.
    pub(crate) joules: f64,
}

impl Phone {
    /// A single product as the paper's table has it, in seconds: put on an idle queue, computed, waited for.
    pub(crate) fn operator_seconds(&self, kind: DeviceKind, shape: Shape) -> f64 {
        let overheads = self.soc.overheads(kind);
        let wait = match kind {
            DeviceKind::Gpu => self.gpu_measurement_seconds,
            _ => overheads.wait_seconds,
        };
        let submit = overheads.submit_seconds + overheads.submit_idle_seconds + overheads.start_seconds;
        submit + self.product(kind, shape, OperandOrder::default()).alone_seconds() + wait
    }

    /// What a product with 4-bit weights asks of a processor.
    pub(crate) fn product(&self, kind: DeviceKind, shape: Shape, order: OperandOrder) -> Demand {
        let (graph, mut node) = product_graph(shape);
        node.operand_order = order;
        node_demand(&self.soc, kind, &graph, &node, StepParams { past: 0, rows: shape.m })
    }

    /// Bytes of weights per second in the products of one token.
    pub(crate) fn decode_bytes_per_second(&self, kind: DeviceKind) -> f64 {
        self.bytes_per_second_of(kind, |_| true)
    }

    /// The same for some of the products.
    pub(crate) fn bytes_per_second_of(&self, kind: DeviceKind, includes: impl Fn(&Shape) -> bool) -> f64 {
        let (mut bytes, mut seconds) = (0.0, 0.0);
        for shape in layer_products(1).into_iter().filter(includes) {
            bytes += shape.n as f64 * shape.k as f64 * weight_bits(WeightFormat::W4G32) / 8.0;
            seconds += self.product(kind, shape, OperandOrder::default()).alone_seconds();
        }
        bytes / seconds
    }

    /// The whole model on one processor, in one submission.
    pub(crate) fn whole_step(&self, kind: DeviceKind, step: StepParams) -> Run {
        self.step(step, |_| kind)
    }

    /// Layer-level execution: products of many rows on the NPU, all else on the GPU, switching by polling.
    pub(crate) fn layer_level_prefill(&self, rows: usize) -> Run {
        let on_npu = |node: &Node| matches!(node.op, Op::Linear { .. }) && node.layer.is_some();
        let step = StepParams { past: 0, rows };
        self.step(step, |node| if on_npu(node) { DeviceKind::Npu } else { DeviceKind::Gpu })
    }

    /// Seconds of making one graph ready for each of the four groups of products of a layer: queries with keys and
    /// values, attention output, gate with up, down.
    pub(crate) fn graph_preparation_seconds(&self, rows: usize) -> f64 {
        let graph = Arc::new(layer_graph(rows));
        let nodes_named = |names: &[&str]| -> Segment {
            let is_named = |id: &NodeId| names.contains(&graph.node(*id).name);
            let ids = (0..graph.nodes().len()).map(NodeId).filter(is_named);
            Segment::new(Arc::clone(&graph), ids.map(|id| whole_node(&graph, id)).collect())
        };
        let groups: [&[&str]; 4] =
            [&["query", "key", "value"], &["attention_output"], &["ffn_gate", "ffn_up"], &["ffn_down"]];
        groups.iter().map(|names| compile_seconds(&self.soc, DeviceKind::Npu, &nodes_named(names))).sum()
    }

    fn step(&self, step: StepParams, place: impl Fn(&Node) -> DeviceKind) -> Run {
        let graph = layer_graph(step.rows);
        let mut run = Run::default();
        let mut before = None;
        for idx in 0..graph.nodes().len() {
            let node = graph.node(NodeId(idx));
            let kind = place(node);
            let demand = node_demand(&self.soc, kind, &graph, &whole_node(&graph, NodeId(idx)), step);
            let times = if node.layer.is_some() { LAYERS as f64 } else { 1.0 };
            if before != Some(kind) {
                let overheads = self.soc.overheads(kind);
                let submit = overheads.submit_seconds + overheads.submit_idle_seconds + overheads.start_seconds;
                run.seconds += times * (submit + overheads.poll_seconds);
                before = Some(kind);
            }
            let seconds = demand.alone_seconds();
            let power = self.soc.power(kind);
            run.seconds += times * seconds;
            run.joules += times
                * (power.active_watts * seconds
                    + power.joules_per_byte * demand.bytes
                    + power.joules_per_operation * demand.operations);
        }
        let kinds = [DeviceKind::Cpu, DeviceKind::Gpu, DeviceKind::Npu];
        run.joules += kinds.iter().map(|&kind| self.soc.power(kind).idle_watts).sum::<f64>() * run.seconds;
        run
    }
}

/// The products of one layer of Llama-8B.
pub(crate) fn layer_products(m: usize) -> Vec<Shape> {
    let graph = layer_graph(m);
    let products = graph.nodes().iter().filter(|node| node.layer.is_some()).filter_map(|node| match node.op {
        Op::Linear { in_features, out_features, .. } => Some(Shape { m, n: out_features, k: in_features }),
        _ => None,
    });
    products.collect()
}

fn whole_node(graph: &Graph, id: NodeId) -> SegmentNode {
    let output = graph.tensor_desc(graph.node(id).output);
    let part = Part::whole(output.rows, output.columns);
    SegmentNode { node: id, part, weights: Vec::new(), operand_order: OperandOrder::default() }
}

fn product_graph(Shape { m, n, k }: Shape) -> (Graph, SegmentNode) {
    let mut builder = GraphBuilder::new(m);
    let x = builder.input("x", k, DType::F32);
    let weight = builder.weight("w", WeightLayout::panels(WeightFormat::W4G32, n, k));
    let op = Op::Linear { in_features: k, out_features: n, format: WeightFormat::W4G32, bias: false };
    let y = builder.node("product", op, &[x], &[weight], DType::F32);
    builder.output(y);
    let graph = builder.finish();
    let node = whole_node(&graph, NodeId(0));
    (graph, node)
}
