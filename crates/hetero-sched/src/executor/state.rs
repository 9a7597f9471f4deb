//! The state that a plan touches: which device works on which tensor of it, and what is copied when.
//!
//! A device works on a tensor of a state value that it reaches, or has one of its own (see [`crate::State`]). Before a
//! step every tensor that the plan touches gets the positions before the step that it lacks. Within the step, where an
//! attention reads a cache in another memory than that in which it was written, the host copies the step's positions of
//! the heads that are read in that memory, once, before the first submission there that reads them.
//!
//! # When a copy may be made
//!
//! Before a step nothing is under way. Within it the submission that wrote the positions has finished, because readers
//! wait for it; nobody writes the cache again before all its readers have finished, which waited for the copy; and in
//! the memory that the copy goes to nobody reads before it, because what was read there of an earlier writing of the
//! same cache was waited for by the later one ([`crate::submissions`]). The rights that the copy takes say the same: it
//! would be refused.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use hetero_core::{
    Backend, BackendError, DeviceId, Graph, NodeId, Op, Part, RowBlocks, SharedTensor, StepParams, Tensor, ValueId,
};

use super::Run;
use super::step::Device;
use crate::state::{CacheLayout, State, StateValue, states};
use crate::{Plan, SchedError};

/// Positions that are copied at a time before a step: as many as a step has, and no fewer than these.
const LEAST_POSITIONS: usize = 64;

/// The state of a graph as its devices see it.
#[derive(Debug)]
pub(super) struct StateAccess {
    state: Arc<State>,
    /// For each value of the graph, which state it is.
    idx_of: Vec<Option<usize>>,
    /// By state and device, the tensor that the device works on and which of the mirrors it is; `None` until a plan has
    /// it work on one.
    tensors: HashMap<(usize, usize), (usize, Arc<SharedTensor>)>,
    /// What the present plan touches.
    touched: Vec<Touched>,
    copies: Vec<StateCopy>,
    /// The states that the plan writes.
    is_written: Vec<bool>,
    /// Room for the largest piece.
    bytes: Vec<u8>,
}

/// Heads of a tensor that a plan touches.
#[derive(Debug)]
struct Touched {
    state_idx: usize,
    mirror_idx: usize,
    heads: Range<usize>,
    device_idx: usize,
}

/// The positions of a step that are read in another memory than that in which they were written.
#[derive(Debug)]
struct StateCopy {
    state_idx: usize,
    layout: CacheLayout,
    /// The writing that is copied: the writer's place in the graph.
    writer: usize,
    to_mirror: usize,
    from: Arc<SharedTensor>,
    to: Arc<SharedTensor>,
    heads: Range<usize>,
    /// Who computes there and who reads here, to blame when it fails.
    from_device: usize,
    to_device: usize,
    /// In this step.
    is_done: bool,
}

impl StateAccess {
    pub(super) fn new(graph: &Graph, state: &Arc<State>) -> StateAccess {
        let mut idx_of = vec![None; graph.values().len()];
        let mut largest = 0;
        {
            let values = state.lock();
            for (state_idx, value) in states(graph).enumerate() {
                idx_of[value.0] = Some(state_idx);
                assert!(state_idx < values.len(), "one tensor for each state of the graph");
                let desc = *values[state_idx].mirrors[0].tensor.desc();
                assert_eq!(desc, graph.tensor_desc(value), "the tensor for {:?}", graph.value(value).name);
                if let Some(CacheLayout { heads, context }) = values[state_idx].layout {
                    let positions = graph.capacity().max(LEAST_POSITIONS).min(context);
                    largest = largest.max(heads * positions * desc.columns * desc.dtype.size());
                }
            }
            let n_states = idx_of.iter().flatten().count();
            assert_eq!(values.len(), n_states, "more state tensors than the graph has state");
        }
        StateAccess {
            state: Arc::clone(state),
            idx_of,
            tensors: HashMap::new(),
            touched: Vec::new(),
            copies: Vec::new(),
            is_written: Vec::new(),
            bytes: vec![0; largest],
        }
    }

    /// Sees to it that a device has a tensor for each of some values that is state.
    pub(super) fn prepare(
        &mut self,
        values: impl Iterator<Item = ValueId>,
        device_idx: usize,
        backend: &dyn Backend,
    ) -> Result<(), BackendError> {
        for state_idx in values.filter_map(|value| self.idx_of[value.0]) {
            if !self.tensors.contains_key(&(state_idx, device_idx)) {
                let mirror_idx = self.state.mirror_for(state_idx, backend)?;
                let tensor = self.state.tensor(state_idx, mirror_idx);
                self.tensors.insert((state_idx, device_idx), (mirror_idx, tensor));
            }
        }
        Ok(())
    }

    /// The tensor of a value on a device, if the value is state; [`StateAccess::prepare`] came before.
    pub(super) fn tensor(&self, value: ValueId, device_idx: usize) -> Option<&Arc<SharedTensor>> {
        let state_idx = self.idx_of[value.0]?;
        Some(&self.tensors[&(state_idx, device_idx)].1)
    }

