//! Whatever a plan places where, and however it cuts, the outputs are the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hetero_conformance::ReferenceBackend;
use hetero_core::quantize::pack_panel;
use hetero_core::{
    Backend, BackendError, DType, DeviceId, Graph, GraphBuilder, HostTensor, NodeId, Op, Part, PartitionError,
    SharedTensor, StepParams, TensorDesc, ValueId, WeightFormat, WeightLayout, WeightMatrix, reference,
};
use hetero_sched::{Executor, PlacedPart, Plan, Residency};

const CAPACITY: usize = 6;
const FEATURES: usize = 64;

/// A feed-forward block: norm, gate, up, swiglu, down, add; twice, so that tensors are used again.
struct Model {
    graph: Arc<Graph>,
    input: ValueId,
    output: ValueId,
    weights: Vec<Arc<WeightMatrix>>,
}

fn model() -> Model {
    let mut b = GraphBuilder::new(CAPACITY);
    let input = b.input("x", FEATURES, DType::F32);
    let mut x = input;
    for layer in 0..2 {
        b.set_layer(Some(layer));
        let norm = b.weight("norm", WeightLayout::table(WeightFormat::F32, 1, FEATURES));
        let [gate, up, down] = ["gate", "up", "down"]
            .map(|name| b.weight(name, WeightLayout::panels(WeightFormat::F32, FEATURES, FEATURES)));
        let linear =
            || Op::Linear { in_features: FEATURES, out_features: FEATURES, format: WeightFormat::F32, bias: false };
        let norm_op = Op::RmsNorm { features: FEATURES, epsilon: 1e-5 };
        let normed = b.node("norm", norm_op, &[x], &[norm], DType::F32);
        let gate = b.node("gate", linear(), &[normed], &[gate], DType::F32);
        let up = b.node("up", linear(), &[normed], &[up], DType::F32);
        let gated = b.node("swiglu", Op::Swiglu { features: FEATURES }, &[gate, up], &[], DType::F32);
        let down = b.node("down", linear(), &[gated], &[down], DType::F32);
        x = b.node("add", Op::Add { features: FEATURES }, &[x, down], &[], DType::F32);
    }
    b.output(x);
    let graph = b.finish();
    let device = DeviceId::next();
    let weights = graph.weights().iter().enumerate().map(|(seed, desc)| weight(&desc.layout, device, seed)).collect();
    Model { graph: Arc::new(graph), input, output: x, weights }
}

