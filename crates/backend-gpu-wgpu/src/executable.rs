//! A compiled segment and its submission: one command buffer, one compute pass.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use hetero_core::{
    BackendError, Binding, Bindings, Executable, Part, Rows, Segment, StepCheck, StepParams, Ticket, Timeline,
    ValueKind,
};
use hetero_shaders::program::{Buffers, Choice, Dispatch, Operand as Named, choose, program};
use hetero_shaders::{Knobs, Limits, Params, Step};
use parking_lot::Mutex;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferUsages,
    CommandEncoderDescriptor, ComputePassDescriptor, ComputePipeline,
};

use crate::memory::GpuTensor;
use crate::queue::Gpu;
use crate::weight::GpuWeight;

/// Sets of tensors whose bindings are kept ready, for segments that are used with several.
const KEPT_SETS: usize = 4;

/// A segment made ready to run.
#[derive(Debug)]
pub(crate) struct GpuExecutable {
    gpu: Arc<Gpu>,
    check: StepCheck,
    runs: Vec<Run>,
    /// What the caller reads of each binding after a step.
    outputs: Vec<Output>,
    /// For each binding, whether the segment writes it.
    is_written: Vec<bool>,
    /// [`Step`], written before each submission.
    step: Buffer,
    /// [`Params`] of the dispatches, each at its own offset.
    params: Buffer,
    params_stride: u64,
    bound: Mutex<Vec<BoundSet>>,
}

/// A dispatch with its pipelines.
#[derive(Debug)]
struct Run {
    params: Params,
    /// Kernels, for certain steps each.
    choices: Vec<Choice>,
    /// Of the choices.
    pipelines: Vec<ComputePipeline>,
    outputs: Vec<Operand>,
    inputs: Vec<Operand>,
}

#[derive(Debug)]
enum Operand {
    Binding(usize),
    Constant(Buffer),
}

/// A value that the caller reads: the rectangle of it that the segment writes, as rows.
#[derive(Debug)]
struct Output {
    binding_idx: usize,
    rows: Range<usize>,
    is_fixed: bool,
    row_bytes: usize,
}

/// The bind groups of all dispatches for one set of tensors.
#[derive(Debug)]
struct BoundSet {
    tensors: Vec<u64>,
    groups: Arc<[BindGroup]>,
}

impl GpuExecutable {
    /// Makes pipelines and uploads what does not change, after `support` has said yes to all nodes.
    pub(crate) fn new(gpu: &Arc<Gpu>, segment: &Segment) -> Result<GpuExecutable, BackendError> {
        let program = program(&mut &**gpu, segment)?;
        let operand = |operand: Named<Buffer>| match operand {
            Named::Value(value) => Operand::Binding(segment.binding_idx(value)),
            Named::Constant(buffer) => Operand::Constant(buffer),
            Named::Scratch(idx) => Operand::Constant(program.scratch[idx].clone()),
        };
        let mut runs = Vec::with_capacity(program.dispatches.len());
        for Dispatch { choices, params, outputs, inputs } in program.dispatches {
            let pipelines: Result<Vec<_>, BackendError> =
                choices.iter().map(|choice| gpu.pipelines.pipeline(choice.kernel, &gpu.knobs)).collect();
            let [outputs, inputs] = [outputs, inputs].map(|named| named.into_iter().map(operand).collect());
            runs.push(Run { params, choices, pipelines: pipelines?, outputs, inputs });
        }
        let params_stride =
            (size_of::<Params>() as u64).next_multiple_of(gpu.limits.min_uniform_buffer_offset_alignment.into());
        let mut params = vec![0; params_stride as usize * runs.len()];
        for (run, bytes) in runs.iter().zip(params.chunks_exact_mut(params_stride as usize)) {
            bytes[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&run.params));
        }
        let step = Step::default();
        let mut is_written = vec![false; segment.n_bindings()];
        for output in runs.iter().flat_map(|run| &run.outputs) {
            if let Operand::Binding(idx) = output {
                is_written[*idx] = true;
            }
        }
        Ok(GpuExecutable {
            check: StepCheck::new(segment),
            outputs: outputs(segment),
            is_written,
            step: gpu.constant("step", bytemuck::bytes_of(&step), BufferUsages::UNIFORM)?,
            params: gpu.constant("params", &params, BufferUsages::UNIFORM)?,
            params_stride,
            bound: Mutex::default(),
            gpu: Arc::clone(gpu),
            runs,
        })
    }

    /// The bind groups for some tensors, made when they are bound for the first time.
    fn bind(&self, bindings: &Bindings) -> Result<Arc<[BindGroup]>, BackendError> {
        let mut bound = self.bound.lock();
        let is_for = |set: &BoundSet| {
            set.tensors.iter().copied().eq(bindings.tensors.iter().map(|binding| self.tensor(binding).id()))
        };
        if let Some(idx) = bound.iter().position(is_for) {
            // The sets used last are kept.
            bound[..=idx].rotate_right(1);
            return Ok(Arc::clone(&bound[0].groups));
        }
        let groups: Arc<[BindGroup]> =
            self.runs.iter().enumerate().map(|(idx, run)| self.bind_run(idx, run, bindings)).collect();
        if let Some(error) = self.gpu.timeline.failure() {
            return Err(error);
        }
        let tensors = bindings.tensors.iter().map(|binding| self.tensor(binding).id()).collect();
        bound.truncate(KEPT_SETS - 1);
        bound.insert(0, BoundSet { tensors, groups: Arc::clone(&groups) });
        Ok(groups)
    }

    fn bind_run(&self, idx: usize, run: &Run, bindings: &Bindings) -> BindGroup {
        let block = |buffer, offset, size: usize| {
            BindingResource::Buffer(BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size as u64) })
        };
        let mut resources = vec![
            block(&self.step, 0, size_of::<Step>()),
            block(&self.params, idx as u64 * self.params_stride, size_of::<Params>()),
        ];
        resources.extend(run.outputs.iter().chain(&run.inputs).map(|operand| match operand {
            Operand::Binding(idx) => self.tensor(&bindings.tensors[*idx]).buffer().as_entire_binding(),
            Operand::Constant(buffer) => buffer.as_entire_binding(),
        }));
        let entries: Vec<BindGroupEntry<'_>> = resources
            .into_iter()
            .enumerate()
            .map(|(binding, resource)| BindGroupEntry { binding: binding as u32, resource })
            .collect();
        let layout = self.gpu.pipelines.layout(run.choices[0].kernel);
        self.gpu.device.create_bind_group(&BindGroupDescriptor { label: None, layout, entries: &entries })
    }

    fn tensor<'a>(&self, binding: &'a Binding) -> &'a GpuTensor {
        let tensor: &dyn Any = binding.tensor().tensor();
        let tensor: Option<&GpuTensor> = tensor.downcast_ref();
        tensor
            .filter(|tensor| tensor.is_of(&self.gpu))
            .unwrap_or_else(|| panic!("`Backend::access` says that {} cannot reach this tensor", self.gpu.info.name))
    }
}

