//! The processors that this build knows, each behind its cargo feature. The one file that names concrete backends.

#[cfg(any(feature = "gpu-vulkano", feature = "gpu-wgpu"))]
mod gpu;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use hetero_core::{Backend, DeviceInfo, DeviceKind, OpSpec};

use crate::LlamaError;

/// The SoC that simulated processors are of unless the user names another.
pub const DEFAULT_SOC: &str = "snapdragon-8-gen-3";

/// Which processors may be used, and how.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Which.
    pub devices: DeviceSelection,
    /// CPU worker threads; `None` means one for each performance core.
    pub threads: Option<usize>,
    /// How exactly activations are kept.
    pub activations: Activations,
    /// The SoC whose processors `npu-sim`, `gpu-sim` and `cpu-sim` are: a built-in one or a file; `None` means the
    /// default one.
    pub soc: Option<String>,
    /// What goes wrong on simulated processors, such as `npu:late@3x10`; `None` means nothing.
    pub faults: Option<String>,
    /// Which variants of which GPU kernels are used, such as `attention=-subgroups,linear_tiled=plain`; `None` means
    /// all that the drivers compute right.
    pub gpu_kernels: Option<String>,
    /// The folder in which is kept what was found out about GPU drivers, and what they have compiled; `None` for nothing.
    pub cache: Option<PathBuf>,
    /// Whether a GPU kernel that the driver computes wrong is not replaced by a plainer one.
    pub is_strict: bool,
}

impl DeviceOptions {
    /// CPU worker threads that these options lead to; 0 in a build without the CPU.
    pub fn n_threads(&self) -> usize {
        #[cfg(feature = "cpu-simd")]
        return self.threads.unwrap_or_else(backend_cpu_simd::performance_cores);
        #[cfg(not(feature = "cpu-simd"))]
        return 0;
    }
}

/// Which processors may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceSelection {
    /// Every usable real one.
    #[default]
    Auto,
    /// Those with these names, such as `cpu`.
    Named(Vec<String>),
}

/// How exactly activations are kept where weights are narrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// The fastest way whose effect on perplexity was measured as harmless: 8-bit integers per group of 32 beside
    /// quantised weights, bf16 beside bf16 weights.
    #[default]
    Auto,
    /// 32-bit floats throughout.
    Float,
}

/// A processor as users see it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The name that chooses it.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// Whether it is a part of a simulated SoC.
    pub is_simulated: bool,
    /// Whether it can be used.
    pub availability: Availability,
}

/// Whether a processor can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Usable {
        /// Product, instruction set, threads.
        description: String,
    },
    /// It is there and cannot be used.
    Unusable {
        /// Why.
        reason: String,
        /// What the user can do.
        fix: String,
    },
    /// It is not there, or not in this build.
    Absent {
        /// Why.
        reason: String,
        /// What the user can do.
        fix: String,
    },
}

/// A processor that this version of hetero can drive, in this build or another.
struct Known {
    name: &'static str,
    kind: DeviceKind,
    feature: &'static str,
    is_in_build: bool,
    /// Whether it is a processor of this machine rather than a simulated one.
    is_real: bool,
    /// Whether `auto` means it too; others have to be asked for.
    is_automatic: bool,
}

/// The first GPU that wgpu finds; with a colon and a number behind it, one of them.
const WGPU: &str = "wgpu";

/// The first GPU that Vulkan finds, on memory that it shares; with a colon and a number behind it, one of them.
const VULKAN: &str = "vulkan";

