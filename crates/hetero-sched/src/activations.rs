//! Which tensor holds which value.
//!
//! A decoder has dozens of layers and each needs the same handful of shapes, so a tensor is used again when the value in
//! it has been read for the last time. Tensors are allocated once, by one device, and serve every plan of a graph.
//!
//! # When a tensor may be used again
//!
//! Several processors are under way at once, so "has been read" must follow from what a submission waits for anyway. A
//! value `w` may take the tensor of `v` when in any plan each part of `w` depends on every part of every reader of `v`
//! whose rectangle of `v` it overwrites. With dependences by rectangle that is so when for each reader `r` of `v` there
//! is a path of values from `r` to `w`, and
//!
//! - `r` reads of `v` only the columns that it writes itself (as an addition does): along any path a rectangle of `w`
//!   depends at least on the same rectangle of `r`; or
//! - some operator behind `r` on the path needs all columns of the path's value (as a product does): then a rectangle
//!   of `w` depends on all columns of `r` in its rows.
//!
//! Rows need no thought: an operator that reads other rows than it writes reads all of them. Whoever wrote `v` comes
//! before its readers, which read all of it, and what lay in the tensor before `v` was read before `v` was written.
//!
//! Plans therefore need no dependences beside those of the values, can share the tensors, and lose no concurrency to
//! the reuse: the residual and the norms' outputs, which every processor reads, are overwritten only behind a join
//! that the values ask for themselves. The price is a tensor or two more than a single processor would need.

use std::sync::Arc;

use hetero_core::{Backend, BackendError, Graph, Node, NodeId, SharedTensor, TensorDesc, ValueId, ValueKind};

/// The tensors of one graph.
#[derive(Debug)]
pub struct Activations {
    /// For each value; `None` for state.
    tensors: Vec<Option<Arc<SharedTensor>>>,
}

impl Activations {
    /// Allocates what `graph` needs on `allocator`, state excepted.
    pub fn allocate(graph: &Graph, allocator: &dyn Backend) -> Result<Activations, BackendError> {
        let assignment = assign(graph);
        let n_tensors = assignment.iter().flatten().max().map_or(0, |last| last + 1);
        let mut shared: Vec<Option<Arc<SharedTensor>>> = vec![None; n_tensors];
        let mut tensors = Vec::with_capacity(graph.values().len());
        for (idx, tensor_idx) in assignment.iter().enumerate() {
            let Some(tensor_idx) = *tensor_idx else {
                tensors.push(None);
                continue;
            };
            tensors.push(Some(match &mut shared[tensor_idx] {
                Some(tensor) => Arc::clone(tensor),
                empty => {
                    let desc = graph.tensor_desc(ValueId(idx));
                    Arc::clone(empty.insert(SharedTensor::new(allocator.allocate(&desc)?)))
                }
            }));
        }
        Ok(Activations { tensors })
    }

    /// The tensor that holds a value.
    ///
    /// # Panics
    /// When the value is state.
    pub fn tensor(&self, value: ValueId) -> &Arc<SharedTensor> {
        self.tensors[value.0].as_ref().expect("state is not among activations")
    }

    /// A number that values in the same tensor have in common.
    pub fn tensor_number(&self, value: ValueId) -> usize {
        Arc::as_ptr(self.tensor(value)).addr()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let mut seen: Vec<*const SharedTensor> = Vec::new();
        let mut bytes = 0;
        for tensor in self.tensors.iter().flatten() {
            if !seen.contains(&Arc::as_ptr(tensor)) {
                seen.push(Arc::as_ptr(tensor));
                bytes += tensor.desc().bytes() as u64;
            }
        }
        bytes
    }
}

/// For each value the number of its tensor, `None` for state.
fn assign(graph: &Graph) -> Vec<Option<usize>> {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.values().len()];
    for (node_idx, node) in graph.nodes().iter().enumerate() {
        node.inputs.iter().for_each(|input| readers[input.0].push(node_idx));
    }
    let paths = Paths::of(graph, &readers);
    let mut assignment: Vec<Option<usize>> = vec![None; graph.values().len()];
    let mut n_tensors = 0;
    for (idx, value) in graph.values().iter().enumerate() {
        if value.kind == ValueKind::Input {
            assignment[idx] = Some(n_tensors);
            n_tensors += 1;
        }
    }
    // The last value of each tensor that may be overwritten some time.
    let mut used: Vec<(ValueId, TensorDesc)> = Vec::new();
    for (node_idx, node) in graph.nodes().iter().enumerate() {
        let output = node.output;
        let kind = graph.value(output).kind;
        if kind == ValueKind::State {
            continue;
        }
        let desc = graph.tensor_desc(output);
        let is_over = |value: ValueId| {
            readers[value.0].iter().all(|&reader| {
                let node = graph.node(NodeId(reader));
                let mut inputs = node.inputs.iter().enumerate().filter(|(_, input)| **input == value);
                match inputs.any(|(input_idx, _)| needs_all_columns(node, input_idx)) {
                    true => paths.joined(reader, node_idx),
                    false => paths.any(reader, node_idx),
                }
            })
        };
        let free = used.iter().position(|&(value, shape)| shape == desc && is_over(value));
        assignment[output.0] = Some(match free {
            Some(free) => assignment[used.swap_remove(free).0.0].expect("a value that is used has a tensor"),
            None => {
                n_tensors += 1;
                n_tensors - 1
            }
        });
        // What nobody reads is never known to be over.
        if kind == ValueKind::Intermediate && !readers[output.0].is_empty() {
            used.push((output, desc));
        }
    }
    assignment
}

