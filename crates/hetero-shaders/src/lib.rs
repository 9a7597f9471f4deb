//! The GPU kernels of hetero, once for all GPU backends.
//!
//! A [`Kernel`] says what is computed on which element types; [`Kernel::shader`] is its WGSL source, for a device with
//! some [`Features`]. Backends that take SPIR-V get it from `spirv::words` (feature `spirv`). [`program`] turns the nodes
//! of a segment into dispatches of kernels, for whatever a backend calls a buffer. This crate knows no GPU interface.
//!
//! Reading order: [`element`], then [`params`] for what a dispatch is told, then [`kernel`] for the kernels and how many
//! workgroups each takes, then [`tuning`] for the shapes that devices get, then [`program`] for which operator takes which
//! kernel, then `wgsl/` for what they compute, then `source` for how a shader is put together.
//!
//! # Bindings
//!
//! All are in group 0, and the same for all kernels, so that a backend needs one layout for each number of outputs and
//! inputs:
//!
//! | binding | holds |
//! |---|---|
//! | 0 | uniform [`Step`]: what changes from step to step |
//! | 1 | uniform [`Params`]: shapes and the rectangle to compute |
//! | from 2 on | the outputs, read and written |
//! | behind them | the inputs, read only, in the order that [`Kernel`] documents |
//!
//! Tensors are row-major without padding, and their buffers are filled up to a multiple of 16 bytes. Weight matrices are
//! in panels of 16 rows with the words of the rows interleaved: word `w` of row `r` of a panel lies at byte
//! `(w * 16 + r) * 4`, and behind the words of a quantised format come its scales. So neighbouring invocations read
//! neighbouring bytes, each byte once, and every invocation keeps to its rows.
//!
//! # Numbers
//!
//! Everything is accumulated in f32. Numbers are rounded to f16 and bf16 by integer arithmetic, to the nearest with ties
//! to even, because WGSL leaves the rounding to the driver; sine and cosine are polynomials, because WGSL promises
//! little about them for large angles. Which kernel computes an element, and in which order it adds, depends on the shape
//! of the operator and the rows of the step and never on the rectangle, so results do not depend on how an output is
//! cut.

#![forbid(unsafe_code)]

pub mod checks;
pub mod disk;
pub mod element;
pub mod kernel;
pub mod knobs;
pub mod linear;
pub mod params;
pub mod program;
pub mod quirks;
mod source;
#[cfg(feature = "spirv")]
pub mod spirv;
pub mod tuning;

pub use element::{Element, Format};
pub use kernel::{Features, Kernel, Shader};
pub use knobs::{Knobs, Variant};
pub use linear::{Form, Linear};
pub use params::{Columns, Params, Step};
pub use tuning::{Limits, MatrixUnit, Tile, Tiles};
