//! A case set up on a backend: tensors with guards between them, weights, and the checks around each submission.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hetero_core::{
    Backend, BackendError, Binding, Bindings, Claim, DType, DeviceId, Executable, HostTensor, NodeId, Op, OperandOrder,
    Part, Partition, Rows, Segment, SegmentNode, SharedTensor, Slot, StepParams, Support, Tensor, TensorDesc, Ticket,
    ValueId, ValueKind, Weight, WeightMatrix, WeightRows, reference,
};

use crate::case::{Case, Cut};
use crate::sentinel::Image;
use crate::stimulus;

/// Why something could not be checked or is wrong.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The backend says that it cannot.
    Unsupported(String),
    /// It does what it must not.
    Failed(String),
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Trouble::Failed(message)
    }
}

impl From<BackendError> for Trouble {
    fn from(error: BackendError) -> Self {
        Trouble::Failed(format!("error: {error}"))
    }
}

/// A case set up on a backend.
pub(crate) struct Bench<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) case: &'a Case,
    /// One tensor for each value.
    pub(crate) tensors: Vec<Arc<SharedTensor>>,
    guards: Vec<Arc<SharedTensor>>,
    matrices: Vec<Arc<WeightMatrix>>,
}

/// Everything that a run left behind, by value.
pub(crate) type Snapshot = Vec<Image>;

