//! A GPU as the rest of hetero sees it.

use std::any::Any;
use std::sync::{Arc, PoisonError};

use hetero_core::{
    Access, Backend, BackendError, DeviceId, DeviceInfo, DeviceKind, Executable, OpSpec, Segment, Support, Tensor,
    TensorDesc, Weight, WeightRows,
};
use hetero_shaders::program::support;
use hetero_shaders::{Features, Knobs};
use vulkano::Version;
use vulkano::device::physical::{PhysicalDevice, SubgroupFeatures};
use vulkano::device::{Device, DeviceCreateInfo, DeviceExtensions, DeviceFeatures, QueueCreateInfo, QueueFlags};
use vulkano::shader::ShaderStages;

use crate::VulkanError;
use crate::adapter::{AdapterStatus, Complaints, choose};
use crate::executable::GpuExecutable;
use crate::memory::GpuTensor;
use crate::queue::Gpu;
use crate::weight::GpuWeight;

/// How a GPU is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VulkanOptions {
    /// Which of [`crate::adapters`]; `None` means the first.
    pub adapter: Option<usize>,
    /// Which variants of which kernels may be used, to compare kernels or to go around a driver's mistakes.
    pub knobs: Knobs,
    /// The most bytes that a kernel is given as one input or output, below the device's own limit.
    pub max_piece_bytes: Option<u64>,
}

/// A GPU through Vulkan.
#[derive(Debug)]
pub struct VulkanBackend {
    gpu: Arc<Gpu>,
    complaints: Complaints,
}

impl VulkanBackend {
    /// Opens a GPU.
    pub fn new(options: &VulkanOptions) -> Result<VulkanBackend, VulkanError> {
        let complaints = Complaints::default();
        let physical = choose(options.adapter, &complaints)?;
        let status = AdapterStatus::of(&physical);
        let refused = |reason: String| VulkanError::Refused { adapter: status.name.clone(), reason };
        let lacking = |what| VulkanError::Lacking { adapter: status.name.clone(), what };
        if physical.api_version() < Version::V1_2 || !physical.supported_features().timeline_semaphore {
            return Err(lacking("timeline semaphores (Vulkan 1.2)"));
        }
        let families = physical.queue_family_properties();
        let family = families.iter().position(|family| family.queue_flags.contains(QueueFlags::COMPUTE));
        let family = family.ok_or_else(|| lacking("queue that computes"))?;
        let features = features(&physical);
        let can_import = physical.supported_extensions().ext_external_memory_host;
        let info = DeviceCreateInfo {
            queue_create_infos: vec![QueueCreateInfo { queue_family_index: family as u32, ..Default::default() }],
            enabled_features: DeviceFeatures {
                timeline_semaphore: true,
                shader_float16: features.f16,
                storage_buffer16_bit_access: features.f16,
                uniform_and_storage_buffer16_bit_access: features.f16,
                ..DeviceFeatures::empty()
            },
            enabled_extensions: DeviceExtensions { ext_external_memory_host: can_import, ..DeviceExtensions::empty() },
            ..DeviceCreateInfo::default()
        };
        let opened = Device::new(Arc::clone(&physical), info).map_err(|error| refused(error.to_string()))?;
        let (device, mut queues) = opened;
        let queue = queues.next().ok_or_else(|| refused("it gave no queue".to_owned()))?;
        let own_limit = u64::from(physical.properties().max_storage_buffer_range) / 16 * 16;
        let max_piece_bytes = options.max_piece_bytes.map_or(own_limit, |bytes| own_limit.min(bytes / 16 * 16));
        let name = options.adapter.map_or_else(|| "vulkan".to_owned(), |index| format!("vulkan:{index}"));
        let software = if status.is_software { ", software" } else { "" };
        let info = DeviceInfo {
            id: DeviceId::next(),
            name,
            kind: DeviceKind::Gpu,
            description: format!("{}{software}, {}", status.name, status.driver),
            version: format!("{} {} {}", env!("CARGO_PKG_VERSION"), status.name, status.driver),
            weight_row_alignment: 32,
            is_host_visible: true,
            max_tensor_bytes: Some(max_piece_bytes),
            max_segment_weight_bytes: None,
            max_graphs: None,
        };
        // A program on the CPU pays for every barrier; a GPU hides memory's latency behind many invocations.
        let vector_lanes = if status.is_software { 64 } else { 128 };
        let gpu = Gpu::new(info, (device, queue), (features, options.knobs.clone()), max_piece_bytes, vector_lanes);
        Ok(VulkanBackend { gpu: Arc::new(gpu.map_err(|error| refused(error.to_string()))?), complaints })
    }

    /// What Vulkan's validation layers have said, in builds with debug assertions on machines that have them.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the kernels can make use of.
fn features(device: &PhysicalDevice) -> Features {
    let (features, properties) = (device.supported_features(), device.properties());
    let needed = SubgroupFeatures::BASIC | SubgroupFeatures::ARITHMETIC | SubgroupFeatures::SHUFFLE;
    let computes = properties.subgroup_supported_stages.is_some_and(|stages| stages.contains(ShaderStages::COMPUTE));
    let operations = properties.subgroup_supported_operations.is_some_and(|found| found.contains(needed));
    Features {
        // naga declares all three for any 16-bit float.
        f16: features.shader_float16
            && features.storage_buffer16_bit_access
            && features.uniform_and_storage_buffer16_bit_access,
        // The kernels count on four invocations that stay together.
        subgroups: computes && operations && properties.subgroup_size.is_some_and(|size| size >= 4),
    }
}

impl Backend for VulkanBackend {
    fn info(&self) -> &DeviceInfo {
        &self.gpu.info
    }

    fn support(&self, op: &OpSpec) -> Support {
        support(op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        let gpu = &self.gpu;
        let any: &dyn Any = tensor;
        let is_own = any.downcast_ref::<GpuTensor>().is_some_and(|tensor| tensor.is_of(gpu));
        let fits = || tensor.desc().bytes() as u64 <= gpu.max_piece_bytes;
        if is_own || fits() && gpu.importer.as_ref().is_some_and(|importer| importer.takes(tensor)) {
            return Access::Direct;
        }
        Access::NeedsCopy
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        Ok(Arc::new(GpuTensor::new(&self.gpu, *desc)?))
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        Ok(Arc::new(GpuWeight::new(&self.gpu, rows)?))
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        for node in &segment.nodes {
            let spec = segment.graph.op_spec(node.node);
            if let Support::No(reason) = support(&spec) {
                panic!("{spec} was placed on {} although: {reason}", self.gpu.info.name);
            }
            for weight in &node.weights {
                assert_eq!(weight.device(), self.gpu.info.id, "{:?} was loaded by another backend", weight.rows());
            }
        }
        if let Some(error) = self.gpu.timeline.failure() {
            return Err(error);
        }
        Ok(Arc::new(GpuExecutable::new(&self.gpu, segment)?))
    }
}
