//! A compiled segment and its submission: commands recorded once, submitted step by step.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hetero_core::{
    BackendError, Bindings, Claim, Executable, Segment, SharedTensor, StepCheck, StepParams, Ticket, Timeline, Weight,
};
use hetero_shaders::program::{Buffers, Choice, Dispatch, Operand as Named, choose, program};
use hetero_shaders::{Knobs, Limits, Params, Step};
use parking_lot::Mutex;
use vulkano::buffer::{BufferUsage, Subbuffer};
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::descriptor_set::{DescriptorSet, WriteDescriptorSet};
use vulkano::pipeline::ComputePipeline;

use crate::error::checked_error;
use crate::gate::{Gate, Held};
use crate::import::Imported;
use crate::memory::GpuTensor;
use crate::placement::Purpose;
use crate::queue::{ALIGNMENT, Gpu};
use crate::recording::{Call, Recorded};
use crate::weight::GpuWeight;

/// Lanes that are kept: as many submissions of one segment can be under way before another has to be made.
const KEPT_LANES: usize = 8;

/// Numbers of rows for which a lane keeps its commands.
const KEPT_ROWS: usize = 16;

/// A segment made ready to run.
#[derive(Debug)]
pub(crate) struct GpuExecutable {
    gpu: Arc<Gpu>,
    check: StepCheck,
    runs: Vec<Run>,
    n_bindings: usize,
    /// [`Params`] of the dispatches, each on its own multiple of [`ALIGNMENT`].
    params: Subbuffer<[u8]>,
    lanes: Mutex<Vec<Lane>>,
    /// Behind all that reads them: they keep the memory that was imported for them.
    _weights: Vec<Arc<dyn Weight>>,
}

/// A dispatch with its pipelines.
#[derive(Debug)]
struct Run {
    params: Params,
    /// Kernels, for certain steps each.
    choices: Vec<Choice>,
    /// Of the choices.
    pipelines: Vec<Arc<ComputePipeline>>,
    outputs: Vec<Operand>,
    inputs: Vec<Operand>,
}

#[derive(Debug)]
enum Operand {
    Binding(usize),
    Constant(Subbuffer<[u8]>),
    /// What one dispatch leaves for another, by its number.
    Scratch(usize, Subbuffer<[u8]>),
}

impl Operand {
    /// A number for what dispatches may conflict about; none for what never changes.
    fn changing(&self, n_bindings: usize) -> Option<usize> {
        match self {
            Operand::Binding(idx) => Some(*idx),
            Operand::Scratch(idx, _) => Some(n_bindings + idx),
            Operand::Constant(_) => None,
        }
    }
}

/// What one submission at a time uses: the block that tells its step, and commands for certain tensors.
#[derive(Debug)]
struct Lane {
    /// Commands by what their workgroups go by.
    recorded: HashMap<(u32, u32), Recorded>,
    /// For submissions that wait for the host; made with the first one.
    gate: Option<Gate>,
    /// Of the dispatches.
    sets: Vec<Arc<DescriptorSet>>,
    step: Subbuffer<[u8]>,
    /// Of the bindings. Behind what was made for them, so that they are dropped later.
    tensors: Vec<Bound>,
    /// Its last submission.
    last_value: u64,
}

/// A tensor that commands were recorded for.
#[derive(Debug)]
struct Bound {
    buffer: Subbuffer<[u8]>,
    /// Where the tensor is another processor's.
    _import: Option<Arc<Imported<SharedTensor>>>,
    /// No other tensor has its address while this is kept.
    tensor: Arc<SharedTensor>,
}

