//! Linear operators: which kernel multiplies how many rows.

use hetero_core::{Rows, SegmentNode, ValueId, Weight};

use super::{
    Buffers, Builder, Choice, Dispatch, Operand, Piece, Pieces, Scratch, element, format, gpu_weight, only_piece,
    table_element,
};
use crate::knobs::Variant;
use crate::{Element, Form, Format, Kernel, Linear, Params, Tile, Tiles};

/// Rows up to which a product reads the weights once for all of them, instead of making tiles.
pub(crate) const VECTOR_ROWS: u32 = 4;

impl<S: Buffers> Builder<'_, S> {
    /// A dispatch for each piece of the matrix.
    pub(super) fn linear(&mut self, segment_node: &SegmentNode, params: Params) {
        let output = self.segment.graph.node(segment_node.node).output;
        self.linear_into(segment_node, params, Form::Single, output, None);
    }

    /// As [`Builder::linear`], with what becomes of the product: `residual` is added to it.
    pub(super) fn linear_into(
        &mut self,
        segment_node: &SegmentNode,
        params: Params,
        form: Form,
        output: ValueId,
        residual: Option<ValueId>,
    ) {
        let SegmentNode { node: id, weights, .. } = segment_node;
        let input = self.segment.graph.node(*id).inputs[0];
        let matrix = gpu_weight::<S>(&*weights[0]);
        let bias = weights.get(1).map(|weight| gpu_weight::<S>(&**weight));
        let linear = Linear {
            output: element(self.segment.graph.value(output).dtype),
            bias: bias.map(table_element),
            form,
            ..self.linear_types(segment_node)
        };
        let panel_lines = (matrix.rows().matrix.layout().panel_bytes() / 16) as u32;
        for Piece { buffer, first_row, n_rows } in matrix.pieces() {
            let first_column = params.first_column + *first_row as u32;
            let inputs = [Operand::Value(input), Operand::Constant(buffer.clone())]
                .into_iter()
                .chain(bias.map(|bias| Operand::Constant(only_piece(bias))))
                .chain(residual.map(Operand::Value));
            let params = Params { first_column, n_columns: *n_rows as u32, panel_lines, ..params };
            self.push_linear(segment_node, linear, params, vec![Operand::Value(output)], inputs.collect());
        }
    }

    /// Adds the dispatches of a linear kernel; `node` has its rows. Where products of integers are asked for, rows are
    /// rounded to integers first.
    pub(super) fn push_linear(
        &mut self,
        node: &SegmentNode,
        linear: Linear,
        params: Params,
        outputs: Vec<Operand<S::Buffer>>,
        inputs: Vec<Operand<S::Buffer>>,
    ) {
        let choices = self.linear_choices(linear, node);
        let (integer, float): (Vec<_>, Vec<_>) = choices.into_iter().partition(|choice| choice.kernel.is_integer());
        if let [first, ..] = integer[..] {
            let last = integer.last().map_or(first.rows[1], |choice| choice.rows[1]);
            let mut inputs = inputs.clone();
            inputs[0] = self.quantised_rows(node, linear, params, [first.rows[0], last]);
            self.dispatches.push(Dispatch { choices: integer, params, outputs: outputs.clone(), inputs });
        }
        if !float.is_empty() {
            self.dispatches.push(Dispatch { choices: float, params, outputs, inputs });
        }
    }

    /// The rows of a linear operator as integers, in steps of the fewest to the most rows; others that read the same rows
    /// share them.
    fn quantised_rows(
        &mut self,
        node: &SegmentNode,
        linear: Linear,
        params: Params,
        steps: [u32; 2],
    ) -> Operand<S::Buffer> {
        let value = self.segment.graph.node(node.node).inputs[0];
        let n_groups = params.input_columns.div_ceil(32);
        let most_rows = self.most_rows(node).min(steps[1]);
        let idx = self.scratch_for(Scratch::Integers, u64::from(most_rows) * u64::from(n_groups) * 36);
        let key = (value, node.part.rows.clone(), steps);
        if self.quantised.as_ref() != Some(&key) {
            let kernel = Kernel::Quantize { input: linear.input, is_whole_groups: linear.is_whole_groups };
            self.dispatches.push(Dispatch {
                choices: vec![Choice { rows: steps, ..Choice::always(kernel) }],
                params: Params { n_columns: n_groups, first_column: 0, ..params },
                outputs: vec![Operand::Scratch(idx)],
                inputs: vec![Operand::Value(value)],
            });
            self.quantised = Some(key);
        }
        Operand::Scratch(idx)
    }

    /// The most rows that a step of a node has.
    fn most_rows(&self, node: &SegmentNode) -> u32 {
        let graph = &self.segment.graph;
        match graph.value(graph.node(node.node).output).rows {
            Rows::Positions => graph.capacity() as u32,
            Rows::Fixed(rows) => rows as u32,
        }
    }

    /// On which types a linear operator works, by itself and without a bias.
    pub(super) fn linear_types(&self, SegmentNode { node: id, weights, .. }: &SegmentNode) -> Linear {
        let graph = &self.segment.graph;
        let node = graph.node(*id);
        let layout = gpu_weight::<S>(&*weights[0]).rows().matrix.layout();
        Linear {
            format: format(layout.format),
            input: element(graph.value(node.inputs[0]).dtype),
            output: element(graph.value(node.output).dtype),
            bias: None,
            is_whole_groups: layout.columns.is_multiple_of(32),
            is_integer: false,
            form: Form::Single,
        }
    }

    /// The kernels for up to as many rows as the node has. The choice goes by the rows of the step, which are the same for
    /// all parts of an output.
    pub(super) fn linear_choices(&self, linear: Linear, segment_node: &SegmentNode) -> Vec<Choice> {
        let most_rows = self.most_rows(segment_node);
        let (knobs, limits) = (self.buffers.knobs(), self.buffers.limits());
        let tiles = knobs.tiles().unwrap_or_else(|| Tiles::of(limits));
        let lanes = tiles.vector_lanes();
        let is_asked_for = knobs.asks_for("linear_tiled", Variant::Matrix);
        // Who asks for other arithmetic gets it, unless the units are asked for too.
        let is_half = knobs.allows("linear_tiled", Variant::Half);
        let needed = [Variant::Matrix, Variant::F16, Variant::Subgroups];
        let may_use_matrices =
            (is_asked_for || !is_half) && needed.iter().all(|variant| knobs.allows("linear_tiled", *variant));
        let is_quantised = matches!(linear.format, Format::W8G32 | Format::W4G32);
        let types = |family| match is_quantised && knobs.allows(family, Variant::IntegerDot) {
            // To integers it is the same whether groups were whole.
            true => Linear { is_integer: true, is_whole_groups: true, input: Element::F32, ..linear },
            false => linear,
        };
        let (few, many) = (types("linear_vector"), types("linear_tiled"));
        let vector = |rows| (rows, Kernel::LinearVector { linear: few, rows, lanes });
        let tiled = |tile: Tile| {
            let may_use_matrices = may_use_matrices && !many.is_integer;
            let matrix_rows = limits.matrix_rows(tile.rows, is_asked_for).filter(|_| may_use_matrices);
            let kernel = match (matrix_rows, limits.matrices) {
                (Some(rows), Some(unit)) => Kernel::LinearMatrices { linear: many, rows, unit },
                _ => Kernel::LinearTiled { linear: many, tile },
            };
            (tile.rows, kernel)
        };
        let mut all: Vec<_> = [1, 2, VECTOR_ROWS].map(vector).into_iter().chain(tiles.tiles().map(tiled)).collect();
        if let Some((rows, _)) = all.last_mut() {
            *rows = u32::MAX;
        }
        let mut choices = Vec::new();
        let mut first = 0;
        for (rows, kernel) in all {
            if first <= most_rows {
                choices.push(Choice { rows: [first, rows], ..Choice::always(kernel) });
            }
            first = rows.saturating_add(1);
        }
        choices
    }

    /// The biases of several linear operators, one behind the other, and where each begins; `None` when they have none.
    /// `Err` when only some have one.
    pub(super) fn biases(&self, nodes: &[SegmentNode]) -> Result<Option<Biases>, Mixed> {
        let with_bias = nodes.iter().filter(|node| node.weights.len() > 1).count();
        if with_bias == 0 {
            return Ok(None);
        }
        if with_bias < nodes.len() {
            return Err(Mixed);
        }
        let mut biases = Biases::default();
        for node in nodes {
            biases.starts.push(biases.numbers.len() as u32);
            let table = gpu_weight::<S>(&*node.weights[1]);
            let bytes = table.rows().matrix.bytes();
            match table_element(table) {
                Element::F32 => biases.numbers.extend(words::<4>(bytes).map(f32::from_le_bytes)),
                // The upper half of an f32 is all of it but zeros.
                Element::Bf16 => {
                    biases.numbers.extend(words::<2>(bytes).map(|[a, b]| f32::from_le_bytes([0, 0, a, b])))
                }
                Element::F16 => return Err(Mixed),
            }
        }
        Ok(Some(biases))
    }
}

/// Biases of several linear operators.
#[derive(Default)]
pub(super) struct Biases {
    pub(super) numbers: Vec<f32>,
    /// Where that of each begins.
    pub(super) starts: Vec<u32>,
}

/// Linear operators that cannot be one dispatch, because of their biases.
pub(super) struct Mixed;

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).map(|chunk| std::array::from_fn(|idx| chunk[idx]))
}
