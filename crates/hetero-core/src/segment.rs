//! The unit of submission: a run of nodes on one processor with no join inside.

use std::sync::Arc;

use crate::{Claim, Graph, NodeId, Part, ValueId, Weight};

/// Which operand of a linear operator stays in the processor's array while the other streams through it.
///
/// Only order-sensitive processors (NPUs) look at it. It decides how long a product takes, never what it is: results
/// have the same bits for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OperandOrder {
    /// Activations stay in the array and the rows of the weight matrix stream through it.
    #[default]
    ActivationStationary,
    /// Weights stay in the array and positions stream through it.
    WeightStationary,
}

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
    /// Which operand stays in the array, for a linear operator on an order-sensitive processor.
    pub operand_order: OperandOrder,
}

/// Nodes that one processor computes in one submission, in this order.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The graph that the nodes are of.
    pub graph: Arc<Graph>,
    /// What to compute.
    pub nodes: Vec<SegmentNode>,
    /// The values that the nodes read or write, in the order of their first use.
    values: Vec<ValueId>,
    /// For each of `values`, which of the submission's bindings holds it.
    storage: Vec<usize>,
    /// For each binding, what the nodes touch of it.
    claims: Vec<Arc<Claim>>,
}

impl Segment {
    /// A segment in which every value has a tensor of its own.
    pub fn new(graph: Arc<Graph>, nodes: Vec<SegmentNode>) -> Segment {
        Self::with_storage(graph, nodes, |value| value.0)
    }

    /// A segment in which values for which `tensor_of` gives the same number lie in the same tensor, one after the
    /// other. The caller sees to it that no value is overwritten before it has been read for the last time, in the
    /// order of the nodes, and that no node reads the tensor that it writes.
    pub fn with_storage(graph: Arc<Graph>, nodes: Vec<SegmentNode>, tensor_of: impl Fn(ValueId) -> usize) -> Segment {
        let mut values = Vec::new();
        let mut storage = Vec::new();
        let mut tensors = Vec::new();
        for node in &nodes {
            let node = graph.node(node.node);
            for &value in node.inputs.iter().chain([&node.output]) {
                if values.contains(&value) {
                    continue;
                }
                let tensor = tensor_of(value);
                let known = tensors.iter().position(|&known| known == tensor);
                storage.push(known.unwrap_or(tensors.len()));
                if known.is_none() {
                    tensors.push(tensor);
                }
                values.push(value);
            }
        }
        let claims = tensors.iter().map(|_| Arc::default()).collect();
        let mut segment = Segment { graph, nodes, values, storage, claims };
        segment.claim();
        segment
    }

    /// The values that the nodes read or write, in the order of their first use.
    pub fn values(&self) -> &[ValueId] {
        &self.values
    }

    /// Number of tensors that a submission binds.
    pub fn n_bindings(&self) -> usize {
        self.claims.len()
    }

    /// What the nodes read and write of the tensor of a binding, for steps of any number of rows.
    pub fn claim_of(&self, binding_idx: usize) -> &Arc<Claim> {
        &self.claims[binding_idx]
    }

    /// Which binding holds a value.
    ///
    /// # Panics
    /// When the segment does not use the value.
    pub fn binding_idx(&self, value: ValueId) -> usize {
        let idx = self.values.iter().position(|&v| v == value);
        let idx = idx.unwrap_or_else(|| panic!("value {:?} is not of this segment", self.graph.value(value).name));
        self.storage[idx]
    }

    /// The values that a binding holds, one after the other.
    pub fn values_of(&self, binding_idx: usize) -> impl Iterator<Item = ValueId> {
        let pairs = self.values.iter().zip(&self.storage);
        pairs.filter(move |(_, storage)| **storage == binding_idx).map(|(value, _)| *value)
    }

    /// Whether a node of the segment writes a value.
    pub fn writes(&self, value: ValueId) -> bool {
        self.nodes.iter().any(|node| self.graph.node(node.node).output == value)
    }

    fn claim(&mut self) {
        let mut claims = vec![Claim::default(); self.claims.len()];
        for SegmentNode { node: id, part, .. } in &self.nodes {
            let node = self.graph.node(*id);
            for (input_idx, &input) in node.inputs.iter().enumerate() {
                claims[self.binding_idx(input)].add_read(self.graph.input_part(*id, input_idx, part));
            }
            claims[self.binding_idx(node.output)].add_write(part.clone());
        }
        self.claims = claims.into_iter().map(Arc::new).collect();
    }
}
