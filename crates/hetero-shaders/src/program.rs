//! What the nodes of a segment are on a GPU: dispatches, of which each has a kernel for every step.
//!
//! The same for all GPU backends, which differ in what a buffer is: they say so through [`Buffers`].
//!
//! Several nodes in a row can be one dispatch; `fuse` has the table of them.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;

use hetero_core::{
    Arrangement, BackendError, DType, Op, OpSpec, Part, RowSelection, Rows, Segment, SegmentNode, Support, ValueId,
    Weight, WeightFormat, WeightLayout, WeightRows,
};

use crate::{Element, Format, Kernel, Knobs, Limits, Params, Step};

mod attention;
mod fuse;
mod linear;

pub(crate) use self::linear::VECTOR_ROWS;

/// Where the buffers of a backend come from.
pub trait Buffers {
    /// A buffer, or a part of one, as a kernel binds it. Clones are of the same memory.
    type Buffer: Clone + 'static;
    /// The backend's weights.
    type Weight: Pieces<Self::Buffer>;

    /// A buffer that holds some bytes for good.
    fn constant(&mut self, bytes: &[u8]) -> Result<Self::Buffer, BackendError>;

    /// A buffer of so many bytes for what one dispatch leaves for another.
    fn scratch(&mut self, bytes: u64) -> Result<Self::Buffer, BackendError>;

    /// What the device says about its workgroups.
    fn limits(&self) -> Limits;

    /// The most outputs and inputs that a kernel can bind.
    fn max_storage_buffers(&self) -> u32;

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

/// A segment, made ready for every step.
#[derive(Clone, Debug)]
pub struct Program<B> {
    /// What is to be done, in order. A dispatch waits for those before it that write what it reads or writes, or read
    /// what it writes, and for no others.
    pub dispatches: Vec<Dispatch<B>>,
    /// What [`Operand::Scratch`] names.
    pub scratch: Vec<B>,
}

/// A dispatch, made ready for every step.
#[derive(Clone, Debug)]
pub struct Dispatch<B> {
    /// The kernels that it may be, for certain steps each. All bind the same buffers.
    pub choices: Vec<Choice>,
    /// What it is told.
    pub params: Params,
    /// What it writes, in the kernels' order.
    pub outputs: Vec<Operand<B>>,
    /// What it reads, in the kernels' order.
    pub inputs: Vec<Operand<B>>,
}

/// A kernel, and the steps that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The fewest and the most rows.
    pub rows: [u32; 2],
    /// The fewest and the most of [`Step::most_keys`].
    pub keys: [u32; 2],
    /// The kernel.
    pub kernel: Kernel,
}

impl Choice {
    /// A kernel for every step.
    fn always(kernel: Kernel) -> Choice {
        Choice { rows: [0, u32::MAX], keys: [0, u32::MAX], kernel }
    }
}

/// What a kernel binds.
#[derive(Clone, Debug)]
pub enum Operand<B> {
    /// A value of the graph.
    Value(ValueId),
    /// Something that never changes.
    Constant(B),
    /// One of [`Program::scratch`].
    Scratch(usize),
}

/// Which kernel computes a step, and its workgroups; `None` when there is nothing to compute.
pub fn choose(choices: &[Choice], params: &Params, step: &Step) -> Option<(usize, [u32; 2])> {
    let rows = if params.fixed_rows > 0 { params.fixed_rows } else { step.rows };
    let takes = |choice: &Choice| {
        (choice.rows[0]..=choice.rows[1]).contains(&rows) && (choice.keys[0]..=choice.keys[1]).contains(&step.most_keys)
    };
    let idx = choices.iter().position(takes)?;
    choices[idx].kernel.workgroups(params, step).map(|workgroups| (idx, workgroups))
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

/// The dispatches of a segment.
///
/// # Panics
/// When [`support`] says no to a node, or its weights are another backend's.
pub fn program<S: Buffers>(buffers: &mut S, segment: &Segment) -> Result<Program<S::Buffer>, BackendError> {
    let mut builder = Builder {
        buffers,
        segment,
        constants: HashMap::new(),
        scratch: Vec::new(),
        quantised: None,
        dispatches: Vec::new(),
        readers: fuse::readers(&segment.graph),
    };
    let mut idx = 0;
    while idx < segment.nodes.len() {
        let fused = builder.fused(idx)?;
        if fused == 0 {
            builder.node(&segment.nodes[idx])?;
        }
        idx += fused.max(1);
    }
    let scratch: Result<Vec<_>, _> = builder.scratch.iter().map(|(_, bytes)| builder.buffers.scratch(*bytes)).collect();
    Ok(Program { dispatches: builder.dispatches, scratch: scratch? })
}

/// What dispatches leave for each other. One buffer of a kind serves all nodes, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scratch {
    /// What parts of the keys come to.
    Attention,
    /// Rows as integers.
    Integers,
}

/// A program under construction.
struct Builder<'a, S: Buffers> {
    buffers: &'a mut S,
    segment: &'a Segment,
    /// Constants that several nodes share, such as the frequencies of rotary embeddings.
    constants: HashMap<Vec<u32>, S::Buffer>,
    /// Bytes of what dispatches leave for each other.
    scratch: Vec<(Scratch, u64)>,
    /// The value and rows that have been rounded to integers last, and in steps of how many rows.
    quantised: Option<(ValueId, Range<usize>, [u32; 2])>,
    dispatches: Vec<Dispatch<S::Buffer>>,
    /// For each value of the graph, how many nodes read it.
    readers: Vec<usize>,
}

