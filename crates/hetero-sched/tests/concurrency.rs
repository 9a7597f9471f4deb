//! Devices that are threads: late, failing, stuck, and with several submissions under way on each.

mod common;

use std::cell::Cell;
use std::sync::Arc;

use common::threads::{Habits, ThreadBackend, Threaded};
use common::{Choice, Model, any_model, any_plan, decoder};
use hetero_core::{Backend, BackendError, NodeId, Part, StepParams};
use hetero_sched::sync::{WaitOptions, WaitPolicy};
use hetero_sched::{Executor, ExecutorOptions, PlacedPart, Plan, Residency, SchedError};

const CAPACITY: usize = 5;
const STEP: StepParams = StepParams { past: 0, rows: CAPACITY };
/// Fewer where every instruction is interpreted.
const N_PLANS: usize = if cfg!(miri) { 3 } else { 120 };

fn threads(habits: &[Habits]) -> Vec<Arc<ThreadBackend>> {
    let names = (0..habits.len()).map(|idx| format!("thread{idx}"));
    names.zip(habits).map(|(name, habits)| Threaded::backend(&name, habits.clone())).collect()
}

fn executor(model: &Model, plan: Plan, devices: &[Arc<ThreadBackend>], wait: WaitOptions) -> Executor {
    let devices: Vec<Arc<dyn Backend>> = devices.iter().map(|device| Arc::clone(device) as Arc<dyn Backend>).collect();
    let options = ExecutorOptions { wait, n_traced: 1000, ..ExecutorOptions::default() };
    Executor::with_options(plan, &devices, &model.weights, &model.state(), &mut Residency::new(), options)
        .expect("the devices compute everything")
}

fn single(model: &Model) -> Plan {
    Plan::single_device(Arc::clone(&model.graph), 0)
}

/// Steps that continue each other.
fn steps(model: &Model, executor: &mut Executor) -> Vec<Vec<Vec<f32>>> {
    (0..3).map(|idx| common::step(model, executor, StepParams { past: idx * CAPACITY, ..STEP }, idx)).collect()
}

/// Cut at the same columns on two devices: gate, up and swiglu; all else on the first.
fn cut_feed_forward(model: &Model) -> Plan {
    let mut placements = single(model).placements().to_vec();
    for (idx, placed) in placements.iter_mut().enumerate() {
        if ["gate", "up", "swiglu"].contains(&model.graph.node(NodeId(idx)).name) {
            let part = |columns| Part { rows: 0..CAPACITY, columns };
            *placed = vec![PlacedPart::new(0, part(0..32)), PlacedPart::new(1, part(32..64))];
        }
    }
    Plan::new(Arc::clone(&model.graph), placements).expect("a cover")
}

#[test]
fn late_devices_give_the_same_bits() {
    for seed in 0..N_PLANS {
        let model = if seed % 3 == 0 { decoder(CAPACITY) } else { any_model(seed, CAPACITY) };
        let reference = threads(&[Habits::default()]);
        let expected = steps(&model, &mut executor(&model, single(&model), &reference, WaitOptions::default()));
        let mut choice = Choice::new(seed);
        let habits = [(); 3].map(|()| Habits { late_us: 1 + choice.below(300), seed, ..Habits::default() });
        let policy = [WaitPolicy::Predicted, WaitPolicy::Spin, WaitPolicy::Block][seed % 3];
        let wait = WaitOptions { policy, ..WaitOptions::default() };
        let mut executor = executor(&model, any_plan(&model.graph, 3, seed), &threads(&habits), wait);
        assert_eq!(steps(&model, &mut executor), expected, "plan {seed}, {policy:?}");
    }
}

#[test]
fn the_host_alone_is_not_looked_at() {
    let model = decoder(CAPACITY);
    let devices = threads(&[(); 2].map(|()| Habits { late_us: 200, ..Habits::default() }));
    let devices = devices.into_iter().map(|device| device as Arc<dyn Backend>).collect::<Vec<_>>();
    let mut residency = Residency::new();
    let options = ExecutorOptions { host_device_idx: Some(0), ..ExecutorOptions::default() };
    let (weights, state) = (&model.weights, &model.state());
    let mut executor = Executor::with_options(single(&model), &devices, weights, state, &mut residency, options)
        .expect("the devices compute everything");
    steps(&model, &mut executor);
    let stats = executor.wait_stats();
    assert_eq!((stats.n_polled, stats.n_slept), (0, 0), "{stats:?}");
    assert!(stats.n_blocked > 0, "{stats:?}");

    executor.set_plan(cut_feed_forward(&model), &mut residency).expect("the devices compute everything");
    steps(&model, &mut executor);
    let together = executor.wait_stats();
    // It looks again, unless all has always ended before the host came to wait.
    assert!(together.n_polled + together.n_ready > stats.n_ready, "{together:?}");
}

