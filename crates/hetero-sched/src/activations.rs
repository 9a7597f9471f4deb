//! Which tensor holds which value.
//!
//! A decoder has dozens of layers and each needs the same handful of shapes, so a tensor is used again as soon as the
//! value in it has been read for the last time. Tensors are allocated once, by one device, and live as long as the
//! executor.

use std::sync::Arc;

use hetero_core::{Backend, BackendError, Graph, SharedTensor, TensorDesc, ValueId, ValueKind};

/// The tensors of one graph.
#[derive(Debug)]
pub struct Activations {
    /// For each value.
    tensors: Vec<Arc<SharedTensor>>,
}

impl Activations {
    /// Allocates what `graph` needs on `allocator`. State is not allocated but taken from `state`, in the order in
    /// which the graph declares it.
    ///
    /// # Panics
    /// When `state` does not fit the graph.
    pub fn allocate(
        graph: &Graph,
        allocator: &dyn Backend,
        state: &[Arc<SharedTensor>],
    ) -> Result<Activations, BackendError> {
        let mut state = state.iter();
        let assignment = assign(graph);
        let n_tensors = assignment.iter().flatten().max().map_or(0, |last| last + 1);
        let mut shared: Vec<Option<Arc<SharedTensor>>> = vec![None; n_tensors];
        let mut tensors = Vec::with_capacity(graph.values().len());
        for (idx, tensor_idx) in assignment.iter().enumerate() {
            let value = ValueId(idx);
            let desc = graph.tensor_desc(value);
            let tensor = match tensor_idx {
                None => {
                    let tensor = state.next().expect("one tensor for each state of the graph");
                    assert_eq!(*tensor.desc(), desc, "the tensor for {:?}", graph.value(value).name);
                    Arc::clone(tensor)
                }
                Some(tensor_idx) => match &mut shared[*tensor_idx] {
                    Some(tensor) => Arc::clone(tensor),
                    empty => Arc::clone(empty.insert(SharedTensor::new(allocator.allocate(&desc)?))),
                },
            };
            tensors.push(tensor);
        }
        assert!(state.next().is_none(), "more state tensors than the graph has state");
        Ok(Activations { tensors })
    }

    /// The tensor that holds a value.
    pub fn tensor(&self, value: ValueId) -> &Arc<SharedTensor> {
        &self.tensors[value.0]
    }

    /// A number that values in the same tensor have in common.
    pub fn tensor_number(&self, value: ValueId) -> usize {
        Arc::as_ptr(&self.tensors[value.0]).addr()
    }

    /// Bytes of all tensors, state not counted.
    pub fn bytes(&self, graph: &Graph) -> u64 {
        let mut seen: Vec<*const SharedTensor> = Vec::new();
        let mut bytes = 0;
        for (value, tensor) in graph.values().iter().zip(&self.tensors) {
            if value.kind != ValueKind::State && !seen.contains(&Arc::as_ptr(tensor)) {
                seen.push(Arc::as_ptr(tensor));
                bytes += tensor.desc().bytes() as u64;
            }
        }
        bytes
    }
}

/// For each value the number of its tensor, `None` for state.
fn assign(graph: &Graph) -> Vec<Option<usize>> {
    let mut last_use: Vec<usize> = vec![0; graph.values().len()];
    for (node_idx, node) in graph.nodes().iter().enumerate() {
        for value in node.inputs.iter().chain([&node.output]) {
            last_use[value.0] = node_idx;
        }
    }
    let mut assignment: Vec<Option<usize>> = vec![None; graph.values().len()];
    let mut free: Vec<(TensorDesc, usize)> = Vec::new();
    let mut n_tensors = 0;
    let mut take = |desc: TensorDesc, free: &mut Vec<(TensorDesc, usize)>| {
        if let Some(idx) = free.iter().position(|(shape, _)| *shape == desc) {
            return free.swap_remove(idx).1;
        }
        n_tensors += 1;
        n_tensors - 1
    };
    for (idx, value) in graph.values().iter().enumerate() {
        if value.kind == ValueKind::Input {
            assignment[idx] = Some(take(graph.tensor_desc(ValueId(idx)), &mut free));
        }
    }
    for (node_idx, node) in graph.nodes().iter().enumerate() {
        let output = graph.value(node.output);
        if output.kind != ValueKind::State {
            // Taken before the inputs are given back: no operator reads the tensor that it writes.
            assignment[node.output.0] = Some(take(graph.tensor_desc(node.output), &mut free));
        }
        for (i, &input) in node.inputs.iter().enumerate() {
            let is_repeated = node.inputs[..i].contains(&input);
            let is_over = last_use[input.0] == node_idx && !is_repeated;
            if is_over
                && graph.value(input).kind == ValueKind::Intermediate
                && let Some(tensor_idx) = assignment[input.0]
            {
                free.push((graph.tensor_desc(input), tensor_idx));
            }
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetero_core::{DType, GraphBuilder, Op};

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
}
