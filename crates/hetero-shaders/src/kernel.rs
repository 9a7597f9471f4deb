//! The kernels: what each computes, on which types, and how many workgroups it takes.

use std::{fmt, iter};

use crate::{Element, Form, Linear, MatrixUnit, Params, Step, Tile, Tiles, source};

/// What a device has beyond the plain core of WGSL. A kernel has a variant for each, and a plain one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features {
    /// 16-bit floats in storage buffers: results of that type are written without atomics.
    pub f16: bool,
    /// Subgroup operations: sums over a workgroup take fewer barriers. Subgroups must have four invocations or more.
    pub subgroups: bool,
    /// Products of four 8-bit integers at once. Without it they are computed one by one.
    pub integer_dot: bool,
    /// 16-bit floats are multiplied and added as such, in products of many rows: less exact, and twice as many at once.
    /// Where it is so, `f16` is.
    pub half: bool,
}

/// A kernel on certain types. Inputs are bound in the order of the fields, the weights or table of an operator after its
/// inputs, a bias last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the fields are the element types of what they are called")]
pub enum Kernel {
    /// Sum of two tensors.
    Add { inputs: [Element; 2], output: Element },
    /// `gate / (1 + exp(-gate)) * up`.
    Swiglu { inputs: [Element; 2], output: Element },
    /// Copies rows, or the last row in use.
    Convert { input: Element, output: Element },
    /// Looks token ids up. The first input is the ids, 32-bit words. A table may come in several pieces, one dispatch each.
    Embed { table: Element, output: Element },
    /// Copies the positions of a step into a cache.
    CacheWrite { input: Element, cache: Element },
    /// Rotates pairs of features. The second input is the frequencies, in f32.
    Rope { input: Element, output: Element },
    /// Rounds rows to 8-bit integers with a scale for each group of 32 columns, for products of integers. The output is
    /// words, and the columns are groups.
    Quantize { input: Element, is_whole_groups: bool },
    /// Divides rows by the root of their mean square and multiplies with a table.
    RmsNorm { input: Element, table: Element, output: Element },
    /// Softmax of each row.
    Softmax { input: Element, output: Element },
    /// Rotates queries and keys, and writes keys and values into their caches, all of them f32 before. The inputs are
    /// queries, keys, values and the frequencies; the outputs the rotated queries, the cache of keys and that of values.
    RopeCache { cache: Element },
    /// Causal grouped-query attention over a cache, a row and head for each workgroup. Heads have a multiple of 4
    /// features, up to [`Kernel::MAX_HEAD_DIM`].
    Attention { queries: Element, keys: Element, values: Element, output: Element },
    /// The same for `tile` queries (1, 4, 8, 16 or 32) that share keys and values, in heads of `head_dim` features. With
    /// `is_split` each workgroup goes over a part of the keys, and the output is sums for [`Kernel::AttentionMerge`].
    AttentionTiled {
        queries: Element,
        keys: Element,
        values: Element,
        output: Element,
        head_dim: u32,
        tile: u32,
        is_split: bool,
    },
    /// Puts together what [`Kernel::AttentionTiled`] has left, in f32.
    AttentionMerge { output: Element },
    /// Matrices times a few rows, each byte of a matrix read once for `rows` of them (1, 2 or 4) by workgroups of
    /// `lanes` invocations (64 to 256).
    LinearVector { linear: Linear, rows: u32, lanes: u32 },
    /// Matrices times many rows, by tiles in workgroup memory.
    LinearTiled { linear: Linear, tile: Tile },
    /// The same by a unit for small matrices, by tiles of `rows` rows and 64 columns. Needs 16-bit floats and subgroups.
    LinearMatrices { linear: Linear, rows: u32, unit: MatrixUnit },
}

/// A kernel as WGSL, with its entry point `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shader {
    /// Its source.
    pub wgsl: String,
    /// How many outputs it binds, from binding 2 on.
    pub n_outputs: usize,
    /// How many inputs it binds, behind the outputs.
    pub n_inputs: usize,
}

