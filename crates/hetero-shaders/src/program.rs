//! What the nodes of a segment are on a GPU: dispatches, of which each has a kernel for every number of rows.
//!
//! The same for all GPU backends, which differ in what a buffer is: they say so through [`Buffers`].

use std::any::Any;
use std::collections::HashMap;

use hetero_core::{
    Arrangement, BackendError, DType, Graph, NodeId, Op, OpSpec, RowSelection, Rows, SegmentNode, Support, ValueId,
    Weight, WeightFormat, WeightLayout, WeightRows,
};

use crate::{Element, Format, Kernel, Knobs, Params, Step};

/// Where the buffers of a backend come from.
pub trait Buffers {
    /// A buffer, or a part of one, as a kernel binds it. Clones are of the same memory.
    type Buffer: Clone + 'static;
    /// The backend's weights.
    type Weight: Pieces<Self::Buffer>;

    /// A buffer that holds some bytes for good.
    fn constant(&mut self, bytes: &[u8]) -> Result<Self::Buffer, BackendError>;

    /// Invocations of a workgroup that multiplies a panel with a vector: 64, 128 or 256.
    fn vector_lanes(&self) -> u32;

    /// Which variants of which kernels may be used.
    fn knobs(&self) -> &Knobs;
}

/// A weight of a GPU backend.
pub trait Pieces<B>: Weight {
    /// Its rows, in pieces that a kernel can bind, in order.
    fn pieces(&self) -> &[Piece<B>];
}

/// Some rows of a weight, in one buffer.
#[derive(Clone, Debug)]
pub struct Piece<B> {
    /// Where they are.
    pub buffer: B,
    /// The first of them, counted from the first row of the weight.
    pub first_row: usize,
    /// How many there are.
    pub n_rows: usize,
}

/// A dispatch, made ready for every step.
#[derive(Clone, Debug)]
pub struct Dispatch<B> {
    /// Kernels by the most rows that each is for, rising; the last is for any number. All bind the same buffers.
    pub kernels: Vec<(u32, Kernel)>,
    /// What it is told.
    pub params: Params,
    /// The value that it writes.
    pub output: ValueId,
    /// The inputs, in the kernels' order.
    pub inputs: Vec<Input<B>>,
}

/// What an input of a kernel is.
#[derive(Clone, Debug)]
pub enum Input<B> {
    /// A value of the graph.
    Value(ValueId),
    /// Something that never changes.
    Constant(B),
}

impl<B> Dispatch<B> {
    /// Which of [`Dispatch::kernels`] computes a step, and its workgroups; `None` when there is nothing to compute.
    pub fn choose(&self, step: &Step) -> Option<(usize, [u32; 2])> {
        choose(&self.kernels, &self.params, step)
    }
}

/// As [`Dispatch::choose`], for a backend that keeps the parts of a dispatch in its own way.
pub fn choose(kernels: &[(u32, Kernel)], params: &Params, step: &Step) -> Option<(usize, [u32; 2])> {
    let rows = if params.fixed_rows > 0 { params.fixed_rows } else { step.rows };
    let idx = kernels.iter().position(|(most_rows, _)| rows <= *most_rows).unwrap_or(kernels.len() - 1);
    kernels[idx].1.workgroups(params, step).map(|workgroups| (idx, workgroups))
}

/// Constants that several nodes of a segment share, such as the frequencies of rotary embeddings.
#[derive(Debug)]
pub struct Constants<B>(HashMap<Vec<u32>, B>);

impl<B> Default for Constants<B> {
    fn default() -> Self {
        Constants(HashMap::new())
    }
}

