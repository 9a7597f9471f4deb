//! Gives the tensors of a checkpoint their roles in the model, by the naming of its architecture.
//!
//! All shapes are checked here against the configuration, so whoever holds [`ModelTensors`] reads rows without a
//! second look.

use crate::config::{Architecture, ModelConfig};
use crate::error::LlamaError;

use super::{Checkpoint, TensorRef};

/// Every tensor of a model, in its role.
#[derive(Clone, Debug)]
pub struct ModelTensors {
    /// `[vocab, hidden]`
    pub embedding: Matrix,
    /// In the order of the layers.
    pub layers: Vec<LayerTensors>,
    /// `[hidden]`
    pub final_norm: Vector,
    /// `[vocab, hidden]`; the embedding itself where the model ties the two.
    pub head: Matrix,
}

/// The tensors of one decoder layer.
#[derive(Clone, Debug)]
pub struct LayerTensors {
    /// `[hidden]`
    pub attention_norm: Vector,
    /// `[heads * head_dim, hidden]`
    pub query: Linear,
    /// `[kv_heads * head_dim, hidden]`
    pub key: Linear,
    /// `[kv_heads * head_dim, hidden]`
    pub value: Linear,
    /// `[hidden, heads * head_dim]`
    pub attention_output: Linear,
    /// `[hidden]`
    pub feed_forward_norm: Vector,
    /// `[intermediate, hidden]`
    pub gate: Linear,
    /// `[intermediate, hidden]`
    pub up: Linear,
    /// `[hidden, intermediate]`
    pub down: Linear,
}

/// A projection: `output = matrix * input + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub matrix: Matrix,
    /// `[outputs]`
    pub bias: Option<Vector>,
}

/// A matrix whose rows are rows of a stored tensor.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The stored tensor.
    pub source: TensorRef,
    /// Which of its rows, in which order.
    pub selection: SourceRows,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns: those of the stored tensor.
    pub columns: usize,
}

/// A vector whose elements are elements of a stored one.
#[derive(Clone, Debug)]
pub struct Vector {
    /// The stored tensor.
    pub source: TensorRef,
    /// Which of its elements, in which order.
    pub selection: SourceRows,
    /// Number of elements.
    pub len: usize,
}

/// Which rows of a stored tensor make up a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRows {
    /// All of them.
    All,
    /// Blocks of `block` rows, the first at row `first`, each `stride` rows behind the one before it.
    Blocks {
        /// Source row of row 0.
        first: usize,
        /// Rows of a block.
        block: usize,
        /// Source rows from the start of a block to the start of the next one.
        stride: usize,
    },
}

impl SourceRows {
    /// The row of the stored tensor that is row `row` of the matrix.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            SourceRows::All => row,
            SourceRows::Blocks { first, block, stride } => first + row / block * stride + row % block,
        }
    }
}

impl Matrix {
    /// The row of [`Matrix::source`] that is row `row` of this matrix.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn source_row(&self, row: usize) -> usize {
        assert!(row < self.rows, "row {row} of {} rows of {:?}", self.rows, self.source);
        self.selection.source_row(row)
    }

    /// One row as numbers: `out` is `[columns]`.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length.
    pub fn read_row_f32(&self, row: usize, out: &mut [f32]) {
        self.source.read_row_f32(self.source_row(row), out);
    }
}

impl Vector {
    /// All elements as numbers: `[len]`.
    pub fn read_f32(&self) -> Vec<f32> {
        let mut stored = vec![0.0; self.source.columns()];
        self.source.read_row_f32(0, &mut stored);
        match self.selection {
            SourceRows::All => stored,
            selection => (0..self.len).map(|i| stored[selection.source_row(i)]).collect(),
        }
    }
}

