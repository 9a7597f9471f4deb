//! A simulated phone for hetero: an NPU, a GPU and a CPU on one memory bus, with real numerics and virtual time.
//!
//! Schedules, synchronisation and failures are tried on it without a phone. It has two halves:
//!
//! - **Numerics and rules.** Each processor computes real results. The NPU keeps the rules of one: shapes are fixed
//!   when a segment is compiled, products run in float or integer units on whole tiles, few graphs are alive at a time,
//!   and one operand of a product stays in the array ([`hetero_core::OperandOrder`]).
//! - **Time.** A discrete-event clock says when what is finished. A system on a chip is a file ([`soc`]), and what a
//!   node costs on it is a pure function ([`cost`]).
//!
//! Reading order: [`SimulatedSoc`], [`clock`], [`soc`], [`cost`], [`fault`], [`trace`]; `backend.rs` and the files
//! beside it are like those of every backend.
//!
//! ```
//! use std::sync::Arc;
//! use backend_npu_sim::{SimOptions, SimulatedSoc, Soc};
//! use hetero_core::*;
//!
//! let phone = SimulatedSoc::new(Soc::builtin("snapdragon-8-gen-3").expect("built in"), SimOptions::default());
//! let npu = phone.backend(DeviceKind::Npu);
//!
//! // A graph of one addition, for up to 64 positions of 32 features.
//! let mut builder = GraphBuilder::new(64);
//! let (a, b) = (builder.input("a", 32, DType::F16), builder.input("b", 32, DType::F16));
//! let sum = builder.node("add", Op::Add { features: 32 }, &[a, b], &[], DType::F16);
//! let graph = Arc::new(builder.finish());
//! let part = Part::whole(64, 32);
//! let node = SegmentNode { node: NodeId(0), part, weights: vec![], operand_order: OperandOrder::default() };
//! let segment = Segment::new(Arc::clone(&graph), vec![node]);
//!
//! // Compiling takes virtual time, and so do submitting, computing and waiting.
//! let executable = npu.compile(&segment)?;
//! let compiled = phone.clock().now();
//! let tensor = |value| Ok::<_, BackendError>(SharedTensor::new(npu.allocate(&graph.tensor_desc(value))?));
//! let (a, b, sum) = (tensor(a)?, tensor(b)?, tensor(sum)?);
//! let tensors = vec![Binding::Read(a.view()), Binding::Read(b.view()), Binding::Write(sum.slot())];
//! let ticket = executable.submit(Bindings { tensors }, StepParams { past: 0, rows: 3 })?;
//! ticket.wait()?;
//!
//! assert!(compiled > 0.0 && phone.clock().now() > compiled);
//! assert!(phone.usage().iter().any(|usage| usage.kind == DeviceKind::Npu && usage.busy_seconds > 0.0));
//! # Ok::<(), BackendError>(())
//! ```

#![deny(unsafe_code)]

pub mod clock;
pub mod cost;
pub mod fault;
pub mod soc;
pub mod trace;

mod backend;
mod error;
mod executable;
mod memory;
mod numerics;
mod queue;
mod rules;
mod simulated_soc;
mod timeline;
mod weight;

pub use clock::VirtualClock;
pub use error::FaultPlanError;
pub use fault::{Fault, FaultPlan, FaultRule, When};
pub use simulated_soc::{MemoryMode, Numerics, ProcessorUsage, SimOptions, SimulatedSoc, TimeMode};
pub use soc::{Soc, SocError};
pub use trace::Trace;
pub use weight::blank_weight;
