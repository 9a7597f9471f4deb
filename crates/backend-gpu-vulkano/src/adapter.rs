//! The GPUs of the machine, the fastest kind first.

use std::sync::{Arc, Mutex, PoisonError};

use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType};
use vulkano::instance::debug::{DebugUtilsMessageType, DebugUtilsMessengerCallback, DebugUtilsMessengerCreateInfo};
use vulkano::instance::{Instance, InstanceCreateInfo, InstanceExtensions};
use vulkano::{Version, VulkanLibrary};

use crate::VulkanError;

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
    pub(crate) fn of(device: &PhysicalDevice) -> AdapterStatus {
        let properties = device.properties();
        let driver = [properties.driver_name.as_deref(), properties.driver_info.as_deref()];
        let driver: Vec<&str> = driver.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        AdapterStatus {
            name: properties.device_name.clone(),
            driver: driver.join(" "),
            is_software: properties.device_type == PhysicalDeviceType::Cpu,
        }
    }
}

/// What the validation layers have said.
pub(crate) type Complaints = Arc<Mutex<Vec<String>>>;

/// The GPUs of the machine in the order in which [`crate::VulkanOptions::adapter`] counts them: separate ones, those of
/// processors, others, software. None where there is no Vulkan.
pub fn adapters() -> Vec<AdapterStatus> {
    let found = found(&Complaints::default()).unwrap_or_default();
    found.iter().map(|device| AdapterStatus::of(device)).collect()
}

/// One of the GPUs, the first unless a number is given.
pub(crate) fn choose(index: Option<usize>, complaints: &Complaints) -> Result<Arc<PhysicalDevice>, VulkanError> {
    let mut found = found(complaints)?;
    let n_adapters = found.len();
    match index {
        _ if found.is_empty() => Err(VulkanError::NoAdapter),
        Some(index) if index >= n_adapters => Err(VulkanError::NoSuchAdapter { index, n_adapters }),
        index => Ok(found.swap_remove(index.unwrap_or(0))),
    }
}

fn found(complaints: &Complaints) -> Result<Vec<Arc<PhysicalDevice>>, VulkanError> {
    const LAYER: &str = "VK_LAYER_KHRONOS_validation";
    let no_library = |reason: String| VulkanError::NoLibrary { reason };
    let library = VulkanLibrary::new().map_err(|error| no_library(error.to_string()))?;
    let mut info = InstanceCreateInfo {
        max_api_version: Some(Version::V1_3),
        ..InstanceCreateInfo::application_from_cargo_toml()
    };
    // In builds with debug assertions, with validation layers where they are installed.
    let has_layer = library.layer_properties().is_ok_and(|mut layers| layers.any(|layer| layer.name() == LAYER));
    if cfg!(debug_assertions) && has_layer && library.supported_extensions().ext_debug_utils {
        info.enabled_layers.push(LAYER.to_owned());
        info.enabled_extensions = InstanceExtensions { ext_debug_utils: true, ..InstanceExtensions::empty() };
        info.debug_utils_messengers.push(listener(complaints));
    }
    let instance = Instance::new(library, info).map_err(|error| no_library(error.to_string()))?;
    let devices = instance.enumerate_physical_devices().map_err(|error| no_library(error.to_string()))?;
    let mut devices: Vec<Arc<PhysicalDevice>> = devices.collect();
    devices.sort_by_key(|device| match device.properties().device_type {
        PhysicalDeviceType::DiscreteGpu => 0,
        PhysicalDeviceType::IntegratedGpu => 1,
        PhysicalDeviceType::VirtualGpu => 2,
        PhysicalDeviceType::Cpu => 4,
        _ => 3,
    });
    Ok(devices)
}

fn listener(complaints: &Complaints) -> DebugUtilsMessengerCreateInfo {
    let complaints = Arc::clone(complaints);
    let listen = move |_, _, data: vulkano::instance::debug::DebugUtilsMessengerCallbackData<'_>| {
        complaints.lock().unwrap_or_else(PoisonError::into_inner).push(data.message.to_owned());
    };
    // SAFETY: the closure makes no call to Vulkan.
    let callback = unsafe { DebugUtilsMessengerCallback::new(listen) };
    DebugUtilsMessengerCreateInfo {
        message_type: DebugUtilsMessageType::VALIDATION,
        ..DebugUtilsMessengerCreateInfo::user_callback(callback)
    }
}
