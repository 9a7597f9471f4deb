//! Plans for Llama-8B on a parametric phone.

use std::sync::Arc;

use hetero_core::{Graph, StepParams};
use hetero_sched::cost::{CostModel, DeviceSet};
use hetero_sched::solver::{DynamicLength, Effort, Granularity, Method, Objective, SolveError};
use hetero_sched::timing::timeline;
use hetero_sched::{Solution, SolveOptions, solve, submissions};

use crate::models::{LLAMA_8B, Sizes, llama, numbers};
use crate::phone::{Parametric, phone};

/// The layer is what is solved, so few of them tell as much as 32.
const SIZES: Sizes = Sizes { layers: 4, ..LLAMA_8B };

/// Of the lengths one in so many is enough where tests may run in an emulator: plans are the same on every processor.
const EVERY: usize = if cfg!(target_arch = "x86_64") { 1 } else { 2 };

/// 200 lengths, the ends among them.
fn lengths() -> Vec<usize> {
    let mut next = numbers(200);
    [1, 2, 1024].into_iter().chain((0..197).map(|_| 1 + (next() * 1024.0) as usize)).collect()
}

fn solve_with(graph: &Arc<Graph>, costs: &Parametric, rows: usize, options: &SolveOptions) -> Solution {
    solve(graph, costs, StepParams { rows, past: 0 }, options).unwrap()
}

/// How much longer than the best plan that is known the plans of an effort take, at every length.
#[derive(Debug)]
struct Losses(Vec<(f64, usize)>);

impl Losses {
    fn within_a_percent(&self) -> usize {
        self.0.iter().filter(|(loss, _)| *loss <= 0.01).count()
    }

    fn mean(&self) -> f64 {
        self.0.iter().map(|(loss, _)| loss).sum::<f64>() / self.0.len() as f64
    }

    fn worst(&self) -> (f64, usize) {
        self.0.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    }
}

/// Compares both efforts with another one, or with the best of all three.
fn losses(n_devices: usize, reference: Effort, is_best: bool) -> [Losses; 2] {
    let compare = |rows: usize| {
        let costs = Parametric::phone(n_devices);
        let graph = llama(&SIZES, rows);
        let seconds = |effort: Effort| {
            let options = SolveOptions { effort, ..SolveOptions::new(DeviceSet::first(n_devices)) };
            solve_with(&graph, &costs, rows, &options).prediction.seconds
        };
        let found = [Effort::default(), Effort::careful(), reference].map(seconds);
        // What is compared with stays the same when the efforts get better.
        let known = || seconds(yardstick()).min(found[0]).min(found[2]);
        let best = if is_best { known() } else { found[2] };
        [(found[0] / best - 1.0, rows), (found[1] / best - 1.0, rows)]
    };
    let lengths: Vec<usize> = lengths().into_iter().step_by(EVERY).collect();
    let (first, second) = lengths.split_at(lengths.len() / 2);
    let compared: Vec<_> = std::thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().map(|&rows| compare(rows)).collect::<Vec<_>>());
        let mut compared: Vec<_> = first.iter().map(|&rows| compare(rows)).collect();
        compared.extend(other.join().unwrap());
        compared
    });
    [0, 1].map(|effort| Losses(compared.iter().map(|both| both[effort]).collect()))
}

/// The bounds are what the search keeps today, a little above: lengths within a percent, mean loss and worst one, of both
/// efforts. Beside a much wider search the careful one is within a percent at every length; wanted is the same of the
/// other.
fn check_losses(n_devices: usize, reference: Effort, is_best: bool, bounds: [(usize, f64, f64); 2]) {
    for (losses, (at_least, mean, worst)) in losses(n_devices, reference, is_best).iter().zip(bounds) {
        let (n, is_mean, is_worst) = (losses.within_a_percent(), losses.mean(), losses.worst());
        let at_least = at_least / EVERY;
        assert!(n >= at_least, "{n_devices} devices: only {n} of {} lengths are within a percent", losses.0.len());
        assert!(is_mean <= mean, "{n_devices} devices: {is_mean} is lost on average");
        assert!(is_worst.0 <= worst, "{n_devices} devices: {} is lost with {} rows", is_worst.0, is_worst.1);
    }
}

/// A beam many times as wide, 12 of its ends improved, by all changes, in more rounds.
fn much_wider() -> Effort {
    Effort { kicks: 0, ..Effort::wide() }
}

/// One that also changes the layer by chance dozens of times and improves it each time: what is lost to the best that is
/// known.
fn by_chance() -> Effort {
    Effort { width: 10, width_per_ways: 8, refined: 3, combinations: 6, kicks: 40, ..Effort::wide() }
}

