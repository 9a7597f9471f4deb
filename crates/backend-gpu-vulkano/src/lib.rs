//! GPUs for hetero through Vulkan itself, where host and GPU share memory.
//!
//! Tensors lie in memory that stays mapped while the GPU works, so every processor that works on host memory reaches
//! them directly, and weights that were built in it are used where they lie. What is special beyond the contract of
//! `hetero-core`:
//!
//! - Completion is a timeline semaphore: `Timeline::completed` reads its counter, which takes well under a microsecond,
//!   and needs nobody who polls. What a submission wrote is made visible to the host at its end.
//! - Commands are recorded once for a set of tensors and a number of rows, and submitted again from step to step.
//! - `Backend::access` says `Direct` to its own tensors only; a model whose tensors this backend allocates runs on it and
//!   the CPU without a copy.
//! - The kernels are those of `hetero-shaders`, as SPIR-V.
//! - Raw Vulkan calls and recorded commands are in `queue.rs`, the one file with a safety argument for them.

mod adapter;
mod backend;
mod error;
mod executable;
mod memory;
mod pipeline_cache;
mod queue;
mod timeline;
mod weight;

pub use adapter::{AdapterStatus, adapters};
pub use backend::{VulkanBackend, VulkanOptions};
pub use error::VulkanError;
