//! Properties of the simulation: nobody beats the bus, nothing is lost, everything is in order and comes to an end.

use proptest::prelude::*;

use super::*;

const COMBINED: f64 = 60e9;
const START: f64 = 20e-6;

fn demand(fixed_seconds: f64, compute_seconds: f64, bytes: f64, bytes_per_second: f64) -> Demand {
    Demand { fixed_seconds, compute_seconds, bytes, bytes_per_second, operations: 0.0 }
}

/// Which processor, and what.
type Plan = Vec<(usize, Vec<Demand>)>;

fn job(demands: &[Demand], tag: usize) -> Job<usize> {
    Job { demands: demands.into(), start_seconds: START, stall_seconds: 0.0, is_fatal: false, tag }
}

/// All jobs at time zero; the events until the end.
fn run(plan: &Plan) -> (Engine<usize>, Vec<(f64, Event<usize>)>) {
    let mut engine = Engine::new(COMBINED, 1e3);
    let mut events = Vec::new();
    for (tag, (processor, demands)) in plan.iter().enumerate() {
        engine.submit(*processor, job(demands, tag));
    }
    engine.run_until(1e6, &mut |time, event| events.push((time, event)));
    (engine, events)
}

fn demands() -> impl Strategy<Value = Demand> {
    let seconds = || prop_oneof![Just(0.0), 0.0..0.01, 1e-9..1e-6];
    let bytes = prop_oneof![Just(0.0), 1.0..1e9, 1e-3..1.0];
    (seconds(), seconds(), bytes, 1e9..90e9)
        .prop_map(|(fixed, compute, bytes, rate)| demand(fixed, compute, bytes, rate))
}

fn plans() -> impl Strategy<Value = Plan> {
    prop::collection::vec((0..N_PROCESSORS, prop::collection::vec(demands(), 0..5)), 0..12)
}

proptest! {
    /// Watched in short intervals, all together never beat the combined limit and none beats its own.
    #[test]
    fn nobody_beats_the_bus(plan in plans(), interval in 1e-5..5e-3) {
        let mut engine = Engine::new(COMBINED, 1e3);
        let mut fastest = [0.0f64; N_PROCESSORS];
        for (tag, (processor, demands)) in plan.iter().enumerate() {
            engine.submit(*processor, job(demands, tag));
            fastest[*processor] = demands.iter().fold(fastest[*processor], |x, demand| x.max(demand.bytes_per_second));
        }
        let mut before = [0.0; N_PROCESSORS];
        for idx in 1..=400 {
            let start = engine.time();
            engine.run_until(f64::from(idx) * interval, &mut |_, _| {});
            let seconds = (engine.time() - start) * (1.0 + 1e-9) + 1e-12;
            let after = std::array::from_fn(|idx| engine.work(idx).bytes);
            let moved: [f64; N_PROCESSORS] = std::array::from_fn(|idx| after[idx] - before[idx]);
            prop_assert!(moved.iter().sum::<f64>() <= COMBINED * seconds, "{moved:?} in {seconds} s");
            for (moved, fastest) in moved.iter().zip(fastest) {
                prop_assert!(*moved <= fastest * seconds, "{moved} bytes in {seconds} s with {fastest} bytes/s");
            }
            before = after;
        }
    }

    /// All bytes are moved, busy time is what nodes and starts took, and no node is faster than alone.
    #[test]
    fn work_adds_up(plan in plans()) {
        let (engine, events) = run(&plan);
        let mut nodes_took = [0.0; N_PROCESSORS];
        let mut n_nodes = 0;
        for (end, event) in &events {
            let Event::Node { processor, node_idx, start, tag } = event else { panic!("nothing was to fail") };
            nodes_took[*processor] += end - start;
            n_nodes += 1;
            let alone = plan[*tag].1[*node_idx].alone_seconds();
            let slowed = plan[*tag].1[*node_idx].bytes / COMBINED;
            prop_assert!(end - start >= alone.max(slowed) * (1.0 - 1e-9) - 1e-12, "{} s instead of {alone} s", end - start);
        }
        prop_assert_eq!(n_nodes, plan.iter().map(|(_, demands)| demands.len()).sum::<usize>());
        for (processor, nodes_took) in nodes_took.into_iter().enumerate() {
            let jobs: Vec<_> = plan.iter().filter(|(of, _)| *of == processor).collect();
            let bytes: f64 = jobs.iter().flat_map(|(_, demands)| demands).map(|demand| demand.bytes).sum();
            let work = engine.work(processor);
            prop_assert!((work.bytes - bytes).abs() <= 1e-9 * bytes, "{} of {bytes} bytes", work.bytes);
            let busy = nodes_took + START * jobs.len() as f64;
            prop_assert!((work.busy_seconds - busy).abs() <= 1e-9 * busy, "{} of {busy} s", work.busy_seconds);
            prop_assert_eq!(engine.completed(processor), jobs.len() as u64);
            prop_assert!(engine.is_idle(processor));
        }
    }

    /// On each processor nodes run in the order of submission, one after the other.
    #[test]
    fn everything_is_in_order(plan in plans()) {
        let (_, events) = run(&plan);
        let mut last = [(None, 0.0); N_PROCESSORS];
        for (end, event) in events {
            let Event::Node { processor, node_idx, start, tag } = event else { panic!("nothing was to fail") };
            let (last, last_end) = &mut last[processor];
            prop_assert!(last.is_none_or(|last| last < (tag, node_idx)) && start >= *last_end);
            (*last, *last_end) = (Some((tag, node_idx)), end);
        }
    }

    /// How often the host looks does not change what happens: only rounding.
    #[test]
    fn looking_changes_nothing(plan in plans(), interval in 1e-4..1e-2) {
        let (_, at_once) = run(&plan);
        let mut engine = Engine::new(COMBINED, 1e3);
        for (tag, (processor, demands)) in plan.iter().enumerate() {
            engine.submit(*processor, job(demands, tag));
        }
        let mut events = Vec::new();
        for idx in 1..=300 {
            engine.run_until(f64::from(idx) * interval, &mut |time, event| events.push((time, event)));
        }
        engine.run_until(1e6, &mut |time, event| events.push((time, event)));
        let mut pairs = at_once.iter().map(|(time, _)| *time).zip(events.iter().map(|(time, _)| *time));
        prop_assert_eq!(at_once.len(), events.len());
        prop_assert!(pairs.all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + a)));
    }
}

