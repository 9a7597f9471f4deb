//! Rights to rectangles of tensors on their way between threads: small enough to run under miri.

mod common;

use std::sync::Arc;

use common::threads::{Habits, Threaded};
use common::{Blocks, Model, any_plan};
use hetero_core::{Backend, StepParams};
use hetero_sched::{Executor, Plan, Residency};

/// Elementwise operators and a norm, in two rows: joins, cuts that meet and cuts that do not.
fn model() -> Model {
    let mut b = Blocks::new(2);
    let input = b.input();
    let mut x = input;
    for _ in 0..2 {
        let softmax = b.softmax(x);
        let rope = b.rope(softmax);
        let gated = b.swiglu(rope, x);
        let sum = b.add(gated, gated);
        x = b.add(sum, x);
    }
    b.builder.output(x);
    Model::new(b.builder.finish(), input, x)
}

fn run(model: &Model, plan: Plan, n_devices: usize) -> Vec<Vec<f32>> {
    let device = |idx| Threaded::backend("thread", Habits { late_us: 20, seed: idx, ..Habits::default() });
    let devices: Vec<Arc<dyn Backend>> = (0..n_devices).map(|idx| device(idx) as Arc<dyn Backend>).collect();
    let mut executor = Executor::new(plan, &devices, &model.weights, &model.state(), &mut Residency::new())
        .expect("everything is supported");
    (0..2).flat_map(|past| common::step(model, &mut executor, StepParams { past, rows: 2 }, past)).collect()
}

#[test]
fn threads_share_tensors_by_rectangles() {
    let model = model();
    let expected = run(&model, Plan::single_device(Arc::clone(&model.graph), 0), 1);
    for seed in 0..if cfg!(miri) { 6 } else { 100 } {
        let actual = run(&model, any_plan(&model.graph, 3, seed), 3);
        if cfg!(miri) {
            // The interpreter rounds functions such as the exponential at random.
            let pairs = actual.iter().flatten().zip(expected.iter().flatten());
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "plan {seed}");
            assert_eq!(pairs.count(), expected.len() * common::FEATURES);
        } else {
            assert_eq!(actual, expected, "plan {seed}");
        }
    }
}
