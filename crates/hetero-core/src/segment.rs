//! The unit of submission: a run of nodes on one processor with no join inside.

use std::sync::Arc;

use crate::{Graph, NodeId, Part, ValueId, Weight};

/// A node, or a part of one, in a segment.
#[derive(Clone, Debug)]
pub struct SegmentNode {
    /// Which node of the graph.
    pub node: NodeId,
    /// Which rectangle of its output. Rows count up to the graph's capacity; a step computes those in use.
    pub part: Part,
    /// The node's weights as the backend has loaded them: for a linear operator exactly the rows
    /// `part.columns` of its matrix; tables, a bias among them, are loaded whole.
    pub weights: Vec<Arc<dyn Weight>>,
}

/// Nodes that one processor computes in one submission, in this order.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The graph that the nodes are of.
    pub graph: Arc<Graph>,
    /// What to compute.
    pub nodes: Vec<SegmentNode>,
    /// The values that the nodes read or write; [`crate::Bindings::tensors`] stands in the same order.
    pub values: Vec<ValueId>,
}

impl Segment {
    /// A segment of these nodes; its values are listed in the order of their first use.
    pub fn new(graph: Arc<Graph>, nodes: Vec<SegmentNode>) -> Segment {
        let mut values = Vec::new();
        for node in &nodes {
            let node = graph.node(node.node);
            for &value in node.inputs.iter().chain([&node.output]) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        Segment {
            graph,
            nodes,
            values,
        }
    }

    /// Where a value stands in [`Segment::values`].
    ///
    /// # Panics
    /// When the segment does not use the value.
    pub fn binding_idx(&self, value: ValueId) -> usize {
        let idx = self.values.iter().position(|&v| v == value);
        idx.unwrap_or_else(|| {
            panic!(
                "value {:?} is not of this segment",
                self.graph.value(value).name
            )
        })
    }

    /// Whether a node of the segment writes a value.
    pub fn writes(&self, value: ValueId) -> bool {
        self.nodes
            .iter()
            .any(|node| self.graph.node(node.node).output == value)
    }
}
