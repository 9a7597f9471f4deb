//! Compute pipelines: made once for each kernel, kept for the life of the backend, and on disk what the driver made of
//! them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hetero_core::BackendError;
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Features, Kernel, Knobs, spirv};
use parking_lot::Mutex;
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::device::Device;
use vulkano::pipeline::cache::{PipelineCache as DriverCache, PipelineCacheCreateInfo};
use vulkano::pipeline::compute::ComputePipelineCreateInfo;
use vulkano::pipeline::layout::PipelineLayoutCreateInfo;
use vulkano::pipeline::{ComputePipeline, PipelineLayout, PipelineShaderStageCreateInfo};
use vulkano::shader::{ShaderModule, ShaderModuleCreateInfo, ShaderStages};
use vulkano::{Validated, VulkanError as Code};

/// The pipelines of a device.
#[derive(Debug)]
pub(crate) struct PipelineCache {
    device: Arc<Device>,
    name: String,
    features: Features,
    /// By the numbers of outputs and inputs.
    layouts: HashMap<[usize; 2], (Arc<DescriptorSetLayout>, Arc<PipelineLayout>)>,
    pipelines: Mutex<HashMap<(Kernel, Features), Arc<ComputePipeline>>>,
    kept: Option<Kept>,
}

/// What the driver has compiled, from one run to the next.
#[derive(Debug)]
struct Kept {
    cache: Arc<DriverCache>,
    file: KeptFile,
    /// What the file holds.
    stored: Vec<u8>,
}

impl PipelineCache {
    /// The pipelines of a device; with a file, what the driver compiles is kept there.
    pub(crate) fn new(
        device: &Arc<Device>,
        name: &str,
        features: Features,
        file: Option<KeptFile>,
    ) -> Result<PipelineCache, Validated<Code>> {
        let most = device.physical_device().properties().max_per_stage_descriptor_storage_buffers;
        let numbers = Kernel::bindings(most).into_iter();
        let layouts: Result<HashMap<_, _>, _> =
            numbers.map(|numbers| Ok::<_, Validated<Code>>((numbers, layout(device, numbers)?))).collect();
        let (device, name) = (Arc::clone(device), name.to_owned());
        let kept = file.map(|file| Kept::new(&device, file)).transpose()?;
        Ok(PipelineCache { device, name, features, layouts: layouts?, pipelines: Mutex::default(), kept })
    }

    /// How the buffers of a kernel are bound.
    pub(crate) fn layout(&self, kernel: Kernel) -> &(Arc<DescriptorSetLayout>, Arc<PipelineLayout>) {
        &self.layouts[&[kernel.n_outputs(), kernel.n_inputs()]]
    }

    /// The pipeline of a kernel, made when it is asked for the first time.
    pub(crate) fn pipeline(&self, kernel: Kernel, knobs: &Knobs) -> Result<Arc<ComputePipeline>, BackendError> {
        let features = knobs.features(kernel, self.features);
        let mut pipelines = self.pipelines.lock();
        if let Some(pipeline) = pipelines.get(&(kernel, features)) {
            return Ok(Arc::clone(pipeline));
        }
        let pipeline = self.make(kernel, features).map_err(|reason| BackendError::CompileFailed {
            device: self.name.clone(),
            reason: format!("{kernel}: {reason}"),
        })?;
        tracing::debug!(device = %self.name, %kernel, "made a pipeline");
        pipelines.insert((kernel, features), Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn make(&self, kernel: Kernel, features: Features) -> Result<Arc<ComputePipeline>, String> {
        let words = spirv::words(kernel, features).map_err(|error| error.to_string())?;
        // SAFETY: the words come from naga, which has validated the module that it wrote them from.
        let module = unsafe { ShaderModule::new(Arc::clone(&self.device), ShaderModuleCreateInfo::new(&words)) };
        let module = module.map_err(reason)?;
        let entry = module.entry_point("main").ok_or("there is no entry point")?;
        let stage = PipelineShaderStageCreateInfo::new(entry);
        let layout = Arc::clone(&self.layout(kernel).1);
        let info = ComputePipelineCreateInfo::stage_layout(stage, layout);
        let cache = self.kept.as_ref().map(|kept| Arc::clone(&kept.cache));
        ComputePipeline::new(Arc::clone(&self.device), cache, info).map_err(reason)
    }
}

impl Kept {
    fn new(device: &Arc<Device>, file: KeptFile) -> Result<Kept, Validated<Code>> {
        let stored = file.load().unwrap_or_default();
        let info = PipelineCacheCreateInfo { initial_data: stored.clone(), ..PipelineCacheCreateInfo::default() };
        // SAFETY: the file says of which device and driver it is, and that it is whole: the driver gets back what it gave.
        let cache = unsafe { DriverCache::new(Arc::clone(device), info) }?;
        Ok(Kept { cache, file, stored })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        match self.cache.get_data() {
            Ok(data) if data != self.stored => self.file.store(&data),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the driver does not say what it has compiled"),
        }
    }
}

/// What vulkano or the driver said. The text of a refused argument is in its details.
fn reason(error: Validated<Code>) -> String {
    match error {
        Validated::Error(code) => code.to_string(),
        Validated::ValidationError(error) => format!("{error:?}"),
    }
}

/// Two uniform blocks, the outputs, the inputs: see `hetero_shaders`.
fn layout(
    device: &Arc<Device>,
    [n_outputs, n_inputs]: [usize; 2],
) -> Result<(Arc<DescriptorSetLayout>, Arc<PipelineLayout>), Validated<Code>> {
    let binding = |binding: usize| {
        let ty = if binding < 2 { DescriptorType::UniformBuffer } else { DescriptorType::StorageBuffer };
        let layout = DescriptorSetLayoutBinding {
            stages: ShaderStages::COMPUTE,
            ..DescriptorSetLayoutBinding::descriptor_type(ty)
        };
        (binding as u32, layout)
    };
    let bindings: BTreeMap<u32, DescriptorSetLayoutBinding> = (0..2 + n_outputs + n_inputs).map(binding).collect();
    let info = DescriptorSetLayoutCreateInfo { bindings, ..DescriptorSetLayoutCreateInfo::default() };
    let set = DescriptorSetLayout::new(Arc::clone(device), info)?;
    let info = PipelineLayoutCreateInfo { set_layouts: vec![Arc::clone(&set)], ..PipelineLayoutCreateInfo::default() };
    Ok((set, PipelineLayout::new(Arc::clone(device), info)?))
}
