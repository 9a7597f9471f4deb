//! What work costs: pure functions from a [`Soc`] and a node to what the node asks of a processor.
//!
//! Nothing here knows of clocks, queues or other processors: the time of a node that is alone on the machine follows
//! from its [`Demand`], and the clock stretches it where the bus is shared.

mod linear;
mod work;

use hetero_core::{DType, DeviceKind, Graph, Op, Segment, SegmentNode, StepParams, WeightFormat};

use crate::soc::Soc;
pub use linear::{NpuArray, Product, cpu_product, gpu_product, npu_product};
pub use work::{compile_tiles, padded};

/// What one node of a segment asks of a processor: alone it takes
/// `fixed_seconds + max(compute_seconds, bytes / bytes_per_second)`.
///
/// A kernel that computes for longer than its bytes would take spreads them over that time, so its `bytes_per_second`
/// is no more than it needs: it leaves the rest of the bus to others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Passes whatever else goes on, in seconds.
    pub fixed_seconds: f64,
    /// Arithmetic, in seconds.
    pub compute_seconds: f64,
    /// What goes over the memory bus.
    pub bytes: f64,
    /// How fast this processor reads and writes here when it is alone.
    pub bytes_per_second: f64,
    /// Arithmetic operations, filled-up rows and columns included: for energy and reports.
    pub operations: f64,
}

impl Demand {
    /// A demand without a fixed part on a processor that reads and writes `bytes_per_second` when it is alone.
    fn streaming(compute_seconds: f64, bytes: f64, bytes_per_second: f64, operations: f64) -> Demand {
        let is_compute_bound = bytes > 0.0 && compute_seconds * bytes_per_second > bytes;
        let bytes_per_second = if is_compute_bound { bytes / compute_seconds } else { bytes_per_second };
        Demand { fixed_seconds: 0.0, compute_seconds, bytes, bytes_per_second, operations }
    }

    /// The seconds that it takes when nothing else uses the bus.
    pub fn alone_seconds(&self) -> f64 {
        self.fixed_seconds + self.compute_seconds.max(self.memory_seconds())
    }

    /// The seconds that its bytes take when nothing else uses the bus.
    pub fn memory_seconds(&self) -> f64 {
        if self.bytes == 0.0 { 0.0 } else { self.bytes / self.bytes_per_second }
    }
}

/// What a node asks of a processor in one step.
///
/// CPU and GPU compute the rows in use. An NPU's shapes are fixed: it computes all rows of the part, filled up to its
/// tile, and its attention covers a KV length filled up to [`crate::soc::NpuLimits::kv_step_positions`].
pub fn node_demand(soc: &Soc, kind: DeviceKind, graph: &Graph, node: &SegmentNode, step: StepParams) -> Demand {
    let work = work::NodeWork::new(soc, kind, graph, node, step);
    let mut demand = match &graph.node(node.node).op {
        Op::Linear { in_features, format, .. } => {
            if work.rows == 0 {
                return Demand { bytes_per_second: soc.bytes_per_second(kind), ..Demand::default() };
            }
            let product = Product {
                m: work.rows,
                n: node.part.columns.len(),
                k: *in_features,
                quantized: format.is_quantized(),
                weight_bits: weight_bits(*format),
                activation_bytes: graph.value(graph.node(node.node).inputs[0]).dtype.size() as f64,
                output_bytes: graph.value(graph.node(node.node).output).dtype.size() as f64,
            };
            match kind {
                DeviceKind::Cpu => cpu_product(&soc.cpu, &product),
                DeviceKind::Gpu => gpu_product(&soc.gpu, &product),
                DeviceKind::Npu => npu_product(&NpuArray::of(soc, &product), &product, node.operand_order),
            }
        }
        _ => work.vector_demand(soc, kind),
    };
    demand.fixed_seconds += match kind {
        DeviceKind::Cpu => soc.cpu.node_seconds,
        DeviceKind::Gpu => soc.gpu.node_seconds,
        DeviceKind::Npu => soc.npu.node_seconds,
    };
    demand
}

/// How long making a segment ready takes: a fixed part, and a part for each tile of its work at full capacity.
///
/// A tile of a linear operator is a product of two square tiles; of any other operator, a square tile of its output.
pub fn compile_seconds(soc: &Soc, kind: DeviceKind, segment: &Segment) -> f64 {
    let tiles: f64 =
        segment.nodes.iter().map(|node| compile_tiles(soc.npu_limits.tile, &segment.graph, node) as f64).sum();
    let compile = soc.compile(kind);
    compile.graph_seconds + compile.tile_seconds * tiles
}

/// Bits of one weight in memory, its share of the scale included: groups of 32 share a scale of 16 bits.
pub fn weight_bits(format: WeightFormat) -> f64 {
    format.element_bits() as f64 + if format.is_quantized() { 0.5 } else { 0.0 }
}

/// Bits of one element of a table that is looked up row by row.
fn table_bytes(format: WeightFormat) -> f64 {
    Option::<DType>::from(format).map_or(2.0, |dtype| dtype.size() as f64)
}