/// Where some rows of a weight are to be cut so that no piece has more than `most_bytes`: for each piece its bytes in the
/// whole matrix, its first row counted from the first of `rows`, and how many it has. Panels stay whole. `None` when a
/// single panel or row is larger.
pub fn cut(rows: &WeightRows, most_bytes: u64) -> Result<Vec<(std::ops::Range<usize>, usize, usize)>, TooLarge> {
    let layout = rows.matrix.layout();
    let (unit_rows, unit_bytes) = match layout.arrangement {
        Arrangement::Panels => (WeightLayout::PANEL_ROWS, layout.panel_bytes()),
        Arrangement::Rows => (1, layout.columns * layout.format.element_bits() / 8),
    };
    let most_units = usize::try_from(most_bytes / unit_bytes.max(1) as u64).unwrap_or(usize::MAX);
    if most_units == 0 {
        return Err(TooLarge { bytes: unit_bytes as u64 });
    }
    let bytes = match layout.arrangement {
        Arrangement::Panels => layout.byte_range(rows.rows.clone()),
        Arrangement::Rows => rows.rows.start * unit_bytes..rows.rows.end * unit_bytes,
    };
    let piece_rows = most_units.saturating_mul(unit_rows);
    let piece_bytes = most_units.saturating_mul(unit_bytes);
    let pieces = (0..rows.rows.len()).step_by(piece_rows).enumerate().map(|(idx, first_row)| {
        let start = bytes.start + idx * piece_bytes;
        let end = bytes.end.min(start.saturating_add(piece_bytes));
        (start..end, first_row, piece_rows.min(rows.rows.len() - first_row))
    });
    Ok(pieces.collect())
}

/// A row or panel of a weight that is larger than a kernel can bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of a weight that cannot be cut are more than a kernel can bind")]
pub struct TooLarge {
    /// Its size.
    pub bytes: u64,
}

/// Rows up to which a product reads the weights once for all of them, instead of making tiles.
const VECTOR_ROWS: u32 = 4;

/// Whether the kernels take an operator.
pub fn support(spec: &OpSpec) -> Support {
    let no = |reason: String| Support::No(reason);
    let is_lookup = matches!(spec.op, Op::Embed { .. });
    for (idx, input) in spec.inputs.iter().enumerate() {
        let fits = if is_lookup && idx == 0 { *input == DType::U32 } else { input.is_float() };
        if !fits {
            return no(format!("input {idx} is {input}"));
        }
    }
    if !spec.output.is_float() {
        return no(format!("the output is {}", spec.output));
    }
    match spec.op {
        Op::Attention { head_dim, .. } if head_dim % 4 != 0 || head_dim > Kernel::MAX_HEAD_DIM as usize => {
            no(format!("heads of {head_dim} features: a multiple of 4 up to {} is expected", Kernel::MAX_HEAD_DIM))
        }
        Op::Embed { .. }
        | Op::Linear { .. }
        | Op::RmsNorm { .. }
        | Op::Rope { .. }
        | Op::CacheWrite { .. }
        | Op::Attention { .. }
        | Op::Swiglu { .. }
        | Op::Add { .. }
        | Op::Convert { .. }
        | Op::Softmax { .. } => Support::Yes,
        _ => no(format!("{} is unknown here", spec.op.name())),
    }
}

