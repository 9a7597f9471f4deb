//! Llama-family models on hetero: loading, tokenising, generating.

pub mod chat_template;
pub mod config;
pub mod error;
mod files;
pub mod generation_config;
pub mod sampler;
pub mod text_stream;
pub mod tokenizer;
pub mod weights;

pub use error::LlamaError;
