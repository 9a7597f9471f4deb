//! Why a GPU cannot be opened, and how Vulkan's errors become the contract's.

use std::path::PathBuf;

use hetero_core::BackendError;
use vulkano::buffer::AllocateBufferError;
use vulkano::memory::allocator::MemoryAllocatorError;
use vulkano::{Validated, VulkanError as Code};

/// Why a GPU cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VulkanError {
    /// There is no Vulkan on this machine.
    #[error("Vulkan cannot be loaded: {reason}")]
    NoLibrary {
        /// What the system said.
        reason: String,
    },
    /// There is no driver with a device, not even a software one.
    #[error("there is no GPU that Vulkan reaches")]
    NoAdapter,
    /// A device was asked for by a number that none has.
    #[error("there is no GPU number {index} of {n_adapters}, counted from 0")]
    NoSuchAdapter {
        /// The number.
        index: usize,
        /// How many there are.
        n_adapters: usize,
    },
    /// The device lacks what this backend is built on.
    #[error("the GPU {adapter} has no {what}")]
    Lacking {
        /// Its product name.
        adapter: String,
        /// What it lacks.
        what: &'static str,
    },
    /// The driver refused the device.
    #[error("the GPU {adapter} cannot be opened: {reason}")]
    Refused {
        /// Its product name.
        adapter: String,
        /// What the driver said.
        reason: String,
    },
    /// A process has not survived the trial of the driver.
    #[error("the driver of the GPU {adapter} is not used: a process ended while it was tried at {case}")]
    Died {
        /// Its product name.
        adapter: String,
        /// What was tried.
        case: String,
        /// The file that says so.
        file: PathBuf,
    },
}

impl VulkanError {
    /// What the user can do about it.
    pub fn fix(&self) -> String {
        match self {
            VulkanError::NoLibrary { .. } | VulkanError::NoAdapter => {
                "install the GPU's Vulkan driver, or Mesa's software one (Debian: mesa-vulkan-drivers)".into()
            }
            VulkanError::NoSuchAdapter { .. } => "choose one that `hetero devices` lists".into(),
            VulkanError::Lacking { .. } => {
                "update the GPU's driver, or use the device `wgpu`, which asks for less".into()
            }
            VulkanError::Refused { .. } => "update the GPU's driver, or choose another device".into(),
            VulkanError::Died { file, .. } => format!(
                "update the GPU's driver; if it was no crash, or to try again, delete {}; HETERO_GPU_KERNELS='*=plain' takes \
                 the simplest kernels, which are tried by themselves",
                file.display()
            ),
        }
    }
}

/// What a code of Vulkan is to the caller of a backend. `bytes` is what was about to be allocated.
pub(crate) fn backend_error(device: &str, code: Code, bytes: u64) -> BackendError {
    let device = device.to_owned();
    match code {
        Code::OutOfHostMemory | Code::OutOfDeviceMemory | Code::OutOfPoolMemory => {
            BackendError::OutOfMemory { device, bytes }
        }
        Code::DeviceLost => BackendError::DeviceLost { device, reason: code.to_string() },
        code => BackendError::Failed { device, reason: code.to_string() },
    }
}

/// As [`backend_error`], for calls whose arguments vulkano checks.
pub(crate) fn checked_error(device: &str, error: Validated<Code>, bytes: u64) -> BackendError {
    match error {
        Validated::Error(code) => backend_error(device, code, bytes),
        Validated::ValidationError(error) => invalid(device, &error),
    }
}

/// A call whose arguments vulkano refused, which is a mistake in this crate.
pub(crate) fn invalid(device: &str, error: &vulkano::ValidationError) -> BackendError {
    BackendError::Failed { device: device.to_owned(), reason: format!("{error:?}") }
}

/// What a failed allocation is to the caller of a backend.
pub(crate) fn allocation_error(device: &str, error: Validated<AllocateBufferError>, bytes: u64) -> BackendError {
    match error {
        Validated::ValidationError(error) => invalid(device, &error),
        Validated::Error(AllocateBufferError::CreateBuffer(code) | AllocateBufferError::BindMemory(code)) => {
            backend_error(device, code, bytes)
        }
        Validated::Error(AllocateBufferError::AllocateMemory(error)) => match error {
            MemoryAllocatorError::AllocateDeviceMemory(error) => checked_error(device, error, bytes),
            _ => BackendError::OutOfMemory { device: device.to_owned(), bytes },
        },
    }
}
