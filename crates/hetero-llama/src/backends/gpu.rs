//! GPUs, opened through the crates that drive them, whichever of these are in the build.

use std::sync::Arc;

use super::{DeviceOptions, Opened, Rank, Trial};
use crate::LlamaError;

/// The environment variable for [`DeviceOptions::gpu_kernels`], for messages.
const KERNELS_VARIABLE: &str = "HETERO_GPU_KERNELS";

/// What a backend has seen of its driver, in the words of this crate. Both crates have the same words for it.
macro_rules! trials {
    ($backend:ident, $opened:expr) => {{
        use $backend::Verdict;
        let trial = |(what, verdict)| match verdict {
            Verdict::Right => Trial { what, trouble: None, is_usable: true },
            Verdict::Without { variant, reason } => {
                let trouble = format!("{reason}, but right without `{}`", variant.name());
                Trial { what, trouble: Some(trouble), is_usable: true }
            }
            Verdict::Plain { reason } => Trial { what, trouble: Some(reason), is_usable: true },
            Verdict::Wrong { reason } => Trial { what, trouble: Some(reason), is_usable: false },
        };
        $opened.verdicts().into_iter().map(trial).collect()
    }};
}
#[cfg(feature = "gpu-vulkano")]
pub(super) fn open_vulkan(name: &str, options: &DeviceOptions) -> Result<Opened, LlamaError> {
    use backend_gpu_vulkano::{VulkanBackend, VulkanOptions};
    let knobs = options.gpu_kernels.as_deref().unwrap_or_default().parse();
    let opened = VulkanBackend::new(&VulkanOptions {
        adapter: super::gpu_index(super::VULKAN, name),
        knobs: knobs.map_err(|error: backend_gpu_vulkano::InvalidKnobs| invalid_knobs(name, &error.to_string()))?,
        cache: options.cache.clone(),
        is_strict: options.is_strict,
        may_round: options.activations == super::Activations::Auto,
        ..VulkanOptions::default()
    });
    let backend = opened.map_err(|error| unusable(name, error.to_string(), error.fix()))?;
    let backend = Arc::new(backend);
    let tried = Arc::clone(&backend);
    Ok(Opened {
        rank: if backend.should_allocate() { Rank::Allocator } else { Rank::Importer },
        is_software: backend.is_software(),
        trials: Some(Box::new(move || trials!(backend_gpu_vulkano, tried))),
        backend,
    })
}

#[cfg(feature = "gpu-wgpu")]
pub(super) fn open_wgpu(name: &str, options: &DeviceOptions) -> Result<Opened, LlamaError> {
    use backend_gpu_wgpu::{WgpuBackend, WgpuOptions};
    let knobs = options.gpu_kernels.as_deref().unwrap_or_default().parse();
    let opened = WgpuBackend::new(&WgpuOptions {
        adapter: super::gpu_index(super::WGPU, name),
        knobs: knobs.map_err(|error: backend_gpu_wgpu::InvalidKnobs| invalid_knobs(name, &error.to_string()))?,
        cache: options.cache.clone(),
        is_strict: options.is_strict,
        ..WgpuOptions::default()
    });
    let backend = opened.map_err(|error| unusable(name, error.to_string(), error.fix()))?;
    let backend = Arc::new(backend);
    let tried = Arc::clone(&backend);
    Ok(Opened {
        rank: Rank::Apart,
        is_software: backend.is_software(),
        trials: Some(Box::new(move || trials!(backend_gpu_wgpu, tried))),
        backend,
    })
}

fn invalid_knobs(name: &str, error: &str) -> LlamaError {
    let reason = format!("{KERNELS_VARIABLE} says {error}");
    let fix =
        format!("set {KERNELS_VARIABLE} to such as `attention=-subgroups,linear_tiled=plain,tiles=small`, or unset it");
    unusable(name, reason, fix)
}

fn unusable(name: &str, reason: String, fix: String) -> LlamaError {
    LlamaError::DeviceUnusable { name: name.to_owned(), reason, fix }
}