/// Every processor that this version of hetero can drive, the one that allocates shared memory first.
const KNOWN: [Known; 6] = [
    Known::real("cpu", DeviceKind::Cpu, "cpu-simd", cfg!(feature = "cpu-simd")),
    // What it shares is slow for one of them where their memories are two: it has to be asked for.
    Known { is_automatic: false, ..Known::real(VULKAN, DeviceKind::Gpu, "gpu-vulkano", cfg!(feature = "gpu-vulkano")) },
    // Its tensors are reached by copies, which is slow where it could share them: it has to be asked for.
    Known { is_automatic: false, ..Known::real(WGPU, DeviceKind::Gpu, "gpu-wgpu", cfg!(feature = "gpu-wgpu")) },
    Known::simulated("npu-sim", DeviceKind::Npu),
    Known::simulated("gpu-sim", DeviceKind::Gpu),
    Known::simulated("cpu-sim", DeviceKind::Cpu),
];

impl Known {
    const fn real(name: &'static str, kind: DeviceKind, feature: &'static str, is_in_build: bool) -> Known {
        Known { name, kind, feature, is_in_build, is_real: true, is_automatic: true }
    }

    const fn simulated(name: &'static str, kind: DeviceKind) -> Known {
        let feature = "npu-sim";
        Known { name, kind, feature, is_in_build: cfg!(feature = "npu-sim"), is_real: false, is_automatic: false }
    }

    /// Whether a name means this processor.
    fn is_called(&self, name: &str) -> bool {
        name == self.name || matches!(self.name, VULKAN | WGPU) && gpu_index(self.name, name).is_some()
    }
}

/// Which of the GPUs a name such as `wgpu:1` means, where `wgpu` is what they are all called.
fn gpu_index(all: &str, name: &str) -> Option<usize> {
    name.strip_prefix(all)?.strip_prefix(':')?.parse().ok()
}

/// Opens the chosen processors, in the order of the choice but for the one that allocates what all share, which is first.
pub fn open(options: &DeviceOptions) -> Result<Vec<Arc<dyn Backend>>, LlamaError> {
    let names = match &options.devices {
        DeviceSelection::Auto => {
            let usable = KNOWN.iter().filter(|known| known.is_in_build && known.is_automatic);
            usable.map(|known| known.name.to_owned()).collect()
        }
        DeviceSelection::Named(names) => names.clone(),
    };
    let mut opener = Opener::new(options);
    let mut backends = Vec::with_capacity(names.len());
    for name in &names {
        if !KNOWN.iter().any(|known| known.is_called(name)) {
            let known = KNOWN.map(|known| known.name).join(", ");
            return Err(LlamaError::UnknownDevice { name: name.clone(), known });
        }
        backends.push(opener.open(name)?);
    }
    if backends.is_empty() {
        return Err(LlamaError::NoDevice);
    }
    backends.sort_by_key(|opened| opened.rank);
    Ok(backends.into_iter().map(|opened| opened.backend).collect())
}

/// The state of every processor that hetero knows. A SoC of `options` that cannot be read is an error.
pub fn list(options: &DeviceOptions) -> Result<Vec<DeviceStatus>, LlamaError> {
    let mut opener = Opener::new(options);
    let mut devices = Vec::with_capacity(KNOWN.len());
    for known in &KNOWN {
        for name in names(known) {
            let availability = match known.is_in_build.then(|| opener.open(&name)) {
                None => Availability::Absent {
                    reason: "this build was made without it".into(),
                    fix: format!("build with the cargo feature `{}`", known.feature),
                },
                Some(Ok(opened)) => Availability::Usable { description: opened.backend.info().description.clone() },
                // The user's input is at fault, and not the processor.
                Some(Err(error)) if !known.is_real => return Err(error),
                Some(Err(error)) => Availability::Unusable { reason: error.to_string(), fix: error.fix() },
            };
            devices.push(DeviceStatus { name, kind: known.kind, is_simulated: !known.is_real, availability });
        }
    }
    Ok(devices)
}

/// The names of the processors of a kind that are there; its own when there is none.
fn names(known: &Known) -> Vec<String> {
    let n_adapters = match known.name {
        #[cfg(feature = "gpu-vulkano")]
        VULKAN => backend_gpu_vulkano::adapters().len(),
        #[cfg(feature = "gpu-wgpu")]
        WGPU => backend_gpu_wgpu::adapters().len(),
        _ => 0,
    };
    if n_adapters > 0 {
        return (0..n_adapters).map(|index| format!("{}:{index}", known.name)).collect();
    }
    vec![known.name.to_owned()]
}

