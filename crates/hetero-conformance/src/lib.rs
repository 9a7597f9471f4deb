//! The one test suite that every hetero backend passes.
//!
//! A backend crate calls it from its `tests/conformance.rs`:
//!
//! ```
//! use hetero_conformance::{Expectations, ReferenceBackend, run};
//!
//! let backend = ReferenceBackend::new(); // here: the backend under test
//! let expectations = Expectations::new().only("add/f32");
//! run(&backend, &expectations).assert_passed();
//! ```
//!
//! Reading order:
//!
//! 1. [`case`] and `cases`: what is computed, as data.
//! 2. `stimulus`: what tensors and weights hold before a run, which follows from the case's name.
//! 3. `bench`: a case set up on a backend, and what is checked around each submission.
//! 4. [`compare`]: how far from the oracle a result may be.
//! 5. `contract`: what is promised beyond numbers: order, rights, misuse.
//! 6. [`expectations`] and [`report`]: what a backend says about itself, and what came out.
//!
//! # What a case checks
//!
//! The oracle is [`hetero_core::reference`]. Rows that are not in use hold NaN before a run (in a cache: large numbers,
//! because kernels may multiply what is masked with zero), outputs hold recognisable NaN. After each run
//!
//! - results are finite and within the tolerance of operator and element type;
//! - whatever lies outside the written part, all inputs, and the guards between the tensors hold the same bits;
//! - the bindings have come back and nobody holds a right to a tensor;
//! - a second and third run gave the same bits, and so did every other cut of the output.

#![forbid(unsafe_code)]

mod bench;
pub mod case;
mod cases;
pub mod compare;
mod contract;
pub mod expectations;
pub mod gpu;
pub mod layer;
mod reference_backend;
pub mod report;
mod runner;
mod sentinel;
mod stimulus;
pub mod wrapped;

use hetero_core::Backend;

pub use case::{Case, Cut};
pub use compare::Tolerance;
pub use expectations::Expectations;
pub use reference_backend::ReferenceBackend;
pub use report::{CaseResult, Outcome, Report};
pub use wrapped::{Wrapped, Wrapper};

/// Environment variable: only cases whose name contains its value run.
pub const ONLY: &str = "HETERO_CONFORMANCE_ONLY";

/// Runs the suite on a backend.
///
/// With the environment variable [`ONLY`] set, only cases whose name contains its value run.
pub fn run(backend: &dyn Backend, expectations: &Expectations) -> Report {
    let only = std::env::var(ONLY).ok();
    runner::run_all(backend, expectations, only.as_deref())
}

/// All cases of the suite, without the contract tests.
pub fn all_cases() -> Vec<Case> {
    cases::all()
}
