//! Random graphs and random plans for the tests of this crate.
#![allow(dead_code, reason = "not every test uses everything")]

pub(crate) mod equal;
pub(crate) mod threads;

use std::sync::Arc;

use hetero_core::quantize::pack_panel;
use hetero_core::{
    BackendError, DType, DeviceId, Graph, GraphBuilder, HostTensor, NodeId, Op, Part, RowSelection, Rows, SharedTensor,
    StepParams, TensorDesc, ValueId, ValueKind, WeightFormat, WeightLayout, WeightMatrix,
};
use hetero_sched::{Executor, PlacedPart, Plan, State};

/// Columns of every activation.
pub(crate) const FEATURES: usize = 64;
/// Positions that caches have room for.
pub(crate) const CONTEXT: usize = 16;

/// A graph with everything that it takes to run it.
pub(crate) struct Model {
    pub(crate) graph: Arc<Graph>,
    pub(crate) input: ValueId,
    pub(crate) output: ValueId,
    pub(crate) weights: Vec<Arc<WeightMatrix>>,
}

impl Model {
    pub(crate) fn new(graph: Graph, input: ValueId, output: ValueId) -> Model {
        let device = DeviceId::next();
        let layouts = graph.weights().iter().map(|desc| desc.layout).enumerate();
        let weights = layouts.map(|(seed, layout)| weight(&layout, device, seed)).collect();
        Model { graph: Arc::new(graph), input, output, weights }
    }

    /// Zeroed state, in host memory that is no device's of the team.
    pub(crate) fn state(&self) -> Arc<State> {
        let values = self.graph.values().iter().enumerate().filter(|(_, value)| value.kind == ValueKind::State);
        let device = DeviceId::next();
        let tensor = |idx| HostTensor::new(device, self.graph.tensor_desc(ValueId(idx))).expect("memory");
        State::new(&self.graph, values.map(|(idx, _)| SharedTensor::new(Arc::new(tensor(idx)))).collect())
    }
}

/// A deterministic choice.
pub(crate) struct Choice(u64);