#[test]
fn a_processor_alone_takes_what_its_demands_say() {
    for demand in [
        demand(1e-3, 2e-3, 0.0, 1e9),
        demand(1e-3, 2e-3, 40e6, 40e9),
        demand(0.0, 2e-3, 400e6, 40e9),
        demand(0.0, 0.0, 0.0, 40e9),
    ] {
        let (_, events) = run(&vec![(1, vec![demand])]);
        let (end, _) = events[0];
        assert!((end - START - demand.alone_seconds()).abs() < 1e-12, "{demand:?} took {end} s");
    }
}

#[test]
fn two_processors_share_what_the_bus_has() {
    // 300 MB each at 30 GB/s until the GPU is done; what the NPU has left then goes at its own 40 GB/s.
    let (_, events) = run(&vec![(1, vec![demand(0.0, 0.0, 300e6, 45e9)]), (2, vec![demand(0.0, 0.0, 340e6, 40e9)])]);
    let ends: Vec<f64> = events.iter().map(|(end, _)| end - START).collect();
    assert!((ends[0] - 10e-3).abs() < 1e-12 && (ends[1] - 11e-3).abs() < 1e-12, "{ends:?}");
}

#[test]
fn a_computation_spreads_its_transfer_and_leaves_the_bus_to_others() {
    // 60 MB over 10 ms are 6 GB/s, so the NPU has its own 40 GB/s all along.
    let (_, events) = run(&vec![(1, vec![demand(0.0, 10e-3, 60e6, 45e9)]), (2, vec![demand(0.0, 0.0, 220e6, 40e9)])]);
    let ends: Vec<f64> = events.iter().map(|(end, _)| end - START).collect();
    assert!((ends[0] - 5.5e-3).abs() < 1e-12 && (ends[1] - 10e-3).abs() < 1e-12, "{ends:?}");
}

#[test]
fn a_computation_that_the_bus_holds_up_takes_longer() {
    // The GPU wants 36 GB/s for its 10 ms and gets 30 while the NPU takes the other half for 6 ms.
    let (_, events) = run(&vec![(1, vec![demand(0.0, 10e-3, 360e6, 45e9)]), (2, vec![demand(0.0, 0.0, 180e6, 45e9)])]);
    let ends: Vec<f64> = events.iter().map(|(end, _)| end - START).collect();
    assert!((ends[0] - 6e-3).abs() < 1e-12 && (ends[1] - 11e-3).abs() < 1e-12, "{ends:?}");
}

#[test]
fn a_processor_that_hangs_is_stopped_and_the_others_go_on() {
    let mut engine = Engine::new(COMBINED, 0.5);
    let one = [demand(1e-3, 0.0, 0.0, 1e9)];
    engine.submit(2, job(&one, 0));
    engine.submit(2, Job { stall_seconds: f64::INFINITY, ..job(&one, 1) });
    engine.submit(2, job(&one, 2));
    engine.submit(1, Job { stall_seconds: 0.2, ..job(&one, 3) });
    let mut events = Vec::new();
    engine.run_until(10.0, &mut |time, event| events.push((time, event)));
    let first_end = START + 1e-3;
    let (hangs, events): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|(_, event)| matches!(event, Event::Hung { .. }));
    assert_eq!(hangs.len(), 2);
    assert!(matches!(hangs[0].1, Event::Hung { processor: 1, tag: 3, .. }));
    assert_eq!(hangs[1], (first_end + 0.5, Event::Hung { processor: 2, start: first_end + 0.5 - 0.5, tag: 1 }));
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].1, Event::Node { processor: 2, node_idx: 0, start: START, tag: 0 });
    assert!(matches!(events[1].1, Event::Node { processor: 1, .. }) && (events[1].0 - first_end - 0.2).abs() < 1e-12);
    assert_eq!(events[2], (first_end + 0.5, Event::Stopped { processor: 2, value: 2, timed_out: true }));
    assert_eq!((engine.completed(2), engine.completed(1)), (3, 1));
}
