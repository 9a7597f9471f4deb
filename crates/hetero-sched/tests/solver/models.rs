//! Cost models and graphs for the tests of the solver.

use std::sync::{Arc, Mutex};

use hetero_core::{
    DType, DeviceKind, Graph, GraphBuilder, Op, OpSpec, OperandOrder, RowSelection, ValueId, WeightFormat, WeightLayout,
};
use hetero_sched::cost::{ClassId, CostModel, DeviceCosts, PartShape};

/// What a parametric device does in a second.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    pub(crate) costs: DeviceCosts,
    /// Operations of a linear operator.
    pub(crate) linear: f64,
    /// Operations of everything else; zero when it computes linear operators only.
    pub(crate) other: f64,
    /// Bytes from memory.
    pub(crate) bytes: f64,
    /// Seconds for each part, whatever its size.
    pub(crate) fixed: f64,
    /// Watts while it works.
    pub(crate) watts: f64,
    /// Bytes of its own for each byte of weights.
    pub(crate) copies: f64,
}

/// Time is the larger of arithmetic and memory traffic; devices that work together share the bus.
#[derive(Debug)]
pub(crate) struct Parametric {
    costs: Vec<DeviceCosts>,
    rates: Vec<Rates>,
    /// Bytes a second of all devices together.
    bus: f64,
    /// Class ids are indices. A lock, because a cost model is asked through a shared reference.
    classes: Mutex<Vec<OpSpec>>,
}

impl Parametric {
    pub(crate) fn new(rates: Vec<Rates>, bus: f64) -> Parametric {
        let costs = rates.iter().map(|rates| rates.costs.clone()).collect();
        Parametric { costs, rates, bus, classes: Mutex::default() }
    }

    /// Makes a device compute linear operators only.
    pub(crate) fn refuse_all_but_linear(&mut self, device_idx: usize) {
        self.rates[device_idx].other = 0.0;
    }

    /// A phone, roughly: what the paper says of a Snapdragon 8 Gen 3.
    pub(crate) fn phone(n_devices: usize) -> Parametric {
        let costs = |name: &str, kind, submit: f64, idle: f64, sync: f64| DeviceCosts {
            name: name.to_owned(),
            kind,
            submit_seconds: submit * 1e-6,
            submit_idle_seconds: idle * 1e-6,
            sync_seconds: sync * 1e-6,
            row_alignment: 32,
            standard_rows: Vec::new(),
            order_sensitive: false,
        };
        let gpu = Rates {
            costs: costs("gpu", DeviceKind::Gpu, 15.0, 70.0, 5.0),
            linear: 1.2e12,
            other: 2e11,
            bytes: 43e9,
            fixed: 10e-6,
            watts: 4.0,
            copies: 0.0,
        };
        let mut npu = Rates {
            costs: costs("npu", DeviceKind::Npu, 30.0, 50.0, 5.0),
            linear: 4.6e12,
            other: 5e10,
            bytes: 18e9,
            fixed: 20e-6,
            watts: 2.0,
            copies: 1.0,
        };
        npu.costs.standard_rows = vec![1, 32, 64, 128, 256, 512, 1024];
        npu.costs.order_sensitive = true;
        let cpu = Rates {
            costs: costs("cpu", DeviceKind::Cpu, 5.0, 10.0, 2.0),
            linear: 2e11,
            other: 5e10,
            bytes: 30e9,
            fixed: 2e-6,
            watts: 5.0,
            copies: 0.0,
        };
        let mut rates = vec![gpu, npu, cpu];
        rates.truncate(n_devices);
        Parametric::new(rates, 61.9e9)
    }
}

impl CostModel for Parametric {
    fn devices(&self) -> &[DeviceCosts] {
        &self.costs
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        let mut classes = self.classes.lock().unwrap();
        let known = classes.iter().position(|known| known == spec);
        ClassId(known.unwrap_or_else(|| {
            classes.push(spec.clone());
            classes.len() - 1
        }))
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        let classes = self.classes.lock().unwrap();
        let op = &classes[shape.class.0].op;
        let rates = &self.rates[device_idx];
        let share = shape.columns as f64 / op.output_columns() as f64;
        let operations = op.operations(shape.rows, shape.past) as f64 * share;
        let is_linear = matches!(op, Op::Linear { .. });
        let per_second = if is_linear { rates.linear } else { rates.other };
        if per_second == 0.0 {
            return None;
        }
        let mut compute = operations / per_second;
        let activations: usize = op.input_columns().iter().sum::<usize>() + op.output_columns();
        let mut bytes = (shape.rows * activations * 4) as f64 * share;
        if let Op::Linear { in_features, out_features, .. } = *op {
            bytes += (shape.columns * in_features) as f64 * 0.5625;
            if rates.costs.order_sensitive && shape.rows > 1 {
                // Worse for the wrong operand in the array, and for more inputs than outputs.
                let slow = if shape.order == OperandOrder::ActivationStationary { 1.0 } else { 4.0 };
                compute *= slow * (in_features as f64 / out_features as f64).max(1.0);
            }
        }
        let among: f64 = shape.companions.iter().map(|idx| self.rates[idx].bytes).sum::<f64>() + rates.bytes;
        let bandwidth = rates.bytes * (self.bus / among).min(1.0);
        Some(rates.fixed + compute.max(bytes / bandwidth))
    }

