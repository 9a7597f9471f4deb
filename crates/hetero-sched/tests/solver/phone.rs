//! A cost model in formulas, for the tests and benches of the solver.

use std::sync::Mutex;

use hetero_core::{DeviceKind, Op, OpSpec, OperandOrder};
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
    /// Operators, with the columns that they read and write; class ids are indices. A lock, because a cost model is asked through a shared reference.
    classes: Mutex<Vec<(OpSpec, usize)>>,
}

impl Parametric {
    pub(crate) fn new(rates: Vec<Rates>, bus: f64) -> Parametric {
        let costs = rates.iter().map(|rates| rates.costs.clone()).collect();
        Parametric { costs, rates, bus, classes: Mutex::default() }
    }

    /// A phone, roughly: what the paper says of a Snapdragon 8 Gen 3.
    pub(crate) fn phone(n_devices: usize) -> Parametric {
        Parametric::new(phone(n_devices), 61.9e9)
    }
}

/// The first devices of a phone: GPU, NPU, CPU.
pub(crate) fn phone(n_devices: usize) -> Vec<Rates> {
    let costs = |name: &str, kind, submit: f64, idle: f64, sync: f64| DeviceCosts {
        submit_seconds: submit * 1e-6,
        submit_idle_seconds: idle * 1e-6,
        sync_seconds: sync * 1e-6,
        ..DeviceCosts::new(name, kind)
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
    rates
}

impl CostModel for Parametric {
    fn devices(&self) -> &[DeviceCosts] {
        &self.costs
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        let mut classes = self.classes.lock().unwrap();
        let known = classes.iter().position(|(known, _)| known == spec);
        ClassId(known.unwrap_or_else(|| {
            let columns = spec.op.input_columns().iter().sum::<usize>() + spec.op.output_columns();
            classes.push((spec.clone(), columns));
            classes.len() - 1
        }))
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        let classes = self.classes.lock().unwrap();
        let (OpSpec { op, .. }, activations) = &classes[shape.class.0];
        let rates = &self.rates[device_idx];
        let share = shape.columns as f64 / op.output_columns() as f64;
        let operations = op.operations(shape.rows, shape.past) as f64 * share;
        let is_linear = matches!(op, Op::Linear { .. });
        let per_second = if is_linear { rates.linear } else { rates.other };
        if per_second == 0.0 {
            return None;
        }
        let mut compute = operations / per_second;
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
        match self.classes.lock().unwrap()[class.0].0.op {
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
