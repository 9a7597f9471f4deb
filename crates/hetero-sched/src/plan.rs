//! Where every node of a graph is computed: plain data.

use std::sync::Arc;

use hetero_core::{Graph, NodeId, OperandOrder, Part, Partition, PartitionError, Rows, StepParams};

/// A rectangle of a node's output on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPart {
    /// Index into the executor's list of devices.
    pub device_idx: usize,
    /// The rectangle.
    pub part: Part,
    /// Which operand of a linear operator stays in the array of an order-sensitive processor.
    pub operand_order: OperandOrder,
}

impl PlacedPart {
    /// A rectangle on a device, in the default operand order.
    pub fn new(device_idx: usize, part: Part) -> PlacedPart {
        PlacedPart { device_idx, part, operand_order: OperandOrder::default() }
    }
}

/// For every node of a graph, which device computes which part of its output.
#[derive(Clone, Debug)]
pub struct Plan {
    graph: Arc<Graph>,
    /// For each node, in the graph's order.
    placements: Vec<Vec<PlacedPart>>,
}

impl Plan {
    /// Checks that the parts of every node cover its output exactly once.
    ///
    /// # Panics
    /// When there is not one placement for each node, or a cut breaks the operator's split rule: a solver that
    /// proposes such a plan is wrong.
    pub fn new(graph: Arc<Graph>, placements: Vec<Vec<PlacedPart>>) -> Result<Plan, PartitionError> {
        assert_eq!(placements.len(), graph.nodes().len(), "one placement for each node");
        for (idx, placed) in placements.iter().enumerate() {
            let node = graph.node(NodeId(idx));
            let output = graph.tensor_desc(node.output);
            Partition::check(output.rows, output.columns, placed.iter().map(|placed| &placed.part))?;
            let rule = node.op.split_rule();
            for PlacedPart { part, .. } in placed {
                let whole_rows = part.rows == (0..output.rows);
                assert!(rule.rows || whole_rows, "{}: positions of {} may not be cut", node.name, node.op.name());
                let whole_columns = part.columns == (0..output.columns);
                let cut_fits = |at: usize| {
                    at == output.columns || rule.columns.is_some_and(|multiple| at.is_multiple_of(multiple))
                };
                assert!(
                    whole_columns || (cut_fits(part.columns.start) && cut_fits(part.columns.end)),
                    "{}: columns {:?} of {} are not cut by its rule {:?}",
                    node.name,
                    part.columns,
                    node.op.name(),
                    rule,
                );
            }
        }
        Ok(Plan { graph, placements })
    }

    /// Everything on one device.
    pub fn single_device(graph: Arc<Graph>, device_idx: usize) -> Plan {
        let placements = graph
            .nodes()
            .iter()
            .map(|node| {
                let output = graph.tensor_desc(node.output);
                vec![PlacedPart::new(device_idx, Part::whole(output.rows, output.columns))]
            })
            .collect();
        Plan { graph, placements }
    }

    /// The graph that is planned.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// For each node, in the graph's order, the parts of its output.
    pub fn placements(&self) -> &[Vec<PlacedPart>] {
        &self.placements
    }

    /// For each of `n_devices`, its share of the arithmetic of a full step, from 0 to 1.
    pub fn shares(&self, n_devices: usize) -> Vec<f64> {
        shares(&self.operations(n_devices, StepParams { past: 0, rows: self.graph.capacity() }))
    }

    /// For each of `n_devices`, the arithmetic operations that it computes in a step. What lies beyond the positions of
    /// the step counts for nobody.
    pub fn operations(&self, n_devices: usize, step: StepParams) -> Vec<f64> {
        let mut operations = vec![0.0; n_devices];
        for (node, placed) in self.graph.nodes().iter().zip(&self.placements) {
            let rows = match self.graph.value(node.output).rows {
                Rows::Positions => step.rows,
                Rows::Fixed(rows) => rows,
            };
            let total = node.op.operations(rows.min(step.rows), step.past) as f64;
            let used = |part: &Part| part.rows.end.min(rows).saturating_sub(part.rows.start) * part.columns.len();
            let area: usize = placed.iter().map(|placed| used(&placed.part)).sum();
            for placed in placed.iter().filter(|_| area > 0) {
                operations[placed.device_idx] += total * used(&placed.part) as f64 / area as f64;
            }
        }
        operations
    }
}

/// The share of each in the sum of all; zeros when that is zero.
pub fn shares(operations: &[f64]) -> Vec<f64> {
    let total: f64 = operations.iter().sum();
    operations.iter().map(|x| if total > 0.0 { x / total } else { 0.0 }).collect()
}