/// A few changes by chance after a search that is not wide.
fn yardstick() -> Effort {
    Effort { width: 8, refined: 2, rounds: 2, replaces_all: true, kicks: 20, ..Effort::default() }
}

#[test]
fn plans_for_two_devices_are_within_a_percent_of_those_of_a_much_wider_search() {
    check_losses(2, much_wider(), false, [(190, 0.0025, 0.022), (200, -0.003, 0.005)]);
}

#[test]
fn plans_for_three_devices_are_within_a_percent_of_those_of_a_much_wider_search() {
    check_losses(3, much_wider(), false, [(168, 0.0045, 0.058), (200, -0.008, 0.01)]);
}

#[test]
fn plans_for_two_devices_are_close_to_those_of_a_search_by_chance() {
    check_losses(2, by_chance(), true, [(155, 0.0065, 0.035), (195, 0.0, 0.025)]);
}

#[test]
fn plans_for_three_devices_are_close_to_those_of_a_search_by_chance() {
    check_losses(3, by_chance(), true, [(118, 0.0125, 0.068), (188, -0.001, 0.035)]);
}

#[test]
fn a_third_device_does_not_make_plans_worse() {
    let sizes = |hidden, intermediate, heads, kv_heads| Sizes { hidden, intermediate, heads, kv_heads, ..SIZES };
    let models = [SIZES, sizes(4096, 11008, 32, 32), sizes(3072, 8192, 24, 8), sizes(2048, 8192, 16, 8)];
    let costs = Parametric::phone(3);
    for model in models {
        for (rows, past) in [(1, 0), (1, 256), (1, 1000), (5, 0), (37, 0), (128, 0), (300, 0), (512, 0), (1024, 0)] {
            let graph = llama(&model, rows);
            let seconds = |devices: DeviceSet| {
                let options = SolveOptions::new(devices);
                solve(&graph, &costs, StepParams { rows, past }, &options).unwrap().prediction.seconds
            };
            let three = seconds(DeviceSet::first(3));
            for pair in [[0, 1], [0, 2], [1, 2]] {
                let two = seconds(pair.into_iter().collect());
                // Each search leaves something; a device that is not used where it should be costs far more.
                assert!(three <= two * 1.025, "{rows} rows after {past}: {three} s, {two} s on {pair:?}: {model:?}");
            }
        }
    }
}

#[test]
fn predictions_are_those_of_the_submissions() {
    for (n, rows) in [(2, 1), (2, 300), (3, 1), (3, 77), (3, 512)] {
        let graph = llama(&SIZES, rows);
        let costs = Parametric::phone(n);
        for granularity in [Granularity::Layer, Granularity::Tensor] {
            for method in [Method::WholeLayer, Method::Paper] {
                let options = SolveOptions { granularity, method, ..SolveOptions::new(DeviceSet::first(n)) };
                let solution = solve_with(&graph, &costs, rows, &options);
                let plan = &solution.plan;
                let submissions = submissions(plan);
                let line = timeline(plan, &submissions, &solution.part_seconds, costs.devices());
                let predicted = solution.prediction.seconds;
                assert!((line.seconds - predicted).abs() < 1e-9 * predicted, "{n} devices, {rows} rows, {options:?}");
                assert_eq!(submissions.len(), solution.prediction.n_submissions);
            }
        }
    }
}

#[test]
fn no_plan_is_slower_than_the_best_device_alone_or_the_papers_method() {
    let costs = Parametric::phone(3);
    for rows in lengths().into_iter().step_by(8) {
        let graph = llama(&SIZES, rows);
        let all = SolveOptions::new(DeviceSet::first(3));
        let best = solve_with(&graph, &costs, rows, &all).prediction.seconds;
        for device in 0..3 {
            let alone = SolveOptions::new(DeviceSet::one(device));
            assert!(best <= solve_with(&graph, &costs, rows, &alone).prediction.seconds, "{rows} rows, {device}");
        }
        let paper = SolveOptions { method: Method::Paper, ..all.clone() };
        assert!(best < solve_with(&graph, &costs, rows, &paper).prediction.seconds, "{rows} rows");
        let layer = SolveOptions { granularity: Granularity::Layer, ..all };
        assert!(best <= solve_with(&graph, &costs, rows, &layer).prediction.seconds, "{rows} rows");
    }
}