/// What a processor takes, in watts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Power {
    /// While it works, besides what it takes anyway.
    pub(crate) active_watts: f64,
    /// All the time.
    pub(crate) idle_watts: f64,
}

/// What a processor takes, where that is known: a simulated one's SoC says it.
pub(crate) fn power(options: &DeviceOptions, info: &DeviceInfo) -> Result<Option<Power>, LlamaError> {
    let _ = options;
    #[cfg(feature = "npu-sim")]
    if KNOWN.iter().any(|known| known.name == info.name && !known.is_real) {
        let soc = backend_npu_sim::Soc::load(options.soc.as_deref().unwrap_or(DEFAULT_SOC))?;
        let power = soc.power(info.kind);
        return Ok(Some(Power { active_watts: power.active_watts, idle_watts: power.idle_watts }));
    }
    let _ = info;
    Ok(None)
}

/// A processor that is open.
#[allow(dead_code, reason = "who makes one depends on the features")]
struct Opened {
    backend: Arc<dyn Backend>,
    rank: Rank,
    is_software: bool,
    /// What was seen of its driver so far.
    trials: Option<Box<dyn Fn() -> Vec<Trial>>>,
}

/// Which of the processors allocates what all share: the first of the lowest rank.
#[allow(dead_code, reason = "which there are depends on the features")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It reaches no memory but its own, which others reach; or its own is better for it and as good for others.
    Allocator,
    /// It works in ordinary memory.
    Host,
    /// It works in the memory of others as well as in its own.
    Importer,
    /// The host does not reach its memory, and it reaches no other.
    Apart,
}

#[cfg(any(feature = "cpu-simd", feature = "npu-sim"))]
impl Opened {
    fn new(backend: Arc<dyn Backend>) -> Opened {
        let rank = if backend.info().is_host_visible { Rank::Host } else { Rank::Apart };
        Opened { backend, rank, is_software: false, trials: None }
    }
}

/// What was seen of an operator on a GPU's driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The operator, on which element types.
    pub what: String,
    /// What the driver got wrong, if anything.
    pub trouble: Option<String>,
    /// Whether it can be used, at least in a plain form.
    pub is_usable: bool,
}

/// A processor that was looked at closely.
#[derive(Debug)]
pub struct Examined {
    /// The processor.
    pub backend: Arc<dyn Backend>,
    /// Whether it is a program on the CPU.
    pub is_software: bool,
    /// What was seen of its driver, for processors that are tried before they are trusted.
    pub trials: Option<Vec<Trial>>,
}

/// The instruction sets that the CPU's kernels exist for and this machine has, the best one last.
#[cfg(feature = "cpu-simd")]
pub fn instruction_sets() -> Vec<&'static str> {
    backend_cpu_simd::dispatch::Kernels::available().iter().map(|kernels| kernels.name).collect()
}

/// Opens a processor and asks it for all of some operators, so that its driver is tried at them.
pub fn examine(name: &str, options: &DeviceOptions, specs: &[OpSpec]) -> Result<Examined, LlamaError> {
    let Opened { backend, is_software, trials, .. } = Opener::new(options).open(name)?;
    if trials.is_some() {
        specs.iter().for_each(|spec| drop(backend.support(spec)));
    }
    Ok(Examined { trials: trials.map(|trials| trials()), backend, is_software })
}

/// For a program that ends at once because its user says so: drivers that are being tried meanwhile are not to blame, and
/// the next run does not take this one for their victim.
pub fn ended_by_user() {
    #[cfg(feature = "gpu-vulkano")]
    backend_gpu_vulkano::withdraw_markers();
    #[cfg(feature = "gpu-wgpu")]
    backend_gpu_wgpu::withdraw_markers();
}