impl GpuExecutable {
    /// Makes pipelines and copies what does not change, after `support` has said yes to all nodes.
    pub(crate) fn new(gpu: &Arc<Gpu>, segment: &Segment) -> Result<GpuExecutable, BackendError> {
        let program = program(&mut &**gpu, segment)?;
        let operand = |operand: Named<Subbuffer<[u8]>>| match operand {
            Named::Value(value) => Operand::Binding(segment.binding_idx(value)),
            Named::Constant(buffer) => Operand::Constant(buffer),
            Named::Scratch(idx) => Operand::Scratch(idx, program.scratch[idx].clone()),
        };
        let mut runs = Vec::with_capacity(program.dispatches.len());
        for Dispatch { choices, params, outputs, inputs } in program.dispatches {
            let pipelines: Result<Vec<_>, BackendError> =
                choices.iter().map(|choice| gpu.pipelines.pipeline(choice.kernel, &gpu.knobs)).collect();
            let [outputs, inputs] = [outputs, inputs].map(|named| named.into_iter().map(operand).collect());
            runs.push(Run { params, choices, pipelines: pipelines?, outputs, inputs });
        }
        // Weights and what else is copied into the GPU's own memory has arrived.
        gpu.settle()?;
        let mut params = vec![0; ALIGNMENT as usize * runs.len()];
        for (run, bytes) in runs.iter().zip(params.chunks_exact_mut(ALIGNMENT as usize)) {
            bytes[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&run.params));
        }
        Ok(GpuExecutable {
            check: StepCheck::new(segment),
            n_bindings: segment.n_bindings(),
            params: gpu.filled(&params, BufferUsage::UNIFORM_BUFFER, Purpose::Parameters)?,
            lanes: Mutex::default(),
            _weights: segment.nodes.iter().flat_map(|node| node.weights.iter().cloned()).collect(),
            gpu: Arc::clone(gpu),
            runs,
        })
    }

    /// The place of a lane for some tensors that no submission uses.
    fn lane<'a>(
        &self,
        lanes: &mut Vec<Lane>,
        tensors: impl Iterator<Item = &'a Arc<SharedTensor>> + Clone,
    ) -> Result<usize, BackendError> {
        let completed = self.gpu.timeline.completed();
        let is_for = |lane: &Lane| lane.last_value <= completed && lane.is_for(tensors.clone());
        if let Some(idx) = lanes.iter().position(is_for) {
            return Ok(idx);
        }
        let lane = self.new_lane(tensors)?;
        // The one that has been idle for longest makes room.
        let idle = lanes.iter().enumerate().filter(|(_, lane)| lane.last_value <= completed);
        let oldest = idle.min_by_key(|(_, lane)| lane.last_value).map(|(idx, _)| idx);
        match oldest.filter(|_| lanes.len() >= KEPT_LANES) {
            Some(idx) => {
                lanes[idx] = lane;
                Ok(idx)
            }
            None => {
                lanes.push(lane);
                Ok(lanes.len() - 1)
            }
        }
    }

    fn new_lane<'a>(&self, tensors: impl Iterator<Item = &'a Arc<SharedTensor>>) -> Result<Lane, BackendError> {
        let step =
            self.gpu.filled(bytemuck::bytes_of(&Step::default()), BufferUsage::UNIFORM_BUFFER, Purpose::Parameters)?;
        let tensors: Result<Vec<Bound>, _> = tensors.map(|tensor| self.bound(tensor)).collect();
        let tensors = tensors?;
        let mut sets = Vec::with_capacity(self.runs.len());
        for (idx, run) in self.runs.iter().enumerate() {
            let start = idx as u64 * ALIGNMENT;
            let params = self.params.clone().slice(start..start + size_of::<Params>() as u64);
            let operands = run.outputs.iter().chain(&run.inputs).map(|operand| match operand {
                Operand::Binding(idx) => tensors[*idx].buffer.clone(),
                Operand::Constant(buffer) | Operand::Scratch(_, buffer) => buffer.clone(),
            });
            let buffers = [step.clone(), params].into_iter().chain(operands);
            let writes =
                buffers.enumerate().map(|(binding, buffer)| WriteDescriptorSet::buffer(binding as u32, buffer));
            let allocator: Arc<StandardDescriptorSetAllocator> = Arc::clone(&self.gpu.sets);
            let layout = Arc::clone(&self.gpu.pipelines.layout(run.choices[0].kernel).0);
            let set = DescriptorSet::new(allocator, layout, writes, []);
            sets.push(set.map_err(|error| checked_error(&self.gpu.info.name, error, 0))?);
        }
        Ok(Lane { recorded: HashMap::new(), gate: None, sets, step, tensors, last_value: 0 })
    }

    /// Queues a run behind its lane's gate.
    fn queue_waiting(
        &self,
        tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
        step: StepParams,
    ) -> Result<u64, BackendError> {
        let gpu = &*self.gpu;
        let uniform = Step::new(step.past as u32, step.rows as u32);
        let recorded_for = uniform.recorded_for();
        let mut lanes = self.lanes.lock();
        let idx = self.lane(&mut lanes, tensors.iter().map(|(tensor, _)| tensor))?;
        let lane = &mut lanes[idx];
        let gate = match &mut lane.gate {
            Some(gate) => gate,
            gate => gate.insert(Gate::new(gpu, self.runs.len())?),
        };
        if !gate.recorded.contains_key(&recorded_for) {
            let calls = self.calls(&lane.sets, &uniform);
            let workgroups = calls.iter().map(|call| call.workgroups).collect();
            let held = Held { commands: gpu.record(&calls, Some(&gate.workgroups))?, workgroups };
            if gate.recorded.len() >= KEPT_ROWS {
                gate.recorded.clear();
            }
            gate.recorded.insert(recorded_for, held);
        }
        gpu.write(&lane.step, |memory| memory[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(&uniform)))?;
        let value = gate.queue(gpu, recorded_for, step)?;
        lane.last_value = value;
        Ok(value)
    }

    /// The dispatches of a step with so many rows.
    fn calls<'a>(&'a self, sets: &'a [Arc<DescriptorSet>], step: &Step) -> Vec<Call<'a>> {
        let mut calls = Vec::with_capacity(self.runs.len());
        // What dispatches since the last barrier have touched, by binding. What submissions before have touched is not
        // known, so the first stands behind a barrier too.
        let (mut written, mut read) = (HashSet::new(), HashSet::new());
        let n_bindings = self.n_bindings;
        let mut is_first = true;
        for (run, set) in self.runs.iter().zip(sets) {
            let Some((kernel_idx, workgroups)) = choose(&run.choices, &run.params, step) else { continue };
            let outputs = || run.outputs.iter().filter_map(|operand| operand.changing(n_bindings));
            let inputs = || run.inputs.iter().filter_map(|operand| operand.changing(n_bindings));
            let conflicts = outputs().any(|output| written.contains(&output) || read.contains(&output))
                || inputs().any(|input| written.contains(&input));
            if conflicts {
                written.clear();
                read.clear();
            }
            written.extend(outputs());
            read.extend(inputs());
            calls.push(Call {
                pipeline: &run.pipelines[kernel_idx],
                layout: &self.gpu.pipelines.layout(run.choices[0].kernel).1,
                set,
                workgroups,
                is_behind_barrier: conflicts || is_first,
            });
            is_first = false;
        }
        calls
    }

    /// A tensor's memory, which is imported if another processor has allocated it.
    fn bound(&self, shared: &Arc<SharedTensor>) -> Result<Bound, BackendError> {
        let gpu = &self.gpu;
        let tensor: &dyn Any = shared.tensor();
        let own = tensor.downcast_ref::<GpuTensor>().filter(|tensor| tensor.is_of(gpu));
        if let Some(own) = own {
            return Ok(Bound { buffer: own.buffer().clone(), _import: None, tensor: Arc::clone(shared) });
        }
        let importer = gpu.importer.as_ref();
        let importer = importer
            .unwrap_or_else(|| panic!("`Backend::access` says that {} cannot reach this tensor", gpu.info.name));
        let import = gpu.tensor_imports.tensor(importer, shared);
        let import = import.map_err(|error| error.into_backend_error(&gpu.info.name, shared.desc().bytes() as u64))?;
        let buffer = import.buffer().clone();
        Ok(Bound { buffer, _import: Some(import), tensor: Arc::clone(shared) })
    }
}

