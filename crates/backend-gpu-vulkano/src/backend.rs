//! A GPU as the rest of hetero sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use hetero_core::{
    Access, Backend, BackendError, DeviceId, DeviceInfo, DeviceKind, Executable, OpSpec, Segment, Support, Tensor,
    TensorDesc, Weight, WeightRows,
};
use hetero_shaders::checks::{Checked, Checks, Died, Verdict};
use hetero_shaders::disk::KeptFile;
use hetero_shaders::quirks::Driver;
use hetero_shaders::{Features, Knobs, Limits, Variant};
use vulkano::Version;
use vulkano::device::physical::{PhysicalDevice, SubgroupFeatures};
use vulkano::device::{Device, DeviceCreateInfo, DeviceExtensions, DeviceFeatures, QueueCreateInfo, QueueFlags};
use vulkano::shader::ShaderStages;

use crate::VulkanError;
use crate::adapter::{AdapterStatus, Complaints, choose};
use crate::gate::Ahead;
use crate::matrices::matrix_unit;
use crate::placement::{DeviceMemory, Placement, WeightMemory};
use crate::queue::{Gpu, GpuSettings};
use crate::untested::Untested;

/// How a GPU is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VulkanOptions {
    /// Which of [`crate::adapters`]; `None` means the first.
    pub adapter: Option<usize>,
    /// Which variants of which kernels may be used, to compare kernels or to go around a driver's mistakes.
    pub knobs: Knobs,
    /// Whether rows of prompts may be rounded to 8-bit integers with a scale for every 32, as the CPU rounds them unless it
    /// is told not to. They are where the device says that products of such integers are accelerated, and has no matrix
    /// units that do as much without rounding, unless the knobs forbid it.
    pub may_round: bool,
    /// The most bytes that a kernel is given as one input or output, below the device's own limit.
    pub max_piece_bytes: Option<u64>,
    /// The folder in which is kept what was found out about the driver, and what it has compiled; `None` for nothing.
    pub cache: Option<PathBuf>,
    /// Whether a kernel that the driver computes wrong is not replaced by a plain one.
    pub is_strict: bool,
    /// Whether the driver is taken at its word: no operator is tried before it is offered.
    pub is_trusted: bool,
    /// Whether work is queued before its inputs exist.
    pub ahead: Ahead,
    /// Whether weights are copied into memory of the GPU's own.
    pub weight_memory: WeightMemory,
}

/// A GPU through Vulkan.
#[derive(Debug)]
pub struct VulkanBackend {
    checked: Checked<Untested>,
    complaints: Complaints,
    is_software: bool,
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
        let matrices = if features.f16 && features.subgroups { matrix_unit(&physical) } else { None };
        let has_matrices = matrices.is_some();
        let can_import = physical.supported_extensions().ext_external_memory_host;
        let info = DeviceCreateInfo {
            queue_create_infos: vec![QueueCreateInfo { queue_family_index: family as u32, ..Default::default() }],
            enabled_features: DeviceFeatures {
                timeline_semaphore: true,
                shader_float16: features.f16,
                storage_buffer16_bit_access: features.f16,
                uniform_and_storage_buffer16_bit_access: features.f16,
                shader_integer_dot_product: features.integer_dot,
                cooperative_matrix: has_matrices,
                // naga writes kernels with matrices for Vulkan's own memory model.
                vulkan_memory_model: has_matrices,
                vulkan_memory_model_device_scope: has_matrices,
                ..DeviceFeatures::empty()
            },
            enabled_extensions: DeviceExtensions {
                ext_external_memory_host: can_import,
                khr_cooperative_matrix: has_matrices,
                ..DeviceExtensions::empty()
            },
            ..DeviceCreateInfo::default()
        };
        let opened = Device::new(Arc::clone(&physical), info).map_err(|error| refused(error.to_string()))?;
        let (device, mut queues) = opened;
        let queue = queues.next().ok_or_else(|| refused("it gave no queue".to_owned()))?;
        let own_limit = u64::from(physical.properties().max_storage_buffer_range) / 16 * 16;
        let max_piece_bytes = options.max_piece_bytes.map_or(own_limit, |bytes| own_limit.min(bytes / 16 * 16));
        let name = options.adapter.map_or_else(|| "vulkan".to_owned(), |index| format!("vulkan:{index}"));
        let software = if status.is_software { ", software" } else { "" };
        let mut info = DeviceInfo {
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
        let properties = physical.properties();
        let limits = Limits {
            is_software: status.is_software,
            workgroup_bytes: properties.max_compute_shared_memory_size,
            workgroup_invocations: properties.max_compute_work_group_invocations,
            matrices,
        };
        let driver = Driver { vendor: properties.vendor_id, device: &status.name, driver: &status.driver };
        let mut knobs = driver.knobs(&options.knobs);
        if options.may_round && !has_matrices && features.integer_dot && multiplies_integers_fast(&physical) {
            knobs.ask_for("linear_tiled", Variant::IntegerDot);
        }
        if !knobs.is_empty() {
            // Other kernels take another time.
            info.version = format!("{} {knobs}", info.version);
        }
        if options.weight_memory != WeightMemory::Detected {
            info.version = format!("{}, {:?} weight memory", info.version, options.weight_memory);
        }
        let kept =
            |kind| options.cache.as_deref().map(|folder| KeptFile::new(folder, kind, &identity(&physical, &knobs)));
        let checks = (!options.is_trusted).then(|| Checks::new(&info.name, kept("verdicts"), options.is_strict));
        if let Some(Died { case, file }) = checks.as_ref().and_then(Checks::died).cloned() {
            return Err(VulkanError::Died { adapter: status.name.clone(), case, file });
        }
        let queues_ahead = match options.ahead {
            Ahead::Detected => !status.is_software,
            Ahead::Always => true,
            Ahead::Never => false,
        };
        let memory = DeviceMemory::from(physical.memory_properties());
        let placement = Placement::new(properties.device_type, &memory, options.weight_memory);
        let settings = GpuSettings { features, knobs: knobs.clone(), max_piece_bytes, limits, queues_ahead, placement };
        let gpu = Gpu::new(info, (device, queue), settings, kept("pipelines"));
        let gpu = Arc::new(gpu.map_err(|error| refused(error.to_string()))?);
        Ok(VulkanBackend { checked: Checked::new(Untested(gpu), checks), complaints, is_software: status.is_software })
    }