    fn joules(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.rates[device_idx].watts * self.seconds(device_idx, shape).unwrap_or(0.0)
    }

    fn idle_watts(&self) -> f64 {
        0.5
    }

    fn own_bytes(&self, device_idx: usize, class: ClassId, columns: usize) -> u64 {
        match self.classes.lock().unwrap()[class.0].op {
            Op::Linear { in_features, .. } => {
                ((columns * in_features) as f64 * 0.5625 * self.rates[device_idx].copies) as u64
            }
            _ => 0,
        }
    }

    fn compile_seconds(&self, device_idx: usize, shape: &PartShape) -> f64 {
        if self.costs[device_idx].standard_rows.is_empty() {
            0.0
        } else {
            0.01 + 1e-8 * (shape.rows * shape.columns) as f64
        }
    }
}

/// The sizes of a Llama-family model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
}

pub(crate) const LLAMA_8B: Sizes = Sizes {
    layers: 32,
    hidden: 4096,
    intermediate: 14336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    vocabulary: 128_256,
    context: 2048,
};

/// The forward pass of a Llama-family model for up to `capacity` positions, logits of the last one.
pub(crate) fn llama(sizes: &Sizes, capacity: usize) -> Arc<Graph> {
    let Sizes { hidden, intermediate, heads, kv_heads, head_dim, vocabulary, context, .. } = *sizes;
    let mut b = GraphBuilder::new(capacity);
    let tokens = b.input("tokens", 1, DType::U32);
    let table = b.weight("table", WeightLayout::table(WeightFormat::F16, vocabulary, hidden));
    let mut x = b.node("embed", Op::Embed { vocabulary, features: hidden }, &[tokens], &[table], DType::F32);
    let frequencies: Arc<[f32]> = vec![1.0; head_dim / 2].into();
    for layer in 0..sizes.layers {
        b.set_layer(Some(layer));
        let normed = norm(&mut b, "attention_norm", x, hidden);
        let [q_dim, kv_dim] = [heads, kv_heads].map(|heads| heads * head_dim);
        let q = linear(&mut b, "query", normed, hidden, q_dim);
        let k = linear(&mut b, "key", normed, hidden, kv_dim);
        let v = linear(&mut b, "value", normed, hidden, kv_dim);
        let rope = |heads| Op::Rope { heads, head_dim, frequencies: Arc::clone(&frequencies) };
        let q = b.node("query_rope", rope(heads), &[q], &[], DType::F32);
        let k = b.node("key_rope", rope(kv_heads), &[k], &[], DType::F32);
        let caches = [("key_cache", k), ("value_cache", v)].map(|(name, x)| {
            let state = b.state(name, kv_heads * context, head_dim, DType::F16);
            b.update(name, Op::CacheWrite { kv_heads, head_dim, context }, &[x], state);
            state
        });
        let attention = Op::Attention { heads, kv_heads, head_dim, context, scale: 0.1 };
        let attended = b.node("attention", attention, &[q, caches[0], caches[1]], &[], DType::F32);
        let output = linear(&mut b, "attention_output", attended, q_dim, hidden);
        x = b.node("attention_residual", Op::Add { features: hidden }, &[x, output], &[], DType::F32);
        let normed = norm(&mut b, "ffn_norm", x, hidden);
        let gate = linear(&mut b, "ffn_gate", normed, hidden, intermediate);
        let up = linear(&mut b, "ffn_up", normed, hidden, intermediate);
        let gated = b.node("ffn_swiglu", Op::Swiglu { features: intermediate }, &[gate, up], &[], DType::F32);
        let down = linear(&mut b, "ffn_down", gated, intermediate, hidden);
        x = b.node("ffn_residual", Op::Add { features: hidden }, &[x, down], &[], DType::F32);
    }
    b.set_layer(None);
    let last = Op::Convert { rows: RowSelection::Last, features: hidden };
    let x = b.node("last_position", last, &[x], &[], DType::F32);
    let x = norm(&mut b, "output_norm", x, hidden);
    let logits = linear(&mut b, "output_head", x, hidden, vocabulary);
    b.output(logits);
    Arc::new(b.finish())
}

pub(crate) fn norm(b: &mut GraphBuilder, name: &'static str, x: ValueId, features: usize) -> ValueId {
    let weight = b.weight(name, WeightLayout::table(WeightFormat::F32, 1, features));
    b.node(name, Op::RmsNorm { features, epsilon: 1e-5 }, &[x], &[weight], DType::F32)
}

pub(crate) fn linear(
    b: &mut GraphBuilder,
    name: &'static str,
    x: ValueId,
    in_features: usize,
    out_features: usize,
) -> ValueId {
    let format = WeightFormat::W4G32;
    let weight = b.weight(name, WeightLayout::panels(format, out_features, in_features));
    b.node(name, Op::Linear { in_features, out_features, format, bias: false }, &[x], &[weight], DType::F32)
}

/// Numbers from 0 to 1 that look random and are always the same for a seed.
pub(crate) fn numbers(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}
