//! GPUs for hetero through Vulkan itself, where host and GPU share memory.
//!
//! Tensors lie in memory that stays mapped while the GPU works, so every processor that works on host memory reaches
//! them directly, and weights that were built in it are used where they lie. What is special beyond the contract of
//! `hetero-core`:
//!
//! - Completion is a timeline semaphore: `Timeline::completed` reads its counter, which takes well under a microsecond,
//!   and needs nobody who polls. What a submission wrote is made visible to the host at its end.
//! - A GPU with memory of its own gets copies of weights in it, through a staging buffer where the host does not reach it
//!   (`placement.rs`, `staging.rs`).
//! - Commands are recorded once for a set of tensors and a number of rows, and submitted again from step to step.
//! - Work is queued before its inputs exist and begins when the host signals (`gate.rs`).
//! - `Backend::access` says `Direct` to its own tensors and, where the driver imports memory of the process, to those
//!   that lie in pages of their own, whoever allocated them; so a model runs on it and the CPU without a copy.
//! - The kernels are those of `hetero-shaders`, as SPIR-V.
//! - Raw Vulkan calls are in `import.rs` and `queue.rs`, each with its safety argument.

mod adapter;
mod backend;
mod error;
mod executable;
mod gate;
mod import;
mod matrices;
mod memory;
mod pipeline_cache;
mod placement;
mod queue;
mod recording;
mod staging;
mod timeline;
mod untested;
mod weight;

pub use adapter::{AdapterStatus, adapters};
pub use backend::{VulkanBackend, VulkanOptions};
pub use error::VulkanError;
pub use gate::Ahead;
pub use hetero_shaders::checks::{Verdict, withdraw_markers};
pub use hetero_shaders::knobs::{InvalidKnobs, Knobs};
pub use placement::WeightMemory;
