//! Devices that take work before its inputs exist: the same results, nothing that waits for ever, nothing left behind.

mod common;

use std::cell::Cell;
use std::sync::Arc;

use common::threads::{Habits, ThreadBackend, Threaded};
use common::{Choice, Model, any_model, any_plan, decoder};
use hetero_core::{Backend, NodeId, Part, StepParams};
use hetero_sched::sync::{WaitOptions, WaitPolicy};
use hetero_sched::{Executor, ExecutorOptions, PlacedPart, Plan, Residency, SchedError, Synchronisation};

const CAPACITY: usize = 5;
const STEP: StepParams = StepParams { past: 0, rows: CAPACITY };
/// Fewer where every instruction is interpreted.
const N_PLANS: usize = if cfg!(miri) { 3 } else { 120 };

fn threads(habits: &[Habits]) -> Vec<Arc<ThreadBackend>> {
    let names = (0..habits.len()).map(|idx| format!("thread{idx}"));
    names.zip(habits).map(|(name, habits)| Threaded::backend(&name, habits.clone())).collect()
}

fn ahead() -> Habits {
    Habits { takes_ahead: true, ..Habits::default() }
}

fn executor(model: &Model, plan: Plan, devices: &[Arc<ThreadBackend>], options: ExecutorOptions) -> Executor {
    let devices: Vec<Arc<dyn Backend>> = devices.iter().map(|device| Arc::clone(device) as Arc<dyn Backend>).collect();
    Executor::with_options(plan, &devices, &model.weights, &model.state(), &mut Residency::new(), options)
        .expect("the devices compute everything")
}

/// Steps that continue each other.
fn steps(model: &Model, executor: &mut Executor) -> Vec<Vec<Vec<f32>>> {
    (0..3).map(|idx| common::step(model, executor, StepParams { past: idx * CAPACITY, ..STEP }, idx)).collect()
}

fn expected(model: &Model) -> Vec<Vec<Vec<f32>>> {
    steps(model, &mut executor(model, single(model), &threads(&[Habits::default()]), ExecutorOptions::default()))
}

fn single(model: &Model) -> Plan {
    Plan::single_device(Arc::clone(&model.graph), 0)
}

/// Norms on the first device, and everything else cut between the two or on the second: they meet all the time.
fn in_turn(model: &Model) -> Plan {
    let mut placements = single(model).placements().to_vec();
    for (idx, placed) in placements.iter_mut().enumerate() {
        let part = |columns| Part { rows: 0..CAPACITY, columns };
        match model.graph.node(NodeId(idx)).name {
            "gate" | "up" | "swiglu" => {
                *placed = vec![PlacedPart::new(0, part(0..32)), PlacedPart::new(1, part(32..64))];
            }
            "norm" => {}
            _ => placed.iter_mut().for_each(|placed| placed.device_idx = 1),
        }
    }
    Plan::new(Arc::clone(&model.graph), placements).expect("a cover")
}

/// What was queued ahead was started, all of it, or some of it taken back, and nothing waits.
fn assert_all_began(devices: &[Arc<ThreadBackend>]) {
    for device in devices {
        let [n_ahead, n_started, n_waiting] = device.wrapper.n_ahead();
        assert_eq!((n_started, n_waiting), (n_ahead, 0));
    }
}

#[test]
fn any_plan_gives_the_same_bits_with_work_queued_ahead() {
    let mut n_ahead = 0;
    for seed in 0..N_PLANS {
        let model = if seed % 3 == 0 { decoder(CAPACITY) } else { any_model(seed, CAPACITY) };
        let mut choice = Choice::new(seed);
        // Some take work ahead and some do not.
        let habits = [true, seed % 2 == 0, seed % 5 != 0].map(|takes_ahead| Habits {
            late_us: 1 + choice.below(300),
            seed,
            takes_ahead,
            ..Habits::default()
        });
        let devices = threads(&habits);
        let policy = [WaitPolicy::Predicted, WaitPolicy::Spin, WaitPolicy::Block][seed % 3];
        let wait = WaitOptions { policy, ..WaitOptions::default() };
        let options = ExecutorOptions { wait, n_traced: 1000, ..ExecutorOptions::default() };
        let mut executor = executor(&model, any_plan(&model.graph, 3, seed), &devices, options);
        assert_eq!(steps(&model, &mut executor), expected(&model), "plan {seed}, {policy:?}");
        assert_all_began(&devices);
        n_ahead += devices.iter().map(|device| device.wrapper.n_ahead()[0]).sum::<usize>();
    }
    assert!(n_ahead > 2 * N_PLANS, "{n_ahead} submissions were queued ahead");
}

