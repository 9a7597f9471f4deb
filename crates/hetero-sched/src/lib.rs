//! Plans which processor computes which part of a model, and runs the plan.
//!
//! - [`plan`]: a [`Plan`] places every node of a graph on devices; plain data, made without touching any.
//! - [`cost`]: what the solver asks about devices; [`solver`] finds the plan; [`timing`] predicts when it runs.
//! - [`explain`]: who computes what, and what other choices would have cost.
//! - [`profile`]: what was measured of the devices, and predictions from it.
//! - [`mod@submissions`]: which parts of a plan are submitted together, and what each submission waits for.
//! - [`activations`]: which tensor holds which value, with few tensors for many layers.
//! - [`state`]: the KV cache, in as many memories as plans use.
//! - [`residency`]: which device holds which rows of which weight.
//! - [`sync`]: all code that waits.
//! - [`executor`]: runs a plan; the only thing that touches devices. [`trace`] has when it did.
//! - [`runner`]: plans and runs the steps of a graph, goes on without a device that fails, and plans anew when a device is
//!   not as fast as it was; [`report`]: what was predicted beside what was measured.
//!
//! No concrete backend is named here: devices are `dyn Backend`.

#![forbid(unsafe_code)]

pub mod activations;
pub mod cost;
pub mod executor;
pub mod explain;
pub mod plan;
pub mod profile;
pub mod report;
pub mod residency;
pub mod runner;
pub mod solver;
pub mod state;
pub mod submissions;
pub mod sync;
pub mod timing;
pub mod trace;

mod error;

pub use error::SchedError;
pub use executor::{Executor, ExecutorOptions, Synchronisation};
pub use plan::{PlacedPart, Plan};
pub use residency::Residency;
pub use runner::{Expected, Fallback, Loss, Margin, Replan, Runner, Team, TeamOptions, Wanted};
pub use solver::{Solution, SolveError, SolveOptions, solve};
pub use state::State;
pub use submissions::{PartId, Submission, submissions};