#[test]
fn a_plan_is_always_the_same() {
    let graph = llama(&SIZES, 300);
    let options = SolveOptions::new(DeviceSet::first(3));
    let first = solve_with(&graph, &Parametric::phone(3), 300, &options);
    for _ in 0..5 {
        let again = solve_with(&graph, &Parametric::phone(3), 300, &options);
        assert_eq!(first.plan.placements(), again.plan.placements());
    }
}

#[test]
fn a_memory_budget_is_kept_and_costs_time() {
    let graph = llama(&SIZES, 256);
    let costs = Parametric::phone(2);
    let mut options = SolveOptions::new(DeviceSet::first(2));
    let free = solve_with(&graph, &costs, 256, &options).prediction;
    let mut before = free.seconds;
    for tenths in [8, 5, 2, 0] {
        let budget = free.own_bytes * tenths / 10;
        options.memory_budget = Some(budget);
        let prediction = solve_with(&graph, &costs, 256, &options).prediction;
        assert!(prediction.own_bytes <= budget, "{} of {budget} bytes", prediction.own_bytes);
        assert!(prediction.seconds >= before * 0.99, "less memory made it faster: {} s", prediction.seconds);
        before = prediction.seconds;
    }
    assert!(before > free.seconds * 1.1, "doing without copies costs nothing");
}

#[test]
fn the_objective_of_energy_takes_less_energy() {
    let graph = llama(&SIZES, 256);
    let costs = Parametric::phone(3);
    let mut options = SolveOptions::new(DeviceSet::first(3));
    let fast = solve_with(&graph, &costs, 256, &options).prediction;
    options.objective = Objective::Energy;
    let frugal = solve_with(&graph, &costs, 256, &options).prediction;
    options.objective = Objective::Mixed { seconds_per_joule: fast.seconds / fast.joules };
    let mixed = solve_with(&graph, &costs, 256, &options).prediction;
    assert!(frugal.joules < fast.joules && frugal.seconds > fast.seconds);
    let price = |prediction: &hetero_sched::solver::Prediction| {
        prediction.seconds + fast.seconds / fast.joules * prediction.joules
    };
    assert!(price(&mixed) <= price(&fast) * 1.001 && price(&mixed) <= price(&frugal) * 1.001);
}

#[test]
fn strategies_for_other_lengths_do_what_they_are_called() {
    let rows = 300;
    let graph = llama(&SIZES, rows);
    let costs = Parametric::phone(2);
    let npu_rows = |dynamic_length: DynamicLength, granularity: Granularity| {
        let options = SolveOptions { dynamic_length, granularity, ..SolveOptions::new(DeviceSet::first(2)) };
        let solution = solve_with(&graph, &costs, rows, &options);
        let is_linear = |node: &hetero_core::Node| matches!(node.op, hetero_core::Op::Linear { .. });
        let linear = graph
            .nodes()
            .iter()
            .zip(solution.plan.placements())
            .filter(|(node, _)| is_linear(node) && node.layer.is_some());
        let parts = linear.flat_map(|(_, placed)| placed).filter(|placed| placed.device_idx == 1);
        let mut rows: Vec<usize> = parts.map(|placed| placed.part.rows.len()).collect();
        rows.sort_unstable();
        rows.dedup();
        (rows, solution.prediction)
    };
    let (padded, padding) = npu_rows(DynamicLength::Padding, Granularity::Layer);
    assert_eq!(padded, [300]);
    let (exact, online) = npu_rows(DynamicLength::Online, Granularity::Layer);
    assert_eq!(exact, [300]);
    assert!(online.seconds < padding.seconds && online.compile_seconds > 0.0);
    let (chunks, pipe) = npu_rows(DynamicLength::Pipe, Granularity::Layer);
    assert!(chunks.contains(&256) && chunks.iter().all(|&rows| rows <= 300));
    let (_, tensor) = npu_rows(DynamicLength::Tensor, Granularity::Tensor);
    assert!(tensor.seconds < padding.seconds && tensor.seconds < pipe.seconds && tensor.seconds < online.seconds);
}

#[test]
fn what_no_device_can_compute_is_named() {
    let graph = llama(&SIZES, 4);
    let mut rates = phone(2);
    rates[0].other = 0.0;
    let costs = Parametric::new(rates, 61.9e9);
    let options = SolveOptions::new(DeviceSet::one(0));
    let error = solve(&graph, &costs, StepParams { rows: 4, past: 0 }, &options).unwrap_err();
    assert!(matches!(&error, SolveError::Unsupported { node, .. } if node == "embed"), "{error}");
    let both = SolveOptions::new(DeviceSet::first(2));
    assert!(solve(&graph, &costs, StepParams { rows: 4, past: 0 }, &both).is_ok());
}