impl<S: Buffers> Builder<'_, S> {
    /// The scratch memory of a kind, of so many bytes at least.
    fn scratch_for(&mut self, kind: Scratch, bytes: u64) -> usize {
        let idx = self.scratch.iter().position(|(known, _)| *known == kind).unwrap_or(self.scratch.len());
        match self.scratch.get_mut(idx) {
            Some((_, most)) => *most = (*most).max(bytes),
            None => self.scratch.push((kind, bytes)),
        }
        idx
    }

    /// Adds the dispatches of a node.
    fn node(&mut self, segment_node: &SegmentNode) -> Result<(), BackendError> {
        let SegmentNode { node: id, weights, .. } = segment_node;
        let graph = &self.segment.graph;
        let node = graph.node(*id);
        let input = |idx: usize| element(graph.value(node.inputs[idx]).dtype);
        let output = element(graph.value(node.output).dtype);
        let params = self.params(segment_node);
        let values = || node.inputs.iter().map(|&value| Operand::Value(value));
        let table = |weight_idx: usize| gpu_weight::<S>(&*weights[weight_idx]);
        match &node.op {
            Op::Add { .. } => {
                self.single(
                    Kernel::Add { inputs: [input(0), input(1)], output },
                    params,
                    node.output,
                    values().collect(),
                );
            }
            Op::Swiglu { .. } => {
                let kernel = Kernel::Swiglu { inputs: [input(0), input(1)], output };
                self.single(kernel, params, node.output, values().collect());
            }
            Op::Convert { rows, .. } => {
                let params = Params { last_row_only: u32::from(*rows == RowSelection::Last), ..params };
                self.single(Kernel::Convert { input: input(0), output }, params, node.output, values().collect());
            }
            Op::Softmax { .. } => {
                self.single(Kernel::Softmax { input: input(0), output }, params, node.output, values().collect());
            }
            Op::Embed { .. } => {
                let kernel = Kernel::Embed { table: table_element(table(0)), output };
                for piece in table(0).pieces() {
                    let inputs = values().chain([Operand::Constant(piece.buffer.clone())]).collect();
                    let params =
                        Params { first_table_row: piece.first_row as u32, n_table_rows: piece.n_rows as u32, ..params };
                    self.single(kernel, params, node.output, inputs);
                }
            }
            Op::RmsNorm { epsilon, .. } => {
                let kernel = Kernel::RmsNorm { input: input(0), table: table_element(table(0)), output };
                let inputs = values().chain([Operand::Constant(only_piece(table(0)))]).collect();
                self.single(kernel, Params { epsilon: *epsilon, ..params }, node.output, inputs);
            }
            Op::Rope { head_dim, frequencies, .. } => {
                // The kernel counts pairs.
                let params = Params { n_columns: params.n_columns / 2, head_dim: *head_dim as u32, ..params };
                let frequencies = Operand::Constant(self.shared_constant(frequencies)?);
                let inputs = values().chain([frequencies]).collect();
                self.single(Kernel::Rope { input: input(0), output }, params, node.output, inputs);
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
                let kernel = Kernel::CacheWrite { input: input(0), cache: output };
                self.single(kernel, params, node.output, values().collect());
            }
            Op::Attention { .. } => self.attention(segment_node, params),
            Op::Linear { .. } => self.linear(segment_node, params),
            other => unreachable!("{} was refused by `support`", other.name()),
        }
        Ok(())
    }

    /// What all kernels of a node are told.
    fn params(&self, SegmentNode { node: id, part, .. }: &SegmentNode) -> Params {
        let graph = &self.segment.graph;
        let node = graph.node(*id);
        let is_fixed = matches!(graph.value(node.output).rows, Rows::Fixed(_));
        let Part { rows, columns } = part;
        Params {
            first_row: rows.start as u32,
            end_row: rows.end as u32,
            fixed_rows: if is_fixed { rows.end as u32 } else { 0 },
            first_column: columns.start as u32,
            n_columns: columns.len() as u32,
            input_columns: graph.value(node.inputs[0]).columns as u32,
            output_columns: graph.value(node.output).columns as u32,
            ..Params::default()
        }
    }

    /// Adds a dispatch of a kernel that is for every step.
    fn single(&mut self, kernel: Kernel, params: Params, output: ValueId, inputs: Vec<Operand<S::Buffer>>) {
        let outputs = vec![Operand::Value(output)];
        self.dispatches.push(Dispatch { choices: vec![Choice::always(kernel)], params, outputs, inputs });
    }

    /// A constant that other nodes of the segment may have too.
    fn shared_constant(&mut self, numbers: &[f32]) -> Result<S::Buffer, BackendError> {
        let bits: Vec<u32> = numbers.iter().map(|number| number.to_bits()).collect();
        if let Some(buffer) = self.constants.get(&bits) {
            return Ok(buffer.clone());
        }
        let buffer = self.buffers.constant(bytemuck::cast_slice(numbers))?;
        self.constants.insert(bits, buffer.clone());
        Ok(buffer)
    }
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
