//! A case: a graph, the steps to run it with and the ways to cut it, all data.

use std::fmt;
use std::sync::Arc;

use hetero_core::{
    DType, Graph, GraphBuilder, Op, OpSpec, Part, Partition, RowSelection, SplitRule, StepParams, WeightFormat,
    WeightLayout,
};

/// One computation that every backend must get right, whichever way it is cut.
#[derive(Clone, Debug)]
pub struct Case {
    /// The operator's name, or that of the segment, such as `mlp`. Tolerances belong to it.
    pub op: &'static str,
    /// Format of the weights, where there are some that matter.
    pub weight_format: Option<WeightFormat>,
    /// Second part of the name and column of the report: weight format or element types.
    pub format: String,
    /// The rest of the name: shapes and whatever else is special.
    pub detail: String,
    /// What is computed. Outputs and state are compared, intermediates need not exist.
    pub graph: Arc<Graph>,
    /// The ways to cut it.
    pub cuts: Vec<Cut>,
    /// The steps, all on one compiled executable; the first is run several times.
    pub steps: Vec<StepParams>,
    /// Whether state is kept from step to step rather than filled anew.
    pub carries_state: bool,
    /// What the inputs hold.
    pub inputs: Fill,
    /// What the weight matrices hold.
    pub weights: Fill,
    /// Where the weights lie.
    pub weight_memory: WeightPlace,
    /// The narrowest element type that results pass through: it bounds their precision.
    pub precision: DType,
    /// Results must have the very bits of the oracle: nothing is rounded.
    pub exact: bool,
    /// Magnitude of a typical result. Errors of results that happen to be smaller are measured against this.
    pub floor: f64,
}

/// What a tensor is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The same number everywhere.
    Equal,
    /// Magnitudes up to 10,000.
    Large,
    /// `-0.0`.
    NegativeZero,
    /// Uniform between -1 and 1.
    Random,
    /// Magnitudes up to 1/8192, whose squares vanish in f16.
    Tiny,
    /// `0.0`.
    Zeros,
}

/// Where weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightPlace {
    /// In memory of the backend.
    Backend,
    /// In bytes of the host that begin on an odd address, as in a mapped file.
    UnalignedBytes,
}

/// A way to cut the output of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// Weight rows: up to three parts at the smallest multiples of the split rule.
    Columns,
    /// Positions: a first row, some rows, the rest.
    Rows,
    /// The first half of the positions cut by columns, the rest whole.
    Hybrid,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::Whole => "whole",
            Cut::Columns => "columns",
            Cut::Rows => "rows",
            Cut::Hybrid => "hybrid",
        })
    }
}

impl Cut {
    /// All ways.
    pub const ALL: [Cut; 4] = [Cut::Whole, Cut::Columns, Cut::Rows, Cut::Hybrid];

    /// The parts of a `[rows, columns]` output, or `None` when the rule leaves only one.
    pub fn partition(self, rows: usize, columns: usize, rule: SplitRule) -> Option<Partition> {
        let column_cuts = match rule.columns {
            Some(step) if step < columns => {
                if 2 * step < columns {
                    vec![0..step, step..2 * step, 2 * step..columns]
                } else {
                    vec![0..step, step..columns]
                }
            }
            _ => vec![],
        };
        let row_cuts = match rows {
            _ if !rule.rows => vec![],
            0 | 1 => vec![],
            2 => vec![0..1, 1..2],
            _ => vec![0..1, 1..rows.div_ceil(2), rows.div_ceil(2)..rows],
        };
        let parts = match self {
            Cut::Whole => vec![Part::whole(rows, columns)],
            Cut::Columns => {
                let of = |columns| Part { rows: 0..rows, columns };
                column_cuts.into_iter().map(of).collect()
            }
            Cut::Rows => {
                let of = |rows| Part { rows, columns: 0..columns };
                row_cuts.into_iter().map(of).collect()
            }
            Cut::Hybrid if row_cuts.is_empty() || column_cuts.is_empty() => vec![],
            Cut::Hybrid => {
                let half = rows / 2;
                let of = |columns| Part { rows: 0..half, columns };
                let rest = Part { rows: half..rows, columns: 0..columns };
                column_cuts.into_iter().map(of).chain([rest]).collect()
            }
        };
        if parts.is_empty() {
            return None;
        }
        Some(Partition::new(rows, columns, parts).expect("the parts of a cut cover the output"))
    }
}

