//! What is to be computed: nodes in an order that respects their dependences.

use std::fmt;

use crate::op::{Op, OpSpec, RowSelection};
use crate::{DType, Part, TensorDesc, WeightLayout};

/// A value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// A weight of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub usize);

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// How many rows a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One for each position of a step: up to the graph's capacity, of which a step uses some.
    Positions,
    /// Always so many.
    Fixed(usize),
}

/// What a value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// Written by the caller before a step.
    Input,
    /// Kept from step to step: the KV cache.
    State,
    /// Made and used up within a step.
    Intermediate,
    /// Read by the caller after a step.
    Output,
}

/// A value: shape, element type and purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueDesc {
    /// For messages and traces.
    pub name: String,
    /// Number of rows.
    pub rows: Rows,
    /// Number of columns.
    pub columns: usize,
    /// Type of the elements.
    pub dtype: DType,
    /// What it is for.
    pub kind: ValueKind,
}

/// A weight that the graph needs.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightDesc {
    /// The name by which the model's loader knows it.
    pub name: String,
    /// Format, shape and order.
    pub layout: WeightLayout,
}

/// One operator applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does in the model, such as `ffn_down`; the same in every layer.
    pub name: &'static str,
    /// The decoder layer, `None` before the first and after the last.
    pub layer: Option<usize>,
    /// The operator.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// Its weights: matrix or table first, then the bias.
    pub weights: Vec<WeightId>,
    /// What it writes.
    pub output: ValueId,
}

/// A model's computation for up to `capacity` positions at a time.
///
/// Nodes stand in execution order. A value is written by one node, but for state, which nodes update in place.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    capacity: usize,
    values: Vec<ValueDesc>,
    weights: Vec<WeightDesc>,
    nodes: Vec<Node>,
}

impl Graph {
    /// The most positions that a step may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// All values; a [`ValueId`] is an index.
    pub fn values(&self) -> &[ValueDesc] {
        &self.values
    }

    /// All weights; a [`WeightId`] is an index.
    pub fn weights(&self) -> &[WeightDesc] {
        &self.weights
    }

    /// All nodes in execution order; a [`NodeId`] is an index.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &ValueDesc {
        &self.values[id.0]
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The tensor that holds a value.
    pub fn tensor_desc(&self, id: ValueId) -> TensorDesc {
        let value = self.value(id);
        let rows = match value.rows {
            Rows::Positions => self.capacity,
            Rows::Fixed(rows) => rows,
        };
        TensorDesc { rows, columns: value.columns, dtype: value.dtype }
    }

    /// Which rectangle of its input `input_idx` a node reads to compute a rectangle of its output.
    pub fn input_part(&self, id: NodeId, input_idx: usize, part: &Part) -> Part {
        let node = self.node(id);
        let rows = match node.op.mixes_rows(input_idx) {
            true => 0..self.tensor_desc(node.inputs[input_idx]).rows,
            false => part.rows.clone(),
        };
        Part { rows, columns: node.op.input_dependence(input_idx, part.columns.clone()) }
    }

    /// A node's operator with its element types.
    pub fn op_spec(&self, id: NodeId) -> OpSpec {
        let node = self.node(id);
        OpSpec {
            op: node.op.clone(),
            inputs: node.inputs.iter().map(|&input| self.value(input).dtype).collect(),
            output: self.value(node.output).dtype,
        }
    }
}

/// Makes a graph node by node and holds the shape rules: a graph that exists is well formed.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    layer: Option<usize>,
}

impl GraphBuilder {
    /// Starts a graph for up to `capacity` positions.
    pub fn new(capacity: usize) -> GraphBuilder {
        assert!(capacity > 0, "a graph needs room for a position");
        let graph = Graph { capacity, values: Vec::new(), weights: Vec::new(), nodes: Vec::new() };
        GraphBuilder { graph, layer: None }
    }

    /// Says to which decoder layer the nodes to come belong.
    pub fn set_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// A value that the caller writes before each step.
    pub fn input(&mut self, name: impl Into<String>, columns: usize, dtype: DType) -> ValueId {
        self.value(name.into(), Rows::Positions, columns, dtype, ValueKind::Input)
    }

    /// A value that is kept from step to step.
    pub fn state(&mut self, name: impl Into<String>, rows: usize, columns: usize, dtype: DType) -> ValueId {
        self.value(name.into(), Rows::Fixed(rows), columns, dtype, ValueKind::State)
    }

    /// A weight.
    pub fn weight(&mut self, name: impl Into<String>, layout: WeightLayout) -> WeightId {
        self.graph.weights.push(WeightDesc { name: name.into(), layout });
        WeightId(self.graph.weights.len() - 1)
    }

    /// Applies an operator; the output is a new value.
    ///
    /// # Panics
    /// When inputs or weights do not fit the operator.
    pub fn node(
        &mut self,
        name: &'static str,
        op: Op,
        inputs: &[ValueId],
        weights: &[WeightId],
        dtype: DType,
    ) -> ValueId {
        assert!(!matches!(op, Op::CacheWrite { .. }), "{name}: a cache is updated in place, by `update`");
        let rows = match op {
            Op::Convert { rows: RowSelection::Last, .. } => Rows::Fixed(1),
            _ => self.graph.value(inputs[0]).rows,
        };
        let columns = op.output_columns();
        let full_name = match self.layer {
            Some(layer) => format!("layers.{layer}.{name}"),
            None => name.to_owned(),
        };
        let output = self.value(full_name, rows, columns, dtype, ValueKind::Intermediate);
        self.push(name, op, inputs, weights, output);
        output
    }