impl Executable for GpuExecutable {
    fn submit(&self, mut bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        let gpu = &*self.gpu;
        self.check.check(&bindings, step);
        let groups = self.bind(&bindings)?;
        let uniform = Step::new(step.past as u32, step.rows as u32);

        // One at a time: the step's block belongs to the submission that comes next.
        let mut entrance = gpu.enter();
        bindings.hand_over(gpu.info.id);
        gpu.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(&uniform));
        let mut encoder = gpu.device.create_command_encoder(&CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
        for (run, group) in self.runs.iter().zip(&*groups) {
            if let Some((kernel_idx, [across, down])) = choose(&run.choices, &run.params, &uniform) {
                pass.set_pipeline(&run.pipelines[kernel_idx]);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(across, down, 1);
            }
        }
        drop(pass);
        for (binding, _) in bindings.tensors.iter().zip(&self.is_written).filter(|(_, is_written)| **is_written) {
            self.tensor(binding).outdate();
        }
        let mut copied = Vec::new();
        for output in &self.outputs {
            let tensor = self.tensor(&bindings.tensors[output.binding_idx]);
            let end = if output.is_fixed { output.rows.end } else { output.rows.end.min(step.rows) };
            if output.rows.start < end {
                let bytes = output.rows.start * output.row_bytes..end * output.row_bytes;
                tensor.copy_out(&mut encoder, bytes.start as u64..bytes.end as u64)?;
                copied.push(tensor);
            }
        }
        let (value, index) = entrance.submit_step(encoder.finish())?;
        for tensor in copied {
            tensor.copied(index.clone());
        }
        drop(entrance);
        let timeline: Arc<dyn Timeline> = gpu.timeline.clone();
        Ok(Ticket::new(timeline, value, bindings))
    }
}

impl Buffers for &Gpu {
    type Buffer = Buffer;
    type Weight = GpuWeight;

    fn constant(&mut self, bytes: &[u8]) -> Result<Buffer, BackendError> {
        Gpu::constant(self, "constant", bytes, BufferUsages::STORAGE)
    }

    fn scratch(&mut self, bytes: u64) -> Result<Buffer, BackendError> {
        Gpu::constant(self, "scratch", &vec![0; bytes as usize], BufferUsages::STORAGE)
    }

    fn limits(&self) -> Limits {
        self.workgroups
    }

    fn max_storage_buffers(&self) -> u32 {
        self.limits.max_storage_buffers_per_shader_stage
    }

    fn knobs(&self) -> &Knobs {
        &self.knobs
    }
}

/// The values of a segment that it writes and the caller reads. Of one that shares its tensor with others there is one
/// copy, of the last written.
fn outputs(segment: &Segment) -> Vec<Output> {
    let mut outputs: Vec<Output> = Vec::new();
    for segment_node in &segment.nodes {
        let value = segment.graph.node(segment_node.node).output;
        let desc = segment.graph.value(value);
        let binding_idx = segment.binding_idx(value);
        if desc.kind != ValueKind::Output {
            continue;
        }
        let Part { rows, .. } = segment_node.part.clone();
        let known = outputs.iter_mut().find(|output| output.binding_idx == binding_idx);
        match known {
            Some(output) => output.rows = output.rows.start.min(rows.start)..output.rows.end.max(rows.end),
            None => outputs.push(Output {
                binding_idx,
                rows,
                is_fixed: matches!(desc.rows, Rows::Fixed(_)),
                row_bytes: desc.columns * desc.dtype.size(),
            }),
        }
    }
    outputs
}
