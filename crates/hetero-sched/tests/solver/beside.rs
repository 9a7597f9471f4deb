//! Plans beside others: weights that are there already, room for graphs, and what is compiled.

use std::sync::Arc;

use hetero_core::{Graph, StepParams};
use hetero_sched::cost::DeviceSet;
use hetero_sched::explain::explain;
use hetero_sched::solver::{Inventory, Prediction, Preparation, SolveError, predict_beside, solve_beside};
use hetero_sched::{Solution, SolveOptions, solve};

use crate::models::{LLAMA_8B, Sizes, llama};
use crate::phone::{Parametric, Rates, phone};

const SIZES: Sizes = Sizes { layers: 4, ..LLAMA_8B };
const PREFILL: StepParams = StepParams { rows: 256, past: 0 };
const DECODE: StepParams = StepParams { rows: 1, past: 256 };
const GPU: usize = 0;
const NPU: usize = 1;

/// The graphs of prefill and decode, whose weights have the same numbers.
fn graphs() -> [Arc<Graph>; 2] {
    [llama(&SIZES, PREFILL.rows), llama(&SIZES, DECODE.rows)]
}

fn options(memory_budget: Option<u64>) -> SolveOptions {
    SolveOptions { memory_budget, ..SolveOptions::new(DeviceSet::first(2)) }
}

/// Plans of prefill, and of decode beside it.
fn both(costs: &Parametric, options: &SolveOptions) -> Result<[Solution; 2], SolveError> {
    let [prefill, decode] = graphs();
    let first = solve(&prefill, costs, PREFILL, options)?;
    let mut inventory = Inventory::default();
    inventory.pin_plan(&first.plan, costs, &first.prediction.n_graphs);
    assert_eq!(inventory.pinned_bytes(), first.prediction.own_bytes);
    let second = solve_beside(&decode, costs, DECODE, options, &inventory)?;
    Ok([first, second])
}

#[test]
fn a_budget_for_one_copy_makes_decode_use_what_prefill_has_and_a_large_one_lets_them_differ() {
    let costs = Parametric::phone(2);
    let [prefill, free] = both(&costs, &options(None)).unwrap();
    let [copy, more] = [prefill.prediction.own_bytes, free.prediction.resident_bytes];
    assert!(copy > 0 && more > copy, "the best plans have cuts of their own: {more} of {copy}");
    let [_, alone] = graphs().map(|graph| solve(&graph, &costs, DECODE, &options(None)).unwrap());
    assert!(free.plan.placements() == alone.plan.placements(), "nothing is gained by agreeing");

    let [same, tight] = both(&costs, &options(Some(copy))).unwrap();
    assert!(same.plan.placements() == prefill.plan.placements(), "the first has the budget to itself");
    assert_eq!(tight.prediction.resident_bytes, copy, "no row is loaded twice");
    assert!(tight.prediction.own_bytes > 0, "what is there is used");
    assert!(tight.prediction.seconds >= free.prediction.seconds);
    // In between some are loaded, and that is worth it.
    let [_, between] = both(&costs, &options(Some(copy.midpoint(more)))).unwrap();
    let resident = between.prediction.resident_bytes;
    assert!(resident > copy && resident <= copy.midpoint(more), "{resident} bytes");
    assert!(between.prediction.seconds < tight.prediction.seconds);

    // Without prefill's copies there is less to use.
    let [_, decode] = graphs();
    let without = solve(&decode, &costs, DECODE, &options(Some(0))).unwrap();
    assert!(tight.prediction.seconds < without.prediction.seconds);
}

#[test]
fn where_nothing_fits_fewer_devices_are_used_before_there_is_an_error() {
    // Every device needs a copy, and the budget is for one.
    let rates = phone(2).into_iter().map(|rates| Rates { copies: 1.0, ..rates }).collect();
    let costs = Parametric::new(rates, 61.9e9);
    let [prefill, _] = graphs();
    let one = SolveOptions::new(DeviceSet::one(GPU));
    let copy = solve(&prefill, &costs, PREFILL, &one).unwrap().prediction.own_bytes;
    let [first, second] = both(&costs, &options(Some(copy))).unwrap();
    assert!(first.prediction.own_bytes <= copy && second.prediction.resident_bytes <= copy);
    let error = both(&costs, &options(Some(copy - 1))).unwrap_err();
    let SolveError::OverBudget { budget, needed } = error else { panic!("{error}") };
    assert_eq!((budget, needed), (copy - 1, copy));
    let text = error.to_string();
    assert!(text.contains(&copy.to_string()) && text.contains("allow more"), "{text}");
}

