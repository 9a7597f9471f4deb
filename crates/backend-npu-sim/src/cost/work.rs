//! How much there is to do: rows, bytes and operations of a node.

use hetero_core::{DeviceKind, Graph, Op, RowSelection, Rows, SegmentNode, StepParams};

use super::{Demand, table_bytes};
use crate::soc::Soc;

/// A dimension filled up to a multiple of a tile.
pub fn padded(n: usize, tile: usize) -> usize {
    n.next_multiple_of(tile)
}

/// What a node does in one step on one kind of processor.
pub(super) struct NodeWork {
    /// Rows of the output that are computed, not yet filled up to a tile.
    pub(super) rows: usize,
    bytes: f64,
    operations: f64,
}

impl NodeWork {
    pub(super) fn new(soc: &Soc, kind: DeviceKind, graph: &Graph, node: &SegmentNode, step: StepParams) -> NodeWork {
        let rows = match kind {
            DeviceKind::Npu => static_rows(graph, node),
            DeviceKind::Cpu | DeviceKind::Gpu => rows_in_use(graph, node, step),
        };
        let computed_rows = if kind == DeviceKind::Npu { padded(rows, soc.npu_limits.tile) } else { rows };
        if rows == 0 {
            return NodeWork { rows, bytes: 0.0, operations: 0.0 };
        }
        let (kv_read, kv_seen) = match kind {
            DeviceKind::Npu => {
                let covered = static_kv_rows(soc, graph, node, step);
                (covered, covered)
            }
            // Row r sees `past + r + 1` positions.
            DeviceKind::Cpu | DeviceKind::Gpu => {
                let before = (step.past + node.part.rows.start) as f64;
                (before + rows as f64, before + (rows as f64 + 1.0) / 2.0)
            }
        };
        // What fills a tile up is computed, but never comes from memory.
        let bytes = bytes(graph, node, rows as f64, kv_read);
        NodeWork { rows, bytes, operations: operations(graph, node, computed_rows as f64, kv_seen) }
    }

    /// The demand of an operator that is no matrix product.
    pub(super) fn vector_demand(&self, soc: &Soc, kind: DeviceKind) -> Demand {
        let rate = match kind {
            DeviceKind::Cpu => soc.cpu.vector_operations_per_second,
            DeviceKind::Gpu => soc.gpu.vector_operations_per_second,
            DeviceKind::Npu => soc.npu.vector_operations_per_second,
        };
        Demand::streaming(self.operations / rate, self.bytes, soc.bytes_per_second(kind), self.operations)
    }
}

/// Tiles of work of a node at full capacity: what a compiler of static graphs has to lay out.
pub fn compile_tiles(tile: usize, graph: &Graph, node: &SegmentNode) -> u64 {
    let tiles = |n: usize| n.div_ceil(tile) as u64;
    let output = tiles(static_rows(graph, node)) * tiles(node.part.columns.len());
    match graph.node(node.node).op {
        Op::Linear { in_features, .. } => output * tiles(in_features),
        _ => output,
    }
}

/// Rows of a part that this step uses.
fn rows_in_use(graph: &Graph, node: &SegmentNode, step: StepParams) -> usize {
    let rows = &node.part.rows;
    match (&graph.node(node.node).op, graph.value(graph.node(node.node).output).rows) {
        // The output is the whole cache; the input's rows are what moves.
        (Op::CacheWrite { .. }, _) => step.rows,
        (_, Rows::Positions) => rows.end.min(step.rows).saturating_sub(rows.start),
        (_, Rows::Fixed(_)) => rows.len(),
    }
}

/// Rows of a part that a graph of fixed shape computes.
fn static_rows(graph: &Graph, node: &SegmentNode) -> usize {
    match graph.node(node.node).op {
        Op::CacheWrite { .. } => graph.capacity(),
        _ => node.part.rows.len(),
    }
}

/// KV length that a graph of fixed shape covers: all that this step and full capacity may use, filled up to a step.
fn static_kv_rows(soc: &Soc, graph: &Graph, node: &SegmentNode, step: StepParams) -> f64 {
    match graph.node(node.node).op {
        Op::Attention { context, .. } => {
            (step.past + graph.capacity()).next_multiple_of(soc.npu_limits.kv_step_positions).min(context) as f64
        }
        _ => 0.0,
    }
}

/// Bytes that a node reads and writes, each tensor once.
fn bytes(graph: &Graph, segment_node: &SegmentNode, rows: f64, kv_rows: f64) -> f64 {
    let node = graph.node(segment_node.node);
    let input_size = |idx: usize| graph.value(node.inputs[idx]).dtype.size() as f64;
    let output_size = graph.value(node.output).dtype.size() as f64;
    let columns = segment_node.part.columns.len() as f64;
    match node.op {
        Op::Embed { .. } => {
            let table = table_bytes(graph.weights()[node.weights[0].0].layout.format);
            rows * (input_size(0) + columns * (table + output_size))
        }
        Op::CacheWrite { kv_heads, head_dim, .. } => {
            rows * (kv_heads * head_dim) as f64 * (input_size(0) + output_size)
        }
        Op::Attention { heads, kv_heads, .. } => {
            // Columns are cut by groups of query heads, which read the keys and values of their own heads only.
            let kv_columns = columns * kv_heads as f64 / heads as f64;
            rows * columns * (input_size(0) + output_size) + kv_rows * kv_columns * (input_size(1) + input_size(2))
        }
        Op::RmsNorm { .. } => {
            let table = table_bytes(graph.weights()[node.weights[0].0].layout.format);
            columns * (rows * (input_size(0) + output_size) + table)
        }
        Op::Convert { rows: RowSelection::Last, .. } => columns * (input_size(0) + output_size),
        _ => {
            let inputs: f64 = (0..node.inputs.len()).map(input_size).sum();
            rows * columns * (inputs + output_size)
        }
    }
}

/// Arithmetic operations of a node, the same counts as [`Op::operations`] but for a part of the output.
fn operations(graph: &Graph, segment_node: &SegmentNode, rows: f64, kv_rows: f64) -> f64 {
    let op = &graph.node(segment_node.node).op;
    match op {
        Op::Attention { .. } => 4.0 * rows * kv_rows * segment_node.part.columns.len() as f64,
        Op::CacheWrite { .. } => 0.0,
        _ => {
            let share = segment_node.part.columns.len() as f64 / op.output_columns() as f64;
            op.operations(1, 0) as f64 * rows * share
        }
    }
}
