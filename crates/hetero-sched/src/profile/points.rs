//! Which shapes of which operators are measured, and in which order.

use std::sync::Arc;

use hetero_core::{Backend, DeviceKind, Graph, NodeId, Op, OpSpec, OperandOrder, Rows, Support};

use super::measure::MeasureOptions;
use super::operator_key;
use super::probe::ProbeShape;

/// Positions of an NPU's smallest graph but the one for a single position.
const TILE: usize = 32;

/// One measurement.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) device_idx: usize,
    pub(super) shape: ProbeShape,
    /// Whether nothing can be predicted of the operator without it.
    pub(super) is_essential: bool,
}

/// An operator with the most rows that it has in a step.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) spec: OpSpec,
    most_rows: usize,
}

/// The operators of a graph, those that cost the same once: the same key, and of linear operators the same columns.
pub(super) fn distinct_operators(graph: &Graph) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for idx in 0..graph.nodes().len() {
        let spec = graph.op_spec(NodeId(idx));
        let most_rows = match graph.value(graph.node(NodeId(idx)).output).rows {
            Rows::Fixed(rows) if matches!(spec.op, Op::Linear { .. }) => rows,
            _ => graph.capacity(),
        };
        let is_same = |known: &Wanted| {
            operator_key(&known.spec) == operator_key(&spec)
                && known.spec.op.output_columns() == spec.op.output_columns()
        };
        match wanted.iter_mut().find(|known| is_same(known)) {
            Some(known) => known.most_rows = known.most_rows.max(most_rows),
            None => wanted.push(Wanted { spec, most_rows }),
        }
    }
    wanted
}

/// Everything to measure: whole operators with the fewest and most rows first, then what lies between.
pub(super) fn points(
    backends: &[Arc<dyn Backend>],
    wanted: &[Wanted],
    graph: &Graph,
    options: &MeasureOptions,
) -> Vec<Point> {
    let mut points: Vec<(usize, Point)> = Vec::new();
    let most_asked = options.rows.iter().copied().max().unwrap_or(1);
    for (device_idx, backend) in backends.iter().enumerate() {
        for Wanted { spec, most_rows } in wanted.iter().filter(|wanted| backend.support(&wanted.spec) == Support::Yes) {
            let most_rows = (*most_rows).min(graph.capacity());
            let mut rows: Vec<usize> = options.rows.iter().copied().filter(|&rows| rows <= most_rows).collect();
            if backend.info().kind == DeviceKind::Npu {
                // It computes one position or whole tiles, and each number is a graph of its own.
                rows.retain(|&rows| rows == 1 || rows >= TILE);
            }
            rows.push(most_rows.min(most_asked));
            rows.sort_unstable();
            rows.dedup();
            let ends = [rows[0], rows[rows.len() - 1]];
            let whole = spec.op.output_columns();
            let is_linear = matches!(spec.op, Op::Linear { .. });
            let mut add = |importance: usize, rows, past, columns, order| {
                let shape = ProbeShape { spec: spec.clone(), rows, past, columns, order };
                points.push((importance, Point { device_idx, shape, is_essential: importance == 0 }));
            };
            for &rows in &rows {
                let inner = usize::from(!ends.contains(&rows));
                add(inner, rows, 0, whole, OperandOrder::default());
                if is_linear && backend.info().kind == DeviceKind::Npu {
                    add(inner + 1, rows, 0, whole, OperandOrder::WeightStationary);
                }
                let shares = options.column_shares.iter().filter(|&&share| is_linear && share > 1);
                for columns in shares.map(|share| (whole / share).next_multiple_of(32)).filter(|&part| part < whole) {
                    add(inner + 2, rows, 0, columns, OperandOrder::default());
                }
            }
            if let Op::Attention { context, .. } = spec.op {
                // A short context has room for less, and its end is worth knowing too.
                let mut pasts: Vec<usize> = options.past.iter().map(|&past| past.min(context - 1)).collect();
                pasts.dedup();
                for past in pasts.into_iter().filter(|&past| past > 0) {
                    add(1, 1, past, whole, OperandOrder::default());
                }
            }
        }
    }
    points.sort_by_key(|(importance, ..)| *importance);
    points.into_iter().map(|(_, point)| point).collect()
}
