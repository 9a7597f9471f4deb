//! Runs a plan; the only thing that touches devices.
//!
//! A plan becomes a list of stages. A stage is one segment on each device that takes part in it; the segments of a
//! stage run at the same time and the next stage begins when all of them have finished. Nodes that follow each other
//! on one device share a segment, so a plan for one device is a single stage and a step is a single submission.

use std::sync::Arc;

use hetero_core::{
    Access, Backend, Binding, Bindings, Executable, NodeId, Op, Part, Partition, Segment, SegmentNode, SharedTensor,
    Slot, StepParams, Support, Ticket, ValueId, Weight, WeightMatrix,
};

use crate::activations::Activations;
use crate::{PlacedPart, Plan, Residency, SchedError};

/// A plan made ready to run step by step.
#[derive(Debug)]
pub struct Executor {
    plan: Plan,
    activations: Activations,
    stages: Vec<Stage>,
    /// Room for the slots of one split value and the tickets of one stage, so that a step allocates nothing.
    slots: Vec<Slot>,
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
struct Stage {
    runs: Vec<Run>,
    /// The value that several devices write in this stage, and who writes what.
    split: Option<(ValueId, Partition)>,
}

#[derive(Debug)]
struct Run {
    /// For each binding, the tensor and what is done with it.
    tensors: Vec<(Arc<SharedTensor>, Right)>,
    executable: Arc<dyn Executable>,
    /// Empty, between steps; keeps its capacity.
    bindings: Bindings,
}

/// What a run does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// Reads it.
    Read,
    /// Writes it, and perhaps reads it afterwards.
    Write,
    /// Writes its part of it, while other runs of the stage write theirs.
    Part,
}

impl Executor {
    /// Loads weights and compiles segments.
    ///
    /// `weights` stands in the order of the graph's weights, `state` in the order of its state. Activations are
    /// allocated by the first device.
    ///
    /// # Panics
    /// When the plan names a device that is not in the list, or weights or state do not fit the graph.
    pub fn new(
        plan: Plan,
        devices: &[Arc<dyn Backend>],
        weights: &[Arc<WeightMatrix>],
        state: &[Arc<SharedTensor>],
        residency: &mut Residency,
    ) -> Result<Executor, SchedError> {
        let graph = plan.graph();
        check_support(&plan, devices)?;
        let activations = Activations::allocate(graph, &*devices[0], state)?;
        let mut stages = Vec::new();
        for planned in plan_stages(&plan) {
            let mut runs = Vec::with_capacity(planned.len());
            for (device_idx, parts) in &planned {
                let backend = &devices[*device_idx];
                let mut nodes = Vec::with_capacity(parts.len());
                for (node, placed) in parts {
                    let part = placed.part.clone();
                    let weights = load_weights(&plan, *node, &part, &**backend, weights, residency)?;
                    nodes.push(SegmentNode { node: *node, part, weights, operand_order: placed.operand_order });
                }
                let segment = Segment::with_storage(Arc::clone(graph), nodes, |value| activations.tensor_number(value));
                check_access(&segment, &activations, &**backend, devices)?;
                let executable = backend.compile(&segment)?;
                let tensors = rights(&segment, &activations, planned.len() > 1);
                let bindings = Bindings { tensors: Vec::with_capacity(tensors.len()) };
                runs.push(Run { tensors, executable, bindings });
            }
            stages.push(Stage { runs, split: split_of(&plan, &planned) });
        }
        let most_runs = stages.iter().map(|stage| stage.runs.len()).max().unwrap_or(0);
        Ok(Executor {
            plan,
            activations,
            stages,
            slots: Vec::with_capacity(most_runs),
            tickets: Vec::with_capacity(most_runs),
        })
    }

    /// Runs all nodes for the positions of one step and returns when the outputs can be read.
    ///
    /// After an error the outputs and the state of this step's positions are void.
    pub fn step(&mut self, step: StepParams) -> Result<(), SchedError> {
        let result = self.run_stages(step);
        if result.is_err() {
            // Dropping a ticket waits for what is still running and gives its tensors back.
            self.tickets.clear();
            self.slots.clear();
        }
        result
    }

    fn run_stages(&mut self, step: StepParams) -> Result<(), SchedError> {
        for stage in &mut self.stages {
            if let Some((value, partition)) = &stage.split {
                self.activations.tensor(*value).split(partition, &mut self.slots);
            }
            // Slots are taken from the end, so devices are visited in reverse.
            for run in stage.runs.iter_mut().rev() {
                let mut bindings = std::mem::take(&mut run.bindings);
                for (tensor, right) in &run.tensors {
                    bindings.tensors.push(match right {
                        Right::Part => Binding::Write(self.slots.pop().expect("one slot for each run of the stage")),
                        Right::Write => Binding::Write(tensor.slot()),
                        Right::Read => Binding::Read(tensor.view()),
                    });
                }
                self.tickets.push(run.executable.submit(bindings, step)?);
            }
            // Tickets were issued in reverse, so the last one belongs to the first run.
            for run in &mut stage.runs {
                let ticket = self.tickets.pop().expect("one ticket for each run of the stage");
                run.bindings = ticket.wait()?;
                run.bindings.tensors.clear();
            }
        }
        Ok(())
    }

