//! A graph as the search sees it: flat, numbered, with the decoder layer found that repeats.

use std::ops::Range;

use hetero_core::{Arrangement, Graph, NodeId, Op, OpSpec, Rows};

use crate::cost::{ClassId, CostModel};

/// The nodes of a graph in execution order, and where one decoder layer begins and ends.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) works: Vec<Work>,
    /// What nodes of all layers have in common.
    pub(crate) templates: Vec<Template>,
    /// How nodes read values; [`Work::inputs`] is a range of this.
    inputs: Vec<Input>,
    /// Slots of values that are still read later; [`Work::live`] is a range of this.
    live: Vec<usize>,
    /// How many values are needed at the same time, at most; slots are below this.
    pub(crate) n_slots: usize,
    /// The decoder layers that are all alike, if there are at least two of them.
    pub(crate) layers: Option<Layers>,
    /// Positions before this step.
    pub(crate) past: usize,
    /// Positions that the graph has room for.
    pub(crate) capacity: usize,
}

/// Layers that differ only in their weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layers {
    /// The nodes of the first one.
    pub(crate) first: Range<usize>,
    /// How many there are, one after the other.
    pub(crate) count: usize,
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Index of the template.
    pub(crate) template: usize,
    inputs: Range<usize>,
    live: Range<usize>,
    /// Where the search keeps what it knows of the output.
    pub(crate) output: usize,
}

/// What a node has in common with the same node of every layer.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// The first node of this kind; the search decides there.
    pub(crate) node: usize,
    pub(crate) class: ClassId,
    /// Positions that are computed.
    pub(crate) rows: usize,
    /// Rows of the output tensor.
    pub(crate) tensor_rows: usize,
    /// Positions that a graph of fixed shape computes when it has the last ones of the step.
    pub(crate) last_row: usize,
    pub(crate) columns: usize,
    /// Whether positions may be computed apart.
    pub(crate) cuts_rows: bool,
    /// Columns may be cut at multiples of this; zero when they may not be cut.
    pub(crate) column_step: usize,
    pub(crate) is_linear: bool,
    /// Whether every part needs all rows of something: attention.
    pub(crate) mixes_rows: bool,
    /// Bytes of a table that every part has whole, and of the weights for each column.
    weights: [f64; 2],
    /// Values whose cut this node may take over: what it reads, and what a reader of both reads beside it.
    pub(crate) follows: Vec<usize>,
    /// Whether a node before it may share its cut: then that one is balanced for both.
    pub(crate) has_sibling: bool,
    /// Linear operators directly behind this one that read the same.
    pub(crate) siblings: Vec<usize>,
    /// Templates, this one first, that need no join between them when all are cut at the same columns.
    pub(crate) chain: Vec<usize>,
}

impl Template {
    /// Bytes of the weights that a part with so many columns uses.
    pub(crate) fn weight_bytes(&self, columns: usize) -> u64 {
        (self.weights[0] + self.weights[1] * columns as f64) as u64
    }
}

/// How a node reads a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// `None` for what the caller has written before the step.
    pub(crate) slot: Option<usize>,
    /// Whether every part of the output needs all rows.
    pub(crate) all_rows: bool,
    /// Whether columns of the output need only the same columns.
    pub(crate) same_columns: bool,
}