    /// Notes what a plan touches and copies, the latter with the runs that need it.
    pub(super) fn plan(&mut self, plan: &Plan, runs: &mut [Run]) {
        self.touched.clear();
        self.copies.clear();
        self.is_written = vec![false; self.state.lock().len()];
        let graph = plan.graph();
        let mut run_of = HashMap::new();
        for (run_idx, run) in runs.iter().enumerate() {
            run_of.extend(run.submission.parts.iter().map(|&part| (part, run_idx)));
        }
        // For each state, who wrote it last: the node and its device.
        let mut written: Vec<Option<(usize, usize)>> = vec![None; self.is_written.len()];
        for (node_idx, placed) in plan.placements().iter().enumerate() {
            let node = graph.node(NodeId(node_idx));
            for (part_idx, placed) in placed.iter().enumerate() {
                let device_idx = placed.device_idx;
                for input in &node.inputs {
                    let Some(state_idx) = self.idx_of[input.0] else { continue };
                    let Some((layout, heads)) = self.heads_read(state_idx, &node.op, &placed.part) else { continue };
                    self.touch(state_idx, device_idx, heads.clone());
                    let Some(writer) = written[state_idx] else { continue };
                    if let Some(copy) = self.copy(state_idx, layout, writer, device_idx, heads) {
                        let run = &mut runs[run_of[&crate::PartId { node: NodeId(node_idx), part_idx }]];
                        if !run.state_copies.contains(&copy) {
                            run.state_copies.push(copy);
                        }
                    }
                }
                if let Some(state_idx) = self.idx_of[node.output.0] {
                    self.is_written[state_idx] = true;
                    written[state_idx] = Some((node_idx, device_idx));
                    let layout = self.state.lock()[state_idx].layout;
                    if let Some(layout) = layout {
                        self.touch(state_idx, device_idx, 0..layout.heads);
                    }
                }
            }
        }
    }

    /// Which heads of a cache a part of an attention reads.
    fn heads_read(&self, state_idx: usize, op: &Op, part: &Part) -> Option<(CacheLayout, Range<usize>)> {
        let layout = self.state.lock()[state_idx].layout?;
        let Op::Attention { heads, kv_heads, head_dim, .. } = *op else { return None };
        let columns = heads / kv_heads * head_dim;
        Some((layout, part.columns.start / columns..part.columns.end.div_ceil(columns)))
    }

    fn mirror(&self, state_idx: usize, device_idx: usize) -> (usize, Arc<SharedTensor>) {
        self.tensors[&(state_idx, device_idx)].clone()
    }

    fn touch(&mut self, state_idx: usize, device_idx: usize, heads: Range<usize>) {
        let (mirror_idx, _) = self.mirror(state_idx, device_idx);
        let is_same = |known: &&mut Touched| (known.state_idx, known.mirror_idx) == (state_idx, mirror_idx);
        match self.touched.iter_mut().find(is_same) {
            Some(known) => known.heads = known.heads.start.min(heads.start)..known.heads.end.max(heads.end),
            None => self.touched.push(Touched { state_idx, mirror_idx, heads, device_idx }),
        }
    }

    /// The copy that a reader on a device needs of what was last written; `None` when it was written where it is read.
    fn copy(
        &mut self,
        state_idx: usize,
        layout: CacheLayout,
        (writer, from_device): (usize, usize),
        to_device: usize,
        heads: Range<usize>,
    ) -> Option<usize> {
        let (from_mirror, from) = self.mirror(state_idx, from_device);
        let (to_mirror, to) = self.mirror(state_idx, to_device);
        if from_mirror == to_mirror {
            return None;
        }
        let key = (state_idx, writer, to_mirror);
        let known = self.copies.iter().position(|copy| (copy.state_idx, copy.writer, copy.to_mirror) == key);
        if let Some(known) = known {
            let copy = &mut self.copies[known];
            copy.heads = copy.heads.start.min(heads.start)..copy.heads.end.max(heads.end);
            return Some(known);
        }
        self.copies.push(StateCopy {
            state_idx,
            layout,
            writer,
            to_mirror,
            from,
            to,
            heads,
            from_device,
            to_device,
            is_done: false,
        });
        Some(self.copies.len() - 1)
    }

    /// Brings what the plan touches up to the first position of a step.
    pub(super) fn begin(&mut self, step: StepParams, devices: &[Device]) -> Result<(), SchedError> {
        self.copies.iter_mut().for_each(|copy| copy.is_done = false);
        let mut values = self.state.lock();
        let mut kept = usize::MAX;
        for (value, &is_written) in values.iter_mut().zip(&self.is_written) {
            let needed = if is_written { value.cut(step.past) } else { value.n_written.min(step.past) };
            kept = kept.min(value.kept(needed));
        }
        if kept < step.past {
            return Err(SchedError::StateLost { kept });
        }
        let mut failed = None;
        for touched in &self.touched {
            let value = &mut values[touched.state_idx];
            let Some(layout) = value.layout else { continue };
            let needed = value.n_written.min(step.past);
            if let Err((device, error)) = catch_up(value, touched, layout, needed, &mut self.bytes) {
                failed = Some((device, touched.device_idx, error));
                break;
            }
            // Positions that nobody has written are the same everywhere: there is nothing in them.
            let mirror = &mut value.mirrors[touched.mirror_idx];
            for n_valid in &mut mirror.n_valid[touched.heads.clone()] {
                *n_valid = (*n_valid).max(step.past);
            }
        }
        drop(values);
        let Some((device, reader, error)) = failed else { return Ok(()) };
        self.state.lose(device);
        // The tensor's own device need not be one of these.
        let owner = devices.iter().position(|known| known.backend.info().id == device);
        Err(SchedError::Device { device_idx: owner.unwrap_or(reader), error })
    }

