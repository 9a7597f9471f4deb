//! GPUs for hetero through wgpu's safe interface: whatever Vulkan device is present, by portable means.
//!
//! wgpu maps no memory while the GPU may use it, so the host reaches tensors by copies, and so does every other
//! processor: [`hetero_core::DeviceInfo::is_host_visible`] is false, and [`hetero_core::Backend::access`] says
//! `NeedsCopy` to all tensors but its own. What is special beyond the contract of `hetero-core`:
//!
//! - A submission is one submission to wgpu's queue, whatever its length. What it wrote for the caller to read (values of
//!   kind `Output`) is copied within it to memory that can be mapped, so that reading it submits nothing more.
//! - Weights are copied to the GPU, in pieces no larger than the device binds; an operator has a dispatch for each.
//! - `Timeline::completed` asks the driver, which takes some microseconds; nothing has to wait for the count to advance.
//! - Pipelines are made once for each kernel and kept for the life of the backend.
//! - The kernels are those of `hetero-shaders`, in the variant that the device's features allow.
//! - A device that is lost, memory that runs out and errors that wgpu's validation finds become
//!   [`hetero_core::BackendError`]; after the first the backend is of no further use.

mod adapter;
mod backend;
mod error;
mod executable;
mod memory;
mod pipeline_cache;
mod queue;
mod timeline;
mod untested;
mod weight;

pub use adapter::{AdapterStatus, adapters};
pub use backend::{WgpuBackend, WgpuOptions};
pub use error::WgpuError;
pub use hetero_shaders::checks::{Verdict, withdraw_markers};
pub use hetero_shaders::knobs::{InvalidKnobs, Knobs};
