//! The CPU as a hetero backend: SIMD kernels chosen at run time and a worker pool.
//!
//! - [`backend`]: [`CpuBackend`], what the rest of hetero sees.
//! - `program`: a segment as a list of kernel calls, cut for the workers.
//! - [`kernels`] over `simd`: the arithmetic, written once for all instruction sets; [`dispatch`] chooses one.
//! - [`worker_pool`] and `queue`: the threads.

pub mod backend;
pub mod dispatch;
pub mod error;
pub mod kernels;
pub mod worker_pool;

mod executable;
mod memory;
mod program;
mod queue;
mod simd;
mod timeline;
mod topology;
mod weight;

pub use backend::{ActivationMode, CpuBackend, CpuOptions};
pub use error::CpuError;
pub use topology::performance_cores;
