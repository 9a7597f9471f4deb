//! Processors at work at the same time on the simulated bus, and what each of them moves.

use std::sync::Arc;

use anyhow::Result;
use backend_npu_sim::soc::Soc;
use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, blank_weight};
use hetero_core::{
    Binding, Bindings, DType, DeviceKind, Executable, Graph, GraphBuilder, NodeId, Op, OperandOrder, Part, Segment,
    SegmentNode, SharedTensor, StepParams, WeightFormat, WeightLayout, WeightRows,
};

/// What the processors do.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// Additions of long vectors: nothing but memory.
    Copying,
    /// Products of one row with 4-bit weights.
    Decoding,
}

/// Bytes per second of each of the processors while all of them work.
pub(crate) fn bytes_per_second(soc: &Soc, kinds: &[DeviceKind], load: Load) -> Result<Vec<f64>> {
    let options = SimOptions { numerics: Numerics::None, ..SimOptions::default() };
    let phone = SimulatedSoc::new(soc.clone(), options);
    let graph = Arc::new(graph(load));
    // All are compiled before the first starts, because compiling takes virtual time.
    let mut ready = Vec::new();
    for &kind in kinds {
        ready.push((kind, executable(&phone, kind, &graph)?));
    }
    let mut tickets = Vec::new();
    for (kind, executable) in ready {
        let backend = phone.backend(kind);
        for _ in 0..RUNS {
            let tensor = |idx: usize| -> Result<Arc<SharedTensor>> {
                Ok(SharedTensor::new(backend.allocate(&graph.tensor_desc(hetero_core::ValueId(idx)))?))
            };
            let mut tensors = vec![Binding::Read(tensor(0)?.view())];
            for idx in 1..graph.values().len() {
                tensors.push(Binding::Write(tensor(idx)?.slot()));
            }
            tickets.push(executable.submit(Bindings { tensors }, StepParams { past: 0, rows: graph.capacity() })?);
        }
    }
    // Everybody has begun by now; what is measured is the middle of the work.
    phone.clock().advance(SETTLE_SECONDS);
    phone.reset_usage();
    phone.clock().advance(MEASURED_SECONDS);
    let usage = phone.usage();
    let of = |kind: &DeviceKind| usage.iter().filter(|usage| usage.kind == *kind).map(|usage| usage.bytes).sum::<f64>();
    Ok(kinds.iter().map(|kind| of(kind) / MEASURED_SECONDS).collect())
}

/// Submissions of a processor; so many that it works throughout the measurement.
const RUNS: usize = 6;
const SETTLE_SECONDS: f64 = 0.005;
const MEASURED_SECONDS: f64 = 0.05;
const NODES: usize = 24;

fn graph(load: Load) -> Graph {
    let (capacity, columns) = match load {
        Load::Copying => (256, 14336),
        Load::Decoding => (1, 4096),
    };
    let mut builder = GraphBuilder::new(capacity);
    let x = builder.input("x", columns, DType::F16);
    for _ in 0..NODES {
        match load {
            Load::Copying => builder.node("add", Op::Add { features: columns }, &[x, x], &[], DType::F16),
            Load::Decoding => {
                let format = WeightFormat::W4G32;
                let weight = builder.weight("w", WeightLayout::panels(format, 14336, columns));
                let op = Op::Linear { in_features: columns, out_features: 14336, format, bias: false };
                builder.node("product", op, &[x], &[weight], DType::F16)
            }
        };
    }
    builder.finish()
}

fn executable(phone: &SimulatedSoc, kind: DeviceKind, graph: &Arc<Graph>) -> Result<Arc<dyn Executable>> {
    let backend = phone.backend(kind);
    let mut nodes = Vec::new();
    for idx in 0..graph.nodes().len() {
        let node = graph.node(NodeId(idx));
        let mut weights = Vec::new();
        for weight in &node.weights {
            let layout = graph.weights()[weight.0].layout;
            weights.push(backend.load_weight(WeightRows::all(blank_weight("w", layout)?))?);
        }
        let output = graph.tensor_desc(node.output);
        let part = Part::whole(output.rows, output.columns);
        nodes.push(SegmentNode { node: NodeId(idx), part, weights, operand_order: OperandOrder::default() });
    }
    Ok(backend.compile(&Segment::new(Arc::clone(graph), nodes))?)
}