impl Case {
    /// A case of one operator in all cuts that it allows. `table_format` is that of embeddings, norms and biases,
    /// `steps` are `(past, rows)`.
    pub fn single(spec: OpSpec, table_format: WeightFormat, capacity: usize, steps: &[(usize, usize)]) -> Case {
        let graph = single_graph(&spec, table_format, capacity);
        let weight_format = match spec.op {
            Op::Linear { format, .. } => Some(format),
            Op::Embed { .. } | Op::RmsNorm { .. } => Some(table_format),
            _ => None,
        };
        let types: Vec<String> = spec.inputs.iter().map(DType::to_string).collect();
        let types = format!("{}-{}", types.join("+"), spec.output);
        let case = Case {
            op: spec.op.name(),
            weight_format,
            format: weight_format.map_or(types.clone(), |format| format.to_string()),
            detail: weight_format.map_or(String::new(), |_| types),
            precision: spec.output,
            ..Case::without_detail("", graph, steps)
        };
        case.detail(shape_name(&spec.op, capacity)).detail_steps().cuts_allowed(&Cut::ALL)
    }

    /// A case of a graph, whole, with random inputs. `steps` are `(past, rows)`.
    pub fn of_graph(op: &'static str, graph: Graph, steps: &[(usize, usize)]) -> Case {
        Case::without_detail(op, graph, steps).detail_steps()
    }

    fn without_detail(op: &'static str, graph: Graph, steps: &[(usize, usize)]) -> Case {
        let steps: Vec<StepParams> = steps.iter().map(|&(past, rows)| StepParams { past, rows }).collect();
        Case {
            op,
            weight_format: None,
            format: String::new(),
            detail: String::new(),
            graph: Arc::new(graph),
            cuts: vec![Cut::Whole],
            steps,
            carries_state: false,
            inputs: Fill::Random,
            weights: Fill::Random,
            weight_memory: WeightPlace::Backend,
            precision: DType::F32,
            exact: false,
            floor: 0.0,
        }
    }

    /// The name of the case in one of its cuts: `op/format/detail/cut`.
    pub fn name(&self, cut: Cut) -> String {
        format!("{}/{}/{}/{cut}", self.op, self.format, self.detail)
    }

    /// Adds to the name.
    pub(crate) fn detail(mut self, detail: impl fmt::Display) -> Case {
        let separator = if self.detail.is_empty() { "" } else { "-" };
        self.detail = format!("{}{separator}{detail}", self.detail);
        self
    }

    /// Keeps those of some cuts that the operators allow.
    pub(crate) fn cuts_allowed(mut self, cuts: &[Cut]) -> Case {
        let rule = self.split_rule();
        let output = self.graph.tensor_desc(self.last_output());
        self.cuts =
            cuts.iter().copied().filter(|cut| cut.partition(output.rows, output.columns, rule).is_some()).collect();
        self
    }

    /// The parts into which a cut divides the last output.
    pub(crate) fn partition(&self, cut: Cut) -> Partition {
        let output = self.graph.tensor_desc(self.last_output());
        cut.partition(output.rows, output.columns, self.split_rule())
            .expect("a case lists only cuts that its graph allows")
    }

    /// The value that the last node writes.
    pub(crate) fn last_output(&self) -> hetero_core::ValueId {
        let last = self.graph.nodes().last();
        last.expect("a case has nodes").output
    }

