//! The kernels: what each computes, on which types, and how many workgroups it takes.

use std::fmt;

use crate::{Element, Format, Params, Step, source};

/// What a device has beyond the plain core of WGSL. A kernel has a variant for each, and a plain one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features {
    /// 16-bit floats in storage buffers: results of that type are written without atomics.
    pub f16: bool,
    /// Subgroup operations: sums over a workgroup take fewer barriers. Subgroups must have four invocations or more.
    pub subgroups: bool,
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
    /// Divides rows by the root of their mean square and multiplies with a table.
    RmsNorm { input: Element, table: Element, output: Element },
    /// Softmax of each row.
    Softmax { input: Element, output: Element },
    /// Causal grouped-query attention over a cache. Heads have a multiple of 4 features, up to
    /// [`Kernel::MAX_HEAD_DIM`].
    Attention { queries: Element, keys: Element, values: Element, output: Element },
    /// Matrix times a few rows, each byte of the matrix read once for `rows` of them (1, 2 or 4) by workgroups of
    /// `lanes` invocations (64 to 256). `is_whole_groups` says that rows have a multiple of 32 features.
    LinearVector {
        format: Format,
        input: Element,
        output: Element,
        bias: Option<Element>,
        is_whole_groups: bool,
        rows: u32,
        lanes: u32,
    },
    /// Matrix times many rows, by tiles of `tile_rows` rows (16 or 64) in workgroup memory.
    LinearTiled {
        format: Format,
        input: Element,
        output: Element,
        bias: Option<Element>,
        is_whole_groups: bool,
        tile_rows: u32,
    },
}

/// A kernel as WGSL, with its entry point `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shader {
    /// Its source.
    pub wgsl: String,
    /// How many inputs it binds, from binding 3 on.
    pub n_inputs: usize,
}

impl Kernel {
    /// The most features of a head that attention takes.
    pub const MAX_HEAD_DIM: u32 = 256;
    /// Invocations that compute a row together.
    pub(crate) const ROW_LANES: u32 = 256;
    /// Invocations that compute a head of a row together.
    pub(crate) const HEAD_LANES: u32 = 128;
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
        "rms_norm",
        "softmax",
        "attention",
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
            Kernel::RmsNorm { .. } => "rms_norm",
            Kernel::Softmax { .. } => "softmax",
            Kernel::Attention { .. } => "attention",
            Kernel::LinearVector { .. } => "linear_vector",
            Kernel::LinearTiled { .. } => "linear_tiled",
        }
    }

    /// The source for a device with some features.
    pub fn shader(self, features: Features) -> Shader {
        Shader { wgsl: source::wgsl(self, features), n_inputs: self.n_inputs() }
    }

    /// How many inputs it binds.
    pub fn n_inputs(self) -> usize {
        match self {
            Kernel::Convert { .. } | Kernel::CacheWrite { .. } | Kernel::Softmax { .. } => 1,
            Kernel::Add { .. }
            | Kernel::Swiglu { .. }
            | Kernel::Embed { .. }
            | Kernel::Rope { .. }
            | Kernel::RmsNorm { .. } => 2,
            Kernel::Attention { .. } => 3,
            Kernel::LinearVector { bias, .. } | Kernel::LinearTiled { bias, .. } => 2 + usize::from(bias.is_some()),
        }
    }

    /// The type of its output.
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
            | Kernel::LinearVector { output, .. }
            | Kernel::LinearTiled { output, .. } => output,
        }
    }

    /// Workgroups for a step, in two dimensions; `None` when the rectangle lies behind the rows in use.
    pub fn workgroups(self, params: &Params, step: &Step) -> Option<[u32; 2]> {
        let end_row = params.end_row.min(step.rows.max(params.fixed_rows));
        let n_rows = end_row.saturating_sub(params.first_row);
        let (across, rows_each) = match self {
            Kernel::RmsNorm { .. } | Kernel::Softmax { .. } => (1, 1),
            Kernel::Attention { .. } => (params.n_columns / params.head_dim, 1),
            Kernel::LinearVector { rows, .. } => (params.n_columns.div_ceil(16), rows),
            Kernel::LinearTiled { tile_rows, .. } => (params.n_columns.div_ceil(64), tile_rows),
            _ => (params.n_columns.div_ceil(256), 1),
        };
        (n_rows > 0 && across > 0).then(|| [across, n_rows.div_ceil(rows_each).min(Self::MAX_GROUPS)])
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
                for other in Element::ALL {
                    all.push(Kernel::Add { inputs: [input, other], output });
                    all.push(Kernel::Swiglu { inputs: [input, other], output });
                    all.push(Kernel::RmsNorm { input, table: other, output });
                    all.push(Kernel::Attention { queries: input, keys: other, values: other, output });
                }
                for format in Format::ALL {
                    for bias in [None, Some(Element::F32), Some(Element::F16), Some(Element::Bf16)] {
                        for is_whole_groups in [false, true] {
                            for (rows, lanes) in [(1, 64), (2, 64), (4, 64), (1, 128), (1, 256), (4, 256)] {
                                all.push(Kernel::LinearVector {
                                    format,
                                    input,
                                    output,
                                    bias,
                                    is_whole_groups,
                                    rows,
                                    lanes,
                                });
                            }
                            for tile_rows in [16, 64] {
                                all.push(Kernel::LinearTiled {
                                    format,
                                    input,
                                    output,
                                    bias,
                                    is_whole_groups,
                                    tile_rows,
                                });
                            }
                        }
                    }
                }
            }
        }
        all
    }
}

impl fmt::Display for Kernel {
    /// A name that tells kernels apart, such as `linear_vector w4g32 f32 -> f32, 1 row`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bias_name = |bias: &Option<Element>| bias.map_or(String::new(), |bias| format!(" + {} bias", bias.name()));
        let groups = |is_whole: bool| if is_whole { "" } else { ", odd" };
        match self {
            Kernel::Add { inputs, .. } => write!(f, "add {} {}", inputs[0].name(), inputs[1].name())?,
            Kernel::Swiglu { inputs, .. } => write!(f, "swiglu {} {}", inputs[0].name(), inputs[1].name())?,
            Kernel::Convert { input, .. } => write!(f, "convert {}", input.name())?,
            Kernel::Embed { table, .. } => write!(f, "embed {}", table.name())?,
            Kernel::CacheWrite { input, .. } => write!(f, "cache_write {}", input.name())?,
            Kernel::Rope { input, .. } => write!(f, "rope {}", input.name())?,
            Kernel::RmsNorm { input, table, .. } => write!(f, "rms_norm {} {}", input.name(), table.name())?,
            Kernel::Softmax { input, .. } => write!(f, "softmax {}", input.name())?,
            Kernel::Attention { queries, keys, values, .. } => {
                write!(f, "attention {} {} {}", queries.name(), keys.name(), values.name())?;
            }
            Kernel::LinearVector { format, input, bias, is_whole_groups, rows, lanes, .. } => {
                let (bias, groups) = (bias_name(bias), groups(*is_whole_groups));
                write!(
                    f,
                    "linear_vector {} {}{bias}, {rows} rows, {lanes} lanes{groups}",
                    format.name(),
                    input.name()
                )?;
            }
            Kernel::LinearTiled { format, input, bias, is_whole_groups, tile_rows, .. } => {
                let (bias, groups) = (bias_name(bias), groups(*is_whole_groups));
                write!(f, "linear_tiled {} {}{bias}, {tile_rows} rows{groups}", format.name(), input.name())?;
            }
        }
        write!(f, " -> {}", self.output().name())
    }
}