impl Kernel {
    /// The most features of a head that attention takes.
    pub const MAX_HEAD_DIM: u32 = 256;
    /// Invocations that compute a row together.
    pub(crate) const ROW_LANES: u32 = 256;
    /// Invocations that compute a head of a row together.
    pub(crate) const HEAD_LANES: u32 = 128;
    /// Invocations that put together what several workgroups have left of a head of a row.
    pub(crate) const MERGE_LANES: u32 = 64;
    /// How many queries a workgroup of [`Kernel::AttentionTiled`] may have.
    pub(crate) const QUERY_TILES: [u32; 5] = [1, 4, 8, 16, 32];
    /// The most workgroups in one dimension that every device takes; kernels go on to further rows by themselves.
    const MAX_GROUPS: u32 = 65_535;

    /// The names that [`Kernel::family`] gives.
    pub const FAMILIES: &[&str] = &[
        "add",
        "swiglu",
        "convert",
        "embed",
        "cache_write",
        "rope",
        "quantize",
        "rms_norm",
        "softmax",
        "rope_cache",
        "attention",
        "attention_tiled",
        "attention_merge",
        "linear_vector",
        "linear_tiled",
    ];

    /// What it is called, whatever types it works on; also its name in [`crate::Knobs`].
    pub fn family(self) -> &'static str {
        match self {
            Kernel::Add { .. } => "add",
            Kernel::Swiglu { .. } => "swiglu",
            Kernel::Convert { .. } => "convert",
            Kernel::Embed { .. } => "embed",
            Kernel::CacheWrite { .. } => "cache_write",
            Kernel::Rope { .. } => "rope",
            Kernel::Quantize { .. } => "quantize",
            Kernel::RmsNorm { .. } => "rms_norm",
            Kernel::Softmax { .. } => "softmax",
            Kernel::RopeCache { .. } => "rope_cache",
            Kernel::Attention { .. } => "attention",
            Kernel::AttentionTiled { .. } => "attention_tiled",
            Kernel::AttentionMerge { .. } => "attention_merge",
            Kernel::LinearVector { .. } => "linear_vector",
            Kernel::LinearTiled { .. } | Kernel::LinearMatrices { .. } => "linear_tiled",
        }
    }

    /// What its shader makes use of, of what the device has. Matrices are only chosen where there is all they need.
    pub fn features(self, features: Features) -> Features {
        match self {
            Kernel::LinearMatrices { .. } => Features { f16: true, subgroups: true, half: false, ..features },
            Kernel::LinearTiled { linear, .. } => Features { half: features.half && !linear.is_integer, ..features },
            _ => Features { half: false, ..features },
        }
    }

    /// The source for a device with some features.
    pub fn shader(self, features: Features) -> Shader {
        Shader { wgsl: source::wgsl(self, features), n_outputs: self.n_outputs(), n_inputs: self.n_inputs() }
    }

    /// Whether its rows are those that [`Kernel::Quantize`] has made.
    pub(crate) fn is_integer(self) -> bool {
        match self {
            Kernel::LinearVector { linear, .. } | Kernel::LinearTiled { linear, .. } => linear.is_integer,
            _ => false,
        }
    }

    /// How many outputs it binds.
    pub fn n_outputs(self) -> usize {
        match self {
            Kernel::RopeCache { .. } => 3,
            Kernel::LinearVector { linear, .. }
            | Kernel::LinearTiled { linear, .. }
            | Kernel::LinearMatrices { linear, .. } => linear.form.n_outputs(),
            _ => 1,
        }
    }

    /// All numbers of outputs and inputs that kernels bind, of which there are at most so many together.
    pub fn bindings(max_storage_buffers: u32) -> Vec<[usize; 2]> {
        let all = (1..=3).flat_map(|n_outputs| (1..=5).map(move |n_inputs| [n_outputs, n_inputs]));
        all.filter(|numbers| numbers.iter().sum::<usize>() <= max_storage_buffers as usize).collect()
    }

    /// How many inputs it binds.
    pub fn n_inputs(self) -> usize {
        match self {
            Kernel::Convert { .. }
            | Kernel::CacheWrite { .. }
            | Kernel::Softmax { .. }
            | Kernel::Quantize { .. }
            | Kernel::AttentionMerge { .. } => 1,
            Kernel::Add { .. }
            | Kernel::Swiglu { .. }
            | Kernel::Embed { .. }
            | Kernel::Rope { .. }
            | Kernel::RmsNorm { .. } => 2,
            Kernel::Attention { .. } | Kernel::AttentionTiled { .. } => 3,
            Kernel::RopeCache { .. } => 4,
            Kernel::LinearVector { linear, .. }
            | Kernel::LinearTiled { linear, .. }
            | Kernel::LinearMatrices { linear, .. } => linear.n_inputs(),
        }
    }

    /// The type of its first output.
    pub fn output(self) -> Element {
        match self {
            Kernel::Add { output, .. }
            | Kernel::Swiglu { output, .. }
            | Kernel::Convert { output, .. }
            | Kernel::Embed { output, .. }
            | Kernel::CacheWrite { cache: output, .. }
            | Kernel::Rope { output, .. }
            | Kernel::RmsNorm { output, .. }
            | Kernel::Softmax { output, .. }
            | Kernel::Attention { output, .. }
            | Kernel::AttentionTiled { output, .. }
            | Kernel::AttentionMerge { output } => output,
            Kernel::RopeCache { .. } | Kernel::Quantize { .. } => Element::F32,
            Kernel::LinearVector { linear, .. }
            | Kernel::LinearTiled { linear, .. }
            | Kernel::LinearMatrices { linear, .. } => linear.output,
        }
    }

    /// The types of its outputs.
    pub fn outputs(self) -> Vec<Element> {
        match self {
            Kernel::RopeCache { cache } => vec![Element::F32, cache, cache],
            _ => vec![self.output(); self.n_outputs()],
        }
    }

    /// Workgroups for a step, in two dimensions; `None` when the rectangle lies behind the rows in use.
    pub fn workgroups(self, params: &Params, step: &Step) -> Option<[u32; 2]> {
        let end_row = params.end_row.min(step.rows.max(params.fixed_rows));
        let n_rows = end_row.saturating_sub(params.first_row);
        let units = |columns: u32| match self {
            Kernel::LinearTiled { tile, .. } => columns.div_ceil(tile.columns),
            Kernel::LinearMatrices { .. } => columns.div_ceil(64),
            _ => columns.div_ceil(16),
        };
        let (across, down) = match self {
            Kernel::RmsNorm { .. } | Kernel::Softmax { .. } => (1, n_rows),
            Kernel::Attention { .. } | Kernel::AttentionMerge { .. } => (params.n_columns / params.head_dim, n_rows),
            Kernel::AttentionTiled { tile, is_split, .. } => {
                let groups = params.n_columns / (params.head_dim * params.group_heads);
                let splits = if is_split { step.n_splits() } else { 1 };
                (groups * splits, (n_rows * params.group_heads).div_ceil(tile))
            }
            Kernel::LinearVector { linear, .. }
            | Kernel::LinearTiled { linear, .. }
            | Kernel::LinearMatrices { linear, .. } => {
                let others = &params.others[..linear.form.n_matrices() - 1];
                let across = match linear.form {
                    Form::Several(_) => others.iter().map(|columns| units(columns.count)).sum(),
                    _ => 0,
                };
                let rows = match self {
                    Kernel::LinearVector { rows, .. } => rows,
                    Kernel::LinearTiled { tile, .. } => tile.rows,
                    Kernel::LinearMatrices { rows, .. } => rows,
                    _ => 1,
                };
                (units(params.n_columns) + across, n_rows.div_ceil(rows))
            }
            _ => (params.n_columns.div_ceil(256), n_rows),
        };
        (n_rows > 0 && across > 0).then(|| [across, down.min(Self::MAX_GROUPS)])
    }

    /// All kernels that there are: for tests, and for checking a driver.
    pub fn all() -> Vec<Kernel> {
        let mut all = Vec::new();
        for output in Element::ALL {
            for input in Element::ALL {
                all.push(Kernel::Convert { input, output });
                all.push(Kernel::Embed { table: input, output });
                all.push(Kernel::CacheWrite { input, cache: output });
                all.push(Kernel::Rope { input, output });
                all.push(Kernel::Softmax { input, output });
                for is_whole_groups in [false, true] {
                    all.push(Kernel::Quantize { input, is_whole_groups });
                }
                for other in Element::ALL {
                    all.push(Kernel::Add { inputs: [input, other], output });
                    all.push(Kernel::Swiglu { inputs: [input, other], output });
                    all.push(Kernel::RmsNorm { input, table: other, output });
                    all.push(Kernel::Attention { queries: input, keys: other, values: other, output });
                    for head_dim in [4, 20, 64, 80, 128, 256] {
                        for tile in Self::QUERY_TILES {
                            let (queries, keys, values) = (input, other, other);
                            let kernel = Kernel::AttentionTiled {
                                queries,
                                keys,
                                values,
                                output,
                                head_dim,
                                tile,
                                is_split: false,
                            };
                            all.push(kernel);
                        }
                    }
                }
            }
            all.push(Kernel::AttentionMerge { output });
            all.push(Kernel::RopeCache { cache: output });
        }
        for tile in Self::QUERY_TILES {
            let (queries, output) = (Element::F32, Element::F32);
            for keys in Element::ALL {
                let kernel =
                    Kernel::AttentionTiled { queries, keys, values: keys, output, head_dim: 128, tile, is_split: true };
                all.push(kernel);
            }
        }
        for linear in Linear::all() {
            for (rows, lanes) in [(1, 64), (2, 64), (4, 64), (1, 128), (1, 256), (4, 256)] {
                all.push(Kernel::LinearVector { linear, rows, lanes });
            }
            let units = [(8, 8), (8, 32), (16, 32), (16, 64)].map(|(size, subgroup)| MatrixUnit { size, subgroup });
            let matrices = units.into_iter().flat_map(|unit| [32, 64].map(|rows| (rows, unit)));
            let is_simple = linear.is_whole_groups && linear.input == Element::F32 && linear.bias.is_none();
            for (idx, (rows, unit)) in matrices.enumerate() {
                if !linear.is_integer && (idx == 0 || is_simple) {
                    all.push(Kernel::LinearMatrices { linear, rows, unit });
                }
            }
            // What types the operands have and how a tile is shared out do not meet: one tile with all types does, and all
            // tiles with one.
            let is_plain = linear.bias.is_none() && [linear.input, linear.output] == [Element::F32; 2];
            let [first, others @ ..] = Tiles::Medium.tiles();
            let others = others.into_iter().chain(Tiles::ALL.into_iter().flat_map(Tiles::tiles));
            for tile in iter::once(first).chain(others.filter(|tile| is_plain && *tile != first)) {
                all.push(Kernel::LinearTiled { linear, tile });
            }
        }
        all
    }
}