    /// How all nodes may be cut alike. Columns only where all outputs are of one width and no node reads columns
    /// that another part of the same cut makes.
    fn split_rule(&self) -> SplitRule {
        let nodes = self.graph.nodes();
        let rows = nodes.iter().all(|node| node.op.split_rule().rows);
        let width = self.graph.value(self.last_output()).columns;
        let step = nodes
            .iter()
            .map(|node| node.op.split_rule().columns)
            .try_fold(1, |step, next| Some(step.max(next?)))
            .filter(|_| nodes.iter().all(|node| node.op.output_columns() == width));
        let columns = step.filter(|&step| {
            let made_here = |value| nodes.iter().any(|node| node.output == value);
            nodes.iter().all(|node| {
                (0..node.inputs.len())
                    .all(|idx| !made_here(node.inputs[idx]) || node.op.input_dependence(idx, 0..step) == (0..step))
            })
        });
        SplitRule { rows, columns }
    }

    fn detail_steps(self) -> Case {
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|step| match step.past {
                0 => step.rows.to_string(),
                past => format!("{past}+{}", step.rows),
            })
            .collect();
        let steps = format!("rows{}", steps.join(","));
        self.detail(steps)
    }
}

/// A graph of one operator, whose output the caller reads.
fn single_graph(spec: &OpSpec, table_format: WeightFormat, capacity: usize) -> Graph {
    let mut builder = GraphBuilder::new(capacity);
    let columns = spec.op.input_columns();
    let mut weights = Vec::new();
    match spec.op {
        Op::Embed { vocabulary, features } => {
            weights.push(builder.weight("table", WeightLayout::table(table_format, vocabulary, features)));
        }
        Op::Linear { in_features, out_features, format, bias } => {
            let layout = WeightLayout::panels(format, out_features, in_features);
            weights.push(builder.weight("matrix", layout));
            if bias {
                weights.push(builder.weight("bias", WeightLayout::table(table_format, 1, out_features)));
            }
        }
        Op::RmsNorm { features, .. } => {
            weights.push(builder.weight("norm", WeightLayout::table(table_format, 1, features)));
        }
        _ => {}
    }
    let mut inputs = vec![builder.input("input0", columns[0], spec.inputs[0])];
    match spec.op {
        Op::CacheWrite { kv_heads, head_dim, context } => {
            let cache = builder.state("cache", kv_heads * context, head_dim, spec.output);
            builder.update("op", spec.op.clone(), &inputs, cache);
            return builder.finish();
        }
        Op::Attention { kv_heads, head_dim, context, .. } => {
            for (name, &dtype) in ["keys", "values"].into_iter().zip(&spec.inputs[1..]) {
                inputs.push(builder.state(name, kv_heads * context, head_dim, dtype));
            }
        }
        _ => {
            for (idx, &dtype) in spec.inputs.iter().enumerate().skip(1) {
                inputs.push(builder.input(format!("input{idx}"), columns[idx], dtype));
            }
        }
    }
    let output = builder.node("op", spec.op.clone(), &inputs, &weights, spec.output);
    builder.output(output);
    builder.finish()
}

fn shape_name(op: &Op, capacity: usize) -> String {
    let shape = match op {
        Op::Embed { vocabulary, features } => format!("{vocabulary}x{features}"),
        Op::Linear { in_features, out_features, bias, .. } => {
            let bias = if *bias { "+bias" } else { "" };
            format!("in{in_features}-out{out_features}{bias}")
        }
        Op::Rope { heads, head_dim, .. } => format!("h{heads}-d{head_dim}"),
        Op::CacheWrite { kv_heads, head_dim, context } => format!("kv{kv_heads}-d{head_dim}-ctx{context}"),
        Op::Attention { heads, kv_heads, head_dim, context, .. } => {
            format!("h{heads}-kv{kv_heads}-d{head_dim}-ctx{context}")
        }
        Op::Convert { rows, features } => match rows {
            RowSelection::All => format!("all-f{features}"),
            RowSelection::Last => format!("last-f{features}"),
        },
        Op::RmsNorm { features, .. } | Op::Swiglu { features } | Op::Add { features } | Op::Softmax { features } => {
            format!("f{features}")
        }
        other => format!("{other:?}"),
    };
    format!("{shape}-cap{capacity}")
}
