//! What a dispatch is told, as the shaders see it. The order of the fields is that of `wgsl/common.wgsl`.

use bytemuck::{Pod, Zeroable};

/// What changes from step to step; one for all dispatches of a submission.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Step {
    /// Positions that are in the KV cache already.
    pub past: u32,
    /// Rows in use.
    pub rows: u32,
    /// A power of two that is no less than the positions of the cache behind the step.
    pub most_keys: u32,
    /// Uniform blocks are multiples of 16 bytes.
    pub unused: u32,
}

impl Step {
    /// The most workgroups that share the keys of a head.
    pub(crate) const MAX_SPLITS: u32 = 32;
    /// The fewest keys that are worth a workgroup.
    pub(crate) const MIN_SPLIT_KEYS: u32 = 128;

    /// A step of so many rows behind so many others.
    pub fn new(past: u32, rows: u32) -> Step {
        let most_keys = past.saturating_add(rows).checked_next_power_of_two().unwrap_or(1 << 31);
        Step { past, rows, most_keys: most_keys.max(Self::MIN_SPLIT_KEYS), unused: 0 }
    }

    /// What the workgroups of a step go by: commands recorded for one step serve all with the same.
    pub fn recorded_for(&self) -> (u32, u32) {
        (self.rows, self.most_keys)
    }

    /// Into how many parts split attention cuts the keys.
    pub(crate) fn n_splits(&self) -> u32 {
        self.most_keys / (self.most_keys / Self::MAX_SPLITS).max(Self::MIN_SPLIT_KEYS)
    }
}

/// Shapes and the rectangle to compute, set once. A kernel looks at those that it needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Params {
    /// First row of the rectangle.
    pub first_row: u32,
    /// One past the last row of the rectangle; a step computes those of its rows that are in use.
    pub end_row: u32,
    /// So many rows are always in use: the output's rows where they do not count positions, else 0.
    pub fixed_rows: u32,
    /// First column of the rectangle. For linear kernels, the output column of the first weight row bound.
    pub first_column: u32,
    /// Columns of the rectangle; weight rows bound, for linear kernels.
    pub n_columns: u32,
    /// Columns of the first input; `in_features` of linear kernels.
    pub input_columns: u32,
    /// Columns of the output tensor.
    pub output_columns: u32,
    /// Query heads that share a head of keys and values.
    pub group_heads: u32,
    /// Features of a head.
    pub head_dim: u32,
    /// Positions that a cache has room for.
    pub context: u32,
    /// First row of the table that is bound; for tables in several pieces.
    pub first_table_row: u32,
    /// Rows of the table that are bound.
    pub n_table_rows: u32,
    /// Size of a weight panel in lines of 16 bytes.
    pub panel_lines: u32,
    /// 1 when only the last row in use is copied, into row 0.
    pub last_row_only: u32,
    /// What attention multiplies scores with.
    pub scale: f32,
    /// Keeps the root of a norm away from zero.
    pub epsilon: f32,
    /// The columns of a second and a third output, where a kernel has several.
    pub others: [Columns; 2],
}

/// Columns of an output besides the first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Columns {
    /// The first to compute.
    pub first: u32,
    /// How many there are to compute.
    pub count: u32,
    /// Columns of the tensor.
    pub total: u32,
    /// Where its bias begins among those of all matrices.
    pub bias: u32,
}