#[test]
fn a_device_gets_no_more_graphs_than_it_holds() {
    let [prefill, decode] = graphs();
    let mut rates = phone(2);
    let costs = Parametric::new(rates.clone(), 61.9e9);
    let gpu_only = solve(&prefill, &costs, PREFILL, &SolveOptions::new(DeviceSet::one(GPU))).unwrap();
    let free = solve(&prefill, &costs, PREFILL, &options(None)).unwrap();
    let mut before = free.prediction.seconds;
    for max_graphs in [64, 9, 5, 2, 1] {
        rates[NPU].costs.max_graphs = Some(max_graphs);
        let costs = Parametric::new(rates.clone(), 61.9e9);
        let limited = solve(&prefill, &costs, PREFILL, &options(None)).unwrap().prediction;
        assert!(limited.n_graphs[NPU] <= max_graphs, "{} of {max_graphs}", limited.n_graphs[NPU]);
        assert!(limited.n_graphs[NPU] > 0, "the NPU computes something with {max_graphs} graphs");
        assert!(limited.seconds < gpu_only.prediction.seconds, "and that is worth it");
        assert!(limited.seconds >= before * 0.999, "fewer graphs made it faster: {} s", limited.seconds);
        before = limited.seconds;
        // Decode has the room that prefill leaves.
        let mut inventory = Inventory::default();
        inventory.pin_plan(&free.plan, &costs, &limited.n_graphs);
        let second = solve_beside(&decode, &costs, DECODE, &options(None), &inventory).unwrap().prediction;
        assert!(limited.n_graphs[NPU] + second.n_graphs[NPU] <= max_graphs);
    }
    rates[NPU].costs.max_graphs = Some(0);
    let costs = Parametric::new(rates, 61.9e9);
    let alone = SolveOptions::new(DeviceSet::one(NPU));
    let error = solve(&prefill, &costs, PREFILL, &alone).unwrap_err();
    assert!(matches!(error, SolveError::TooManyGraphs { allowed: 0, .. }), "{error}");
}

#[test]
fn a_length_that_is_seen_once_is_not_compiled_for() {
    let costs = Parametric::phone(2);
    let graph = llama(&SIZES, 512);
    let ahead = options(None);
    let [long, short] = [512, 300].map(|rows| StepParams { rows, past: 0 });
    let compiled = solve(&graph, &costs, long, &ahead).unwrap();
    let free = solve(&graph, &costs, short, &ahead).unwrap();
    assert_eq!(free.prediction.prepare_seconds, 0.0, "plans are prepared ahead, as the evaluation of the paper does");
    let mut inventory = Inventory::default();
    inventory.add_compiled(&compiled.plan);
    let on_use = |n_steps| SolveOptions { preparation: Preparation::OnUse { n_steps }, ..options(None) };
    let prepare_of = |solution: &Solution, options: &SolveOptions| {
        let predicted = predict_beside(&solution.plan, &costs, short, options, &inventory).unwrap();
        predicted.prediction.prepare_seconds
    };
    assert!(prepare_of(&free, &on_use(1)) > 0.0, "its best plan has graphs of its own");
    let once = solve_beside(&graph, &costs, short, &on_use(1), &inventory).unwrap();
    assert_eq!(once.prediction.prepare_seconds, 0.0, "compiled graphs serve a prompt that is seen once");
    assert!(once.prediction.busy_seconds[NPU] > 0.0, "by more than the GPU alone");
    // What runs often enough is worth compiling.
    let often = solve_beside(&graph, &costs, short, &on_use(1_000_000), &inventory).unwrap();
    assert!(often.prediction.seconds <= free.prediction.seconds * 1.001);
    assert!(once.prediction.seconds >= often.prediction.seconds);
}

