//! Why a plan is as it is: for each operator who computes what, and what every other choice would have cost.
//!
//! The alternatives of an operator are measured by the whole step: its time if this operator alone, in all layers, were
//! computed otherwise. So an alternative that is faster by itself shows what it loses in joins.

use std::fmt;
use std::sync::Arc;

use hetero_core::{Graph, NodeId, OperandOrder, StepParams};
use serde::Serialize;

use crate::cost::CostModel;
use crate::solver::{Alternatives, Inventory, Solution, SolveOptions};

/// An explained plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Names of the devices.
    pub devices: Vec<String>,
    /// Predicted seconds of the step.
    pub seconds: f64,
    /// For each device, its predicted busy seconds.
    pub busy_seconds: Vec<f64>,
    /// Seconds of these in which the host copies between memories that devices do not share.
    pub copy_seconds: f64,
    /// Number of submissions.
    pub n_submissions: usize,
    /// For each device, the weights that it holds as copies of its own.
    pub memory: Vec<ExplainedMemory>,
    /// Why one device computes everything, where what others would gain is less than what is known.
    pub margin: Option<String>,
    /// The operators, of layers that are alike only the first one's.
    pub operators: Vec<ExplainedOperator>,
}

/// Bytes of weights that a device holds as copies of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExplainedMemory {
    /// For this plan.
    pub own_bytes: u64,
    /// For this plan and those that live beside it.
    pub resident_bytes: u64,
    /// Of these, bytes of rows of which it holds another copy too, because plans cut the same matrix differently.
    pub repeated_bytes: u64,
}

/// What was decided for an operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedOperator {
    /// Its name in the model.
    pub name: String,
    /// In how many layers it is the same; 0 outside of layers.
    pub n_layers: usize,
    /// Its operation with sizes and element types.
    pub operation: String,
    /// Who computes what.
    pub parts: Vec<ExplainedPart>,
    /// What else there was, cheapest first.
    pub alternatives: Vec<Alternative>,
}

/// A part of an operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedPart {
    /// The device's name.
    pub device: String,
    /// First row and one past the last.
    pub rows: [usize; 2],
    /// First column and one past the last.
    pub columns: [usize; 2],
    /// Whether the weights stay in the array of an order-sensitive device.
    pub is_weight_stationary: bool,
    /// Predicted seconds on the device.
    pub seconds: f64,
}

/// A choice that was not made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// Who would compute what.
    pub parts: Vec<ExplainedPart>,
    /// Seconds of the operator alone: its slowest device.
    pub operator_seconds: f64,
    /// Seconds of the whole step.
    pub step_seconds: f64,
}

/// Explains a plan that was solved for this step with these options.
///
/// # Panics
/// When the solution is of another graph.
pub fn explain(
    graph: &Arc<Graph>,
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
    solution: &Solution,
) -> Explanation {
    let devices: Vec<String> = costs.devices().iter().map(|device| device.name.clone()).collect();
    let mut alternatives = Alternatives::new(graph, costs, step, options, solution);
    let mut operators = Vec::new();
    for (node_idx, n_layers) in alternatives.distinct_nodes() {
        let node = graph.node(NodeId(node_idx));
        let first_part: usize = solution.plan.placements()[..node_idx].iter().map(Vec::len).sum();
        let placed = &solution.plan.placements()[node_idx];
        let part = |device_idx: usize, rows: [usize; 2], columns: [usize; 2], order: OperandOrder, seconds: f64| {
            let is_weight_stationary = order == OperandOrder::WeightStationary;
            ExplainedPart { device: devices[device_idx].clone(), rows, columns, is_weight_stationary, seconds }
        };
        let parts = placed.iter().zip(&solution.part_seconds[first_part..]).map(|(placed, &seconds)| {
            let (rows, columns) = (&placed.part.rows, &placed.part.columns);
            part(placed.device_idx, [rows.start, rows.end], [columns.start, columns.end], placed.operand_order, seconds)
        });
        let parts: Vec<ExplainedPart> = parts.collect();
        let mut others: Vec<Alternative> = Vec::new();
        for other in alternatives.of(node_idx) {
            let pieces = other.parts.iter().map(|(placed, seconds)| {
                let (rows, columns) = (&placed.part.rows, &placed.part.columns);
                let order = placed.operand_order;
                part(placed.device_idx, [rows.start, rows.end], [columns.start, columns.end], order, *seconds)
            });
            let pieces: Vec<ExplainedPart> = pieces.collect();
            if pieces != parts {
                let Alternative { operator_seconds, step_seconds, .. } = other.summary;
                others.push(Alternative { parts: pieces, operator_seconds, step_seconds });
            }
        }
        others.sort_by(|a, b| a.step_seconds.total_cmp(&b.step_seconds));
        operators.push(ExplainedOperator {
            name: node.name.to_owned(),
            n_layers,
            operation: graph.op_spec(NodeId(node_idx)).to_string(),
            parts,
            alternatives: others,
        });
    }
    let mut alone = Inventory::default();
    alone.pin_plan(&solution.plan, costs, &solution.prediction.n_graphs);
    Explanation {
        memory: memory(&alone, &alone, devices.len()),
        margin: None,
        devices,
        seconds: solution.prediction.seconds,
        busy_seconds: solution.prediction.busy_seconds.clone(),
        copy_seconds: solution.prediction.copy_seconds,
        n_submissions: solution.prediction.n_submissions,
        operators,
    }
}

