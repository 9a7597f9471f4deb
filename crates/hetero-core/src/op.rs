//! The operators: what they are called, which shapes they take, how their outputs may be cut.
//!
//! There are about ten and there should stay about ten. What each computes is a plain loop in [`mod@crate::reference`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{DType, WeightFormat};

/// An operator with its parameters.
///
/// Activations are `[positions, features]`. `heads` counts query heads, `kv_heads` the heads of keys and values that
/// groups of query heads share.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// Looks token ids up. Input: ids `[positions, 1]`. Weight: table `[vocabulary, features]`.
    Embed {
        /// Rows of the table.
        vocabulary: usize,
        /// Columns of the table and of the output.
        features: usize,
    },
    /// `y = x Wᵀ + b`. Input: `[positions, in_features]`. Weights: `[out_features, in_features]` and, with `bias`,
    /// a table `[1, out_features]`.
    Linear {
        /// Columns of the input.
        in_features: usize,
        /// Columns of the output.
        out_features: usize,
        /// What the weight matrix holds.
        format: WeightFormat,
        /// Whether a bias is added.
        bias: bool,
    },
    /// `y = x / sqrt(mean(x²) + epsilon) * w`, the mean over one row. Weight: table `[1, features]`.
    RmsNorm {
        /// Columns of input and output.
        features: usize,
        /// Keeps the root away from zero.
        epsilon: f32,
    },
    /// Rotates each head's pairs `(i, i + head_dim / 2)` by `position * frequencies[i]`, with the absolute position.
    Rope {
        /// Heads in a row.
        heads: usize,
        /// Features of a head, even.
        head_dim: usize,
        /// Radians per position, `head_dim / 2` of them, any scaling included.
        frequencies: Arc<[f32]>,
    },
    /// Copies keys or values of this step's positions into the cache. Input: `[positions, kv_heads * head_dim]`.
    /// Output: the cache `[kv_heads * context, head_dim]`, of which only the rows of these positions change.
    CacheWrite {
        /// Heads in a row of the input.
        kv_heads: usize,
        /// Features of a head.
        head_dim: usize,
        /// Positions that the cache has room for.
        context: usize,
    },
    /// Causal grouped-query attention. Inputs: queries `[positions, heads * head_dim]`, the caches of keys and of
    /// values `[kv_heads * context, head_dim]`. A position sees itself and all before it.
    Attention {
        /// Query heads.
        heads: usize,
        /// Key and value heads, a divisor of `heads`.
        kv_heads: usize,
        /// Features of a head.
        head_dim: usize,
        /// Positions that the caches have room for.
        context: usize,
        /// What scores are multiplied with before the softmax, usually `1 / sqrt(head_dim)`.
        scale: f32,
    },
    /// `y = gate / (1 + exp(-gate)) * up`. Inputs: gate and up, `[positions, features]`.
    Swiglu {
        /// Columns of inputs and output.
        features: usize,
    },
    /// `y = a + b`. Inputs: `[positions, features]`.
    Add {
        /// Columns of inputs and output.
        features: usize,
    },
    /// Copies rows, to another element type if the output has one.
    Convert {
        /// Which rows.
        rows: RowSelection,
        /// Columns of input and output.
        features: usize,
    },
    /// `y = exp(x - max) / sum`, over each row.
    Softmax {
        /// Columns of input and output.
        features: usize,
    },
}

/// Which rows an [`Op::Convert`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowSelection {
    /// All rows in use.
    All,
    /// The last row in use, into row 0.
    Last,
}

/// How the output of an operator may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// Whether positions may be computed apart.
    pub rows: bool,
    /// Columns may be cut at multiples of this; `None` when they may not be cut.
    pub columns: Option<usize>,
}

