//! A team goes on without a device that fails, with the same results, and says which one it was.

mod common;

use std::sync::Arc;

use common::equal::Equal;
use common::threads::{Habits, Threaded};
use common::{Model, decoder};
use hetero_core::{Backend, StepParams};
use hetero_sched::cost::DeviceSet;
use hetero_sched::trace::Doing;
use hetero_sched::{ExecutorOptions, Runner, SchedError, SolveOptions, Team, TeamOptions};

const CAPACITY: usize = 5;

fn team(habits: &[Habits], is_strict: bool) -> Arc<Team> {
    team_with(habits, is_strict, ExecutorOptions::default())
}

fn team_with(habits: &[Habits], is_strict: bool, executor: ExecutorOptions) -> Arc<Team> {
    let names = (0..habits.len()).map(|idx| format!("thread{idx}"));
    let devices: Vec<_> = names.zip(habits).map(|(name, habits)| Threaded::backend(&name, habits.clone())).collect();
    let devices: Vec<Arc<dyn Backend>> = devices.into_iter().map(|device| device as Arc<dyn Backend>).collect();
    let costs = Equal::of(&devices);
    let solve = SolveOptions::new(DeviceSet::first(devices.len()));
    Team::new(devices, costs, TeamOptions { solve, executor, is_strict })
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
fn a_runner_counts_who_computed_what_and_compares_it_with_the_prediction() {
    let model = decoder(CAPACITY);
    let habits = [Habits::default(), Habits::default()];
    let options = ExecutorOptions { n_traced: 1000, ..ExecutorOptions::default() };
    let team = team_with(&habits, false, options);
    let mut runner = runner(&team, &model).expect("ready");
    assert_eq!(runner.report(), None, "nothing was run");
    assert_eq!(runner.operations(), [0.0, 0.0]);
    steps(&model, &mut runner).expect("nothing fails");
    let operations = runner.operations().to_vec();
    assert!(operations.iter().all(|&of_device| of_device > 0.0), "{operations:?}");

    let report = runner.report().expect("steps were recorded");
    assert_eq!((report.rows, report.n_steps >= 1), (1, true));
    assert_eq!(report.step.predicted, runner.solution().map(|solution| solution.prediction.seconds));
    let n_submissions: usize = report.segments.iter().map(|segment| segment.n_submissions).sum();
    assert_eq!(n_submissions, runner.executor().submissions().len());
    for (name, busy) in &report.devices {
        let of_device = report.segments.iter().filter(|segment| segment.device == *name);
        let measured: f64 = of_device.clone().map(|segment| segment.seconds.measured).sum();
        assert!((measured - busy.measured).abs() < 1e-9 && measured > 0.0, "{name}: {measured} of {busy:?}");
        assert!(busy.predicted > Some(0.0) && busy.error().is_some());
        assert!(of_device.clone().all(|segment| !segment.operators.is_empty()));
    }
    let text = report.to_string();
    assert!(text.contains("thread0 works predicted") && text.contains("measured"), "{text}");
    let doings: Vec<Doing> = runner.executor().trace().host_events().map(|event| event.doing).collect();
    let n_steps = doings.iter().filter(|doing| matches!(doing, Doing::Step { .. })).count();
    let n_submits = doings.iter().filter(|doing| matches!(doing, Doing::Submit { .. })).count();
    assert_eq!((n_steps, n_submits), (6, runner.executor().trace().events().count()));
    assert!(doings.contains(&Doing::Plan) && doings.contains(&Doing::Prepare), "plans follow the number of rows");
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
