//! The program as users and scripts see it: what is on which stream, the shape of JSON documents, exit codes.

#[cfg(all(feature = "cpu-simd", feature = "demo-model"))]
mod bad_input;
#[cfg(all(feature = "cpu-simd", feature = "demo-model"))]
mod chat;
#[cfg(all(feature = "cpu-simd", feature = "demo-model"))]
mod generate;
#[cfg(all(feature = "cpu-simd", feature = "demo-model"))]
mod measure;
#[cfg(all(feature = "cpu-simd", feature = "npu-sim"))]
mod profile;
#[cfg(all(feature = "cpu-simd", feature = "demo-model", unix))]
mod signals;

mod features;
mod program;
#[cfg(feature = "npu-sim")]
mod simulate;
