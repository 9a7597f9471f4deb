//! A team goes on without a device that fails, with the same results, and says which one it was.

mod common;

use std::sync::Arc;

use common::threads::{Habits, ThreadBackend};
use common::{Model, decoder};
use hetero_core::{Backend, DeviceKind, OpSpec, StepParams};
use hetero_sched::cost::{ClassId, CostModel, DeviceCosts, DeviceSet, PartShape};
use hetero_sched::{ExecutorOptions, Runner, SchedError, SolveOptions, Team, TeamOptions};

const CAPACITY: usize = 5;

/// Every device takes as long as every other, so that plans use all of them.
#[derive(Debug)]
struct Equal {
    devices: Vec<DeviceCosts>,
}

impl Equal {
    fn of(devices: &[Arc<ThreadBackend>]) -> Arc<Equal> {
        let costs = |device: &Arc<ThreadBackend>| DeviceCosts {
            name: device.info().name.clone(),
            kind: DeviceKind::Cpu,
            submit_seconds: 1e-9,
            submit_idle_seconds: 0.0,
            sync_seconds: 1e-9,
            row_alignment: 32,
            standard_rows: Vec::new(),
            order_sensitive: false,
        };
        Arc::new(Equal { devices: devices.iter().map(costs).collect() })
    }
}

impl CostModel for Equal {
    fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    fn class(&self, _: &OpSpec) -> ClassId {
        ClassId(0)
    }

    fn seconds(&self, _: usize, shape: &PartShape) -> Option<f64> {
        Some(1e-6 * (shape.rows * shape.columns) as f64)
    }

    fn joules(&self, _: usize, _: &PartShape) -> f64 {
        0.0
    }

    fn idle_watts(&self) -> f64 {
        0.0
    }

    fn own_bytes(&self, _: usize, _: ClassId, _: usize) -> u64 {
        0
    }

    fn compile_seconds(&self, _: usize, _: &PartShape) -> f64 {
        0.0
    }
}

fn team(habits: &[Habits], is_strict: bool) -> Arc<Team> {
    let names = (0..habits.len()).map(|idx| format!("thread{idx}"));
    let devices: Vec<_> = names.zip(habits).map(|(name, habits)| ThreadBackend::new(&name, habits.clone())).collect();
    let costs = Equal::of(&devices);
    let devices: Vec<Arc<dyn Backend>> = devices.into_iter().map(|device| device as Arc<dyn Backend>).collect();
    let solve = SolveOptions::new(DeviceSet::first(devices.len()));
    Team::new(devices, costs, TeamOptions { solve, executor: ExecutorOptions::default(), is_strict })
}

fn runner(team: &Arc<Team>, model: &Model) -> Result<Runner, SchedError> {
    let first = StepParams { past: 0, rows: CAPACITY };
    Runner::new(team, &model.graph, &model.weights, &model.state(), first)
}

/// Steps of several lengths that continue each other.
fn steps(model: &Model, runner: &mut Runner) -> Result<Vec<Vec<Vec<f32>>>, SchedError> {
    let mut past = 0;
    let mut outputs = Vec::new();
    for (seed, rows) in [CAPACITY, 1, 3, 1, CAPACITY, 1].into_iter().enumerate() {
        common::fill(model, runner.executor(), rows, seed);
        runner.step(StepParams { past, rows }, &|| false)?;
        outputs.push(common::output(model, runner.executor(), rows));
        past += rows;
    }
    Ok(outputs)
}

#[test]
fn the_results_are_those_of_one_device_whoever_fails_and_whenever() {
    let model = decoder(CAPACITY);
    let expected = steps(&model, &mut runner(&team(&[Habits::default()], true), &model).expect("ready"));
    let expected = expected.expect("nothing fails");
    let mut n_lost = 0;
    for device_idx in 0..3 {
        for nth in [1, 2, 7, 20] {
            for hangs in [false, true] {
                let mut habits = vec![Habits::default(); 3];
                let habit = &mut habits[device_idx];
                *if hangs { &mut habit.hangs_at } else { &mut habit.fails_at } = Some(nth);
                let team = team(&habits, false);
                let mut runner = runner(&team, &model).expect("ready");
                assert_eq!(steps(&model, &mut runner).expect("the others go on"), expected, "{device_idx} at {nth}");
                for loss in team.losses() {
                    assert_eq!(loss.device, format!("thread{device_idx}"));
                    assert!(!team.usable().contains(device_idx));
                    n_lost += 1;
                }
            }
        }
    }
    assert!(n_lost >= 18, "plans use all devices, so most faults are met: {n_lost}");
}

#[test]
fn the_last_device_and_a_strict_team_do_not_go_on() {
    let model = decoder(CAPACITY);
    let failing = Habits { fails_at: Some(2), ..Habits::default() };
    let alone = team(std::slice::from_ref(&failing), false);
    let error = steps(&model, &mut runner(&alone, &model).expect("ready")).expect_err("nobody is left");
    assert_eq!((error.device_idx(), alone.losses().len()), (Some(0), 0));

    let strict = team(&[Habits::default(), failing], true);
    let error = steps(&model, &mut runner(&strict, &model).expect("ready")).expect_err("the team is strict");
    assert_eq!((error.device_idx(), strict.losses().len()), (Some(1), 0));
}

#[test]
fn a_device_that_holds_too_few_segments_is_left_out_before_the_first_step() {
    let model = decoder(CAPACITY);
    let team = team(&[Habits::default(), Habits { limit: Some(0), ..Habits::default() }], false);
    let mut runner = runner(&team, &model).expect("the first device can do everything");
    assert_eq!(team.losses().len(), 1);
    steps(&model, &mut runner).expect("one device is enough");
}

#[test]
fn a_cancelled_step_costs_no_device() {
    let model = decoder(CAPACITY);
    let team = team(&[Habits::default(), Habits::default()], false);
    let mut runner = runner(&team, &model).expect("ready");
    common::fill(&model, runner.executor(), 1, 0);
    let step = StepParams { past: 0, rows: 1 };
    assert_eq!(runner.step(step, &|| true), Err(SchedError::Cancelled));
    assert!(team.losses().is_empty());
    runner.step(step, &|| false).expect("it can be repeated");
}