/// The dispatches of a node.
///
/// # Panics
/// When [`support`] says no to it, or its weights are another backend's.
pub fn dispatches<S: Buffers>(
    buffers: &mut S,
    graph: &Graph,
    segment_node: &SegmentNode,
    constants: &mut Constants<S::Buffer>,
) -> Result<Vec<Dispatch<S::Buffer>>, BackendError> {
    let SegmentNode { node: id, part, weights, .. } = segment_node;
    let node = graph.node(*id);
    let output_desc = graph.tensor_desc(node.output);
    let is_fixed = matches!(graph.value(node.output).rows, Rows::Fixed(_));
    let input = |idx: usize| element(graph.value(node.inputs[idx]).dtype);
    let output = element(output_desc.dtype);
    let params = Params {
        first_row: part.rows.start as u32,
        end_row: part.rows.end as u32,
        fixed_rows: if is_fixed { part.rows.end as u32 } else { 0 },
        first_column: part.columns.start as u32,
        n_columns: part.columns.len() as u32,
        input_columns: graph.value(node.inputs[0]).columns as u32,
        output_columns: output_desc.columns as u32,
        ..Params::default()
    };
    let values = || node.inputs.iter().map(|&value| Input::Value(value));
    let single = |kernel: Kernel, params: Params, inputs: Vec<Input<S::Buffer>>| Dispatch {
        kernels: vec![(u32::MAX, kernel)],
        params,
        output: node.output,
        inputs,
    };
    let table = |weight_idx: usize| gpu_weight::<S>(&*weights[weight_idx]);
    Ok(match &node.op {
        Op::Add { .. } => {
            vec![single(Kernel::Add { inputs: [input(0), input(1)], output }, params, values().collect())]
        }
        Op::Swiglu { .. } => {
            vec![single(Kernel::Swiglu { inputs: [input(0), input(1)], output }, params, values().collect())]
        }
        Op::Convert { rows, .. } => {
            let params = Params { last_row_only: u32::from(*rows == RowSelection::Last), ..params };
            vec![single(Kernel::Convert { input: input(0), output }, params, values().collect())]
        }
        Op::Softmax { .. } => vec![single(Kernel::Softmax { input: input(0), output }, params, values().collect())],
        Op::Embed { .. } => {
            let kernel = Kernel::Embed { table: table_element(table(0)), output };
            let pieces = table(0).pieces().iter().map(|piece| {
                let inputs = values().chain([Input::Constant(piece.buffer.clone())]).collect();
                let params =
                    Params { first_table_row: piece.first_row as u32, n_table_rows: piece.n_rows as u32, ..params };
                single(kernel, params, inputs)
            });
            pieces.collect()
        }
        Op::RmsNorm { epsilon, .. } => {
            let kernel = Kernel::RmsNorm { input: input(0), table: table_element(table(0)), output };
            let inputs = values().chain([Input::Constant(only_piece(table(0)))]).collect();
            vec![single(kernel, Params { epsilon: *epsilon, ..params }, inputs)]
        }
        Op::Rope { head_dim, frequencies: turns, .. } => {
            let bits: Vec<u32> = turns.iter().map(|turn| turn.to_bits()).collect();
            let buffer = match constants.0.get(&bits) {
                Some(buffer) => buffer.clone(),
                None => {
                    let buffer = buffers.constant(bytemuck::cast_slice(turns))?;
                    constants.0.insert(bits, buffer.clone());
                    buffer
                }
            };
            // The kernel counts pairs.
            let params = Params { n_columns: params.n_columns / 2, head_dim: *head_dim as u32, ..params };
            let inputs = values().chain([Input::Constant(buffer)]).collect();
            vec![single(Kernel::Rope { input: input(0), output }, params, inputs)]
        }
        Op::CacheWrite { kv_heads, head_dim, context } => {
            // The part is the cache; the kernel counts rows and columns of the input.
            let params = Params {
                first_row: 0,
                end_row: graph.capacity() as u32,
                fixed_rows: 0,
                first_column: 0,
                n_columns: (kv_heads * head_dim) as u32,
                head_dim: *head_dim as u32,
                context: *context as u32,
                ..params
            };
            vec![single(Kernel::CacheWrite { input: input(0), cache: output }, params, values().collect())]
        }
        Op::Attention { heads, kv_heads, head_dim, context, scale } => {
            let kernel = Kernel::Attention { queries: input(0), keys: input(1), values: input(2), output };
            let params = Params {
                group_heads: (heads / kv_heads) as u32,
                head_dim: *head_dim as u32,
                context: *context as u32,
                scale: *scale,
                ..params
            };
            vec![single(kernel, params, values().collect())]
        }
        Op::Linear { .. } => linear::<S>(buffers.vector_lanes(), graph, *id, weights, params),
        other => unreachable!("{} was refused by `support`", other.name()),
    })
}