impl fmt::Display for Kernel {
    /// A name that tells kernels apart, such as `linear_vector w4g32 f32 -> f32, 1 row`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Add { inputs, .. } => write!(f, "add {} {}", inputs[0].name(), inputs[1].name())?,
            Kernel::Swiglu { inputs, .. } => write!(f, "swiglu {} {}", inputs[0].name(), inputs[1].name())?,
            Kernel::Convert { input, .. } => write!(f, "convert {}", input.name())?,
            Kernel::Embed { table, .. } => write!(f, "embed {}", table.name())?,
            Kernel::CacheWrite { input, .. } => write!(f, "cache_write {}", input.name())?,
            Kernel::Rope { input, .. } => write!(f, "rope {}", input.name())?,
            Kernel::Quantize { input, is_whole_groups } => {
                write!(f, "quantize {}{}", input.name(), if *is_whole_groups { "" } else { ", odd" })?;
            }
            Kernel::RmsNorm { input, table, .. } => write!(f, "rms_norm {} {}", input.name(), table.name())?,
            Kernel::Softmax { input, .. } => write!(f, "softmax {}", input.name())?,
            Kernel::Attention { queries, keys, values, .. } => {
                write!(f, "attention {} {} {}", queries.name(), keys.name(), values.name())?;
            }
            Kernel::RopeCache { cache } => write!(f, "rope_cache {}", cache.name())?,
            Kernel::AttentionTiled { queries, keys, values, head_dim, tile, is_split, .. } => {
                let (queries, keys, values) = (queries.name(), keys.name(), values.name());
                let split = if *is_split { ", split" } else { "" };
                write!(f, "attention_tiled {queries} {keys} {values}, heads of {head_dim}, {tile} queries{split}")?;
            }
            Kernel::AttentionMerge { .. } => f.write_str("attention_merge")?,
            Kernel::LinearVector { linear, rows, lanes } => {
                write!(f, "linear_vector {linear}, {rows} rows, {lanes} lanes")?;
            }
            Kernel::LinearMatrices { linear, rows, unit: MatrixUnit { size, subgroup } } => {
                write!(f, "linear_matrices {linear}, {rows} rows by {size} x {size}, subgroups of {subgroup}")?;
            }
            Kernel::LinearTiled { linear, tile } => write!(f, "linear_tiled {linear}, {tile}")?,
        }
        write!(f, " -> {}", self.output().name())
    }
}