impl<'a> Bench<'a> {
    /// Allocates tensors and weights.
    pub(crate) fn new(backend: &'a dyn Backend, case: &'a Case) -> Result<Bench<'a>, Trouble> {
        check_support(backend, case)?;
        let allocate = |desc: &TensorDesc| -> Result<Arc<SharedTensor>, Trouble> {
            let tensor = backend.allocate(desc)?;
            if tensor.desc() != desc {
                return Err(Trouble::Failed(format!("allocated {:?} instead of {desc:?}", tensor.desc())));
            }
            Ok(SharedTensor::new(tensor))
        };
        let guard = TensorDesc { rows: 1, columns: 64, dtype: DType::F32 };
        let mut guards = vec![allocate(&guard)?];
        let mut tensors = Vec::new();
        for idx in 0..case.graph.values().len() {
            tensors.push(allocate(&case.graph.tensor_desc(ValueId(idx)))?);
            guards.push(allocate(&guard)?);
        }
        for guard in &guards {
            Image::sentinel(*guard.desc()).write(guard);
        }
        let matrices = stimulus::weights(case, backend)?;
        Ok(Bench { backend, case, tensors, guards, matrices })
    }

    /// What the oracle leaves behind after each step.
    pub(crate) fn oracle(&self) -> Vec<Snapshot> {
        let graph = &self.case.graph;
        let partition = self.case.partition(Cut::Whole);
        let load = |rows: WeightRows| -> Result<Arc<dyn Weight>, BackendError> { Ok(Arc::new(OracleWeight { rows })) };
        let segment = self.segment_with(&partition.parts()[0], load);
        let segment = segment.expect("the oracle loads every weight");
        let device = DeviceId::next();
        let tensors: Vec<Arc<SharedTensor>> = (0..graph.values().len())
            .map(|idx| {
                let tensor = HostTensor::new(device, graph.tensor_desc(ValueId(idx)));
                SharedTensor::new(Arc::new(tensor.expect("a case is small")))
            })
            .collect();
        let mut snapshots = Vec::new();
        for (idx, &step) in self.case.steps.iter().enumerate() {
            fill(self.case, &tensors, idx, idx == 0);
            let mut bindings = bindings(&segment, &tensors, &partition, 0, &mut Vec::new());
            reference::run_segment(&segment, &mut bindings, step);
            drop(bindings);
            snapshots.push(tensors.iter().map(Image::read).collect());
        }
        snapshots
    }

    /// Fills the tensors for a step. State is left alone when it is carried, but for the first run of a sequence.
    pub(crate) fn fill(&self, step_idx: usize, is_first: bool) {
        fill(self.case, &self.tensors, step_idx, is_first);
    }

    /// What the tensors hold.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.tensors.iter().map(Image::read).collect()
    }

    /// One part of the graph with its weights as the backend has loaded them.
    pub(crate) fn segment(&self, part: &Part) -> Result<Segment, BackendError> {
        self.segment_with(part, |rows| self.backend.load_weight(rows))
    }

    /// The whole graph, compiled.
    pub(crate) fn compile_whole(&self) -> Result<(Segment, Arc<dyn Executable>), BackendError> {
        let partition = self.case.partition(Cut::Whole);
        let segment = self.segment(&partition.parts()[0])?;
        let executable = self.backend.compile(&segment)?;
        Ok((segment, executable))
    }

    /// The bindings of the whole graph.
    pub(crate) fn bind_whole(&self, segment: &Segment) -> Bindings {
        let partition = self.case.partition(Cut::Whole);
        self.bind(segment, &partition, 0, &mut Vec::new())
    }

    /// The bindings of one part: slots of what it writes, views of what it reads. The slots of other parts wait in
    /// `slots`, which is empty before the first part.
    pub(crate) fn bind(
        &self,
        segment: &Segment,
        partition: &Partition,
        part_idx: usize,
        slots: &mut Vec<Vec<Option<Slot>>>,
    ) -> Bindings {
        bindings(segment, &self.tensors, partition, part_idx, slots)
    }

    /// Waits for a submission and checks that every right comes back.
    pub(crate) fn finish(&self, segment: &Segment, ticket: Ticket, part: &Part) -> Result<(), Trouble> {
        let value = ticket.value();
        let timeline = Arc::clone(ticket.timeline());
        let bindings = ticket.wait()?;
        if timeline.completed() < value {
            return Err(Trouble::Failed(format!("`wait` returned at {} of submission {value}", timeline.completed())));
        }
        if bindings.tensors.len() != segment.values().len() {
            return Err(Trouble::Failed(format!(
                "{} of {} bindings came back",
                bindings.tensors.len(),
                segment.values().len()
            )));
        }
        for (binding, &id) in bindings.tensors.iter().zip(segment.values()) {
            let name = &segment.graph.value(id).name;
            if !std::ptr::eq(binding.tensor(), &*self.tensors[id.0]) {
                return Err(Trouble::Failed(format!("another binding came back for {name:?}")));
            }
            let is_slot = matches!(binding, Binding::Write(_));
            let desc = segment.graph.tensor_desc(id);
            let expected = match segment.writes(id) {
                true => Claim::new([], [part_of(part, self.case, &desc)]),
                false => Claim::new([Part::whole(desc.rows, desc.columns)], []),
            };
            if is_slot != segment.writes(id) || *binding.claim() != expected {
                return Err(Trouble::Failed(format!("another right came back for {name:?}")));
            }
        }
        Ok(())
    }

    /// Checks what a run did to memory: only `parts` of the outputs may have changed, and no right is held any more.
    pub(crate) fn check_memory(
        &self,
        before: &Snapshot,
        parts: &[Part],
        step: StepParams,
    ) -> Result<Snapshot, Trouble> {
        for (idx, tensor) in self.tensors.iter().enumerate() {
            if catch_unwind(AssertUnwindSafe(|| drop(tensor.slot()))).is_err() {
                let name = &self.case.graph.values()[idx].name;
                return Err(Trouble::Failed(format!("a right to {name:?} was never given back")));
            }
        }
        let after = self.snapshot();
        for (idx, (before, after)) in before.iter().zip(&after).enumerate() {
            let written = self.written(ValueId(idx), parts, step);
            if let Some((row, column)) = before.change_outside(after, &written) {
                let value = &self.case.graph.values()[idx];
                let what = if written.is_empty() {
                    "an input was modified"
                } else {
                    "a write outside the part or the rows in use"
                };
                return Err(Trouble::Failed(format!(
                    "{what}: {:?} at [{row}, {column}], {} became {}",
                    value.name,
                    before.value(row, column),
                    after.value(row, column)
                )));
            }
        }
        for guard in &self.guards {
            if Image::read(guard) != Image::sentinel(*guard.desc()) {
                return Err(Trouble::Failed("a write outside all tensors, into a guard".to_owned()));
            }
        }
        Ok(after)
    }

    /// Which elements of a value some parts of the graph write in a step.
    pub(crate) fn written(&self, id: ValueId, parts: &[Part], step: StepParams) -> Vec<Part> {
        let graph = &self.case.graph;
        let Some(node) = graph.nodes().iter().find(|node| node.output == id) else {
            return vec![];
        };
        let desc = graph.tensor_desc(id);
        if let Op::CacheWrite { kv_heads, context, .. } = node.op {
            let of_head = |head: usize| {
                let first = head * context + step.past;
                Part { rows: first..first + step.rows, columns: 0..desc.columns }
            };
            return (0..kv_heads).map(of_head).collect();
        }
        let in_use = match graph.value(id).rows {
            Rows::Positions => step.rows,
            Rows::Fixed(rows) => rows,
        };
        let of_part = |part| {
            let part = part_of(part, self.case, &desc);
            Part { rows: part.rows.start.min(in_use)..part.rows.end.min(in_use), columns: part.columns }
        };
        parts.iter().map(of_part).collect()
    }

    fn segment_with(
        &self,
        part: &Part,
        load: impl Fn(WeightRows) -> Result<Arc<dyn Weight>, BackendError>,
    ) -> Result<Segment, BackendError> {
        let graph = &self.case.graph;
        let mut nodes = Vec::new();
        for (idx, node) in graph.nodes().iter().enumerate() {
            let part = part_of(part, self.case, &graph.tensor_desc(node.output));
            let mut weights = Vec::new();
            for (weight_idx, id) in node.weights.iter().enumerate() {
                let matrix = Arc::clone(&self.matrices[id.0]);
                // Tables are loaded whole: the columns of a bias are the rows of its matrix.
                weights.push(load(match node.op {
                    Op::Linear { .. } if weight_idx == 0 => WeightRows { matrix, rows: part.columns.clone() },
                    _ => WeightRows::all(matrix),
                })?);
            }
            nodes.push(SegmentNode { node: NodeId(idx), part, weights, operand_order: OperandOrder::default() });
        }
        Ok(Segment::new(Arc::clone(graph), nodes))
    }
}

