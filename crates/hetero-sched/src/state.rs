//! What graphs keep from step to step (the KV cache), in as many memories as the plans use.
//!
//! A sequence has one [`State`], which all graphs of a model share. Each of its values has a tensor in every memory in
//! which some device touches it, and each tensor, head by head, the first so many positions of the sequence: those that
//! were computed or copied there. A step begins with the copies that bring the tensors that its plan touches up to its
//! first position, and copies the positions that it adds itself where another memory reads them (`executor/state.rs`).
//! So a position is copied at most once into each memory, and into none that no plan reads.
//!
//! What was computed in the memory of a device that is lost is lost with it, unless another memory has it too: the
//! step that needs it ends with [`crate::SchedError::StateLost`], and the caller computes those positions again.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetero_core::{Access, Backend, BackendError, DeviceId, Graph, Op, SharedTensor, ValueId, ValueKind};

/// What graphs keep from step to step.
#[derive(Debug)]
pub struct State {
    values: Mutex<Vec<StateValue>>,
}

/// A value of the state in all its memories.
#[derive(Debug)]
pub(crate) struct StateValue {
    /// Where positions lie; `None` for a value that is more than a cache, which stays in its first memory.
    pub(crate) layout: Option<CacheLayout>,
    pub(crate) mirrors: Vec<Mirror>,
    /// Positions that the steps so far have written and that still count.
    pub(crate) n_written: usize,
}

/// Where the positions of a cache lie: those of head `h` are the rows from `h * context` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheLayout {
    pub(crate) heads: usize,
    pub(crate) context: usize,
}

/// A value of the state in one memory.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) tensor: Arc<SharedTensor>,
    /// For each head, of how many positions from the first on it has the keys or values.
    pub(crate) n_valid: Vec<usize>,
}

impl State {
    /// State of graphs like `graph`, which declares it in the order of `tensors`.
    ///
    /// # Panics
    /// When the tensors do not fit the graph.
    pub fn new(graph: &Graph, tensors: Vec<Arc<SharedTensor>>) -> Arc<State> {
        let states: Vec<ValueId> = states(graph).collect();
        assert_eq!(states.len(), tensors.len(), "one tensor for each state of the graph");
        let values = states.into_iter().zip(tensors).map(|(value, tensor)| {
            assert_eq!(*tensor.desc(), graph.tensor_desc(value), "the tensor for {:?}", graph.value(value).name);
            let layout = layout(graph, value);
            StateValue { layout, mirrors: vec![Mirror::new(tensor, layout)], n_written: 0 }
        });
        Arc::new(State { values: Mutex::new(values.collect()) })
    }

    /// Zeroed state for graphs like `graph`, in the memory of a device.
    pub fn allocate(graph: &Graph, allocator: &dyn Backend) -> Result<Arc<State>, BackendError> {
        let tensor = |value| Ok(SharedTensor::new(allocator.allocate(&graph.tensor_desc(value))?));
        let tensors: Result<Vec<_>, BackendError> = states(graph).map(tensor).collect();
        Ok(State::new(graph, tensors?))
    }

    /// Bytes in all memories.
    pub fn bytes(&self) -> u64 {
        let values = self.lock();
        values.iter().flat_map(|value| &value.mirrors).map(|mirror| mirror.tensor.desc().bytes() as u64).sum()
    }

    /// In how many memories each value is, in the graph's order.
    pub fn n_memories(&self) -> Vec<usize> {
        self.lock().iter().map(|value| value.mirrors.len()).collect()
    }

    /// Which of the tensors of a value a device works on, allocated by it if it reaches none; the first if it may not
    /// have one of its own.
    pub(crate) fn mirror_for(&self, state_idx: usize, backend: &dyn Backend) -> Result<usize, BackendError> {
        let mut values = self.lock();
        let value = &mut values[state_idx];
        let reaches = |mirror: &Mirror| backend.access(mirror.tensor.tensor()) == Access::Direct;
        if let Some(known) = value.mirrors.iter().position(reaches) {
            return Ok(known);
        }
        if value.layout.is_none() {
            return Ok(0);
        }
        let desc = *value.mirrors[0].tensor.desc();
        let tensor = SharedTensor::new(backend.allocate(&desc)?);
        value.mirrors.push(Mirror::new(tensor, value.layout));
        Ok(value.mirrors.len() - 1)
    }

    /// One of the tensors of a value.
    pub(crate) fn tensor(&self, state_idx: usize, mirror_idx: usize) -> Arc<SharedTensor> {
        Arc::clone(&self.lock()[state_idx].mirrors[mirror_idx].tensor)
    }

    /// What lies in the memory of a device is void.
    pub(crate) fn lose(&self, device: DeviceId) {
        for mirror in self.lock().iter_mut().flat_map(|value| &mut value.mirrors) {
            if mirror.tensor.tensor().device() == device {
                mirror.n_valid.fill(0);
            }
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<StateValue>> {
        // Nothing is half done when a copy is refused under the lock.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateValue {
    /// Which tensor has most positions of a head, and how many.
    pub(crate) fn best(&self, head: usize) -> (usize, usize) {
        let of_mirror = self.mirrors.iter().enumerate().map(|(idx, mirror)| (idx, mirror.n_valid[head]));
        // The first of those that have as many.
        of_mirror.rev().max_by_key(|(_, n_valid)| *n_valid).expect("a value has a tensor")
    }

    /// The positions from `from` on are to be computed anew; how many of those before there must be.
    pub(crate) fn cut(&mut self, from: usize) -> usize {
        for mirror in &mut self.mirrors {
            mirror.n_valid.iter_mut().for_each(|n_valid| *n_valid = (*n_valid).min(from));
        }
        self.n_written = self.n_written.min(from);
        self.n_written
    }

    /// How many of the first `needed` positions some memory has; `usize::MAX` when all.
    pub(crate) fn kept(&self, needed: usize) -> usize {
        let heads = self.layout.map_or(0, |layout| layout.heads);
        (0..heads).map(|head| self.best(head).1).filter(|&kept| kept < needed).min().unwrap_or(usize::MAX)
    }
}

impl Mirror {
    fn new(tensor: Arc<SharedTensor>, layout: Option<CacheLayout>) -> Mirror {
        Mirror { tensor, n_valid: vec![0; layout.map_or(0, |layout| layout.heads)] }
    }

    /// Notes that some heads have so many positions.
    pub(crate) fn has(&mut self, heads: Range<usize>, n_valid: usize) {
        self.n_valid[heads].fill(n_valid);
    }
}

/// The values of a graph that are state, in the order in which it declares them.
pub(crate) fn states(graph: &Graph) -> impl Iterator<Item = ValueId> {
    let values = graph.values().iter().enumerate();
    values.filter(|(_, value)| value.kind == ValueKind::State).map(|(idx, _)| ValueId(idx))
}

/// Where the positions of a value lie, if nothing but attention and the writing of a cache touches it.
fn layout(graph: &Graph, value: ValueId) -> Option<CacheLayout> {
    let mut layout = None;
    for node in graph.nodes() {
        let of_node = match node.op {
            Op::CacheWrite { kv_heads, context, .. } if node.output == value && !node.inputs.contains(&value) => {
                CacheLayout { heads: kv_heads, context }
            }
            Op::Attention { kv_heads, context, .. } if node.inputs[1..].contains(&value) => {
                CacheLayout { heads: kv_heads, context }
            }
            _ if node.output == value || node.inputs.contains(&value) => return None,
            _ => continue,
        };
        if layout.is_some_and(|layout| layout != of_node) {
            return None;
        }
        layout = Some(of_node);
    }
    layout
}