#[test]
fn nothing_is_queued_ahead_where_that_is_switched_off() {
    let model = decoder(CAPACITY);
    let off = [
        ExecutorOptions { is_queued_ahead: false, ..ExecutorOptions::default() },
        ExecutorOptions { synchronisation: Synchronisation::PerCrossing, ..ExecutorOptions::default() },
    ];
    for options in off {
        let devices = threads(&[ahead(), ahead()]);
        let mut executor = executor(&model, in_turn(&model), &devices, options);
        assert_eq!(steps(&model, &mut executor), expected(&model));
        devices.iter().for_each(|device| assert_eq!(device.wrapper.n_ahead(), [0; 3]));
    }
}

/// The work that would have followed is taken back, so that the step ends and another plan goes on with the same tensors.
#[test]
fn what_waits_for_a_device_that_fails_is_taken_back() {
    let model = decoder(CAPACITY);
    let expected = expected(&model);
    let (mut n_taken_back, mut n_stuck) = (0, 0);
    for n_before in 0..8 {
        for (fails, hangs) in [(Some(1 + n_before), None), (None, Some(1 + n_before))] {
            let faulty = Habits { fails_at: fails, hangs_at: hangs, ..ahead() };
            let devices = threads(&[ahead(), faulty]);
            // Twelve times as long where a submission runs for the first time, which is before a thread gives up.
            let wait = WaitOptions { stuck_multiple: 1.0, stuck_floor_seconds: 30e-3, ..WaitOptions::default() };
            let options = ExecutorOptions { wait, ..ExecutorOptions::default() };
            let mut executor = executor(&model, in_turn(&model), &devices, options);
            let predicted: Vec<f64> = executor.submissions().map(|_| 1e-3).collect();
            executor.predict(&predicted);
            let mut n_errors = 0;
            for (idx, expected) in expected.iter().enumerate() {
                let step = StepParams { past: idx * CAPACITY, ..STEP };
                common::fill(&model, &executor, CAPACITY, idx);
                if let Err(error) = executor.step(step) {
                    n_errors += 1;
                    n_stuck += usize::from(matches!(error, SchedError::Stuck { .. }));
                    assert_eq!(error.device_idx(), Some(1), "{error}");
                    executor.set_plan(single(&model), &mut Residency::new()).expect("the first computes everything");
                    executor.step(step).expect("without the second");
                }
                assert_eq!(common::output(&model, &executor, CAPACITY), *expected, "step {idx}");
            }
            assert_eq!(n_errors, 1);
            for device in &devices {
                let [n_ahead, n_started, n_waiting] = device.wrapper.n_ahead();
                assert_eq!(n_waiting, 0);
                n_taken_back += n_ahead - n_started;
            }
        }
    }
    assert!(n_taken_back > 0, "nothing had been queued behind what failed");
    assert!(n_stuck > 0, "nobody was given up because of its time");
}

#[test]
fn a_step_can_be_cancelled_while_work_waits_for_its_inputs() {
    let model = decoder(CAPACITY);
    let devices = threads(&[(); 2].map(|()| Habits { late_us: 200, ..ahead() }));
    let mut executor = executor(&model, in_turn(&model), &devices, ExecutorOptions::default());
    common::fill(&model, &executor, CAPACITY, 0);
    executor.step(STEP).expect("a step");
    let expected = common::output(&model, &executor, CAPACITY);
    for n_questions in 0..10_usize {
        let left: Cell<usize> = Cell::new(n_questions);
        let is_cancelled = || left.replace(left.get().saturating_sub(1)) == 0;
        assert_eq!(executor.step_unless(STEP, &is_cancelled), Err(SchedError::Cancelled));
        // Nobody has a right any more, and nothing waits.
        drop(executor.tensor(model.output).slot());
        devices.iter().for_each(|device| assert_eq!(device.wrapper.n_ahead()[2], 0));
    }
    let taken_back = |device: &Arc<ThreadBackend>| {
        let [n_ahead, n_started, _] = device.wrapper.n_ahead();
        n_ahead - n_started
    };
    assert!(devices.iter().map(taken_back).sum::<usize>() > 0, "no step was cancelled while work waited");
    executor.step(STEP).expect("a step");
    assert_eq!(common::output(&model, &executor, CAPACITY), expected);
}

/// Each has work waiting in the same queues, which holds up the other's behind it.
#[test]
fn two_executors_on_the_same_devices_come_to_their_ends() {
    let devices = threads(&[(); 2].map(|()| Habits { late_us: 50, ..ahead() }));
    let models: Vec<Model> = (0..2).map(|_| decoder(CAPACITY)).collect();
    let expected = expected(&models[0]);
    std::thread::scope(|scope| {
        for model in &models {
            scope.spawn(|| {
                let mut executor = executor(model, in_turn(model), &devices, ExecutorOptions::default());
                for _ in 0..if cfg!(miri) { 1 } else { 20 } {
                    assert_eq!(steps(model, &mut executor), expected);
                }
            });
        }
    });
    assert_all_began(&devices);
}