    /// Makes those of the copies that have not been made in this step.
    pub(super) fn make(&mut self, needed: &[usize], step: StepParams) -> Result<(), SchedError> {
        for &idx in needed {
            let copy = &mut self.copies[idx];
            if std::mem::replace(&mut copy.is_done, true) {
                continue;
            }
            let positions = step.past..step.past + step.rows;
            let made = transfer(&copy.from, &copy.to, copy.layout, &copy.heads, positions, &mut self.bytes);
            made.map_err(|(is_source, error)| {
                let device_idx = if is_source { copy.from_device } else { copy.to_device };
                SchedError::Device { device_idx, error }
            })?;
        }
        Ok(())
    }

    /// Notes where the positions of a step are that has come to its end.
    pub(super) fn end(&mut self, step: StepParams, plan: &Plan) {
        let end = step.past + step.rows;
        let mut values = self.state.lock();
        // In the graph's order, so that of several writings the last counts.
        for (node_idx, placed) in plan.placements().iter().enumerate() {
            let Some(state_idx) = self.idx_of[plan.graph().nodes()[node_idx].output.0] else { continue };
            let value = &mut values[state_idx];
            let Some(layout) = value.layout else { continue };
            value.cut(step.past);
            for placed in placed {
                let (mirror_idx, _) = self.tensors[&(state_idx, placed.device_idx)];
                value.mirrors[mirror_idx].has(0..layout.heads, end);
            }
            let made = |copy: &&StateCopy| copy.state_idx == state_idx && copy.writer == node_idx && copy.is_done;
            for copy in self.copies.iter().filter(made) {
                value.mirrors[copy.to_mirror].has(copy.heads.clone(), end);
            }
            value.n_written = end;
        }
    }

    /// A device is lost, and what lay in its memory.
    pub(super) fn lose(&self, device: DeviceId) {
        self.state.lose(device);
    }
}

/// Copies the positions that heads of a tensor lack of the first `needed`. After an error, the device to blame.
fn catch_up(
    value: &mut StateValue,
    touched: &Touched,
    layout: CacheLayout,
    needed: usize,
    bytes: &mut [u8],
) -> Result<(), (DeviceId, BackendError)> {
    let mut head = touched.heads.start;
    while head < touched.heads.end {
        let has = value.mirrors[touched.mirror_idx].n_valid[head];
        let (source, _) = value.best(head);
        // Heads that lack the same positions and find them in the same place are copied together.
        let is_like =
            |&next: &usize| value.mirrors[touched.mirror_idx].n_valid[next] == has && value.best(next).0 == source;
        let heads = head..head + (head..touched.heads.end).take_while(is_like).count();
        head = heads.end;
        if has >= needed {
            continue;
        }
        let (from, to) = (&value.mirrors[source].tensor, &value.mirrors[touched.mirror_idx].tensor);
        let row = to.desc().columns * to.desc().dtype.size();
        let at_a_time = (bytes.len() / (row * heads.len())).max(1);
        for start in (has..needed).step_by(at_a_time) {
            let positions = start..(start + at_a_time).min(needed);
            transfer(from, to, layout, &heads, positions, bytes).map_err(|(is_source, error)| {
                let tensor: &dyn Tensor = if is_source { from.tensor() } else { to.tensor() };
                (tensor.device(), error)
            })?;
        }
        value.mirrors[touched.mirror_idx].has(heads, needed);
    }
    Ok(())
}

/// Copies positions of some heads from one memory to another. After an error, whether the source is to blame.
fn transfer(
    from: &Arc<SharedTensor>,
    to: &Arc<SharedTensor>,
    CacheLayout { context, .. }: CacheLayout,
    heads: &Range<usize>,
    positions: Range<usize>,
    bytes: &mut [u8],
) -> Result<(), (bool, BackendError)> {
    let blocks = RowBlocks {
        first: heads.start * context + positions.start,
        rows: positions.len(),
        distance: context,
        n: heads.len(),
    };
    let row = from.desc().columns * from.desc().dtype.size();
    let bytes = &mut bytes[..row * positions.len() * heads.len()];
    from.view().read_blocks(&blocks, bytes).map_err(|error| (true, error))?;
    to.slot().write_blocks(&blocks, bytes).map_err(|error| (false, error))
}
