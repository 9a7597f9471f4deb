//! Llama-family models on hetero: loading, tokenising, generating.

pub mod config;
pub mod error;
mod files;
pub mod weights;

pub use error::LlamaError;
