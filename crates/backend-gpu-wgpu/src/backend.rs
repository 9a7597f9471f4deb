//! A GPU as the rest of hetero sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, DeviceId, DeviceInfo, DeviceKind, Executable, OpSpec, Segment, Support, Tensor,
    TensorDesc, Weight, WeightRows,
};
use hetero_shaders::checks::{Checked, Checks, Died, Verdict};
use hetero_shaders::disk::KeptFile;
use hetero_shaders::quirks::Driver;
use hetero_shaders::{Features, Knobs, Limits, MatrixUnit};

use crate::WgpuError;
use crate::adapter::choose;
use crate::error::ready;
use crate::queue::Gpu;
use crate::untested::Untested;

/// How a GPU is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WgpuOptions {
    /// Which of [`crate::adapters`]; `None` means the first.
    pub adapter: Option<usize>,
    /// Which variants of which kernels may be used, to compare kernels or to go around a driver's mistakes.
    pub knobs: Knobs,
    /// The most bytes that a kernel is given as one input or output, below the device's own limit.
    pub max_piece_bytes: Option<u64>,
    /// The folder in which is kept what was found out about the driver, and what it has compiled; `None` for nothing.
    pub cache: Option<PathBuf>,
    /// Whether a kernel that the driver computes wrong is not replaced by a plain one.
    pub is_strict: bool,
    /// Whether the driver is taken at its word: no operator is tried before it is offered.
    pub is_trusted: bool,
}

/// A GPU through wgpu.
#[derive(Debug)]
pub struct WgpuBackend {
    checked: Checked<Untested>,
    is_software: bool,
}

impl WgpuBackend {
    /// Opens a GPU.
    pub fn new(options: &WgpuOptions) -> Result<WgpuBackend, WgpuError> {
        let (adapter, status) = choose(options.adapter)?;
        let (offered, adapter_info) = (adapter.features(), adapter.get_info());
        let features = Features {
            f16: offered.contains(wgpu::Features::SHADER_F16),
            half: offered.contains(wgpu::Features::SHADER_F16),
            // wgpu finds out by itself what the driver has for them.
            integer_dot: true,
            // The kernels count on four invocations that stay together.
            subgroups: offered.contains(wgpu::Features::SUBGROUP) && adapter_info.subgroup_min_size >= 4,
        };
        let matrices = features.f16 && features.subgroups && offered.contains(COOPERATIVE_MATRICES);
        let matrices = matrices.then(|| matrix_unit(&adapter)).flatten();
        let mut required = wgpu::Features::empty();
        required.set(COOPERATIVE_MATRICES, matrices.is_some());
        required.set(wgpu::Features::SHADER_F16, features.f16);
        required.set(wgpu::Features::SUBGROUP, features.subgroups);
        required.set(wgpu::Features::PIPELINE_CACHE, offered.contains(wgpu::Features::PIPELINE_CACHE));
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("hetero"),
            required_features: required,
            // Left out, they would be the least that the web guarantees.
            required_limits: limits.clone(),
            experimental_features: match matrices {
                // SAFETY: of what is experimental only cooperative matrices are asked for, and their one kernel reads and
                // writes workgroup memory, within the bounds of its arrays, from all invocations of a subgroup.
                Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
                None => wgpu::ExperimentalFeatures::disabled(),
            },
            ..wgpu::DeviceDescriptor::default()
        };
        let refused = |reason: String| WgpuError::Refused { adapter: status.name.clone(), reason };
        let opened = ready(adapter.request_device(&descriptor));
        let opened = opened.ok_or_else(|| refused("the driver gave no answer".to_owned()))?;
        let opened = opened.map_err(|error| refused(error.to_string()))?;
        // Whole lines of 16 bytes, in which kernels read.
        let own_limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / 16 * 16;
        let max_piece_bytes = options.max_piece_bytes.map_or(own_limit, |bytes| own_limit.min(bytes / 16 * 16));
        let name = options.adapter.map_or_else(|| "wgpu".to_owned(), |index| format!("wgpu:{index}"));
        let software = if status.is_software { ", software" } else { "" };
        let mut info = DeviceInfo {
            id: DeviceId::next(),
            name,
            kind: DeviceKind::Gpu,
            description: format!("{}{software}, {}", status.name, status.driver),
            version: format!("{} {} {}", env!("CARGO_PKG_VERSION"), status.name, status.driver),
            weight_row_alignment: 32,
            is_host_visible: false,
            max_tensor_bytes: Some(max_piece_bytes),
            max_segment_weight_bytes: None,
            max_graphs: None,
        };
        let workgroups = Limits {
            is_software: status.is_software,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            matrices,
        };
        let driver = Driver { vendor: adapter_info.vendor, device: &status.name, driver: &status.driver };
        let knobs = driver.knobs(&options.knobs);
        if !knobs.is_empty() {
            // Other kernels take another time.
            info.version = format!("{} {knobs}", info.version);
        }
        let identity = format!(
            "wgpu {:04x}:{:04x} {} {} {knobs}",
            adapter_info.vendor, adapter_info.device, status.name, status.driver
        );
        let kept = |kind| options.cache.as_deref().map(|folder| KeptFile::new(folder, kind, &identity));
        let checks = (!options.is_trusted).then(|| Checks::new(&info.name, kept("verdicts"), options.is_strict));
        if let Some(Died { case, file }) = checks.as_ref().and_then(Checks::died).cloned() {
            return Err(WgpuError::Died { adapter: status.name.clone(), case, file });
        }
        let gpu =
            Arc::new(Gpu::new(info, opened, (features, knobs.clone()), max_piece_bytes, workgroups, kept("pipelines")));
        Ok(WgpuBackend { checked: Checked::new(Untested(gpu), checks), is_software: status.is_software })
    }

    /// Whether it is a program on the CPU.
    pub fn is_software(&self) -> bool {
        self.is_software
    }

    /// What was seen of the operators that were tried on the driver, now or in an earlier run.
    pub fn verdicts(&self) -> BTreeMap<String, Verdict> {
        self.checked.verdicts()
    }

    /// Gives the GPU and all its memory back at once, whoever still holds tensors of it. From then on everything that
    /// would need it fails with [`BackendError::DeviceLost`].
    pub fn close(&self) {
        self.checked.device().0.device.destroy();
    }

    /// How often commands were submitted to the GPU's queue so far: steps, and copies for the host.
    pub fn n_submissions(&self) -> u64 {
        self.checked.device().0.n_submissions()
    }
}

const COOPERATIVE_MATRICES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// The unit for small matrices of 16-bit floats that adds in f32, the largest where there are several.
fn matrix_unit(adapter: &wgpu::Adapter) -> Option<MatrixUnit> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let (info, units) = (adapter.get_info(), adapter.cooperative_matrix_properties());
    let fits = units.iter().filter(|unit| {
        let is_square = unit.m_size == unit.n_size && unit.n_size == unit.k_size;
        is_square && (unit.ab_type, unit.cr_type) == (F16, F32)
    });
    let size = fits.map(|unit| unit.m_size).max()?;
    // wgpu does not say which of several sizes a subgroup has.
    (info.subgroup_min_size == info.subgroup_max_size).then_some(MatrixUnit { size, subgroup: info.subgroup_min_size })
}

impl Backend for WgpuBackend {
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
