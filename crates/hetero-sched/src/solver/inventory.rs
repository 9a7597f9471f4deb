//! What devices hold when a plan is looked for: weights, compiled graphs, and which of them other plans need.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use hetero_core::{Arrangement, Graph, NodeId, Op, OperandOrder, Part};

use crate::cost::{ClassId, CostModel, MAX_DEVICES};
use crate::plan::{PlacedPart, Plan};
use crate::residency::repeated_bytes;

/// Rows of a weight on a device: the device's index, the number of the matrix, and the rows.
pub(crate) type Rows = (usize, usize, Range<usize>);

/// Rows on a device.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// What they take of the device's own memory.
    bytes: u64,
    is_pinned: bool,
}

/// What devices hold, as the plans of one graph see it. By default nothing.
///
/// *Pinned* is what live plans of other graphs need: it stays, whatever is decided here. What is there without being
/// pinned may be used again, or given up for something else.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// For each weight of the graph, the number of its matrix: the same in all graphs that use it. Empty when weights
    /// are their own numbers.
    matrices: Vec<usize>,
    /// Rows that are there.
    rows: HashMap<Rows, Held>,
    pinned_bytes: u64,
    /// For each device, how many compiled segments are pinned.
    pinned_graphs: [usize; MAX_DEVICES],
    /// For each node, parts that are compiled.
    compiled: HashMap<NodeId, Vec<PlacedPart>>,
}

impl Inventory {
    /// The same devices as another graph sees them, whose weights are these matrices.
    pub fn seen_by(&self, matrices: Vec<usize>) -> Inventory {
        Inventory { matrices, compiled: HashMap::new(), ..self.clone() }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.compiled.is_empty() && self.pinned_graphs == [0; MAX_DEVICES]
    }

    /// Takes a plan up that other graphs' plans have to live beside: everything that it needs is pinned from now on.
    /// `n_graphs` is how many compiled segments it has on each device.
    pub fn pin_plan(&mut self, plan: &Plan, costs: &dyn CostModel, n_graphs: &[usize]) {
        for (rows, bytes) in self.rows_of(plan, costs) {
            let before = self.rows.insert(rows, Held { bytes, is_pinned: true });
            if before.is_none_or(|before| !before.is_pinned) {
                self.pinned_bytes += bytes;
            }
        }
        self.pinned_graphs.iter_mut().zip(n_graphs).for_each(|(pinned, more)| *pinned += more);
    }

    /// Notes rows of a matrix that a device has loaded.
    pub(crate) fn hold(&mut self, rows: Rows, bytes: u64, is_pinned: bool) {
        self.pinned_bytes += if is_pinned { bytes } else { 0 };
        self.rows.insert(rows, Held { bytes, is_pinned });
    }

    /// Notes a compiled segment that a plan of another graph needs.
    pub(crate) fn pin_graph(&mut self, device_idx: usize) {
        self.pinned_graphs[device_idx] += 1;
    }

    /// Notes that all that a plan of this graph needs of devices with fixed shapes is compiled.
    pub fn add_compiled(&mut self, plan: &Plan) {
        for (idx, placed) in plan.placements().iter().enumerate() {
            placed.iter().for_each(|placed| self.compiled(NodeId(idx), placed.clone()));
        }
    }

    /// Notes a part of a node that is compiled.
    pub(crate) fn compiled(&mut self, node: NodeId, part: PlacedPart) {
        self.compiled.entry(node).or_default().push(part);
    }

    /// Bytes that devices hold as copies of their own for live plans of other graphs.
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    /// For each of so many devices, the bytes that it holds as copies of its own for live plans, and of these the bytes of
    /// rows of which it holds another copy too.
    pub fn pinned_bytes_of(&self, n_devices: usize) -> Vec<[u64; 2]> {
        let of_device = |device_idx: usize| {
            let mut matrices: HashMap<usize, Vec<(Range<usize>, u64)>> = HashMap::new();
            let pinned = self.rows.iter().filter(|((its, ..), held)| *its == device_idx && held.is_pinned);
            for ((_, matrix, rows), held) in pinned {
                matrices.entry(*matrix).or_default().push((rows.clone(), held.bytes));
            }
            let bytes = matrices.values().flatten().map(|(_, bytes)| bytes).sum();
            [bytes, matrices.into_values().map(repeated_bytes).sum()]
        };
        (0..n_devices).map(of_device).collect()
    }

    /// How many compiled segments of a device plans of other graphs need.
    pub(crate) fn pinned_graphs(&self, device_idx: usize) -> usize {
        self.pinned_graphs[device_idx]
    }

    /// Which rows of matrices a plan needs on which device, each once, with the bytes that they take there as a copy.
    pub(crate) fn rows_of(&self, plan: &Plan, costs: &dyn CostModel) -> Vec<(Rows, u64)> {
        let graph = plan.graph();
        let mut known = HashSet::new();
        let mut all = Vec::new();
        for (idx, placed) in plan.placements().iter().enumerate() {
            let node = NodeId(idx);
            if graph.node(node).weights.is_empty() {
                continue;
            }
            let class = costs.class(&graph.op_spec(node));
            for PlacedPart { device_idx, part, .. } in placed {
                let Some(rows) = self.rows_for(graph, node, *device_idx, part.columns.clone()) else { continue };
                let bytes = copy_bytes(graph, node, costs, *device_idx, class, part.columns.len());
                if bytes > 0 && known.insert(rows.clone()) {
                    all.push((rows, bytes));
                }
            }
        }
        all
    }