#[test]
fn explanations_tell_layers_apart_that_are_computed_otherwise_and_what_devices_hold() {
    let [prefill, _] = graphs();
    let costs = Parametric::phone(2);
    let all = solve(&prefill, &costs, PREFILL, &options(None)).unwrap().prediction.own_bytes;
    let mut most_groups = 0;
    for tenths in 1..10 {
        let options = options(Some(all * tenths / 10));
        let solution = solve(&prefill, &costs, PREFILL, &options).unwrap();
        let explanation = explain(&prefill, &costs, PREFILL, &options, &solution);
        let of_gate = explanation.operators.iter().filter(|operator| operator.name == "ffn_gate");
        let n_layers: Vec<usize> = of_gate.map(|gate| gate.n_layers).collect();
        assert_eq!(n_layers.iter().sum::<usize>(), SIZES.layers, "{n_layers:?}");
        most_groups = n_layers.len().max(most_groups);
        let memory = explanation.memory[NPU];
        assert_eq!(memory.own_bytes, solution.prediction.own_bytes);
        assert_eq!((memory.resident_bytes, memory.repeated_bytes), (memory.own_bytes, 0));
        assert!(memory.own_bytes == 0 || explanation.to_string().contains("npu: holds"), "{explanation}");
    }
    assert_eq!(most_groups, 2, "with memory for some layers, these are computed otherwise than the rest");
}

#[test]
fn a_prompt_uses_the_rows_that_decode_has_and_loads_what_it_needs_besides() {
    let costs = Parametric::phone(2);
    let [prefill, decode] = graphs();
    let first = solve(&decode, &costs, DECODE, &options(None)).unwrap();
    let mut inventory = Inventory::default();
    inventory.pin_plan(&first.plan, &costs, &first.prediction.n_graphs);
    let alone = solve(&prefill, &costs, PREFILL, &options(None)).unwrap().prediction;
    // As much as the prompt needs, where decode's rows are among it.
    let budget = options(Some(alone.own_bytes.max(inventory.pinned_bytes())));
    let beside = solve_beside(&prefill, &costs, PREFILL, &budget, &inventory).unwrap().prediction;
    assert!(beside.resident_bytes <= alone.own_bytes, "{} of {}", beside.resident_bytes, alone.own_bytes);
    assert!(beside.seconds < alone.seconds * 1.05, "{} s, {} s without a budget", beside.seconds, alone.seconds);
}

#[test]
fn what_crosses_between_memories_counts_and_too_much_of_it_keeps_a_device_out() {
    let [prefill, _] = graphs();
    let options = SolveOptions::new(DeviceSet::first(2));
    let shared = solve(&prefill, &Parametric::phone(2), PREFILL, &options).unwrap().prediction;
    assert_eq!(shared.copy_seconds, 0.0);
    let mut before = shared.seconds;
    for (bytes_per_second, is_shared) in [(20e9, true), (4e9, true), (1e6, false)] {
        let mut rates = phone(2);
        rates[NPU].costs.memory = 1;
        for rates in &mut rates {
            (rates.costs.copy_seconds, rates.costs.copy_seconds_per_byte) = (1e-6, 1.0 / bytes_per_second);
        }
        let costs = Parametric::new(rates, 61.9e9);
        let found = solve(&prefill, &costs, PREFILL, &options).unwrap();
        let Prediction { seconds, copy_seconds, ref busy_seconds, .. } = found.prediction;
        assert_eq!(busy_seconds.iter().all(|&busy| busy > 0.0), is_shared, "{busy_seconds:?} at {bytes_per_second}");
        assert!(copy_seconds > 0.0 || !is_shared, "nothing is said to be copied at {bytes_per_second} bytes/s");
        assert!(seconds > before, "slower copies made it faster: {seconds} s");
        // Outputs are copied to the first device, whoever computes.
        for device in [GPU, NPU] {
            let one = SolveOptions::new(DeviceSet::one(device));
            let alone = solve(&prefill, &costs, PREFILL, &one).unwrap().prediction.seconds;
            assert!(seconds <= alone, "{seconds} s, but device {device} alone takes {alone} s");
        }
        before = seconds;
    }
}
