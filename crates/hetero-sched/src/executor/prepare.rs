//! Makes the submissions of a plan ready: loads weights, compiles segments, keeps what was compiled.

use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, Bindings, Claim, Executable, NodeId, Op, OperandOrder, Part, Segment, SegmentNode,
    SharedTensor, Support, Weight,
};

use super::{Executor, Run, Synchronisation};
use crate::submissions::{stages, submissions_in_stages, submissions_within};
use crate::sync::Estimate;
use crate::{Plan, Residency, SchedError};

/// A device and what it computes in one submission.
pub(super) type SegmentKey = (usize, Vec<(NodeId, Part, OperandOrder)>);

/// A segment as a device runs it.
#[derive(Debug)]
pub(super) struct Compiled {
    executable: Arc<dyn Executable>,
    tensors: Arc<[(Arc<SharedTensor>, Arc<Claim>)]>,
    /// The last plan that it was for.
    plan: u64,
}

impl Executor {
    /// The submissions of a plan, ready to run.
    pub(super) fn prepare(&mut self, plan: &Plan, residency: &mut Residency) -> Result<Vec<Run>, SchedError> {
        self.check_support(plan)?;
        let mut runs = Vec::new();
        let most_weight_bytes: Vec<Option<u64>> =
            self.devices.iter().map(|device| device.backend.info().max_segment_weight_bytes).collect();
        let (list, stages) = match self.synchronisation {
            Synchronisation::Fast => (submissions_within(plan, &most_weight_bytes), Vec::new()),
            Synchronisation::PerCrossing => (submissions_in_stages(plan, &most_weight_bytes), stages(plan)),
        };
        for submission in list {
            let placed = |part: &crate::PartId| {
                let placed = &plan.placements()[part.node.0][part.part_idx];
                (part.node, placed.part.clone(), placed.operand_order)
            };
            let key = (submission.device_idx, submission.parts.iter().map(placed).collect());
            let (executable, tensors) = self.compile(key, residency)?;
            runs.push(Run {
                bindings: Bindings { tensors: Vec::with_capacity(tensors.len()) },
                stage: stages.get(submission.parts[0].node.0).copied().unwrap_or(0),
                submission,
                executable,
                tensors,
                copies: Vec::new(),
                ticket: None,
                predicted: None,
                seconds: Estimate::new(),
                submitting: 0.0,
                submitted: 0.0,
                start: 0.0,
                end: None,
            });
        }
        Ok(runs)
    }

    fn check_support(&self, plan: &Plan) -> Result<(), SchedError> {
        for (idx, placed) in plan.placements().iter().enumerate() {
            let op = self.graph.op_spec(NodeId(idx));
            for placed in placed {
                let backend = &self.devices[placed.device_idx].backend;
                if let Support::No(reason) = backend.support(&op) {
                    let device = backend.info().name.clone();
                    return Err(SchedError::Unsupported { device, op: op.to_string(), reason });
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "the two belong to one submission and are named there")]
    fn compile(
        &mut self,
        key: SegmentKey,
        residency: &mut Residency,
    ) -> Result<(Arc<dyn Executable>, Arc<[(Arc<SharedTensor>, Arc<Claim>)]>), SchedError> {
        if let Some(compiled) = self.compiled.get_mut(&key) {
            compiled.plan = self.n_plans;
            return Ok((Arc::clone(&compiled.executable), Arc::clone(&compiled.tensors)));
        }
        let device_idx = key.0;
        let failed = |error| SchedError::Device { device_idx, error };
        let backend = Arc::clone(&self.devices[device_idx].backend);
        let mut nodes = Vec::with_capacity(key.1.len());
        for (node, part, operand_order) in &key.1 {
            let weights = self.load_weights(*node, part, &*backend, residency).map_err(failed)?;
            nodes.push(SegmentNode { node: *node, part: part.clone(), weights, operand_order: *operand_order });
        }
        let activations = self.memories.of_device(device_idx);
        let tensor_number = |value| activations.tensor_number(value);
        let segment = Segment::with_storage(Arc::clone(&self.graph), nodes, tensor_number);
        self.check_access(&segment, device_idx)?;
        let executable = loop {
            match backend.compile(&segment) {
                Err(BackendError::LimitReached { .. }) if self.forget(device_idx) => {}
                compiled => break compiled.map_err(failed)?,
            }
        };
        let activations = self.memories.of_device(device_idx);
        let tensor_of = |binding_idx: usize| {
            let value = segment.values_of(binding_idx).next().expect("a binding holds a value");
            (Arc::clone(activations.tensor(value)), Arc::clone(segment.claim_of(binding_idx)))
        };
        let tensors: Arc<[_]> = (0..segment.n_bindings()).map(tensor_of).collect();
        let compiled =
            Compiled { executable: Arc::clone(&executable), tensors: Arc::clone(&tensors), plan: self.n_plans };
        self.compiled.insert(key, compiled);
        Ok((executable, tensors))
    }

    /// Gives a compiled segment of a device up, of those that are not for the plan in preparation the one that was
    /// used by the oldest plan; whether there was one.
    fn forget(&mut self, device_idx: usize) -> bool {
        let of_device =
            self.compiled.iter().filter(|(key, compiled)| key.0 == device_idx && compiled.plan < self.n_plans);
        // The nodes make the choice among those of one plan the same every time.
        let oldest = of_device.min_by_key(|(key, compiled)| (compiled.plan, key.1.first().map(|(node, ..)| *node)));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return false };
        self.compiled.remove(&key);
        true
    }

    fn check_access(&self, segment: &Segment, device_idx: usize) -> Result<(), SchedError> {
        let backend = &self.devices[device_idx].backend;
        for &value in segment.values() {
            let tensor = self.memories.of_device(device_idx).tensor(value).tensor();
            if backend.access(tensor) == Access::NeedsCopy {
                let owner =
                    self.devices.iter().map(|device| device.backend.info()).find(|info| info.id == tensor.device());
                return Err(SchedError::Unreachable {
                    device: backend.info().name.clone(),
                    owner: owner.map_or_else(|| "unknown".to_owned(), |owner| owner.name.clone()),
                    value: segment.graph.value(value).name.clone(),
                });
            }
        }
        Ok(())
    }

    fn load_weights(
        &self,
        node: NodeId,
        part: &Part,
        backend: &dyn Backend,
        residency: &mut Residency,
    ) -> Result<Vec<Arc<dyn Weight>>, BackendError> {
        let node = self.graph.node(node);
        let mut loaded = Vec::with_capacity(node.weights.len());
        for (i, weight) in node.weights.iter().enumerate() {
            let matrix = &self.weights[weight.0];
            let expected = &self.graph.weights()[weight.0].layout;
            assert_eq!(matrix.layout(), expected, "{}: weight {:?}", node.name, matrix);
            // A linear operator's columns are the rows of its matrix; tables are loaded whole.
            let is_matrix = i == 0 && matches!(node.op, Op::Linear { .. });
            let rows = if is_matrix { part.columns.clone() } else { 0..matrix.layout().rows };
            loaded.push(residency.load(backend, matrix, rows)?);
        }
        Ok(loaded)
    }
}
