//! Compute pipelines: made once for each kernel, kept for the life of the backend, and on disk what the driver made of
//! them.

use std::collections::HashMap;

use hetero_core::BackendError;
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Features, Kernel, Knobs};
use parking_lot::Mutex;
use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline,
    ComputePipelineDescriptor, PipelineCompilationOptions, PipelineLayout, PipelineLayoutDescriptor,
    ShaderModuleDescriptor, ShaderSource, ShaderStages,
};

use crate::error::scoped;

/// The pipelines of a device.
#[derive(Debug)]
pub(crate) struct PipelineCache {
    device: wgpu::Device,
    name: String,
    features: Features,
    /// By the numbers of outputs and inputs.
    layouts: HashMap<[usize; 2], (BindGroupLayout, PipelineLayout)>,
    pipelines: Mutex<HashMap<(Kernel, Features), ComputePipeline>>,
    kept: Option<Kept>,
}

/// What the driver has compiled, from one run to the next.
#[derive(Debug)]
struct Kept {
    cache: wgpu::PipelineCache,
    file: KeptFile,
    /// What the file holds.
    stored: Vec<u8>,
}

impl PipelineCache {
    /// The pipelines of a device; with a file, what the driver compiles is kept there if the device allows.
    pub(crate) fn new(device: &wgpu::Device, name: &str, features: Features, file: Option<KeptFile>) -> PipelineCache {
        let most = device.limits().max_storage_buffers_per_shader_stage;
        let layouts = Kernel::bindings(most).into_iter().map(|numbers| (numbers, layout(device, numbers))).collect();
        let (device, name) = (device.clone(), name.to_owned());
        let file = file.filter(|_| device.features().contains(wgpu::Features::PIPELINE_CACHE));
        let kept = file.map(|file| Kept::new(&device, file));
        PipelineCache { device, name, features, layouts, pipelines: Mutex::default(), kept }
    }

    /// How the buffers of a kernel are bound.
    pub(crate) fn layout(&self, kernel: Kernel) -> &BindGroupLayout {
        &self.layouts[&[kernel.n_outputs(), kernel.n_inputs()]].0
    }

    /// The pipeline of a kernel, made when it is asked for the first time.
    pub(crate) fn pipeline(&self, kernel: Kernel, knobs: &Knobs) -> Result<ComputePipeline, BackendError> {
        let features = knobs.features(kernel, self.features);
        let mut pipelines = self.pipelines.lock();
        if let Some(pipeline) = pipelines.get(&(kernel, features)) {
            return Ok(pipeline.clone());
        }
        let pipeline = scoped(&self.device, || self.make(kernel, features)).map_err(|error| match error {
            wgpu::Error::OutOfMemory { .. } => BackendError::OutOfMemory { device: self.name.clone(), bytes: 0 },
            error => BackendError::CompileFailed { device: self.name.clone(), reason: format!("{kernel}: {error}") },
        })?;
        tracing::debug!(device = %self.name, %kernel, "made a pipeline");
        pipelines.insert((kernel, features), pipeline.clone());
        Ok(pipeline)
    }

    fn make(&self, kernel: Kernel, features: Features) -> ComputePipeline {
        let shader = kernel.shader(features);
        let name = kernel.to_string();
        let module = self.device.create_shader_module(ShaderModuleDescriptor {
            label: Some(&name),
            source: ShaderSource::Wgsl(shader.wgsl.into()),
        });
        self.device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&self.layouts[&[shader.n_outputs, shader.n_inputs]].1),
            module: &module,
            entry_point: Some("main"),
            // The kernels write workgroup memory before they read it.
            compilation_options: PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..PipelineCompilationOptions::default()
            },
            cache: self.kept.as_ref().map(|kept| &kept.cache),
        })
    }
}

impl Kept {
    fn new(device: &wgpu::Device, file: KeptFile) -> Kept {
        let stored = file.load().unwrap_or_default();
        let data = (!stored.is_empty()).then_some(&stored[..]);
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("hetero"), data, fallback: true };
        // SAFETY: the file says of which device and driver it is, and that it is whole: wgpu gets back what it gave.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Kept { cache, file, stored }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(data) = self.cache.get_data().filter(|data| *data != self.stored) {
            self.file.store(&data);
        }
    }
}

/// Two uniform blocks, the outputs, the inputs: see `hetero_shaders`.
fn layout(device: &wgpu::Device, [n_outputs, n_inputs]: [usize; 2]) -> (BindGroupLayout, PipelineLayout) {
    let entry = |binding: usize| BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer {
            ty: match binding {
                0 | 1 => BufferBindingType::Uniform,
                _ => BufferBindingType::Storage { read_only: binding >= 2 + n_outputs },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<BindGroupLayoutEntry> = (0..2 + n_outputs + n_inputs).map(entry).collect();
    let bindings = device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: None, entries: &entries });
    let pipeline = device.create_pipeline_layout(&PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&bindings)],
        immediate_size: 0,
    });
    (bindings, pipeline)
}
