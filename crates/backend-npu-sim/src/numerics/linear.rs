//! Linear operators as an NPU computes them.
//!
//! **Float units**, for more than one row: activations and weights are f16, whatever they are stored as (for 4-bit
//! weights that is W4A16), sums are f32. **Integer units**, for the one row of a decode graph with quantised weights:
//! the paper says that NPUs do not support W4A16 there and use their integer units (HeteroLLM, section 6), and no more.
//! Here activations become 16-bit integers with a scale for each group of 32, as wide as what Qualcomm calls A16;
//! products and sums within a group are exact integers, and the groups are scaled and added up in f32.
//!
//! The units follow from the shape that a node was compiled for and never from the part or the step, so results do not
//! depend on how the output was cut. The inner dimension is filled up with zeros to whole tiles. Rows that are not in
//! use are not read: a real array multiplies whatever is in them and the result is thrown away.
//!
//! The operand order changes which loop is outside and nothing else. Each element is one product of two rows, added
//! up in one order of its own, so both orders give the same bits.

use half::f16;
use half::slice::HalfFloatSliceExt;
use hetero_core::quantize::panel_row_integers;
use hetero_core::{Binding, Op, OperandOrder, Part, Segment, SegmentNode, WeightFormat, WeightLayout, WeightRows};

const GROUP: usize = WeightLayout::GROUP_COLUMNS;
/// Partial sums of a float product: a multiple of what vectors of today's machines hold.
const LANES: usize = 16;

/// Which units of the array compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Units {
    Float,
    Integer,
}

impl Units {
    /// Those that a node is compiled for.
    pub(super) fn of(segment: &Segment, node: &SegmentNode) -> Units {
        let node = segment.graph.node(node.node);
        let n_rows = segment.graph.tensor_desc(node.output).rows;
        match node.op {
            Op::Linear { format, .. } if format.is_quantized() && n_rows == 1 => Units::Integer,
            _ => Units::Float,
        }
    }
}

/// Whether a node runs on the array. Weights in f32 do not: they are for comparing, and the vector unit takes them.
pub(super) fn is_own(segment: &Segment, node: &SegmentNode) -> bool {
    matches!(segment.graph.node(node.node).op, Op::Linear { format, .. } if format != WeightFormat::F32)
}

/// Computes a part. `input` is `[positions, in_features]`, `output` `[positions, out_features]`.
pub(super) fn run(units: Units, tile: usize, input: &Binding, node: &SegmentNode, output: &mut Binding, part: &Part) {
    let rows = node.weights[0].rows();
    assert_eq!(rows.rows, part.columns, "the rows loaded of {:?}", rows.matrix);
    let mut bias = vec![0.0; rows.matrix.layout().rows];
    if let Some(weight) = node.weights.get(1) {
        weight.rows().matrix.read_row(0, &mut bias);
    }
    let mut outputs = vec![0.0; part.area()];
    let n_columns = part.columns.len();
    let mut put = |m: usize, n: usize, sum: f32| outputs[m * n_columns + n] = sum + bias[part.columns.start + n];
    match units {
        Units::Float => {
            let operands = FloatOperands::new(tile, input, rows, part);
            walk(node.operand_order, tile, part, &operands, &mut put);
        }
        Units::Integer => {
            let operands = IntegerOperands::new(tile, input, rows, part);
            walk(node.operand_order, tile, part, &operands, &mut put);
        }
    }
    for (m, row) in part.rows.clone().zip(outputs.chunks_exact(n_columns)) {
        output.write_f32(m, part.columns.start, row);
    }
}

/// The two sides of a product, in the numbers of some units.
trait Operands {
    /// A row of the weight matrix, filled up.
    type Row: Clone;

    fn empty_row(&self) -> Self::Row;
    /// Reads row `n` of the loaded rows.
    fn read(&self, n: usize, row: &mut Self::Row);
    /// Row `m` of the activations in use times a row of the matrix.
    fn product(&self, m: usize, row: &Self::Row) -> f32;
}

/// Goes over all elements of a part, tile by tile of the operand that stays in the array.
fn walk<O: Operands>(
    order: OperandOrder,
    tile: usize,
    part: &Part,
    operands: &O,
    put: &mut impl FnMut(usize, usize, f32),
) {
    let (n_rows, n_columns) = (part.rows.len(), part.columns.len());
    match order {
        OperandOrder::WeightStationary => {
            let mut stationary = vec![operands.empty_row(); tile];
            for first in (0..n_columns).step_by(tile) {
                let columns = first..(first + tile).min(n_columns);
                columns.clone().zip(&mut stationary).for_each(|(n, row)| operands.read(n, row));
                for m in 0..n_rows {
                    columns.clone().zip(&stationary).for_each(|(n, row)| put(m, n, operands.product(m, row)));
                }
            }
        }
        OperandOrder::ActivationStationary => {
            let mut streaming = operands.empty_row();
            for first in (0..n_rows).step_by(tile) {
                for n in 0..n_columns {
                    operands.read(n, &mut streaming);
                    for m in first..(first + tile).min(n_rows) {
                        put(m, n, operands.product(m, &streaming));
                    }
                }
            }
        }
    }
}

