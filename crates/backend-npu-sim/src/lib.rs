//! A simulated phone for hetero: an NPU, a GPU and a CPU on one memory bus, with real numerics and virtual time.

#![forbid(unsafe_code)]

pub mod cost;
pub mod soc;