fn check_support(backend: &dyn Backend, case: &Case) -> Result<(), Trouble> {
    for idx in 0..case.graph.nodes().len() {
        let spec = case.graph.op_spec(NodeId(idx));
        let support = backend.support(&spec);
        if support != backend.support(&spec) {
            return Err(Trouble::Failed(format!("support of {spec} changes")));
        }
        if let Support::No(reason) = support {
            return Err(Trouble::Unsupported(format!("{spec}: {reason}")));
        }
    }
    Ok(())
}

fn fill(case: &Case, tensors: &[Arc<SharedTensor>], step_idx: usize, is_first: bool) {
    let images = stimulus::images(case, step_idx);
    for ((image, tensor), value) in images.iter().zip(tensors).zip(case.graph.values()) {
        let is_carried = value.kind == ValueKind::State && case.carries_state && !is_first;
        if !is_carried {
            image.write(tensor);
        }
    }
}

fn bindings(
    segment: &Segment,
    tensors: &[Arc<SharedTensor>],
    partition: &Partition,
    part_idx: usize,
    slots: &mut Vec<Vec<Option<Slot>>>,
) -> Bindings {
    let is_first = slots.is_empty();
    slots.resize_with(tensors.len(), Vec::new);
    let mut bindings = Bindings::default();
    for &id in segment.values() {
        let tensor = &tensors[id.0];
        bindings.tensors.push(if segment.writes(id) {
            if is_first {
                let mut parts = Vec::new();
                tensor.split(&partition_of(partition, tensor.desc()), &mut parts);
                slots[id.0] = parts.into_iter().map(Some).collect();
            }
            let slot = slots[id.0][part_idx].take();
            Binding::Write(slot.expect("each part is bound once"))
        } else {
            Binding::Read(tensor.view())
        });
    }
    bindings
}

/// A partition of the last output as one of another output of the graph.
fn partition_of(partition: &Partition, desc: &TensorDesc) -> Partition {
    let shape = partition.shape();
    let parts = partition.parts().iter();
    let parts = parts.map(|part| stretch(part, shape, desc)).collect();
    Partition::new(desc.rows, desc.columns, parts).expect("a graph is cut alike in all its outputs")
}

fn part_of(part: &Part, case: &Case, desc: &TensorDesc) -> Part {
    let output = case.graph.tensor_desc(case.last_output());
    stretch(part, (output.rows, output.columns), desc)
}

/// What is not cut has the length that the tensor has.
fn stretch(part: &Part, shape: (usize, usize), desc: &TensorDesc) -> Part {
    let stretch = |range: &std::ops::Range<usize>, from: usize, to: usize| {
        if *range == (0..from) { 0..to } else { range.clone() }
    };
    Part { rows: stretch(&part.rows, shape.0, desc.rows), columns: stretch(&part.columns, shape.1, desc.columns) }
}

/// A weight as the oracle holds it: the shared matrix itself.
#[derive(Debug)]
struct OracleWeight {
    rows: WeightRows,
}

impl Weight for OracleWeight {
    fn rows(&self) -> &WeightRows {
        &self.rows
    }

    fn device(&self) -> DeviceId {
        self.rows.matrix.tensor().map_or_else(DeviceId::next, Tensor::device)
    }

    fn own_bytes(&self) -> u64 {
        0
    }
}
