//! Which memory each device computes in, and what is copied from one to another.
//!
//! As a rule all devices work on the tensors that one of them has allocated. A device that does not reach those, and
//! every device under [`Synchronisation::PerCrossing`], has tensors of its own, one for each value; state has rules of its
//! own (`state.rs`). Then a part that was computed in one memory is copied into another before the first submission there
//! that reads of it, and parts of outputs into the first memory at the end of the step, by the host, through
//! [`hetero_core::View::read_bytes`] and [`hetero_core::Slot::write_bytes`].
//!
//! # When a copy may be made
//!
//! All memories assign values to tensors alike. A part is copied after the submission that wrote it has finished, and
//! by then everything has been read that lay in its place: that is the rule by which values share tensors
//! ([`crate::activations`]), and it speaks of rectangles, wherever they lie. A later value takes the place of what a
//! submission reads only after that submission, and so after the copies that it waits for; of what it does not read, at
//! any time. So a copy is exactly what a reader reads of a part. Where readers overlap, the later one in the plan needs
//! the piece of the earlier one and a copy of the rest: no copy touches what a reader under way reads.

use std::ops::Range;
use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, Binding, Claim, DeviceId, Graph, NodeId, Part, Rows, SharedTensor, StepParams,
    ValueId, ValueKind,
};

use super::{Run, Synchronisation};
use crate::activations::Activations;
use crate::{Plan, SchedError};

/// The tensors of one graph in every memory.
#[derive(Debug)]
pub(super) struct Memories {
    /// The first is that of the allocating device, which the caller sees.
    all: Vec<Activations>,
    /// For each device, which it computes in.
    of_device: Vec<usize>,
    allocator_idx: usize,
    /// For claims of the host.
    host: DeviceId,
}

/// What a plan copies.
#[derive(Debug, Default)]
pub(super) struct Copies {
    all: Vec<PlannedCopy>,
    /// Those into the first memory that the caller reads at the end of a step.
    of_outputs: Vec<usize>,
    /// Room for the largest.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct PlannedCopy {
    value: ValueId,
    part: Part,
    /// The device whose part it is and the one into whose memory it goes, which are to blame when it fails.
    from_device: usize,
    to_device: usize,
    to_memory: usize,
    from: (Arc<SharedTensor>, Arc<Claim>),
    to: (Arc<SharedTensor>, Arc<Claim>),
    /// Whether rows beyond those in use are not copied.
    is_by_position: bool,
    /// In this step.
    is_done: bool,
}

impl Memories {
    /// Allocates tensors for all devices.
    pub(super) fn allocate(
        graph: &Graph,
        devices: &[Arc<dyn Backend>],
        allocator_idx: usize,
        synchronisation: Synchronisation,
    ) -> Result<Memories, SchedError> {
        let failed = |device_idx| move |error| SchedError::Device { device_idx, error };
        let shared = Activations::allocate(graph, &*devices[allocator_idx]).map_err(failed(allocator_idx))?;
        let mut all = vec![shared];
        let mut of_device = vec![0; devices.len()];
        for (device_idx, backend) in devices.iter().enumerate().filter(|(idx, _)| *idx != allocator_idx) {
            let reaches = |value: usize| {
                let is_state = graph.values()[value].kind == ValueKind::State;
                is_state || backend.access(all[0].tensor(ValueId(value)).tensor()) == Access::Direct
            };
            let is_shared = synchronisation == Synchronisation::Fast && (0..graph.values().len()).all(reaches);
            if !is_shared {
                of_device[device_idx] = all.len();
                all.push(Activations::allocate(graph, &**backend).map_err(failed(device_idx))?);
            }
        }
        Ok(Memories { all, of_device, allocator_idx, host: DeviceId::next() })
    }

    /// The tensors that the caller sees.
    pub(super) fn shared(&self) -> &Activations {
        &self.all[0]
    }

    /// The tensors that a device computes in.
    pub(super) fn of_device(&self, device_idx: usize) -> &Activations {
        &self.all[self.of_device[device_idx]]
    }

    /// Bytes of all tensors, state not counted.
    pub(super) fn bytes(&self) -> u64 {
        self.all.iter().map(Activations::bytes).sum()
    }
}

impl Copies {
    /// What the submissions of a plan need of other memories; notes for each which copies these are.
    pub(super) fn plan(memories: &Memories, plan: &Plan, runs: &mut [Run]) -> Copies {
        let mut copies = Copies::default();
        if memories.all.len() == 1 {
            return copies;
        }
        let graph = plan.graph();
        let mut writer = vec![None; graph.values().len()];
        for (idx, node) in graph.nodes().iter().enumerate() {
            writer[node.output.0] = Some(NodeId(idx));
        }
        let kind = |value: ValueId| graph.value(value).kind;
        for run in runs {
            let device_idx = run.submission.device_idx;
            for id in &run.submission.parts {
                let part = &plan.placements()[id.node.0][id.part_idx].part;
                for (input_idx, &input) in graph.node(id.node).inputs.iter().enumerate() {
                    if kind(input) == ValueKind::State {
                        continue;
                    }
                    let read = graph.input_part(id.node, input_idx, part);
                    copies.add_read(memories, plan, writer[input.0], input, &read, device_idx, &mut run.copies);
                }
            }
        }
        let mut of_outputs = Vec::new();
        for value in (0..graph.values().len()).map(ValueId).filter(|value| kind(*value) == ValueKind::Output) {
            let desc = graph.tensor_desc(value);
            let all = Part::whole(desc.rows, desc.columns);
            let caller = memories.allocator_idx;
            copies.add_read(memories, plan, writer[value.0], value, &all, caller, &mut of_outputs);
        }
        copies.of_outputs = of_outputs;
        let bytes = |copy: &PlannedCopy| copy.part.area() * copy.from.0.desc().dtype.size();
        copies.bytes = vec![0; copies.all.iter().map(bytes).max().unwrap_or(0)];
        copies
    }