    /// Whether it is a program on the CPU.
    pub fn is_software(&self) -> bool {
        self.is_software
    }

    /// Whether what it shares with others is best allocated by it: because it reaches no memory but its own, or because
    /// its own is no slower for the others. Software works in the CPU's memory, which the CPU allocates best.
    pub fn should_allocate(&self) -> bool {
        let gpu = &self.checked.device().0;
        gpu.importer.is_none() || !self.is_software && gpu.has_cached_memory()
    }

    /// What was seen of the operators that were tried on the driver, now or in an earlier run.
    pub fn verdicts(&self) -> BTreeMap<String, Verdict> {
        self.checked.verdicts()
    }

    /// What Vulkan's validation layers have said, in builds with debug assertions on machines that have them.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All that decides what a driver makes of kernels.
fn identity(device: &PhysicalDevice, knobs: &Knobs) -> String {
    let properties = device.properties();
    format!(
        "vulkan {:04x}:{:04x} {} {} {:08x} {:?} {knobs}",
        properties.vendor_id,
        properties.device_id,
        properties.device_name,
        AdapterStatus::of(device).driver,
        properties.driver_version,
        properties.pipeline_cache_uuid,
    )
}

/// Whether products of four signed bytes at a time are faster than one by one.
fn multiplies_integers_fast(device: &PhysicalDevice) -> bool {
    device.properties().integer_dot_product4x8_bit_packed_signed_accelerated == Some(true)
}

/// What the kernels can make use of.
fn features(device: &PhysicalDevice) -> Features {
    let (features, properties) = (device.supported_features(), device.properties());
    let needed = SubgroupFeatures::BASIC | SubgroupFeatures::ARITHMETIC | SubgroupFeatures::SHUFFLE;
    let computes = properties.subgroup_supported_stages.is_some_and(|stages| stages.contains(ShaderStages::COMPUTE));
    let operations = properties.subgroup_supported_operations.is_some_and(|found| found.contains(needed));
    // naga declares all three for any 16-bit float.
    let f16 = features.shader_float16
        && features.storage_buffer16_bit_access
        && features.uniform_and_storage_buffer16_bit_access;
    Features {
        f16,
        half: f16,
        // The kernels count on four invocations that stay together.
        subgroups: computes && operations && properties.subgroup_size.is_some_and(|size| size >= 4),
        // Before that version it is an extension.
        integer_dot: device.api_version() >= Version::V1_3 && features.shader_integer_dot_product,
    }
}

impl Backend for VulkanBackend {
    fn info(&self) -> &DeviceInfo {
        self.checked.info()
    }

    fn support(&self, op: &OpSpec) -> Support {
        self.checked.support(op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        self.checked.access(tensor)
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        self.checked.allocate(desc)
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        self.checked.load_weight(rows)
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        self.checked.compile(segment)
    }
}