    /// Bytes that a plan would add to those that are pinned.
    pub(crate) fn added_bytes(&self, plan: &Plan, costs: &dyn CostModel) -> u64 {
        let is_new = |rows: &Rows| self.rows.get(rows).is_none_or(|held| !held.is_pinned);
        self.rows_of(plan, costs).iter().filter(|(rows, _)| is_new(rows)).map(|(_, bytes)| bytes).sum()
    }

    /// Whether rows that some columns of a node need are there, and whether they are pinned.
    pub(crate) fn holds(&self, graph: &Graph, node: NodeId, device_idx: usize, columns: Range<usize>) -> Option<bool> {
        let rows = self.rows_for(graph, node, device_idx, columns)?;
        self.rows.get(&rows).map(|held| held.is_pinned)
    }

    /// Of the pinned rows that lie within what some columns of a linear operator need, the longest range.
    pub(crate) fn pinned_within(
        &self,
        graph: &Graph,
        node: NodeId,
        device_idx: usize,
        columns: &Range<usize>,
    ) -> Option<Range<usize>> {
        if self.rows.is_empty() || !matches!(graph.node(node).op, Op::Linear { .. }) {
            return None;
        }
        let matrix = self.matrix(graph.node(node).weights.first()?.0);
        let within = |(its, of, rows): &&Rows| {
            (*its, *of) == (device_idx, matrix) && rows.start >= columns.start && rows.end <= columns.end
        };
        let pinned = self.rows.iter().filter(|(_, held)| held.is_pinned).map(|(rows, _)| rows).filter(within);
        pinned.max_by_key(|(.., rows)| (rows.len(), rows.start)).map(|(.., rows)| rows.clone())
    }

    /// Whether a part of a node is compiled for its device.
    pub(crate) fn has_compiled(&self, node: NodeId, device_idx: usize, part: &Part, order: OperandOrder) -> bool {
        let is_it =
            |known: &PlacedPart| (known.device_idx, known.operand_order) == (device_idx, order) && known.part == *part;
        self.compiled.get(&node).is_some_and(|parts| parts.iter().any(is_it))
    }

    /// The parts of a node that something is there for: graphs, or rows of its weight (for all positions).
    pub(crate) fn parts_of(&self, graph: &Graph, node: NodeId) -> Vec<PlacedPart> {
        let mut parts = self.compiled.get(&node).cloned().unwrap_or_default();
        if let (Op::Linear { .. }, Some(weight)) = (&graph.node(node).op, graph.node(node).weights.first()) {
            let (matrix, output) = (self.matrix(weight.0), graph.tensor_desc(graph.node(node).output));
            let of_matrix = self.rows.keys().filter(|(_, its, _)| *its == matrix);
            let part = |columns: Range<usize>| Part { rows: 0..output.rows, columns };
            parts.extend(of_matrix.map(|(device_idx, _, rows)| PlacedPart::new(*device_idx, part(rows.clone()))));
        }
        // In an order of their own, because the same question has the same answer.
        let key = |placed: &PlacedPart| {
            let Part { rows, columns } = &placed.part;
            (placed.device_idx, columns.start, columns.end, rows.start, rows.end)
        };
        parts.sort_by_key(key);
        parts.dedup_by_key(|placed| key(placed));
        parts
    }

    /// The rows of a node's matrix that some columns of its output need; all of a table. `None` without weights.
    fn rows_for(&self, graph: &Graph, node: NodeId, device_idx: usize, columns: Range<usize>) -> Option<Rows> {
        let weight = graph.node(node).weights.first()?.0;
        let is_matrix = matches!(graph.node(node).op, Op::Linear { .. });
        let rows = if is_matrix { columns } else { 0..graph.weights()[weight].layout.rows };
        Some((device_idx, self.matrix(weight), rows))
    }

    fn matrix(&self, weight: usize) -> usize {
        self.matrices.get(weight).copied().unwrap_or(weight)
    }
}

/// Bytes that a device holds as copies of its own to compute some columns of a node. Costs know what is in panels; a
/// table is copied whole, and its size is known without having been measured.
pub(crate) fn copy_bytes(
    graph: &Graph,
    node: NodeId,
    costs: &dyn CostModel,
    device_idx: usize,
    class: ClassId,
    columns: usize,
) -> u64 {
    let bytes = costs.own_bytes(device_idx, class, columns);
    if bytes == 0 {
        return 0;
    }
    let layouts = graph.node(node).weights.iter().map(|weight| &graph.weights()[weight.0].layout);
    let tables = layouts.filter(|layout| layout.arrangement == Arrangement::Rows);
    let tables = tables.map(|layout| layout.bytes() as u64).sum();
    if matches!(graph.node(node).op, Op::Linear { .. }) { bytes + tables } else { tables }
}