impl Problem {
    /// Numbers the nodes of a graph for a step of `rows` positions after `past` others.
    pub(crate) fn new(graph: &Graph, costs: &dyn CostModel, rows: usize, past: usize) -> Problem {
        assert!(rows > 0 && rows <= graph.capacity(), "a step of {rows} rows in a graph for {}", graph.capacity());
        let layers = find_layers(graph);
        let last_reads = last_reads(graph);
        let mut slots = Slots::new(graph.values().len());
        let n_nodes = graph.nodes().len();
        let mut problem = Problem {
            works: Vec::with_capacity(n_nodes),
            templates: Vec::new(),
            inputs: Vec::with_capacity(2 * n_nodes),
            live: Vec::with_capacity(4 * n_nodes),
            n_slots: 0,
            layers,
            past,
            capacity: graph.capacity(),
        };
        let alignment = costs.devices().iter().map(|device| device.row_alignment).fold(1, least_common_multiple);
        for idx in 0..n_nodes {
            let node = graph.node(NodeId(idx));
            let original = problem.layers.as_ref().map_or(idx, |layers| layers.original(idx));
            let output = slots.take(node.output.0);
            let inputs_start = problem.inputs.len();
            if original == idx {
                let template = describe(graph, costs, idx, rows, alignment);
                problem.templates.push(template);
                problem.inputs.extend(describe_inputs(graph, idx, &slots));
            } else {
                let known = problem.works[original].inputs.clone();
                for (value, input_idx) in node.inputs.iter().zip(known) {
                    let input = Input { slot: slots.of[value.0], ..problem.inputs[input_idx] };
                    problem.inputs.push(input);
                }
            }
            slots.free_after(graph, idx, &last_reads);
            let live_start = problem.live.len();
            problem.live.extend_from_slice(&slots.used);
            let template = if original == idx { problem.templates.len() - 1 } else { problem.works[original].template };
            let (inputs, live) = (inputs_start..problem.inputs.len(), live_start..problem.live.len());
            problem.works.push(Work { template, inputs, live, output });
        }
        problem.n_slots = slots.n_slots;
        problem.relate(graph);
        problem
    }

    /// Whether it is a step of one position.
    pub(crate) fn is_single(&self) -> bool {
        self.templates.iter().all(|template| template.rows == 1)
    }

    /// How a node reads its inputs.
    pub(crate) fn inputs(&self, work: &Work) -> &[Input] {
        &self.inputs[work.inputs.clone()]
    }

    /// Slots of values that are still read after a node.
    pub(crate) fn live(&self, work: &Work) -> &[usize] {
        &self.live[work.live.clone()]
    }

    /// The template of a node.
    pub(crate) fn template(&self, idx: usize) -> &Template {
        &self.templates[self.works[idx].template]
    }

    /// Finds which templates may share a cut.
    fn relate(&mut self, graph: &Graph) {
        let producers = producers(graph);
        for idx in 0..self.templates.len() {
            let node = self.templates[idx].node;
            let chain = self.chain(graph, node, &producers);
            self.templates[idx].chain = chain.iter().map(|&member| self.works[member].template).collect();
            self.templates[idx].follows = self.follows(graph, node, &producers);
            let is_sibling = |&next: &usize| {
                let inputs = |node| &graph.node(NodeId(node)).inputs;
                self.template(next).is_linear && inputs(next) == inputs(node)
            };
            if self.templates[idx].is_linear {
                let behind = (node + 1..self.works.len()).take_while(is_sibling);
                self.templates[idx].siblings = behind.map(|next| self.works[next].template).collect();
            }
        }
        for idx in 0..self.templates.len() {
            for member in self.templates[idx].chain.clone().into_iter().skip(1) {
                self.templates[member].has_sibling = true;
            }
        }
    }

    /// The slots of what a node reads and, for an operator whose output will be read together with an earlier one by
    /// a column-local operator (gate and up by SwiGLU), the slot of the earlier one.
    fn follows(&self, graph: &Graph, idx: usize, producers: &[Option<usize>]) -> Vec<usize> {
        let node = graph.node(NodeId(idx));
        let inputs = self.inputs(&self.works[idx]);
        let mut slots: Vec<usize> =
            inputs.iter().filter(|input| !input.all_rows).filter_map(|input| input.slot).collect();
        // A sibling lies close by; the bound keeps this linear in the size of the graph.
        for (reader_idx, reader) in graph.nodes().iter().enumerate().skip(idx + 1).take(REACH) {
            if reader.inputs.len() < 2 || !reader.inputs.contains(&node.output) {
                continue;
            }
            for (input, value) in self.inputs(&self.works[reader_idx]).iter().zip(&reader.inputs) {
                let is_earlier = producers[value.0].is_some_and(|producer| producer < idx);
                if let (true, true, Some(slot)) = (input.same_columns, is_earlier, input.slot) {
                    slots.push(slot);
                }
            }
        }
        slots.dedup();
        slots
    }