/// Opens processors, of which some belong together.
struct Opener<'a> {
    options: &'a DeviceOptions,
    /// The SoC that all simulated processors are parts of.
    #[cfg(feature = "npu-sim")]
    soc: Option<Arc<backend_npu_sim::SimulatedSoc>>,
}

impl<'a> Opener<'a> {
    fn new(options: &'a DeviceOptions) -> Opener<'a> {
        Opener {
            options,
            #[cfg(feature = "npu-sim")]
            soc: None,
        }
    }

    fn open(&mut self, name: &str) -> Result<Opened, LlamaError> {
        match name {
            #[cfg(feature = "cpu-simd")]
            "cpu" => open_cpu(self.options).map(Opened::new),
            #[cfg(feature = "npu-sim")]
            "npu-sim" => Ok(Opened::new(self.simulated_soc()?.backend(DeviceKind::Npu))),
            #[cfg(feature = "npu-sim")]
            "gpu-sim" => Ok(Opened::new(self.simulated_soc()?.backend(DeviceKind::Gpu))),
            #[cfg(feature = "npu-sim")]
            "cpu-sim" => Ok(Opened::new(self.simulated_soc()?.backend(DeviceKind::Cpu))),
            #[cfg(feature = "gpu-vulkano")]
            name if name.split(':').next() == Some(VULKAN) => gpu::open_vulkan(name, self.options),
            #[cfg(feature = "gpu-wgpu")]
            name if name.split(':').next() == Some(WGPU) => gpu::open_wgpu(name, self.options),
            _ => {
                let _ = self.options;
                let known = KNOWN.iter().find(|known| known.is_called(name));
                let feature = known.map_or("cpu-simd", |known| known.feature);
                Err(LlamaError::DeviceNotBuilt { name: name.to_owned(), feature })
            }
        }
    }

    /// The simulated SoC in real time: its processors compute on threads of their own, as fast as this machine can.
    #[cfg(feature = "npu-sim")]
    fn simulated_soc(&mut self) -> Result<&backend_npu_sim::SimulatedSoc, LlamaError> {
        use backend_npu_sim::{FaultPlan, SimOptions, SimulatedSoc, Soc, TimeMode};
        if self.soc.is_none() {
            let soc = Soc::load(self.options.soc.as_deref().unwrap_or(DEFAULT_SOC))?;
            let faults = match &self.options.faults {
                Some(text) => FaultPlan::parse(text)?,
                None => FaultPlan::default(),
            };
            self.soc = Some(SimulatedSoc::new(
                soc,
                SimOptions { time: TimeMode::Real { scale: 0.0 }, faults, ..SimOptions::default() },
            ));
        }
        Ok(self.soc.as_ref().expect("set above"))
    }
}

#[cfg(feature = "cpu-simd")]
fn open_cpu(options: &DeviceOptions) -> Result<Arc<dyn Backend>, LlamaError> {
    use backend_cpu_simd::{ActivationMode, CpuBackend, CpuOptions};
    let activations = match options.activations {
        Activations::Auto => ActivationMode::Fast,
        Activations::Float => ActivationMode::Float,
    };
    match CpuBackend::new(&CpuOptions { threads: options.threads, activations }) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) => {
            let (reason, fix) = (error.to_string(), error.fix());
            Err(LlamaError::DeviceUnusable { name: "cpu".to_owned(), reason, fix })
        }
    }
}

impl FromStr for DeviceSelection {
    type Err = std::convert::Infallible;

    /// `auto`, or names with commas between them, of which repetitions count once. Whether they exist is seen when
    /// they are opened.
    fn from_str(list: &str) -> Result<Self, Self::Err> {
        if list == "auto" {
            return Ok(DeviceSelection::Auto);
        }
        let mut names: Vec<String> = Vec::new();
        for name in list.split(',').map(str::trim) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Ok(DeviceSelection::Named(names))
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activations::Auto => "auto",
            Activations::Float => "float",
        })
    }
}