/// A dispatch for each piece of the matrix.
fn linear<S: Buffers>(
    lanes: u32,
    graph: &Graph,
    id: NodeId,
    weights: &[std::sync::Arc<dyn Weight>],
    params: Params,
) -> Vec<Dispatch<S::Buffer>> {
    let node = graph.node(id);
    let matrix = gpu_weight::<S>(&*weights[0]);
    let layout = matrix.rows().matrix.layout();
    let bias = weights.get(1).map(|weight| gpu_weight::<S>(&**weight));
    let most_rows = match graph.value(node.output).rows {
        Rows::Positions => graph.capacity(),
        Rows::Fixed(rows) => rows,
    };
    let kernels = linear_kernels(
        most_rows as u32,
        LinearTypes {
            format: format(layout.format),
            input: element(graph.value(node.inputs[0]).dtype),
            output: element(graph.value(node.output).dtype),
            bias: bias.map(table_element),
            is_whole_groups: layout.columns.is_multiple_of(32),
        },
        lanes,
    );
    let dispatch = |piece: &Piece<S::Buffer>| Dispatch {
        kernels: kernels.clone(),
        params: Params {
            first_column: params.first_column + piece.first_row as u32,
            n_columns: piece.n_rows as u32,
            panel_lines: (layout.panel_bytes() / 16) as u32,
            ..params
        },
        output: node.output,
        inputs: [Input::Value(node.inputs[0]), Input::Constant(piece.buffer.clone())]
            .into_iter()
            .chain(bias.map(|bias| Input::Constant(only_piece(bias))))
            .collect(),
    };
    matrix.pieces().iter().map(dispatch).collect()
}

/// On which types a linear operator works.
#[derive(Clone, Copy)]
struct LinearTypes {
    format: Format,
    input: Element,
    output: Element,
    bias: Option<Element>,
    is_whole_groups: bool,
}

/// The kernels of a linear operator on up to `most_rows` rows. The choice goes by the rows of the step, which are the
/// same for all parts of an output.
fn linear_kernels(most_rows: u32, types: LinearTypes, lanes: u32) -> Vec<(u32, Kernel)> {
    let LinearTypes { format, input, output, bias, is_whole_groups } = types;
    let vector = |rows| Kernel::LinearVector { format, input, output, bias, is_whole_groups, rows, lanes };
    let tiled = |tile_rows| Kernel::LinearTiled { format, input, output, bias, is_whole_groups, tile_rows };
    let all = [(1, vector(1)), (2, vector(2)), (VECTOR_ROWS, vector(4)), (16, tiled(16)), (u32::MAX, tiled(64))];
    let needed = all.iter().position(|(rows, _)| *rows >= most_rows).expect("the last is for any number");
    all[..=needed].to_vec()
}

fn gpu_weight<S: Buffers>(weight: &dyn Weight) -> &S::Weight {
    let weight: &dyn Any = weight;
    weight.downcast_ref().expect("a backend gets the weights that it loaded")
}

/// The buffer of a table of one row, which is never cut.
fn only_piece<B: Clone>(weight: &impl Pieces<B>) -> B {
    weight.pieces()[0].buffer.clone()
}

fn table_element(weight: &impl Weight) -> Element {
    match weight.rows().matrix.layout().format {
        WeightFormat::F32 => Element::F32,
        WeightFormat::F16 => Element::F16,
        WeightFormat::Bf16 => Element::Bf16,
        other => unreachable!("a table cannot be {other}"),
    }
}

fn element(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        // Token ids: the kernels that read them take words and ask for no type.
        DType::U32 | DType::U8 => Element::F32,
    }
}

fn format(format: WeightFormat) -> Format {
    match format {
        WeightFormat::F32 => Format::F32,
        WeightFormat::F16 => Format::F16,
        WeightFormat::Bf16 => Format::Bf16,
        WeightFormat::W8G32 => Format::W8G32,
        WeightFormat::W4G32 => Format::W4G32,
    }
}