    /// Applies an operator that updates state in place.
    ///
    /// # Panics
    /// When `state` is not state, or inputs do not fit the operator.
    pub fn update(&mut self, name: &'static str, op: Op, inputs: &[ValueId], state: ValueId) {
        assert_eq!(self.graph.value(state).kind, ValueKind::State, "{name}: only state is updated in place");
        self.push(name, op, inputs, &[], state);
    }

    /// Says that the caller reads a value after each step.
    pub fn output(&mut self, value: ValueId) {
        self.graph.values[value.0].kind = ValueKind::Output;
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn value(&mut self, name: String, rows: Rows, columns: usize, dtype: DType, kind: ValueKind) -> ValueId {
        self.graph.values.push(ValueDesc { name, rows, columns, dtype, kind });
        ValueId(self.graph.values.len() - 1)
    }

    fn push(&mut self, name: &'static str, op: Op, inputs: &[ValueId], weights: &[WeightId], output: ValueId) {
        let node = Node { name, layer: self.layer, op, inputs: inputs.to_vec(), weights: weights.to_vec(), output };
        check_shapes(&self.graph, &node);
        self.graph.nodes.push(node);
    }
}

/// The shape rules of all operators.
fn check_shapes(graph: &Graph, node: &Node) {
    let columns: Vec<usize> = node.inputs.iter().map(|&input| graph.value(input).columns).collect();
    let misfit = |what: &dyn fmt::Debug, expected: &dyn fmt::Debug, found: &dyn fmt::Debug| -> String {
        format!("{} ({}): {what:?} must be {expected:?}, not {found:?}", node.name, node.op.name())
    };
    let expected = node.op.input_columns();
    assert_eq!(columns, expected, "{}", misfit(&"input columns", &expected, &columns));
    let output = graph.value(node.output);
    let out_columns = node.op.output_columns();
    assert_eq!(output.columns, out_columns, "{}", misfit(&"output columns", &out_columns, &output.columns));

    let weights: Vec<[usize; 2]> =
        node.weights.iter().map(|&w| graph.weights[w.0].layout).map(|layout| [layout.rows, layout.columns]).collect();
    let expected_weights = match node.op {
        Op::Embed { vocabulary, features } => vec![[vocabulary, features]],
        Op::Linear { in_features, out_features, bias: false, .. } => vec![[out_features, in_features]],
        Op::Linear { in_features, out_features, bias: true, .. } => {
            vec![[out_features, in_features], [1, out_features]]
        }
        Op::RmsNorm { features, .. } => vec![[1, features]],
        _ => vec![],
    };
    assert_eq!(weights, expected_weights, "{}", misfit(&"weights", &expected_weights, &weights));

    match &node.op {
        Op::Linear { format, .. } => {
            assert_eq!(graph.weights[node.weights[0].0].layout.format, *format)
        }
        Op::Rope { head_dim, frequencies, .. } => {
            assert_eq!(frequencies.len() * 2, *head_dim, "{}", misfit(&"frequencies", head_dim, &frequencies.len()));
        }
        Op::CacheWrite { kv_heads, context, .. } => check_cache(graph, node.output, kv_heads * context),
        Op::Attention { heads, kv_heads, context, .. } => {
            assert!(heads.is_multiple_of(*kv_heads), "{}", misfit(&"heads", kv_heads, heads));
            check_cache(graph, node.inputs[1], kv_heads * context);
            check_cache(graph, node.inputs[2], kv_heads * context);
        }
        _ => {}
    }
}

fn check_cache(graph: &Graph, cache: ValueId, rows: usize) {
    assert_eq!(graph.value(cache).rows, Rows::Fixed(rows), "the cache {:?}", graph.value(cache).name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightFormat;

    #[test]
    fn a_small_graph_knows_its_shapes() {
        let mut builder = GraphBuilder::new(8);
        let ids = builder.input("tokens", 1, DType::U32);
        let table = builder.weight("embed", WeightLayout::table(WeightFormat::F32, 10, 4));
        let x = builder.node("embed", Op::Embed { vocabulary: 10, features: 4 }, &[ids], &[table], DType::F32);
        let last = Op::Convert { rows: RowSelection::Last, features: 4 };
        let last = builder.node("last", last, &[x], &[], DType::F16);
        builder.output(last);
        let graph = builder.finish();
        assert_eq!(graph.tensor_desc(x), TensorDesc { rows: 8, columns: 4, dtype: DType::F32 });
        assert_eq!(graph.tensor_desc(last), TensorDesc { rows: 1, columns: 4, dtype: DType::F16 });
        assert_eq!(graph.op_spec(NodeId(1)).to_string(), "convert (f32) -> f16");
    }

    #[test]
    #[should_panic(expected = "input columns")]
    fn a_misfit_is_refused_where_it_is_made() {
        let mut builder = GraphBuilder::new(8);
        let a = builder.input("a", 4, DType::F32);
        let b = builder.input("b", 5, DType::F32);
        builder.node("add", Op::Add { features: 4 }, &[a, b], &[], DType::F32);
    }
}