#[test]
fn submissions_are_queued_behind_each_other() {
    let model = decoder(CAPACITY);
    let expected =
        steps(&model, &mut executor(&model, single(&model), &threads(&[Habits::default()]), WaitOptions::default()));
    // The first device computes the norm, which the second waits for, and queues its own half behind it: it does not
    // begin before both are there.
    let devices = threads(&[Habits { begins_with: 2, ..Habits::default() }, Habits::default()]);
    let mut executor = executor(&model, cut_feed_forward(&model), &devices, WaitOptions::default());
    assert_eq!(steps(&model, &mut executor), expected);
    assert!(devices[0].wrapper.was_queued());
    let stats = executor.wait_stats();
    // In each step the second device waits for two norms, the first for two halves, and the host for the end.
    assert!(stats.n_waits >= 3 && stats.n_waits <= 15, "{stats:?}");
}

#[test]
fn the_trace_has_every_submission() {
    let model = decoder(CAPACITY);
    let devices = threads(&[Habits::default(), Habits { late_us: 100, ..Habits::default() }]);
    let mut executor = executor(&model, cut_feed_forward(&model), &devices, WaitOptions::default());
    steps(&model, &mut executor);
    let n_submissions = executor.submissions().len();
    let events: Vec<_> = executor.trace().events().copied().collect();
    assert_eq!(events.len(), 3 * n_submissions);
    for device_idx in 0..2 {
        let of_device: Vec<_> = events.iter().filter(|event| event.device_idx == device_idx).collect();
        assert!(of_device.iter().all(|event| event.submitted <= event.start && event.start <= event.end));
        assert!(of_device.windows(2).all(|pair| pair[0].end <= pair[1].start), "a device does one thing at a time");
    }
}

/// After a failure the rest goes on by another plan, with the same results.
#[test]
fn a_step_is_repeated_without_the_device_that_failed() {
    let model = decoder(CAPACITY);
    let expected =
        steps(&model, &mut executor(&model, single(&model), &threads(&[Habits::default()]), WaitOptions::default()));
    for fails_at in 1..=4 {
        let devices = threads(&[Habits::default(), Habits { fails_at: Some(fails_at), ..Habits::default() }]);
        let mut executor = executor(&model, cut_feed_forward(&model), &devices, WaitOptions::default());
        let mut n_errors = 0;
        for (idx, expected) in expected.iter().enumerate() {
            let step = StepParams { past: idx * CAPACITY, ..STEP };
            common::fill(&model, &executor, CAPACITY, idx);
            if let Err(error) = executor.step(step) {
                n_errors += 1;
                assert_eq!(error.device_idx(), Some(1), "{error}");
                let SchedError::Device { error: BackendError::Failed { device, .. }, .. } = &error else {
                    panic!("{error}")
                };
                assert_eq!(device, "thread1");
                executor.set_plan(single(&model), &mut Residency::new()).expect("the first computes everything");
                executor.step(step).expect("without the second");
            }
            assert_eq!(common::output(&model, &executor, CAPACITY), *expected, "step {idx}");
        }
        assert_eq!(n_errors, 1);
    }
}