    /// Adds to `needed` the copies that a reader of a rectangle on a device needs.
    #[expect(clippy::too_many_arguments, reason = "the one loop over parts, for submissions and for outputs")]
    fn add_read(
        &mut self,
        memories: &Memories,
        plan: &Plan,
        writer: Option<NodeId>,
        value: ValueId,
        read: &Part,
        to_device: usize,
        needed: &mut Vec<usize>,
    ) {
        let desc = plan.graph().tensor_desc(value);
        let to_memory = memories.of_device[to_device];
        let mut add = |part: &Part, from_device: usize| {
            let from_memory = memories.of_device[from_device];
            let Some(wanted) = intersection(part, read).filter(|_| from_memory != to_memory) else { return };
            let mut rest = vec![wanted.clone()];
            for (idx, copy) in self.all.iter().enumerate() {
                if copy.value == value && copy.to_memory == to_memory && copy.part.overlaps(&wanted) {
                    rest = rest.iter().flat_map(|rest| without(rest, &copy.part)).collect();
                    if !needed.contains(&idx) {
                        needed.push(idx);
                    }
                }
            }
            for part in rest {
                let tensor = |memory: usize| Arc::clone(memories.all[memory].tensor(value));
                needed.push(self.all.len());
                self.all.push(PlannedCopy {
                    value,
                    from_device,
                    to_device,
                    to_memory,
                    from: (tensor(from_memory), Arc::new(Claim::new([part.clone()], []))),
                    to: (tensor(to_memory), Arc::new(Claim::new([], [part.clone()]))),
                    is_by_position: plan.graph().value(value).rows == Rows::Positions,
                    is_done: false,
                    part,
                });
            }
        };
        match writer {
            Some(node) => plan.placements()[node.0].iter().for_each(|placed| add(&placed.part, placed.device_idx)),
            // What the caller writes.
            None => add(&Part::whole(desc.rows, desc.columns), memories.allocator_idx),
        }
    }

    /// Nothing has been copied in a new step.
    pub(super) fn reset(&mut self) {
        self.all.iter_mut().for_each(|copy| copy.is_done = false);
    }

    /// Makes those of the copies that have not been made in this step.
    pub(super) fn make(&mut self, needed: &[usize], memories: &Memories, step: StepParams) -> Result<(), SchedError> {
        for &idx in needed {
            let copy = &mut self.all[idx];
            if !std::mem::replace(&mut copy.is_done, true) {
                let made = copy.make(&mut self.bytes, memories.host, step);
                made.map_err(|(device_idx, error)| SchedError::Device { device_idx, error })?;
            }
        }
        Ok(())
    }

    /// Makes the copies that the caller of a step reads.
    pub(super) fn make_outputs(&mut self, memories: &Memories, step: StepParams) -> Result<(), SchedError> {
        let of_outputs = std::mem::take(&mut self.of_outputs);
        let result = self.make(&of_outputs, memories, step);
        self.of_outputs = of_outputs;
        result
    }
}

/// What two rectangles have in common, if anything.
fn intersection(a: &Part, b: &Part) -> Option<Part> {
    let common = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start)..a.end.min(b.end);
    let part = Part { rows: common(&a.rows, &b.rows), columns: common(&a.columns, &b.columns) };
    (!part.rows.is_empty() && !part.columns.is_empty()).then_some(part)
}

/// A rectangle without another one: what is above, below and beside it.
fn without(part: &Part, hole: &Part) -> Vec<Part> {
    let Some(hole) = intersection(part, hole) else { return vec![part.clone()] };
    let rest = [
        Part { rows: part.rows.start..hole.rows.start, columns: part.columns.clone() },
        Part { rows: hole.rows.end..part.rows.end, columns: part.columns.clone() },
        Part { rows: hole.rows.clone(), columns: part.columns.start..hole.columns.start },
        Part { rows: hole.rows.clone(), columns: hole.columns.end..part.columns.end },
    ];
    rest.into_iter().filter(|part| part.area() > 0).collect()
}

impl PlannedCopy {
    fn make(&self, bytes: &mut [u8], host: DeviceId, step: StepParams) -> Result<(), (usize, BackendError)> {
        let mut part = self.part.clone();
        if self.is_by_position {
            part.rows.end = part.rows.end.min(step.rows);
            if part.rows.is_empty() {
                return Ok(());
            }
        }
        let (from, to) = (&self.from, &self.to);
        let bytes = &mut bytes[..part.area() * from.0.desc().dtype.size()];
        let read = from.0.lend(&from.1, host).read_bytes(&part, bytes);
        read.map_err(|error| (self.from_device, error))?;
        let Binding::Write(mut slot) = to.0.lend(&to.1, host) else { unreachable!("the claim writes") };
        slot.write_bytes(&part, bytes).map_err(|error| (self.to_device, error))
    }
}
