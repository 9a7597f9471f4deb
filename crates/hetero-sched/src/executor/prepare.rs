//! Makes the submissions of a plan ready: loads weights and compiles segments, where that has not been done yet.

use std::ops::Range;
use std::sync::Arc;

use hetero_core::{
    Access, BackendError, Bindings, Claim, Executable, NodeId, Op, Part, Segment, SegmentNode, SharedTensor, Support,
    ValueId, WeightId, WeightMatrix,
};

use super::{Executor, Run, Synchronisation};
use crate::residency::{Compiled, RowsKey, SegmentKey, lock, rows_key};
use crate::submissions::{stages, submissions_in_stages, submissions_within};
use crate::sync::Estimate;
use crate::{Plan, Residency, SchedError, Submission};

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
        let placed = |part: &crate::PartId| {
            let placed = &plan.placements()[part.node.0][part.part_idx];
            (part.node, placed.part.clone(), placed.operand_order)
        };
        let key_of = |submission: &Submission| (submission.device_idx, submission.parts.iter().map(placed).collect());
        let keys: Vec<SegmentKey> = list.iter().map(key_of).collect();
        residency.make_room(&self.graphs, keys.iter().flat_map(|key| self.rows_of(key)).collect());
        for (submission, key) in list.into_iter().zip(keys) {
            let (executable, tensors) = self.compile(key, residency)?;
            runs.push(Run {
                bindings: Bindings { tensors: Vec::with_capacity(tensors.len()) },
                stage: stages.get(submission.parts[0].node.0).copied().unwrap_or(0),
                submission,
                executable,
                tensors,
                copies: Vec::new(),
                state_copies: Vec::new(),
                ahead: None,
                ticket: None,
                predicted: None,
                seconds: Estimate::new(),
                has_run: false,
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
        if let Some(compiled) = lock(&self.graphs).compiled.get_mut(&key) {
            compiled.plan = self.n_plans;
            return Ok((Arc::clone(&compiled.executable), Arc::clone(&compiled.tensors)));
        }
        let device_idx = key.0;
        let failed = |error| SchedError::Device { device_idx, error };
        let backend = Arc::clone(&self.devices[device_idx].backend);
        let mut nodes = Vec::with_capacity(key.1.len());
        let mut held = Vec::new();
        for (node, part, operand_order) in &key.1 {
            let mut weights = Vec::new();
            for (matrix, rows) in self.matrices_of(*node, part) {
                let weight = residency.load(&*backend, matrix, rows.clone()).map_err(failed)?;
                held.push((rows_key(&*backend, matrix, rows), Arc::clone(&weight)));
                weights.push(weight);
            }
            nodes.push(SegmentNode { node: *node, part: part.clone(), weights, operand_order: *operand_order });
        }
        let graph = Arc::clone(&self.graph);
        let values = key.1.iter().flat_map(|(node, ..)| {
            let node = graph.node(*node);
            node.inputs.iter().copied().chain([node.output])
        });
        self.state.prepare(values, device_idx, &*backend).map_err(failed)?;
        let tensor_number = |value| Arc::as_ptr(self.tensor_of(value, device_idx)).addr();
        let segment = Segment::with_storage(graph, nodes, tensor_number);
        self.check_access(&segment, device_idx)?;
        let executable = loop {
            match backend.compile(&segment) {
                Err(BackendError::LimitReached { .. }) if residency.forget(&self.graphs, backend.info().id) => {}
                compiled => break compiled.map_err(failed)?,
            }
        };
        let tensor_of = |binding_idx: usize| {
            let value = segment.values_of(binding_idx).next().expect("a binding holds a value");
            (Arc::clone(self.tensor_of(value, device_idx)), Arc::clone(segment.claim_of(binding_idx)))
        };
        let tensors: Arc<[_]> = (0..segment.n_bindings()).map(tensor_of).collect();
        let compiled = Compiled {
            executable: Arc::clone(&executable),
            tensors: Arc::clone(&tensors),
            weights: held,
            device: backend.info().id,
            plan: self.n_plans,
        };
        lock(&self.graphs).compiled.insert(key, compiled);
        Ok((executable, tensors))
    }

    /// The tensor that holds a value where a device computes.
    fn tensor_of(&self, value: ValueId, device_idx: usize) -> &Arc<SharedTensor> {
        let activation = || self.memories.of_device(device_idx).tensor(value);
        self.state.tensor(value, device_idx).unwrap_or_else(activation)
    }

    fn check_access(&self, segment: &Segment, device_idx: usize) -> Result<(), SchedError> {
        let backend = &self.devices[device_idx].backend;
        for &value in segment.values() {
            let tensor = self.tensor_of(value, device_idx).tensor();
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

    /// The rows of matrices that a segment computes with.
    fn rows_of(&self, (device_idx, nodes): &SegmentKey) -> Vec<RowsKey> {
        let backend = &*self.devices[*device_idx].backend;
        let of_nodes = nodes.iter().flat_map(|(node, part, _)| self.matrices_of(*node, part));
        of_nodes.map(|(matrix, rows)| rows_key(backend, matrix, rows)).collect()
    }

    /// The matrices of a node and the rows of them that a part needs.
    fn matrices_of(&self, node: NodeId, part: &Part) -> Vec<(&Arc<WeightMatrix>, Range<usize>)> {
        let node = self.graph.node(node);
        let of_weight = |(i, weight): (usize, &WeightId)| {
            let matrix = &self.weights[weight.0];
            let expected = &self.graph.weights()[weight.0].layout;
            assert_eq!(matrix.layout(), expected, "{}: weight {:?}", node.name, matrix);
            // A linear operator's columns are the rows of its matrix; tables are loaded whole.
            let is_matrix = i == 0 && matches!(node.op, Op::Linear { .. });
            (matrix, if is_matrix { part.columns.clone() } else { 0..matrix.layout().rows })
        };
        node.weights.iter().enumerate().map(of_weight).collect()
    }
}