impl Lane {
    fn is_for<'a>(&self, tensors: impl Iterator<Item = &'a Arc<SharedTensor>>) -> bool {
        are_bound(&self.tensors, tensors)
    }

    /// What a submission was queued for, while its gate holds it back: its step, its tensors and the gate.
    fn waiting(&mut self, value: u64) -> Option<(StepParams, &[Bound], &mut Gate)> {
        let gate = self.gate.as_mut().filter(|_| self.last_value == value)?;
        Some((gate.waiting()?, &self.tensors, gate))
    }
}

fn are_bound<'a>(bound: &[Bound], tensors: impl Iterator<Item = &'a Arc<SharedTensor>>) -> bool {
    bound.iter().zip(tensors).all(|(bound, tensor)| Arc::ptr_eq(&bound.tensor, tensor))
}

impl Executable for GpuExecutable {
    fn submit(&self, mut bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        let gpu = &*self.gpu;
        self.check.check(&bindings, step);
        let uniform = Step::new(step.past as u32, step.rows as u32);
        let mut lanes = self.lanes.lock();
        let idx = self.lane(&mut lanes, bindings.tensors.iter().map(|binding| binding.shared()))?;
        let lane = &mut lanes[idx];
        let recorded_for = uniform.recorded_for();
        if !lane.recorded.contains_key(&recorded_for) {
            let recorded = gpu.record(&self.calls(&lane.sets, &uniform), None)?;
            if lane.recorded.len() >= KEPT_ROWS {
                lane.recorded.clear();
            }
            lane.recorded.insert(recorded_for, recorded);
        }
        gpu.write(&lane.step, |memory| memory[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(&uniform)))?;
        let value = gpu.submit(&lane.recorded[&recorded_for], || bindings.hand_over(gpu.info.id))?;
        lane.last_value = value;
        drop(lanes);
        let timeline: Arc<dyn Timeline> = gpu.timeline.clone();
        Ok(Ticket::new(timeline, value, bindings))
    }