/// What devices hold for one plan, and for all.
pub(crate) fn memory(one: &Inventory, all: &Inventory, n_devices: usize) -> Vec<ExplainedMemory> {
    let all = all.pinned_bytes_of(n_devices);
    let both = one.pinned_bytes_of(n_devices).into_iter().zip(all);
    let of_device = |([own_bytes, _], [resident_bytes, repeated_bytes]): ([u64; 2], [u64; 2])| ExplainedMemory {
        own_bytes,
        resident_bytes,
        repeated_bytes,
    };
    both.map(of_device).collect()
}

impl fmt::Display for Explanation {
    /// For people: one paragraph an operator, with the three best alternatives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "step: {}, {} submissions", Seconds(self.seconds), self.n_submissions)?;
        if let Some(margin) = &self.margin {
            writeln!(f, "  {margin}")?;
        }
        for (device, busy) in self.devices.iter().zip(&self.busy_seconds) {
            writeln!(f, "  {device}: busy {} ({:.0} %)", Seconds(*busy), 100.0 * busy / self.seconds)?;
        }
        if self.copy_seconds > 0.0 {
            let share = 100.0 * self.copy_seconds / self.seconds;
            writeln!(f, "  host: copies between memories {} ({share:.0} %)", Seconds(self.copy_seconds))?;
        }
        for (device, memory) in self.devices.iter().zip(&self.memory).filter(|(_, memory)| memory.resident_bytes > 0) {
            let ExplainedMemory { own_bytes, resident_bytes, repeated_bytes } = memory;
            let megabytes = |bytes: &u64| *bytes as f64 / 1e6;
            let (own, all, twice) = (megabytes(own_bytes), megabytes(resident_bytes), megabytes(repeated_bytes));
            writeln!(
                f,
                "  {device}: holds {own:.1} MB of weights of its own, {all:.1} MB for all plans, {twice:.1} MB twice"
            )?;
        }
        for operator in &self.operators {
            match operator.n_layers {
                0 => writeln!(f, "{} ({})", operator.name, operator.operation)?,
                n => writeln!(f, "{} ({}), {n} layers", operator.name, operator.operation)?,
            }
            writeln!(f, "  {}", Parts(&operator.parts))?;
            for other in operator.alternatives.iter().take(3) {
                let more = other.step_seconds - self.seconds;
                let sign = if more < 0.0 { "-" } else { "+" };
                writeln!(f, "  not {}: {sign}{} a step", Parts(&other.parts), Seconds(more.abs()))?;
            }
        }
        Ok(())
    }
}

/// Parts on one line.
struct Parts<'a>(&'a [ExplainedPart]);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |parts: &[ExplainedPart], part: &ExplainedPart| {
            let same_rows = parts.iter().all(|other| other.rows == part.rows);
            let same_columns = parts.iter().all(|other| other.columns == part.columns);
            let rows = if same_rows { String::new() } else { format!(" rows {}..{}", part.rows[0], part.rows[1]) };
            let columns =
                if same_columns { String::new() } else { format!(" columns {}..{}", part.columns[0], part.columns[1]) };
            let order = if part.is_weight_stationary { " weights stationary" } else { "" };
            format!("{}{rows}{columns}{order} ({})", part.device, Seconds(part.seconds))
        };
        let all: Vec<String> = self.0.iter().map(|part| one(self.0, part)).collect();
        f.write_str(&all.join(" | "))
    }
}

/// Seconds in a unit that suits them.
pub(crate) struct Seconds(pub(crate) f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s >= 1.0 => write!(f, "{s:.3} s"),
            s if s >= 1e-3 => write!(f, "{:.2} ms", s * 1e3),
            s => write!(f, "{:.1} us", s * 1e6),
        }
    }
}