#[test]
fn a_stuck_device_is_named() {
    let model = decoder(CAPACITY);
    let devices = threads(&[Habits::default(), Habits { hangs_at: Some(2), ..Habits::default() }]);
    for policy in [WaitPolicy::Predicted, WaitPolicy::Spin, WaitPolicy::Block] {
        let devices = if policy == WaitPolicy::Predicted {
            devices.clone()
        } else {
            threads(&[Habits::default(), Habits { hangs_at: Some(2), ..Habits::default() }])
        };
        // Twelve times as long where a submission runs for the first time.
        let wait = WaitOptions { policy, stuck_multiple: 1.0, stuck_floor_seconds: 5e-3, ..WaitOptions::default() };
        let mut executor = executor(&model, cut_feed_forward(&model), &devices, wait);
        let predicted: Vec<f64> = executor.submissions().map(|_| 1e-3).collect();
        executor.predict(&predicted);
        common::fill(&model, &executor, CAPACITY, 0);
        let error = executor.step(STEP).unwrap_err();
        assert!(matches!(&error, SchedError::Stuck { device_idx: 1, device, .. } if device == "thread1"), "{error}");
        // Nothing is left running that holds a tensor.
        executor.set_plan(single(&model), &mut Residency::new()).expect("the first computes everything");
        executor.step(STEP).expect("without the second");
    }
}

#[test]
fn a_step_can_be_cancelled_anywhere() {
    let model = decoder(CAPACITY);
    let devices =
        threads(&[Habits { late_us: 200, ..Habits::default() }, Habits { late_us: 200, ..Habits::default() }]);
    let mut executor = executor(&model, cut_feed_forward(&model), &devices, WaitOptions::default());
    common::fill(&model, &executor, CAPACITY, 0);
    executor.step(STEP).expect("a step");
    let expected = common::output(&model, &executor, CAPACITY);
    for n_questions in 0..6_usize {
        let left: Cell<usize> = Cell::new(n_questions);
        let is_cancelled = || left.replace(left.get().saturating_sub(1)) == 0;
        assert_eq!(executor.step_unless(STEP, &is_cancelled), Err(SchedError::Cancelled));
        drop(executor.tensor(model.output).slot());
    }
    executor.step(STEP).expect("a step");
    assert_eq!(common::output(&model, &executor, CAPACITY), expected);
}

#[test]
fn another_plan_compiles_only_what_is_new() {
    let model = decoder(CAPACITY);
    let devices = threads(&[Habits::default(), Habits::default()]);
    let mut executor = executor(&model, cut_feed_forward(&model), &devices, WaitOptions::default());
    let compiled = || [devices[0].wrapper.n_compiled(), devices[1].wrapper.n_compiled()];
    assert_eq!(compiled(), [5, 2]);
    executor.set_plan(cut_feed_forward(&model), &mut Residency::new()).expect("ready");
    assert_eq!(compiled(), [5, 2]);
    // The first layer stays cut, the second moves to the first device.
    let mut placements = cut_feed_forward(&model).placements().to_vec();
    let half = placements.len() / 2;
    placements[half..].clone_from_slice(&single(&model).placements()[half..]);
    let mixed = Plan::new(Arc::clone(&model.graph), placements).expect("a cover");
    executor.set_plan(mixed, &mut Residency::new()).expect("ready");
    assert_eq!(compiled(), [6, 2]);
    executor.set_plan(cut_feed_forward(&model), &mut Residency::new()).expect("ready");
    assert_eq!(compiled(), [6, 2]);
    assert_eq!(executor.n_compiled(), 8);
}

#[test]
fn what_was_compiled_for_other_plans_makes_room() {
    let model = decoder(CAPACITY);
    let devices = threads(&[Habits { limit: Some(5), ..Habits::default() }, Habits::default()]);
    let mut executor = executor(&model, cut_feed_forward(&model), &devices, WaitOptions::default());
    for _ in 0..2 {
        executor.set_plan(single(&model), &mut Residency::new()).expect("one segment of the plan before goes");
        common::step(&model, &mut executor, STEP, 0);
        executor.set_plan(cut_feed_forward(&model), &mut Residency::new()).expect("and comes back");
        common::step(&model, &mut executor, STEP, 0);
    }
    let devices = threads(&[Habits { limit: Some(4), ..Habits::default() }, Habits::default()]);
    let devices: Vec<Arc<dyn Backend>> = devices.into_iter().map(|device| device as Arc<dyn Backend>).collect();
    let plan = cut_feed_forward(&model);
    let error = Executor::new(plan, &devices, &model.weights, &model.state(), &mut Residency::new()).unwrap_err();
    let SchedError::Device { device_idx: 0, error: BackendError::LimitReached { .. } } = error else {
        panic!("{error}")
    };
}