fn numbers(seed: usize) -> impl FnMut() -> f32 {
    let mut state = seed as u64 * 2 + 1;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn weight(layout: &WeightLayout, device: DeviceId, seed: usize) -> Arc<WeightMatrix> {
    let mut next = numbers(seed);
    let values: Vec<f32> = (0..layout.rows * layout.columns).map(|_| next()).collect();
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

fn run(model: &Model, plan: Plan, devices: &[Arc<dyn Backend>], rows: usize) -> Vec<Vec<f32>> {
    let mut executor = Executor::new(plan, devices, &model.weights, &[], &mut Residency::new())
        .expect("the devices compute everything");
    let mut outputs = Vec::new();
    // Several steps, so that tensors and bindings are used again.
    for step in 0..3 {
        let mut next = numbers(step);
        let mut slot = executor.tensor(model.input).slot();
        (0..rows).for_each(|row| slot.row_mut::<f32>(row).fill_with(&mut next));
        drop(slot);
        executor.step(StepParams { past: 0, rows }).expect("a step");
        let view = executor.tensor(model.output).view();
        outputs.extend((0..rows).map(|row| view.row::<f32>(row).to_vec()));
    }
    outputs
}

fn devices(n: usize) -> Vec<Arc<dyn Backend>> {
    (0..n).map(|_| Arc::new(ReferenceBackend::new()) as Arc<dyn Backend>).collect()
}

/// Cuts each node by the rule of its operator, by a choice that the seed makes.
fn any_plan(model: &Model, n_devices: usize, seed: usize) -> Plan {
    let mut next = numbers(seed);
    let mut choose = |n: usize| ((next() + 1.0) / 2.0 * n as f32) as usize % n;
    let mut placements = Vec::new();
    for idx in 0..model.graph.nodes().len() {
        let node = model.graph.node(NodeId(idx));
        let output = model.graph.tensor_desc(node.output);
        let whole = Part::whole(output.rows, output.columns);
        let rule = node.op.split_rule();
        let first = choose(n_devices);
        let second = (first + 1) % n_devices;
        let parts = match (choose(3), rule.columns) {
            (0, Some(multiple)) => {
                let at = multiple * (1 + choose(output.columns / multiple - 1));
                vec![Part { columns: 0..at, ..whole.clone() }, Part { columns: at..output.columns, ..whole }]
            }
            (1, _) if rule.rows => {
                let at = 1 + choose(output.rows - 1);
                vec![Part { rows: 0..at, ..whole.clone() }, Part { rows: at..output.rows, ..whole }]
            }
            _ => vec![whole],
        };
        let place = |(device_idx, part)| PlacedPart::new(device_idx, part);
        placements.push([first, second].into_iter().zip(parts).map(place).collect());
    }
    Plan::new(Arc::clone(&model.graph), placements).expect("an exact cover")
}

#[test]
fn any_plan_gives_the_same_outputs() {
    let model = model();
    for rows in [1, 4, CAPACITY] {
        let expected = run(&model, Plan::single_device(Arc::clone(&model.graph), 0), &devices(1), rows);
        assert!(expected.iter().flatten().all(|x| x.is_finite()));
        for seed in 0..40 {
            let n_devices = 2 + seed % 2;
            let actual = run(&model, any_plan(&model, n_devices, seed), &devices(n_devices), rows);
            assert_eq!(actual, expected, "plan {seed} with {rows} rows");
        }
    }
}

#[test]
fn a_plan_that_leaves_a_gap_is_refused() {
    let model = model();
    let whole = Plan::single_device(Arc::clone(&model.graph), 0);
    let mut placements = whole.placements().to_vec();
    placements[1][0].part.columns = 0..32;
    let error = Plan::new(Arc::clone(&model.graph), placements).unwrap_err();
    assert!(matches!(error, PartitionError::Gap { .. }), "{error}");
}

#[test]
fn shares_of_work_follow_the_cut() {
    let model = model();
    let output = model.graph.tensor_desc(model.graph.node(NodeId(1)).output);
    let mut placements = Plan::single_device(Arc::clone(&model.graph), 0).placements().to_vec();
    for (idx, placed) in placements.iter_mut().enumerate() {
        if matches!(model.graph.node(NodeId(idx)).op, Op::Linear { .. }) {
            let part = |columns| Part { rows: 0..output.rows, columns };
            *placed = vec![PlacedPart::new(0, part(0..32)), PlacedPart::new(1, part(32..64))];
        }
    }
    let shares = Plan::new(Arc::clone(&model.graph), placements).expect("a cover").shares(2);
    assert!((shares[0] + shares[1] - 1.0).abs() < 1e-12);
    assert!(shares[1] > 0.4 && shares[1] < 0.5, "norms and sums stay on the first: {shares:?}");
}

/// A backend that breaks in the second step.
#[test]
fn tensors_are_free_again_after_a_failure() {
    let model = model();
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let backend = ReferenceBackend::with_kernel(move |segment, bindings, step| {
        assert!(!switch.load(Ordering::Relaxed), "told to break");
        reference::run_segment(segment, bindings, step);
    });
    let devices: Vec<Arc<dyn Backend>> = vec![Arc::new(backend)];
    let plan = Plan::single_device(Arc::clone(&model.graph), 0);
    let mut executor =
        Executor::new(plan, &devices, &model.weights, &[], &mut Residency::new()).expect("everything is supported");
    let step = StepParams { past: 0, rows: 2 };
    executor.step(step).expect("a step");
    broken.store(true, Ordering::Relaxed);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| executor.step(step)));
    assert!(failed.is_err() || failed.is_ok_and(|result| result.is_err()));
    // Nobody holds a right any more.
    drop(executor.tensor(model.input).slot());
    drop(executor.tensor(model.output).slot());
}

/// The caller's tensors of state are used as they are.
#[test]
fn state_is_kept_from_step_to_step() {
    let mut b = GraphBuilder::new(1);
    let x = b.input("x", 4, DType::F32);
    let cache = b.state("cache", 3, 4, DType::F32);
    b.update("write", Op::CacheWrite { kv_heads: 1, head_dim: 4, context: 3 }, &[x], cache);
    let graph = Arc::new(b.finish());
    let desc = graph.tensor_desc(cache);
    let state = SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc).expect("memory")));
    let plan = Plan::single_device(graph, 0);
    let mut executor =
        Executor::new(plan, &devices(1), &[], &[Arc::clone(&state)], &mut Residency::new()).expect("ready");
    for past in 0..3 {
        executor.tensor(x).slot().row_mut::<f32>(0).fill(past as f32);
        executor.step(StepParams { past, rows: 1 }).expect("a step");
    }
    for row in 0..3 {
        assert_eq!(state.view().row::<f32>(row), [row as f32; 4]);
    }
}
