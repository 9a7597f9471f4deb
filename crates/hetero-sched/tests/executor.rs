//! Whatever a plan places where, and however it cuts, the outputs are the same.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{CONTEXT, Model, any_model, any_plan, decoder};
use hetero_conformance::ReferenceBackend;
use hetero_core::{
    Backend, DType, DeviceId, GraphBuilder, HostTensor, NodeId, Op, Part, PartitionError, SharedTensor, StepParams,
    reference,
};
use hetero_sched::{Executor, PlacedPart, Plan, Residency, State};

const CAPACITY: usize = 6;

fn run(model: &Model, plan: Plan, devices: &[Arc<dyn Backend>], rows: usize) -> Vec<Vec<f32>> {
    let mut executor = Executor::new(plan, devices, &model.weights, &model.state(), &mut Residency::new())
        .expect("the devices compute everything");
    let mut outputs = Vec::new();
    // Several steps, so that tensors and bindings are used again.
    for step in 0..3 {
        outputs.extend(common::step(model, &mut executor, StepParams { past: step * rows % CONTEXT / 2, rows }, step));
    }
    outputs
}

fn devices(n: usize) -> Vec<Arc<dyn Backend>> {
    (0..n).map(|_| Arc::new(ReferenceBackend::new()) as Arc<dyn Backend>).collect()
}

fn check(model: &Model, rows: usize, seeds: impl Iterator<Item = usize>) {
    let expected = run(model, Plan::single_device(Arc::clone(&model.graph), 0), &devices(1), rows);
    assert!(expected.iter().flatten().all(|x| x.is_finite()));
    for seed in seeds {
        let n_devices = 2 + seed % 2;
        let actual = run(model, any_plan(&model.graph, n_devices, seed), &devices(n_devices), rows);
        assert_eq!(actual, expected, "plan {seed} with {rows} rows");
    }
}

#[test]
fn any_plan_gives_the_same_outputs() {
    let model = decoder(CAPACITY);
    for rows in [1, 4, CAPACITY] {
        check(&model, rows, 0..40);
    }
}

#[test]
fn any_plan_of_any_graph_gives_the_same_outputs() {
    for seed in 0..60 {
        check(&any_model(seed, CAPACITY), 1 + seed % CAPACITY, seed..seed + 3);
    }
}

#[test]
fn a_plan_that_leaves_a_gap_is_refused() {
    let model = decoder(CAPACITY);
    let whole = Plan::single_device(Arc::clone(&model.graph), 0);
    let mut placements = whole.placements().to_vec();
    placements[1][0].part.columns = 0..32;
    let error = Plan::new(Arc::clone(&model.graph), placements).unwrap_err();
    assert!(matches!(error, PartitionError::Gap { .. }), "{error}");
}

#[test]
fn shares_of_work_follow_the_cut() {
    let model = decoder(CAPACITY);
    let mut placements = Plan::single_device(Arc::clone(&model.graph), 0).placements().to_vec();
    for (idx, placed) in placements.iter_mut().enumerate() {
        let node = model.graph.node(NodeId(idx));
        let output = model.graph.tensor_desc(node.output);
        if matches!(node.op, Op::Linear { .. }) && output.columns == 64 {
            let part = |columns| Part { rows: 0..output.rows, columns };
            *placed = vec![PlacedPart::new(0, part(0..32)), PlacedPart::new(1, part(32..64))];
        }
    }
    let shares = Plan::new(Arc::clone(&model.graph), placements).expect("a cover").shares(2);
    assert!((shares[0] + shares[1] - 1.0).abs() < 1e-12);
    assert!(shares[1] > 0.35 && shares[1] < 0.5, "all but the large products stays on the first: {shares:?}");
}

/// A backend that breaks in the second step.
#[test]
fn tensors_are_free_again_after_a_failure() {
    let model = decoder(CAPACITY);
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let backend = ReferenceBackend::with_kernel(move |segment, bindings, step| {
        assert!(!switch.load(Ordering::Relaxed), "told to break");
        reference::run_segment(segment, bindings, step);
    });
    let devices: Vec<Arc<dyn Backend>> = vec![Arc::new(backend)];
    let plan = Plan::single_device(Arc::clone(&model.graph), 0);
    let mut executor = Executor::new(plan, &devices, &model.weights, &model.state(), &mut Residency::new())
        .expect("everything is supported");
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
    let shared = State::new(&graph, vec![Arc::clone(&state)]);
    let plan = Plan::single_device(graph, 0);
    let mut executor = Executor::new(plan, &devices(1), &[], &shared, &mut Residency::new()).expect("ready");
    for past in 0..3 {
        executor.tensor(x).slot().row_mut::<f32>(0).fill(past as f32);
        executor.step(StepParams { past, rows: 1 }).expect("a step");
    }
    for row in 0..3 {
        assert_eq!(state.view().row::<f32>(row), [row as f32; 4]);
    }
}
