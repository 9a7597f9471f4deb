//! Why a GPU cannot be opened, and how wgpu's errors become the contract's.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use hetero_core::BackendError;

/// Why a GPU cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WgpuError {
    /// There is no Vulkan driver with a device, not even a software one.
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

impl WgpuError {
    /// What the user can do about it.
    pub fn fix(&self) -> String {
        match self {
            WgpuError::NoAdapter => {
                "install the GPU's Vulkan driver, or Mesa's software one (Debian: mesa-vulkan-drivers)".into()
            }
            WgpuError::NoSuchAdapter { .. } => "choose one that `hetero devices` lists".into(),
            WgpuError::Refused { .. } => "update the GPU's driver, or choose another device".into(),
            WgpuError::Died { file, .. } => format!(
                "update the GPU's driver; if it was no crash, or to try again, delete {}; HETERO_GPU_KERNELS='*=plain' takes \
                 the simplest kernels, which are tried by themselves",
                file.display()
            ),
        }
    }
}

/// What an error of wgpu is to the caller of a backend. `bytes` is what was about to be allocated.
pub(crate) fn backend_error(device: &str, error: &wgpu::Error, bytes: u64) -> BackendError {
    match error {
        wgpu::Error::OutOfMemory { .. } => BackendError::OutOfMemory { device: device.to_owned(), bytes },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            BackendError::Failed { device: device.to_owned(), reason: description.clone() }
        }
    }
}

/// Runs `f` and returns the error that wgpu found in it, out of memory before all others.
pub(crate) fn scoped<T>(device: &wgpu::Device, f: impl FnOnce() -> T) -> Result<T, wgpu::Error> {
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let result = f();
    let errors = [ready(memory.pop()), ready(validation.pop()), ready(internal.pop())];
    match errors.into_iter().flatten().flatten().next() {
        Some(error) => Err(error),
        None => Ok(result),
    }
}

/// The result of a future that needs no waiting: on native systems all of wgpu's are of this kind.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