/// Whether columns of the output need other columns of an input than the same ones; then they need all.
fn needs_all_columns(node: &Node, input_idx: usize) -> bool {
    let columns = node.op.output_columns();
    match node.op.split_rule().columns {
        Some(unit) if unit < columns => {
            let last = columns - unit..columns;
            node.op.input_dependence(input_idx, last.clone()) != last
        }
        // Columns that are not cut are computed together from all there is.
        _ => true,
    }
}

/// From which nodes to which others there are paths of values.
struct Paths {
    n_words: usize,
    /// For each node, a bit for each node that it leads to.
    any: Vec<u64>,
    /// The same for paths on which some operator needs all columns.
    joined: Vec<u64>,
}

impl Paths {
    fn of(graph: &Graph, readers: &[Vec<usize>]) -> Paths {
        let n_nodes = graph.nodes().len();
        let n_words = n_nodes.div_ceil(64);
        let mut paths = Paths { n_words, any: vec![0; n_nodes * n_words], joined: vec![0; n_nodes * n_words] };
        for from in (0..n_nodes).rev() {
            let output = graph.nodes()[from].output;
            // Of state only what comes later is a reader of what this node writes.
            for &to in readers[output.0].iter().filter(|&&to| to > from) {
                let node = graph.node(NodeId(to));
                let mut inputs = node.inputs.iter().enumerate().filter(|(_, input)| **input == output);
                let is_join = inputs.any(|(input_idx, _)| needs_all_columns(node, input_idx));
                for word in 0..n_words {
                    let own = if word == to / 64 { 1 << (to % 64) } else { 0 };
                    let (any, joined) = (paths.any[to * n_words + word] | own, paths.joined[to * n_words + word]);
                    paths.any[from * n_words + word] |= any;
                    paths.joined[from * n_words + word] |= if is_join { any } else { joined };
                }
            }
        }
        paths
    }

    fn any(&self, from: usize, to: usize) -> bool {
        self.any[from * self.n_words + to / 64] >> (to % 64) & 1 == 1
    }

    fn joined(&self, from: usize, to: usize) -> bool {
        self.joined[from * self.n_words + to / 64] >> (to % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetero_core::{DType, GraphBuilder, Op, WeightFormat, WeightLayout};

    #[test]
    fn a_long_chain_needs_two_tensors_and_the_input() {
        let mut builder = GraphBuilder::new(4);
        let input = builder.input("x", 8, DType::F32);
        let mut x = input;
        for _ in 0..10 {
            x = builder.node("softmax", Op::Softmax { features: 8 }, &[x], &[], DType::F32);
        }
        builder.output(x);
        let assignment = assign(&builder.finish());
        assert_eq!(assignment.iter().flatten().max(), Some(&2));
        // Neighbours in the chain never share, and nobody overwrites the input.
        assert!(assignment.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(assignment[1..].iter().all(|tensor| *tensor != assignment[input.0]));
    }

    #[test]
    fn a_value_that_is_read_again_later_keeps_its_tensor() {
        let mut builder = GraphBuilder::new(4);
        let x = builder.input("x", 8, DType::F32);
        let a = builder.node("a", Op::Softmax { features: 8 }, &[x], &[], DType::F32);
        let b = builder.node("b", Op::Softmax { features: 8 }, &[a], &[], DType::F32);
        let c = builder.node("c", Op::Softmax { features: 8 }, &[b], &[], DType::F32);
        let d = builder.node("d", Op::Add { features: 8 }, &[a, c], &[], DType::F32);
        builder.output(d);
        let assignment = assign(&builder.finish());
        assert_ne!(assignment[a.0], assignment[b.0]);
        assert_ne!(assignment[a.0], assignment[c.0]);
        assert_ne!(assignment[d.0], assignment[a.0]);
        assert_ne!(assignment[d.0], assignment[c.0]);
    }

    /// Both processors read the norm's output, and one may be at the attention while the other still reads it.
    #[test]
    fn what_another_processor_may_still_read_keeps_its_tensor() {
        let mut builder = GraphBuilder::new(4);
        let x = builder.input("x", 64, DType::F32);
        let linear = |builder: &mut GraphBuilder, name, x| {
            let weight = builder.weight(name, WeightLayout::panels(WeightFormat::F32, 64, 64));
            let op = Op::Linear { in_features: 64, out_features: 64, format: WeightFormat::F32, bias: false };
            builder.node(name, op, &[x], &[weight], DType::F32)
        };
        let add =
            |builder: &mut GraphBuilder, a, b| builder.node("add", Op::Add { features: 64 }, &[a, b], &[], DType::F32);
        let normed = builder.node("norm", Op::Softmax { features: 64 }, &[x], &[], DType::F32);
        let gate = linear(&mut builder, "gate", normed);
        let local = add(&mut builder, gate, gate);
        let local_too = add(&mut builder, local, local);
        let down = linear(&mut builder, "down", local_too);
        let last = add(&mut builder, down, down);
        builder.output(last);
        let assignment = assign(&builder.finish());
        // A column of these needs a column of `gate` only, so that others of it may be under way.
        assert_ne!(assignment[local.0], assignment[normed.0]);
        assert_ne!(assignment[local_too.0], assignment[normed.0]);
        // `gate` is read by columns, and behind `down` everything has read the norm's output.
        assert_eq!(assignment[local_too.0], assignment[gate.0]);
        assert_eq!(assignment[down.0], assignment[normed.0]);
        assert_ne!(assignment[last.0], assignment[local_too.0], "`down` reads all columns of it");
    }
}