impl ModelTensors {
    /// Finds every tensor that `config` asks for. Tensors that have no role are left alone.
    pub fn resolve(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<ModelTensors, LlamaError> {
        let finder = Finder { checkpoint };
        let naming = match config.architecture {
            Architecture::Llama | Architecture::Mistral | Architecture::Qwen2 => &HUGGING_FACE,
            Architecture::InternLm2 => &INTERN_LM2,
        };
        let embedding = finder.matrix(naming.embedding, config.vocab, config.hidden)?;
        let layers = (0..config.layers)
            .map(|layer_idx| finder.layer(naming, layer_idx, config))
            .collect::<Result<Vec<LayerTensors>, _>>()?;
        let head = if config.tied_embeddings {
            embedding.clone()
        } else {
            finder.matrix(naming.head, config.vocab, config.hidden)?
        };
        Ok(ModelTensors { embedding, layers, final_norm: finder.vector(naming.final_norm, config.hidden)?, head })
    }
}

/// The names of one family. Those of a layer stand behind `model.layers.{layer}.`, and `.weight` or `.bias` follows.
struct Naming {
    embedding: &'static str,
    final_norm: &'static str,
    head: &'static str,
    attention_norm: &'static str,
    projections: Projections,
    attention_output: &'static str,
    feed_forward_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

/// How queries, keys and values are stored.
enum Projections {
    Apart([&'static str; 3]),
    /// One matrix `[kv_heads * (groups + 2) * head_dim, hidden]`: for each key head its `groups` query heads, then the
    /// key, then the value.
    Packed(&'static str),
}

const HUGGING_FACE: Naming = Naming {
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    attention_norm: "input_layernorm",
    projections: Projections::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    attention_output: "self_attn.o_proj",
    feed_forward_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

const INTERN_LM2: Naming = Naming {
    embedding: "model.tok_embeddings.weight",
    final_norm: "model.norm.weight",
    head: "output.weight",
    attention_norm: "attention_norm",
    projections: Projections::Packed("attention.wqkv"),
    attention_output: "attention.wo",
    feed_forward_norm: "ffn_norm",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
};

struct Finder<'a> {
    checkpoint: &'a Checkpoint,
}

impl Finder<'_> {
    fn layer(&self, naming: &Naming, layer_idx: usize, config: &ModelConfig) -> Result<LayerTensors, LlamaError> {
        let name = |part: &str| format!("model.layers.{layer_idx}.{part}");
        let norm = |part: &str| self.vector(&format!("{}.weight", name(part)), config.hidden);
        let linear = |part: &str, outputs, inputs, bias| self.linear(&name(part), outputs, inputs, bias);
        let [query, key, value] = match naming.projections {
            Projections::Apart([query, key, value]) => {
                let bias = config.attention_bias;
                [
                    linear(query, config.query_dim(), config.hidden, bias)?,
                    linear(key, config.kv_dim(), config.hidden, bias)?,
                    linear(value, config.kv_dim(), config.hidden, bias)?,
                ]
            }
            Projections::Packed(packed) => self.unpack(&name(packed), config)?,
        };
        Ok(LayerTensors {
            attention_norm: norm(naming.attention_norm)?,
            query,
            key,
            value,
            attention_output: linear(
                naming.attention_output,
                config.hidden,
                config.query_dim(),
                config.attention_output_bias,
            )?,
            feed_forward_norm: norm(naming.feed_forward_norm)?,
            gate: linear(naming.gate, config.intermediate, config.hidden, config.mlp_bias)?,
            up: linear(naming.up, config.intermediate, config.hidden, config.mlp_bias)?,
            down: linear(naming.down, config.hidden, config.intermediate, config.mlp_bias)?,
        })
    }

    /// Picks queries, keys and values out of a packed projection.
    fn unpack(&self, name: &str, config: &ModelConfig) -> Result<[Linear; 3], LlamaError> {
        let groups = config.heads / config.kv_heads;
        let stride = (groups + 2) * config.head_dim;
        let packed = self.linear(name, config.kv_heads * stride, config.hidden, config.attention_bias)?;
        let pick = |first_head: usize, n_heads: usize| {
            let selection =
                SourceRows::Blocks { first: first_head * config.head_dim, block: n_heads * config.head_dim, stride };
            let rows = config.kv_heads * n_heads * config.head_dim;
            let mut linear = packed.clone();
            linear.matrix.selection = selection;
            linear.matrix.rows = rows;
            if let Some(bias) = &mut linear.bias {
                bias.selection = selection;
                bias.len = rows;
            }
            linear
        };
        Ok([pick(0, groups), pick(groups, 1), pick(groups + 1, 1)])
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, LlamaError> {
        let matrix = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let bias_name = format!("{name}.bias");
        if !bias && self.checkpoint.tensors.contains_key(&bias_name) {
            // Leaving a stored bias out would give wrong tokens without a word.
            return Err(LlamaError::UnexpectedTensor {
                file: self.checkpoint.path().to_path_buf(),
                tensor: bias_name,
                expected: "no bias, by config.json and the model's architecture".into(),
            });
        }
        let bias = match bias {
            true => Some(self.vector(&bias_name, outputs)?),
            false => None,
        };
        Ok(Linear { matrix, bias })
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, LlamaError> {
        Ok(Matrix { source: self.tensor(name, &[rows, columns])?, selection: SourceRows::All, rows, columns })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vector, LlamaError> {
        Ok(Vector { source: self.tensor(name, &[len])?, selection: SourceRows::All, len })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorRef, LlamaError> {
        let Some(tensor) = self.checkpoint.tensor(name)? else {
            return Err(LlamaError::MissingTensor {
                file: self.checkpoint.path().to_path_buf(),
                tensor: name.to_owned(),
                expected: format!("a tensor of shape {shape:?}"),
                nearest: self.nearest(name),
            });
        };
        if tensor.shape() != shape {
            return Err(LlamaError::TensorShape {
                file: tensor.file().path().to_path_buf(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape().to_vec(),
            });
        }
        Ok(tensor)
    }

    /// The name that shares the longest end with `name`, if the end is more than `.weight`.
    fn nearest(&self, name: &str) -> Option<String> {
        let common_end = |other: &str| {
            let pairs = name.bytes().rev().zip(other.bytes().rev());
            pairs.take_while(|(a, b)| a == b).count()
        };
        self.checkpoint
            .names()
            .map(|other| (common_end(other), other))
            .filter(|&(length, _)| length > ".weight".len() + 2)
            .max_by_key(|&(length, _)| length)
            .map(|(_, other)| crate::error::shorten(other))
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
