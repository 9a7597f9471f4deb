//! Llama-family models on hetero: loading, tokenising, generating.
//!
//! From files to text, in the order in which it happens:
//!
//! 1. [`source`] and [`weights`]: a model's files, mapped and checked; [`config`]: what the model is made of.
//! 2. [`graph`]: the forward pass as a graph of operators; [`loader`]: weights into the layout that processors share.
//! 3. [`backends`]: the processors of this build; [`profiling`], [`mode`] and [`team`]: how several of them share the work;
//!    [`model`]: all of it together, ready to be shared by sessions.
//! 4. [`session`]: a KV cache and its extension; [`sampler`], [`text_stream`] and [`generate`]: logits into text.
//!
//! ```no_run
//! use hetero_llama::sampler::SamplerConfig;
//! use hetero_llama::{CancelToken, GenerateOptions, Generation, Model, ModelOptions, ModelSource, Session};
//!
//! # fn main() -> Result<(), hetero_llama::LlamaError> {
//! let source = ModelSource::Folder("path/to/model".into());
//! let model = Model::load(source, &ModelOptions::default(), &mut |_| {})?;
//! let prompt = model.tokenizer()?.encode("Once upon a time", true)?;
//!
//! let options = GenerateOptions { max_tokens: 64, sampler: SamplerConfig::greedy(), stop: Vec::new() };
//! let mut session = Session::new(&model)?;
//! for piece in Generation::new(&mut session, &prompt, &options, &CancelToken::default())? {
//!     print!("{}", piece?.text);
//! }
//! # Ok(())
//! # }
//! ```

pub mod backends;
pub mod chat_template;
pub mod config;
pub mod doctor;
pub mod error;
pub mod generate;
pub mod generation_config;
pub mod graph;
pub mod loader;
pub mod memory;
pub mod mode;
pub mod model;
pub mod packed;
pub mod perplexity;
pub mod profiling;
pub mod sampler;
pub mod session;
#[cfg(feature = "npu-sim")]
pub mod simulate;
pub mod source;
pub mod team;
pub mod text_stream;
pub mod tokenizer;
pub mod weights;

mod chunking;
mod files;

pub use backends::{Activations, DeviceOptions, DeviceSelection};
pub use error::LlamaError;
pub use generate::{FinishReason, GenerateOptions, Generation, GenerationStats, Piece};
pub use mode::Mode;
pub use model::{Model, ModelFacts, ModelOptions};
pub use session::{CancelToken, Session};
pub use source::{EmbeddedModel, ModelSource};