/// Reads the rows in use, `width` apart and filled up with zeros.
fn read_inputs(input: &Binding, part: &Part, columns: usize, width: usize) -> Vec<f32> {
    let mut inputs = vec![0.0; part.rows.len() * width];
    for (m, row) in part.rows.clone().zip(inputs.chunks_exact_mut(width)) {
        input.read_f32(m, 0, &mut row[..columns]);
    }
    inputs
}

/// What f16 holds of some numbers; beyond its range they saturate, as in matrix units.
fn round_to_f16(values: &mut [f32], buffer: &mut Vec<f16>) {
    let largest = f16::MAX.to_f32();
    values.iter_mut().for_each(|x| *x = x.clamp(-largest, largest));
    buffer.resize(values.len(), f16::ZERO);
    buffer.convert_from_f32_slice(values);
    buffer.convert_to_f32_slice(values);
}

struct FloatOperands<'a> {
    inputs: Vec<f32>,
    rows: &'a WeightRows,
    width: usize,
}

impl FloatOperands<'_> {
    fn new<'a>(tile: usize, input: &Binding, rows: &'a WeightRows, part: &Part) -> FloatOperands<'a> {
        let columns = rows.matrix.layout().columns;
        let width = columns.next_multiple_of(tile).next_multiple_of(LANES);
        let mut inputs = read_inputs(input, part, columns, width);
        round_to_f16(&mut inputs, &mut Vec::new());
        FloatOperands { inputs, rows, width }
    }
}

impl Operands for FloatOperands<'_> {
    /// The numbers, and room for rounding them.
    type Row = (Vec<f32>, Vec<f16>);

    fn empty_row(&self) -> Self::Row {
        (vec![0.0; self.width], Vec::new())
    }

    fn read(&self, n: usize, (row, buffer): &mut Self::Row) {
        let row = &mut row[..self.rows.matrix.layout().columns];
        self.rows.matrix.read_row(self.rows.rows.start + n, row);
        round_to_f16(row, buffer);
    }

    fn product(&self, m: usize, (row, _): &Self::Row) -> f32 {
        let mut sums = [0.0f32; LANES];
        let inputs = self.inputs[m * self.width..][..self.width].as_chunks::<LANES>().0;
        for (x, w) in inputs.iter().zip(row.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                sums[lane] += x[lane] * w[lane];
            }
        }
        sums.iter().sum()
    }
}

struct IntegerOperands<'a> {
    /// `[rows in use, width]`.
    inputs: Vec<i16>,
    /// `[rows in use, width / 32]`.
    scales: Vec<f32>,
    rows: &'a WeightRows,
    width: usize,
}

impl IntegerOperands<'_> {
    fn new<'a>(tile: usize, input: &Binding, rows: &'a WeightRows, part: &Part) -> IntegerOperands<'a> {
        let columns = rows.matrix.layout().columns;
        let width = columns.next_multiple_of(tile).next_multiple_of(GROUP);
        let values = read_inputs(input, part, columns, width);
        let (inputs, scales) = values.as_chunks::<GROUP>().0.iter().map(quantize_group).unzip::<_, _, Vec<_>, _>();
        IntegerOperands { inputs: inputs.into_flattened(), scales, rows, width }
    }
}

/// 32 activations as 16-bit integers, and what they are multiplied with: the largest magnitude becomes 32767.
fn quantize_group(values: &[f32; GROUP]) -> ([i16; GROUP], f32) {
    let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / f32::from(i16::MAX);
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    (values.map(|x| (x * inverse).round() as i16), scale)
}

impl Operands for IntegerOperands<'_> {
    /// The integers and the scales of their groups.
    type Row = (Vec<i8>, Vec<f32>);

    fn empty_row(&self) -> Self::Row {
        (vec![0; self.width], vec![0.0; self.width / GROUP])
    }

    fn read(&self, n: usize, (integers, scales): &mut Self::Row) {
        let layout = self.rows.matrix.layout();
        let row = self.rows.rows.start + n;
        let panel = &self.rows.matrix.bytes()[row / WeightLayout::PANEL_ROWS * layout.panel_bytes()..];
        let panel = &panel[..layout.panel_bytes()];
        let integers = &mut integers[..layout.columns];
        panel_row_integers(layout, panel, row % WeightLayout::PANEL_ROWS, integers, &mut scales[..layout.n_groups()]);
    }

    fn product(&self, m: usize, (integers, scales): &Self::Row) -> f32 {
        let inputs = self.inputs[m * self.width..][..self.width].as_chunks::<GROUP>().0;
        let input_scales = &self.scales[m * self.width / GROUP..][..self.width / GROUP];
        let groups = inputs.iter().zip(integers.as_chunks::<GROUP>().0);
        let mut sum = 0.0;
        for ((x, w), (input_scale, scale)) in groups.zip(input_scales.iter().zip(scales)) {
            // 32 products of at most 2^15 times 2^7 stay below 2^27.
            let group: i32 = x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum();
            sum += group as f32 * (input_scale * scale);
        }
        sum
    }
}
