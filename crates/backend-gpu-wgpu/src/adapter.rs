//! The GPUs of the machine, the fastest kind first.

use wgpu::{Backends, DeviceType, InstanceDescriptor, InstanceFlags};

use crate::WgpuError;
use crate::error::ready;

/// A GPU as users see it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterStatus {
    /// Product name.
    pub name: String,
    /// Driver and its version.
    pub driver: String,
    /// Whether it is a program on the CPU.
    pub is_software: bool,
}

impl AdapterStatus {
    fn of(info: &wgpu::AdapterInfo) -> AdapterStatus {
        AdapterStatus {
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            is_software: info.device_type == DeviceType::Cpu,
        }
    }
}

/// The GPUs of the machine in the order in which [`crate::WgpuOptions::adapter`] counts them: separate ones, those of
/// processors, others, software.
pub fn adapters() -> Vec<AdapterStatus> {
    found().iter().map(|adapter| AdapterStatus::of(&adapter.get_info())).collect()
}

/// One of the GPUs, the first unless a number is given.
pub(crate) fn choose(index: Option<usize>) -> Result<(wgpu::Adapter, AdapterStatus), WgpuError> {
    let mut found = found();
    let n_adapters = found.len();
    match index {
        _ if found.is_empty() => Err(WgpuError::NoAdapter),
        Some(index) if index >= n_adapters => Err(WgpuError::NoSuchAdapter { index, n_adapters }),
        index => {
            let adapter = found.swap_remove(index.unwrap_or(0));
            let status = AdapterStatus::of(&adapter.get_info());
            Ok((adapter, status))
        }
    }
}

fn found() -> Vec<wgpu::Adapter> {
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::VULKAN;
    // In builds with debug assertions, with validation layers where they are installed, but without debug information in
    // the shaders: it names a language that older layers do not know, and they refuse the shader for it.
    descriptor.flags.remove(InstanceFlags::DEBUG);
    let instance = wgpu::Instance::new(descriptor.with_env());
    let mut adapters = ready(instance.enumerate_adapters(Backends::VULKAN)).unwrap_or_default();
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters
}