impl Op {
    /// A short name, the same for all parameters.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::Linear { .. } => "linear",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Rope { .. } => "rope",
            Op::CacheWrite { .. } => "cache_write",
            Op::Attention { .. } => "attention",
            Op::Swiglu { .. } => "swiglu",
            Op::Add { .. } => "add",
            Op::Convert { .. } => "convert",
            Op::Softmax { .. } => "softmax",
        }
    }

    /// Columns of each input, in order.
    pub fn input_columns(&self) -> Vec<usize> {
        match *self {
            Op::Embed { .. } => vec![1],
            Op::Linear { in_features, .. } => vec![in_features],
            Op::Rope { heads, head_dim, .. } => vec![heads * head_dim],
            Op::CacheWrite { kv_heads, head_dim, .. } => vec![kv_heads * head_dim],
            Op::Attention { heads, head_dim, .. } => vec![heads * head_dim, head_dim, head_dim],
            Op::Swiglu { features } | Op::Add { features } => vec![features, features],
            Op::RmsNorm { features, .. } | Op::Convert { features, .. } | Op::Softmax { features } => vec![features],
        }
    }

    /// Columns of the output.
    pub fn output_columns(&self) -> usize {
        match *self {
            Op::Linear { out_features, .. } => out_features,
            Op::Rope { heads, head_dim, .. } | Op::Attention { heads, head_dim, .. } => heads * head_dim,
            Op::CacheWrite { head_dim, .. } => head_dim,
            Op::Embed { features, .. }
            | Op::RmsNorm { features, .. }
            | Op::Swiglu { features }
            | Op::Add { features }
            | Op::Convert { features, .. }
            | Op::Softmax { features } => features,
        }
    }

    /// How the output may be cut.
    pub fn split_rule(&self) -> SplitRule {
        let (rows, columns) = match *self {
            // 32 is the alignment of NPU tiles and two weight panels.
            Op::Linear { .. } => (true, Some(32)),
            Op::Embed { .. } | Op::Swiglu { .. } | Op::Add { .. } => (true, Some(1)),
            Op::Rope { head_dim, .. } => (true, Some(head_dim)),
            // The query heads of a group share keys and values, so they stay together.
            Op::Attention { heads, kv_heads, head_dim, .. } => (true, Some(heads / kv_heads * head_dim)),
            Op::RmsNorm { .. } | Op::Softmax { .. } => (true, None),
            Op::Convert { rows, .. } => (rows == RowSelection::All, Some(1)),
            // The output is the cache, whose rows are heads and positions.
            Op::CacheWrite { .. } => (false, None),
        };
        SplitRule { rows, columns }
    }

    /// Which columns of input `input_idx` some columns of the output depend on.
    pub fn input_dependence(&self, input_idx: usize, output_columns: Range<usize>) -> Range<usize> {
        match self {
            Op::Rope { .. } | Op::Swiglu { .. } | Op::Add { .. } | Op::Convert { .. } => output_columns,
            Op::Attention { .. } if input_idx == 0 => output_columns,
            _ => 0..self.input_columns()[input_idx],
        }
    }

    /// Whether some rows of the output depend on all rows of input `input_idx`, rather than on the same rows of it.
    pub fn mixes_rows(&self, input_idx: usize) -> bool {
        match self {
            Op::Attention { .. } => input_idx > 0,
            Op::CacheWrite { .. } | Op::Convert { rows: RowSelection::Last, .. } => true,
            _ => false,
        }
    }

    /// Arithmetic operations for `rows` positions after `past` others, a multiply and an add counted as two.
    pub fn operations(&self, rows: usize, past: usize) -> u64 {
        let rows_u64 = rows as u64;
        match *self {
            Op::Linear { in_features, out_features, .. } => 2 * rows_u64 * in_features as u64 * out_features as u64,
            Op::Attention { heads, head_dim, .. } => {
                // Row r sees past + r + 1 positions, for the scores and again for the weighted sum.
                let seen = rows_u64 * past as u64 + rows_u64 * (rows_u64 + 1) / 2;
                4 * seen * (heads * head_dim) as u64
            }
            Op::Embed { .. } | Op::CacheWrite { .. } | Op::Convert { .. } => 0,
            Op::Add { features } => rows_u64 * features as u64,
            Op::RmsNorm { features, .. } | Op::Swiglu { features } | Op::Softmax { features } => {
                4 * rows_u64 * features as u64
            }
            Op::Rope { heads, head_dim, .. } => 3 * rows_u64 * (heads * head_dim) as u64,
        }
    }
}

/// An operator with the element types it reads and writes: what a backend is asked whether it supports.
#[derive(Clone, Debug, PartialEq)]
pub struct OpSpec {
    /// The operator.
    pub op: Op,
    /// Element types of the inputs, in order.
    pub inputs: Vec<DType>,
    /// Element type of the output.
    pub output: DType,
}

impl fmt::Display for OpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.name())?;
        if let Op::Linear { in_features, out_features, format, bias } = &self.op {
            write!(f, " {format} {in_features}->{out_features}{}", if *bias { " + bias" } else { "" })?;
        }
        let inputs: Vec<String> = self.inputs.iter().map(DType::to_string).collect();
        write!(f, " ({}) -> {}", inputs.join(", "), self.output)
    }
}
