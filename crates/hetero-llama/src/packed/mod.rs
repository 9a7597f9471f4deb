//! Checkpoints whose linear weights are stored in panels, as `hetero quantize` writes them.
//!
//! Such a folder looks like the Hugging Face folder that it was made from, but for two things. `config.json` has a
//! `quantization_config` with `quant_method` `hetero`, a version and the weights' format. And `model.safetensors` holds
//! one tensor for each weight of the graph, under the name of its [`WeightKey`](crate::graph::WeightKey): linear
//! weights as bytes (`U8`, `[panels, bytes of a panel]`) in the layout of [`hetero_core::weight_layout`], tables as
//! plain numbers. Loading one copies bytes and computes nothing.

mod write;

use hetero_core::{Arrangement, DType, WeightLayout};

use crate::LlamaError;
use crate::config::ModelConfig;
use crate::weights::{Checkpoint, RawTensor, TensorRef};

pub use write::{QuantizeFacts, quantize};

/// An opened checkpoint of this kind.
#[derive(Debug)]
pub(crate) struct PackedCheckpoint {
    checkpoint: Checkpoint,
}

impl PackedCheckpoint {
    /// Takes a checkpoint that its configuration calls packed.
    pub(crate) fn new(checkpoint: Checkpoint) -> PackedCheckpoint {
        PackedCheckpoint { checkpoint }
    }

    /// Element type of a table.
    pub(crate) fn table_dtype(&self, name: &str, config: &ModelConfig) -> Result<DType, LlamaError> {
        Ok(self.table(name, config.vocab, config.hidden)?.dtype())
    }

    /// A table of numbers, `[rows, columns]`.
    pub(crate) fn table(&self, name: &str, rows: usize, columns: usize) -> Result<TensorRef, LlamaError> {
        let expected = [rows, columns];
        let tensor = self.checkpoint.tensor(name)?;
        let tensor = tensor.ok_or_else(|| self.missing(name, &expected))?;
        if *tensor.shape() != expected {
            return Err(LlamaError::TensorShape {
                file: self.checkpoint.path().to_path_buf(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: tensor.shape().to_vec(),
            });
        }
        Ok(tensor)
    }

    /// The panels of a linear weight.
    pub(crate) fn panels(&self, name: &str, layout: &WeightLayout) -> Result<RawTensor, LlamaError> {
        let expected = stored_shape(layout);
        let tensor = self.checkpoint.raw_tensor(name);
        let tensor = tensor.ok_or_else(|| self.missing(name, &expected))?;
        if tensor.shape() != expected || tensor.bytes().len() != layout.bytes() {
            return Err(LlamaError::TensorShape {
                file: self.checkpoint.path().to_path_buf(),
                tensor: name.to_owned(),
                expected,
                found: tensor.shape().to_vec(),
            });
        }
        Ok(tensor)
    }

    fn missing(&self, name: &str, expected: &[usize]) -> LlamaError {
        LlamaError::MissingTensor {
            file: self.checkpoint.path().to_path_buf(),
            tensor: name.to_owned(),
            expected: format!("shape {expected:?}"),
            nearest: None,
        }
    }
}

/// The shape under which a weight is stored.
fn stored_shape(layout: &WeightLayout) -> Vec<usize> {
    match layout.arrangement {
        Arrangement::Panels => vec![layout.n_panels(), layout.panel_bytes()],
        Arrangement::Rows => vec![layout.rows, layout.columns],
    }
}