    /// The tensor that holds an input or output, for the caller to write before a step or read after it.
    pub fn tensor(&self, value: ValueId) -> &Arc<SharedTensor> {
        self.activations.tensor(value)
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of activation tensors.
    pub fn activation_bytes(&self) -> u64 {
        self.activations.bytes(self.plan.graph())
    }
}

/// For each stage, for each device that takes part, its nodes in order.
type PlannedStage = Vec<(usize, Vec<(NodeId, PlacedPart)>)>;

fn plan_stages(plan: &Plan) -> Vec<PlannedStage> {
    let mut stages: Vec<PlannedStage> = Vec::new();
    for (idx, placed) in plan.placements().iter().enumerate() {
        let node = NodeId(idx);
        match (&placed[..], stages.last_mut().map(|stage| &mut stage[..])) {
            ([placed], Some([(device_idx, nodes)])) if *device_idx == placed.device_idx => {
                nodes.push((node, placed.clone()));
            }
            _ => stages.push(placed.iter().map(|placed| (placed.device_idx, vec![(node, placed.clone())])).collect()),
        }
    }
    stages
}

/// What a segment does with the tensor of each binding. In a split stage every run writes its part of one value.
fn rights(segment: &Segment, activations: &Activations, is_split: bool) -> Vec<(Arc<SharedTensor>, Right)> {
    let right = |binding_idx: usize| {
        let mut values = segment.values_of(binding_idx);
        let first = values.next().expect("a binding holds a value");
        let is_written = segment.writes(first) || values.any(|value| segment.writes(value));
        let right = match (is_written, is_split) {
            (false, _) => Right::Read,
            (true, false) => Right::Write,
            (true, true) => Right::Part,
        };
        (Arc::clone(activations.tensor(first)), right)
    };
    (0..segment.n_bindings()).map(right).collect()
}

fn split_of(plan: &Plan, stage: &PlannedStage) -> Option<(ValueId, Partition)> {
    if stage.len() < 2 {
        return None;
    }
    let value = plan.graph().node(stage[0].1[0].0).output;
    let desc = plan.graph().tensor_desc(value);
    let parts = stage.iter().map(|(_, nodes)| nodes[0].1.part.clone()).collect();
    let partition = Partition::new(desc.rows, desc.columns, parts);
    Some((value, partition.expect("`Plan::new` has checked the cover")))
}

fn check_support(plan: &Plan, devices: &[Arc<dyn Backend>]) -> Result<(), SchedError> {
    for (idx, placed) in plan.placements().iter().enumerate() {
        let op = plan.graph().op_spec(NodeId(idx));
        for placed in placed {
            let backend = &devices[placed.device_idx];
            if let Support::No(reason) = backend.support(&op) {
                let device = backend.info().name.clone();
                return Err(SchedError::Unsupported { device, op: op.to_string(), reason });
            }
        }
    }
    Ok(())
}

fn check_access(
    segment: &Segment,
    activations: &Activations,
    backend: &dyn Backend,
    devices: &[Arc<dyn Backend>],
) -> Result<(), SchedError> {
    for &value in segment.values() {
        let tensor = activations.tensor(value).tensor();
        if backend.access(tensor) == Access::NeedsCopy {
            let owner = devices.iter().find(|device| device.info().id == tensor.device());
            return Err(SchedError::Unreachable {
                device: backend.info().name.clone(),
                owner: owner.map_or_else(|| "unknown".to_owned(), |owner| owner.info().name.clone()),
                value: segment.graph.value(value).name.clone(),
            });
        }
    }
    Ok(())
}

fn load_weights(
    plan: &Plan,
    node: NodeId,
    part: &Part,
    backend: &dyn Backend,
    weights: &[Arc<WeightMatrix>],
    residency: &mut Residency,
) -> Result<Vec<Arc<dyn Weight>>, SchedError> {
    let node = plan.graph().node(node);
    let mut loaded = Vec::with_capacity(node.weights.len());
    for (i, weight) in node.weights.iter().enumerate() {
        let matrix = &weights[weight.0];
        let expected = &plan.graph().weights()[weight.0].layout;
        assert_eq!(matrix.layout(), expected, "{}: weight {:?}", node.name, matrix);
        // A linear operator's columns are the rows of its matrix; tables are loaded whole.
        let is_matrix = i == 0 && matches!(node.op, Op::Linear { .. });
        let rows = if is_matrix { part.columns.clone() } else { 0..matrix.layout().rows };
        loaded.push(residency.load(backend, matrix, rows)?);
    }
    Ok(loaded)
}
