//! The checks that every backend makes when a step is submitted.

use std::sync::Arc;

use crate::{Binding, Bindings, Claim, Op, Segment, StepParams, TensorDesc};

/// What the bindings and the step of a segment must be like: looked up once, because a model's segment has hundreds of
/// values and its steps take milliseconds.
#[derive(Clone, Debug)]
pub struct StepCheck {
    capacity: usize,
    values: Vec<ExpectedValue>,
    claims: Vec<Arc<Claim>>,
    /// Positions that fit into the smallest cache.
    context: Option<usize>,
}

#[derive(Clone, Debug)]
struct ExpectedValue {
    binding_idx: usize,
    desc: TensorDesc,
    name: String,
    is_written: bool,
}

impl StepCheck {
    /// The checks of a segment.
    pub fn new(segment: &Segment) -> StepCheck {
        let graph = &segment.graph;
        let value = |&value: &_| ExpectedValue {
            binding_idx: segment.binding_idx(value),
            desc: graph.tensor_desc(value),
            name: graph.value(value).name.clone(),
            is_written: segment.writes(value),
        };
        let contexts = segment.nodes.iter().filter_map(|node| match graph.node(node.node).op {
            Op::CacheWrite { context, .. } | Op::Attention { context, .. } => Some(context),
            _ => None,
        });
        StepCheck {
            capacity: graph.capacity(),
            values: segment.values().iter().map(value).collect(),
            claims: (0..segment.n_bindings()).map(|idx| Arc::clone(segment.claim_of(idx))).collect(),
            context: contexts.min(),
        }
    }

    /// Checks a submission.
    ///
    /// # Panics
    /// When bindings do not fit the segment or the step does not fit the graph.
    pub fn check(&self, bindings: &Bindings, step: StepParams) {
        let capacity = self.capacity;
        assert!(step.rows > 0 && step.rows <= capacity, "a step of {} rows in a graph for {capacity}", step.rows);
        assert_eq!(bindings.tensors.len(), self.claims.len(), "the bindings of the segment");
        for value in &self.values {
            let binding = &bindings.tensors[value.binding_idx];
            assert_eq!(*binding.tensor().desc(), value.desc, "the tensor for {:?}", value.name);
            let is_slot = matches!(binding, Binding::Write(_));
            assert!(is_slot || !value.is_written, "{:?} is written through a view", value.name);
        }
        for (binding, needed) in bindings.tensors.iter().zip(&self.claims) {
            let lent = binding.claim();
            assert!(
                std::ptr::eq(&**needed, lent) || lent.covers(needed),
                "the segment touches {needed:?} of a tensor {:?} of which the binding allows {lent:?}",
                binding.tensor().desc(),
            );
        }
        if let Some(context) = self.context {
            let end = step.past + step.rows;
            assert!(end <= context, "positions up to {end} in a cache for {context}");
        }
    }
}
