//! A compiled segment and its submission: commands recorded once, submitted step by step.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hetero_core::{
    BackendError, Binding, Bindings, Executable, Segment, SharedTensor, StepCheck, StepParams, Ticket, Timeline, Weight,
};
use hetero_shaders::program::{Buffers, Constants, Dispatch, Input, choose, dispatches};
use hetero_shaders::{Kernel, Knobs, Params, Step};
use parking_lot::Mutex;
use vulkano::buffer::{BufferUsage, Subbuffer};
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::descriptor_set::{DescriptorSet, WriteDescriptorSet};
use vulkano::pipeline::ComputePipeline;

use crate::error::checked_error;
use crate::import::Imported;
use crate::memory::GpuTensor;
use crate::queue::{ALIGNMENT, Call, Gpu, Recorded};
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
    /// By the most rows that each is for.
    kernels: Vec<(u32, Kernel)>,
    /// Of the kernels.
    pipelines: Vec<Arc<ComputePipeline>>,
    output: usize,
    inputs: Vec<Operand>,
}

#[derive(Debug)]
enum Operand {
    Binding(usize),
    Constant(Subbuffer<[u8]>),
}

/// What one submission at a time uses: the block that tells its step, and commands for certain tensors.
#[derive(Debug)]
struct Lane {
    /// Commands by the rows of the step.
    recorded: HashMap<u32, Recorded>,
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
        let graph = &segment.graph;
        let mut constants = Constants::default();
        let mut runs = Vec::new();
        for node in &segment.nodes {
            for Dispatch { kernels, params, output, inputs } in dispatches(&mut &**gpu, graph, node, &mut constants)? {
                let pipelines: Result<Vec<_>, BackendError> =
                    kernels.iter().map(|(_, kernel)| gpu.pipelines.pipeline(*kernel, &gpu.knobs)).collect();
                let operand = |input: Input<Subbuffer<[u8]>>| match input {
                    Input::Value(value) => Operand::Binding(segment.binding_idx(value)),
                    Input::Constant(buffer) => Operand::Constant(buffer),
                };
                let inputs = inputs.into_iter().map(operand).collect();
                let (pipelines, output) = (pipelines?, segment.binding_idx(output));
                runs.push(Run { params, kernels, pipelines, output, inputs });
            }
        }
        let mut params = vec![0; ALIGNMENT as usize * runs.len()];
        for (run, bytes) in runs.iter().zip(params.chunks_exact_mut(ALIGNMENT as usize)) {
            bytes[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&run.params));
        }
        Ok(GpuExecutable {
            check: StepCheck::new(segment),
            params: gpu.filled(&params, BufferUsage::UNIFORM_BUFFER)?,
            lanes: Mutex::default(),
            _weights: segment.nodes.iter().flat_map(|node| node.weights.iter().cloned()).collect(),
            gpu: Arc::clone(gpu),
            runs,
        })
    }

    /// The place of a lane for some tensors that no submission uses.
    fn lane(&self, lanes: &mut Vec<Lane>, bindings: &Bindings) -> Result<usize, BackendError> {
        let completed = self.gpu.timeline.completed();
        let is_for = |lane: &Lane| {
            let mut pairs = lane.tensors.iter().zip(&bindings.tensors);
            lane.last_value <= completed && pairs.all(|(bound, binding)| Arc::ptr_eq(&bound.tensor, binding.shared()))
        };
        if let Some(idx) = lanes.iter().position(is_for) {
            return Ok(idx);
        }
        let lane = self.new_lane(bindings)?;
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

    fn new_lane(&self, bindings: &Bindings) -> Result<Lane, BackendError> {
        let step = self.gpu.filled(bytemuck::bytes_of(&Step::default()), BufferUsage::UNIFORM_BUFFER)?;
        let tensors: Result<Vec<Bound>, _> = bindings.tensors.iter().map(|binding| self.bound(binding)).collect();
        let tensors = tensors?;
        let mut sets = Vec::with_capacity(self.runs.len());
        for (idx, run) in self.runs.iter().enumerate() {
            let start = idx as u64 * ALIGNMENT;
            let params = self.params.clone().slice(start..start + size_of::<Params>() as u64);
            let output = tensors[run.output].buffer.clone();
            let inputs = run.inputs.iter().map(|input| match input {
                Operand::Binding(idx) => tensors[*idx].buffer.clone(),
                Operand::Constant(buffer) => buffer.clone(),
            });
            let buffers = [step.clone(), params, output].into_iter().chain(inputs);
            let writes =
                buffers.enumerate().map(|(binding, buffer)| WriteDescriptorSet::buffer(binding as u32, buffer));
            let allocator: Arc<StandardDescriptorSetAllocator> = Arc::clone(&self.gpu.sets);
            let layout = Arc::clone(&self.gpu.pipelines.layout(run.kernels[0].1).0);
            let set = DescriptorSet::new(allocator, layout, writes, []);
            sets.push(set.map_err(|error| checked_error(&self.gpu.info.name, error, 0))?);
        }
        Ok(Lane { recorded: HashMap::new(), sets, step, tensors, last_value: 0 })
    }

    /// Records the commands of a step with so many rows.
    fn record(&self, sets: &[Arc<DescriptorSet>], step: &Step) -> Result<Recorded, BackendError> {
        let mut calls = Vec::with_capacity(self.runs.len());
        // What dispatches since the last barrier have touched, by binding. What submissions before have touched is not
        // known, so the first stands behind a barrier too.
        let (mut written, mut read) = (HashSet::new(), HashSet::new());
        let mut is_first = true;
        for (run, set) in self.runs.iter().zip(sets) {
            let Some((kernel_idx, workgroups)) = choose(&run.kernels, &run.params, step) else { continue };
            let inputs = || {
                run.inputs.iter().filter_map(|input| match input {
                    Operand::Binding(idx) => Some(*idx),
                    Operand::Constant(_) => None,
                })
            };
            let conflicts = written.contains(&run.output)
                || read.contains(&run.output)
                || inputs().any(|input| written.contains(&input));
            if conflicts {
                written.clear();
                read.clear();
            }
            written.insert(run.output);
            read.extend(inputs());
            calls.push(Call {
                pipeline: &run.pipelines[kernel_idx],
                layout: &self.gpu.pipelines.layout(run.kernels[0].1).1,
                set,
                workgroups,
                is_behind_barrier: conflicts || is_first,
            });
            is_first = false;
        }
        self.gpu.record(&calls)
    }

    /// The memory of a binding's tensor, which is imported if another processor has allocated it.
    fn bound(&self, binding: &Binding) -> Result<Bound, BackendError> {
        let (gpu, shared) = (&self.gpu, binding.shared());
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

impl Executable for GpuExecutable {
    fn submit(&self, mut bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        let gpu = &*self.gpu;
        self.check.check(&bindings, step);
        let uniform = Step { past: step.past as u32, rows: step.rows as u32, ..Step::default() };
        let mut lanes = self.lanes.lock();
        let idx = self.lane(&mut lanes, &bindings)?;
        let lane = &mut lanes[idx];
        if !lane.recorded.contains_key(&uniform.rows) {
            let recorded = self.record(&lane.sets, &uniform)?;
            if lane.recorded.len() >= KEPT_ROWS {
                lane.recorded.clear();
            }
            lane.recorded.insert(uniform.rows, recorded);
        }
        gpu.write(&lane.step, |memory| memory[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(&uniform)))?;
        let value = gpu.submit(&lane.recorded[&uniform.rows], || bindings.hand_over(gpu.info.id))?;
        lane.last_value = value;
        drop(lanes);
        let timeline: Arc<dyn Timeline> = gpu.timeline.clone();
        Ok(Ticket::new(timeline, value, bindings))
    }
}

impl Drop for GpuExecutable {
    /// Waits: the GPU may be running what was recorded.
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
        self.filled(bytes, BufferUsage::STORAGE_BUFFER)
    }

    fn vector_lanes(&self) -> u32 {
        self.vector_lanes
    }

    fn knobs(&self) -> &Knobs {
        &self.knobs
    }
}