    /// The nodes that follow `idx` without a join when all are cut at the same columns.
    fn chain(&self, graph: &Graph, idx: usize, producers: &[Option<usize>]) -> Vec<usize> {
        let mut chain = vec![idx];
        let template = self.template(idx);
        if template.column_step == 0 {
            return chain;
        }
        for next in idx + 1..(idx + REACH).min(self.works.len()) {
            let node = graph.node(NodeId(next));
            let other = self.template(next);
            if other.columns != template.columns || other.column_step == 0 {
                continue;
            }
            let reads_chain = self.inputs(&self.works[next]).iter().zip(&node.inputs).any(|(input, value)| {
                input.same_columns && producers[value.0].is_some_and(|producer| chain.contains(&producer))
            });
            // A sibling reads the same whole input: its output meets the chain's in a later node.
            let is_sibling = other.is_linear && node.inputs == graph.node(NodeId(idx)).inputs;
            if reads_chain || is_sibling {
                chain.push(next);
            }
        }
        // Siblings that no local reader joins with the chain stay apart (queries beside equally wide keys).
        let is_joined = |member: usize| {
            let output = graph.node(NodeId(member)).output;
            let reads_of_chain = |reader: usize| &graph.node(NodeId(reader)).inputs;
            let mut readers =
                chain.iter().filter(|&&reader| reader > member && reads_of_chain(reader).contains(&output));
            member == idx
                || !self.template(member).is_linear
                || readers.any(|&reader| {
                    reads_of_chain(reader).iter().any(|value| {
                        producers[value.0].is_some_and(|producer| producer != member && chain.contains(&producer))
                    })
                })
        };
        chain.iter().copied().filter(|&member| is_joined(member)).collect()
    }
}

/// How many nodes ahead related ones are looked for.
const REACH: usize = 12;

impl Layers {
    /// The node of the first layer that does the same, or the node itself outside of layers.
    pub(crate) fn original(&self, idx: usize) -> usize {
        if idx >= self.first.end && idx < self.end() {
            self.first.start + (idx - self.first.start) % self.first.len()
        } else {
            idx
        }
    }

    /// The first node after all layers.
    pub(crate) fn end(&self) -> usize {
        self.first.start + self.first.len() * self.count
    }
}

fn describe(graph: &Graph, costs: &dyn CostModel, idx: usize, rows: usize, alignment: usize) -> Template {
    let node = graph.node(NodeId(idx));
    let spec: OpSpec = graph.op_spec(NodeId(idx));
    let desc = graph.tensor_desc(node.output);
    let rule = node.op.split_rule();
    let is_linear = matches!(node.op, Op::Linear { .. });
    let is_cache = matches!(node.op, Op::CacheWrite { .. });
    let rows = match graph.value(node.output).rows {
        Rows::Fixed(fixed) if !is_cache => fixed,
        _ => rows,
    };
    let step = rule.columns.map_or(0, |step| least_common_multiple(step, alignment));
    Template {
        node: idx,
        class: costs.class(&spec),
        rows,
        tensor_rows: desc.rows,
        last_row: if is_cache { graph.capacity() } else { desc.rows },
        columns: desc.columns,
        cuts_rows: rule.rows,
        column_step: if step < desc.columns { step } else { 0 },
        is_linear,
        mixes_rows: (0..node.inputs.len()).any(|input| node.op.mixes_rows(input)),
        weights: weight_bytes(graph, idx),
        has_sibling: false,
        siblings: Vec::new(),
        follows: Vec::new(),
        chain: Vec::new(),
    }
}

/// Bytes of a node's tables, and of the rows of its matrices for each column of the output.
fn weight_bytes(graph: &Graph, idx: usize) -> [f64; 2] {
    let mut bytes = [0.0; 2];
    for weight in &graph.node(NodeId(idx)).weights {
        let layout = &graph.weights()[weight.0].layout;
        match layout.arrangement {
            Arrangement::Panels => bytes[1] += layout.bytes() as f64 / layout.rows as f64,
            Arrangement::Rows => bytes[0] += layout.bytes() as f64,
        }
    }
    bytes
}