impl Choice {
    pub(crate) fn new(seed: usize) -> Choice {
        Choice((seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Numbers from -1 to 1.
pub(crate) fn numbers(seed: usize) -> impl FnMut() -> f32 {
    let mut choice = Choice::new(seed);
    move || choice.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
}

fn weight(layout: &WeightLayout, device: DeviceId, seed: usize) -> Arc<WeightMatrix> {
    let mut next = numbers(seed);
    let values: Vec<f32> = (0..layout.rows * layout.columns).map(|_| next() / 4.0).collect();
    let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let tensor = Arc::new(HostTensor::new(device, desc).expect("memory"));
    let built = WeightMatrix::build("weight", *layout, tensor, |bytes| {
        if layout.rows == 1 {
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(&values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        } else {
            for (panel, rows) in bytes.chunks_exact_mut(layout.panel_bytes()).zip(values.chunks(16 * layout.columns)) {
                pack_panel(layout, rows, panel);
            }
        }
        Ok::<(), BackendError>(())
    });
    built.expect("filling cannot fail")
}

/// The operators of a test graph, by name.
pub(crate) struct Blocks {
    pub(crate) builder: GraphBuilder,
    n_states: usize,
}

impl Blocks {
    pub(crate) fn new(capacity: usize) -> Blocks {
        Blocks { builder: GraphBuilder::new(capacity), n_states: 0 }
    }

    pub(crate) fn input(&mut self) -> ValueId {
        self.builder.input("x", FEATURES, DType::F32)
    }

    pub(crate) fn linear(&mut self, name: &'static str, x: ValueId) -> ValueId {
        let weight = self.builder.weight(name, WeightLayout::panels(WeightFormat::F32, FEATURES, FEATURES));
        let op = Op::Linear { in_features: FEATURES, out_features: FEATURES, format: WeightFormat::F32, bias: false };
        self.builder.node(name, op, &[x], &[weight], DType::F32)
    }

    pub(crate) fn norm(&mut self, x: ValueId) -> ValueId {
        let weight = self.builder.weight("norm", WeightLayout::table(WeightFormat::F32, 1, FEATURES));
        let op = Op::RmsNorm { features: FEATURES, epsilon: 1e-5 };
        self.builder.node("norm", op, &[x], &[weight], DType::F32)
    }

    pub(crate) fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.builder.node("add", Op::Add { features: FEATURES }, &[a, b], &[], DType::F32)
    }

    pub(crate) fn swiglu(&mut self, gate: ValueId, up: ValueId) -> ValueId {
        self.builder.node("swiglu", Op::Swiglu { features: FEATURES }, &[gate, up], &[], DType::F32)
    }

    pub(crate) fn softmax(&mut self, x: ValueId) -> ValueId {
        self.builder.node("softmax", Op::Softmax { features: FEATURES }, &[x], &[], DType::F32)
    }

    pub(crate) fn rope(&mut self, x: ValueId) -> ValueId {
        let frequencies: Arc<[f32]> = (0..8).map(|i| 1.0 / (1.0 + i as f32)).collect();
        let op = Op::Rope { heads: FEATURES / 16, head_dim: 16, frequencies };
        self.builder.node("rope", op, &[x], &[], DType::F32)
    }

    /// Four query heads on two heads of keys and values, each a linear operator on `kv`.
    pub(crate) fn attention(&mut self, query: ValueId, kv: ValueId) -> ValueId {
        let (keys, values) = (self.half(kv), self.half(kv));
        let [keys, values] = [keys, values].map(|x| {
            let state = self.cache();
            self.cache_write(x, state);
            state
        });
        self.attend(query, keys, values)
    }

    /// A linear operator with half as many columns: two heads.
    pub(crate) fn half(&mut self, x: ValueId) -> ValueId {
        let (in_features, out_features) = (FEATURES, FEATURES / 2);
        let weight = self.builder.weight("half", WeightLayout::panels(WeightFormat::F32, out_features, in_features));
        let op = Op::Linear { in_features, out_features, format: WeightFormat::F32, bias: false };
        self.builder.node("half", op, &[x], &[weight], DType::F32)
    }

    pub(crate) fn cache(&mut self) -> ValueId {
        self.n_states += 1;
        self.builder.state(format!("cache{}", self.n_states), 2 * CONTEXT, 16, DType::F16)
    }

    pub(crate) fn cache_write(&mut self, x: ValueId, state: ValueId) {
        let op = Op::CacheWrite { kv_heads: 2, head_dim: 16, context: CONTEXT };
        self.builder.update("cache_write", op, &[x], state);
    }

    pub(crate) fn attend(&mut self, query: ValueId, keys: ValueId, values: ValueId) -> ValueId {
        let op = Op::Attention { heads: 4, kv_heads: 2, head_dim: 16, context: CONTEXT, scale: 0.25 };
        self.builder.node("attention", op, &[query, keys, values], &[], DType::F32)
    }

    pub(crate) fn last(&mut self, x: ValueId) -> ValueId {
        let op = Op::Convert { rows: RowSelection::Last, features: FEATURES };
        self.builder.node("last", op, &[x], &[], DType::F32)
    }
}

/// Two decoder layers: attention and feed-forward.
pub(crate) fn decoder(capacity: usize) -> Model {
    let mut b = Blocks::new(capacity);
    let input = b.input();
    let mut x = input;
    for layer in 0..2 {
        b.builder.set_layer(Some(layer));
        let normed = b.norm(x);
        let query = b.linear("query", normed);
        let query = b.rope(query);
        let attended = b.attention(query, normed);
        let output = b.linear("output", attended);
        x = b.add(x, output);
        let normed = b.norm(x);
        let (gate, up) = (b.linear("gate", normed), b.linear("up", normed));
        let gated = b.swiglu(gate, up);
        let down = b.linear("down", gated);
        x = b.add(x, down);
    }
    b.builder.output(x);
    Model::new(b.builder.finish(), input, x)
}

/// A graph of a dozen operators that read whatever there is, often what was written long ago.
pub(crate) fn any_model(seed: usize, capacity: usize) -> Model {
    let mut choice = Choice::new(seed);
    let mut b = Blocks::new(capacity);
    let input = b.input();
    let mut values = vec![input];
    for _ in 0..6 + choice.below(10) {
        let mut pick = |n: usize| values[values.len() - 1 - choice.below(n.min(values.len()))];
        let (x, y) = (pick(2), pick(6));
        values.push(match choice.below(9) {
            0 => b.norm(x),
            1 | 2 => b.linear("linear", x),
            3 => b.add(x, y),
            4 | 5 => b.swiglu(x, y),
            6 => b.softmax(x),
            7 => b.rope(x),
            _ => b.attention(x, y),
        });
    }
    let mut output = values[values.len() - 1];
    if choice.below(3) == 0 {
        let last = b.last(output);
        let gate = b.linear("gate", last);
        output = b.swiglu(gate, last);
    }
    b.builder.output(output);
    Model::new(b.builder.finish(), input, output)
}

/// Cuts each node by the rule of its operator and places the parts, by choices that the seed makes. Cuts and places
/// repeat from node to node as often as not, so that neighbours share submissions.
pub(crate) fn any_plan(graph: &Arc<Graph>, n_devices: usize, seed: usize) -> Plan {
    let mut choice = Choice::new(seed);
    let mut habit = (0, 32, [0; 3]);
    let mut placements = Vec::new();
    for idx in 0..graph.nodes().len() {
        let node = graph.node(NodeId(idx));
        let output = graph.tensor_desc(node.output);
        let whole = Part::whole(output.rows, output.columns);
        let rule = node.op.split_rule();
        if choice.below(2) == 0 {
            let places = [(); 3].map(|()| choice.below(n_devices));
            habit = (choice.below(4), 16 * (1 + choice.below(3)), places);
        }
        let (kind, at, places) = habit;
        let column = rule.columns.map(|multiple| at.next_multiple_of(multiple)).filter(|at| *at < output.columns);
        let row = (rule.rows && output.rows > 1).then(|| 1 + at / 16 % (output.rows - 1));
        let parts = match (kind, column, row) {
            (1, Some(at), _) => {
                vec![Part { columns: 0..at, ..whole.clone() }, Part { columns: at..output.columns, ..whole }]
            }
            (2, _, Some(at)) => vec![Part { rows: 0..at, ..whole.clone() }, Part { rows: at..output.rows, ..whole }],
            (3, Some(column), Some(row)) => vec![
                Part { rows: 0..row, columns: 0..column },
                Part { rows: 0..row, columns: column..output.columns },
                Part { rows: row..output.rows, ..whole },
            ],
            _ => vec![whole],
        };
        placements.push(parts.into_iter().zip(places).map(|(part, device)| PlacedPart::new(device, part)).collect());
    }
    Plan::new(Arc::clone(graph), placements).expect("an exact cover")
}

/// Fills the input by a seed, runs a step and reads the rows of the output that the step has.
pub(crate) fn step(model: &Model, executor: &mut Executor, step: StepParams, seed: usize) -> Vec<Vec<f32>> {
    fill(model, executor, step.rows, seed);
    executor.step(step).expect("a step");
    output(model, executor, step.rows)
}

/// Writes the input of a step.
pub(crate) fn fill(model: &Model, executor: &Executor, rows: usize, seed: usize) {
    let mut next = numbers(seed);
    let mut slot = executor.tensor(model.input).slot();
    (0..rows).for_each(|row| slot.row_mut::<f32>(row).fill_with(&mut next));
}

/// The rows of the output that a step has.
pub(crate) fn output(model: &Model, executor: &Executor, rows: usize) -> Vec<Vec<f32>> {
    let view = executor.tensor(model.output).view();
    let rows = match model.graph.value(model.output).rows {
        Rows::Positions => rows,
        Rows::Fixed(rows) => rows,
    };
    (0..rows).map(|row| view.row::<f32>(row).to_vec()).collect()
}
