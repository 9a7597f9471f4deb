//! What the nodes of a segment are on a GPU: dispatches, of which each has a kernel for every number of rows.

use std::collections::HashMap;

use hetero_core::{DType, Graph, NodeId, Op, OpSpec, RowSelection, Rows, SegmentNode, Support, Weight, WeightFormat};
use hetero_shaders::{Element, Format, Kernel, Params};
use wgpu::{Buffer, BufferUsages};

use hetero_core::BackendError;

use crate::queue::Gpu;
use crate::weight::GpuWeight;

/// A dispatch, made ready for every step.
#[derive(Debug)]
pub(crate) struct Dispatch {
    /// Kernels by the most rows that each is for, rising; the last is for any number.
    pub(crate) kernels: Vec<(u32, Kernel)>,
    pub(crate) params: Params,
    /// The output.
    pub(crate) output: hetero_core::ValueId,
    /// The inputs, in the kernels' order.
    pub(crate) inputs: Vec<Input>,
}

/// What an input of a kernel is.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A value of the graph.
    Value(hetero_core::ValueId),
    /// Something that never changes.
    Constant(Buffer),
}

/// Constants that several nodes of a segment use.
pub(crate) type Frequencies = HashMap<Vec<u32>, Buffer>;

/// Rows up to which a product reads the weights once for all of them, instead of making tiles.
const VECTOR_ROWS: u32 = 4;

/// Whether the kernels take an operator.
pub(crate) fn support(spec: &OpSpec) -> Support {
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

/// The dispatches of a node, after [`support`] has said yes.
pub(crate) fn dispatches(
    gpu: &Gpu,
    graph: &Graph,
    segment_node: &SegmentNode,
    frequencies: &mut Frequencies,
) -> Result<Vec<Dispatch>, BackendError> {
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
    let single = |kernel: Kernel, params: Params, inputs: Vec<Input>| Dispatch {
        kernels: vec![(u32::MAX, kernel)],
        params,
        output: node.output,
        inputs,
    };
    let table = |weight_idx: usize| gpu_weight(&*weights[weight_idx]);
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
            let buffer = match frequencies.get(&bits) {
                Some(buffer) => buffer.clone(),
                None => {
                    let buffer = gpu.constant("frequencies", bytemuck::cast_slice(turns), BufferUsages::STORAGE)?;
                    frequencies.insert(bits, buffer.clone());
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
        Op::Linear { .. } => linear(gpu, graph, *id, weights, params),
        other => unreachable!("{} was refused by `support`", other.name()),
    })
}

/// A dispatch for each piece of the matrix.
fn linear(
    gpu: &Gpu,
    graph: &Graph,
    id: NodeId,
    weights: &[std::sync::Arc<dyn Weight>],
    params: Params,
) -> Vec<Dispatch> {
    let node = graph.node(id);
    let matrix = gpu_weight(&*weights[0]);
    let layout = matrix.rows().matrix.layout();
    let bias = weights.get(1).map(|weight| gpu_weight(&**weight));
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
        gpu.vector_lanes,
    );
    let dispatch = |piece: &crate::weight::Piece| Dispatch {
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

fn gpu_weight(weight: &dyn Weight) -> &GpuWeight {
    let weight: &dyn std::any::Any = weight;
    weight.downcast_ref().expect("`compile` has checked whose the weights are")
}

/// The buffer of a table of one row, which is never cut.
fn only_piece(weight: &GpuWeight) -> Buffer {
    weight.pieces()[0].buffer.clone()
}

fn table_element(weight: &GpuWeight) -> Element {
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