fn describe_inputs(graph: &Graph, idx: usize, slots: &Slots) -> impl Iterator<Item = Input> {
    let node = graph.node(NodeId(idx));
    let columns = node.op.output_columns();
    node.inputs.iter().enumerate().map(move |(input_idx, value)| {
        let all_rows = node.op.mixes_rows(input_idx);
        // Whether the first column alone suffices for the first column tells whether the dependence is local.
        let same_columns = columns > 1
            && graph.value(*value).columns == columns
            && node.op.input_dependence(input_idx, 0..1) == (0..1);
        Input { slot: slots.of[value.0], all_rows, same_columns }
    })
}

/// For each value the node that writes it, the last one for state.
fn producers(graph: &Graph) -> Vec<Option<usize>> {
    let mut producers = vec![None; graph.values().len()];
    for (idx, node) in graph.nodes().iter().enumerate() {
        producers[node.output.0] = Some(idx);
    }
    producers
}

/// For each value the last node that reads it.
fn last_reads(graph: &Graph) -> Vec<Option<usize>> {
    let mut last = vec![None; graph.values().len()];
    for (idx, node) in graph.nodes().iter().enumerate() {
        for input in &node.inputs {
            last[input.0] = Some(idx);
        }
    }
    last
}

/// Which slots hold which values while the nodes are walked.
struct Slots {
    of: Vec<Option<usize>>,
    free: Vec<usize>,
    used: Vec<usize>,
    n_slots: usize,
}

impl Slots {
    fn new(n_values: usize) -> Slots {
        Slots { of: vec![None; n_values], free: Vec::new(), used: Vec::new(), n_slots: 0 }
    }

    fn take(&mut self, value: usize) -> usize {
        if let Some(slot) = self.of[value] {
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.n_slots += 1;
            self.n_slots - 1
        });
        self.of[value] = Some(slot);
        self.used.push(slot);
        slot
    }

    /// Gives up the slots of what node `idx` read last, or wrote for nobody.
    fn free_after(&mut self, graph: &Graph, idx: usize, last_reads: &[Option<usize>]) {
        let node = graph.node(NodeId(idx));
        for value in node.inputs.iter().chain([&node.output]) {
            if last_reads[value.0].is_none_or(|last| last <= idx)
                && let Some(slot) = self.of[value.0].take()
            {
                self.used.retain(|&used| used != slot);
                self.free.push(slot);
            }
        }
    }
}

/// The run of layers that are alike, if there are two or more.
fn find_layers(graph: &Graph) -> Option<Layers> {
    let nodes = graph.nodes();
    let start = nodes.iter().position(|node| node.layer.is_some())?;
    let end = start + nodes[start..].iter().take_while(|node| node.layer.is_some()).count();
    let length = nodes[start..end].iter().take_while(|node| node.layer == nodes[start].layer).count();
    let count = (end - start) / length;
    if count < 2 || count * length != end - start {
        return None;
    }
    let producers = producers(graph);
    let distance = |idx: usize, input: usize| {
        producers[nodes[idx].inputs[input].0].map(|producer| idx as isize - producer as isize)
    };
    for idx in start + length..end {
        let (node, before) = (&nodes[idx], &nodes[idx - length]);
        let starts_layer = (idx - start).is_multiple_of(length);
        let layer_fits =
            if starts_layer { node.layer != nodes[idx - 1].layer } else { node.layer == nodes[idx - 1].layer };
        if !layer_fits || node.op != before.op || node.inputs.len() != before.inputs.len() {
            return None;
        }
        for input in 0..node.inputs.len() {
            let (here, there) = (distance(idx, input), distance(idx - length, input));
            // What comes from outside the first layer may come from anywhere before it.
            let from_outside = there.is_none_or(|there| there < 0 || idx - length < start + there as usize);
            let is_first = idx - length < start + length;
            if here != there && !(is_first && from_outside && here.is_some()) {
                return None;
            }
        }
        if graph.value(node.output).dtype != graph.value(before.output).dtype {
            return None;
        }
    }
    Some(Layers { first: start..start + length, count })
}

pub(crate) fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