    fn queue_ahead(
        &self,
        tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
        step: StepParams,
    ) -> Option<Result<u64, BackendError>> {
        let is_worth_it = self.gpu.queues_ahead && self.gpu.is_alone();
        is_worth_it.then(|| self.queue_waiting(tensors, step))
    }

    fn start(&self, value: u64, mut bindings: Bindings) -> Result<Ticket, BackendError> {
        let gpu = &*self.gpu;
        if let Some(error) = gpu.timeline.failure() {
            return Err(error);
        }
        let mut lanes = self.lanes.lock();
        let waiting = lanes.iter_mut().find_map(|lane| lane.waiting(value));
        let (step, tensors, gate) = waiting.unwrap_or_else(|| panic!("nothing is waiting as submission {value}"));
        self.check.check(&bindings, step);
        let is_for = are_bound(tensors, bindings.tensors.iter().map(|binding| binding.shared()));
        assert!(is_for, "submission {value} was queued for other tensors");
        // Its place in the queue it has had for long: what is in this processor's hands runs before it or behind it, and
        // never beside it.
        bindings.hand_over(gpu.info.id);
        gate.open(gpu).map_err(|error| gpu.timeline.fail(error))?;
        drop(lanes);
        let timeline: Arc<dyn Timeline> = gpu.timeline.clone();
        Ok(Ticket::new(timeline, value, bindings))
    }

    fn take_back(&self, value: u64) {
        let mut lanes = self.lanes.lock();
        if let Some((_, _, gate)) = lanes.iter_mut().find_map(|lane| lane.waiting(value))
            && let Err(error) = gate.take_back(&self.gpu)
        {
            // The device has stopped, or will be waited for in vain: told to whoever waits.
            self.gpu.timeline.fail(error);
        }
    }
}

impl Drop for GpuExecutable {
    /// Waits: the GPU may be running what was recorded. Nothing waits for the host any more, because whoever has queued
    /// something ahead has kept this.
    fn drop(&mut self) {
        let last_value = self.lanes.get_mut().iter().map(|lane| lane.last_value).max().unwrap_or(0);
        // An error means that the device has stopped, which is all that matters here.
        let _ = self.gpu.timeline.block_until(last_value);
    }
}

impl Buffers for &Gpu {
    type Buffer = Subbuffer<[u8]>;
    type Weight = GpuWeight;

    fn constant(&mut self, bytes: &[u8]) -> Result<Subbuffer<[u8]>, BackendError> {
        self.filled(bytes, BufferUsage::STORAGE_BUFFER, Purpose::Weights)
    }

    fn scratch(&mut self, bytes: u64) -> Result<Subbuffer<[u8]>, BackendError> {
        self.buffer(bytes, BufferUsage::STORAGE_BUFFER, Purpose::Scratch)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn max_storage_buffers(&self) -> u32 {
        self.max_storage_buffers
    }

    fn knobs(&self) -> &Knobs {
        &self.knobs
    }
}
