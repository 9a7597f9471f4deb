//! Each fault as a caller meets it, in virtual and in real time, and the NPU's limits.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::time::{Duration, Instant};

use backend_npu_sim::{FaultPlan, SimOptions, TimeMode};
use hetero_core::BackendError;
use hetero_core::DeviceKind::Npu;
use hetero_core::OperandOrder::{ActivationStationary, WeightStationary};
use support::{Run, bits, fill, linear, phone, soc, timed};

const TIMES: [TimeMode; 3] = [TimeMode::Virtual, TimeMode::Real { scale: 0.0 }, TimeMode::Free];

fn options(faults: &str, time: TimeMode) -> SimOptions {
    SimOptions { faults: FaultPlan::parse(faults).expect("a plan"), time, ..SimOptions::default() }
}

/// A small product on the NPU, computed `n` times: what came of each.
fn outcomes(options: SimOptions, n: usize) -> Vec<Result<(), BackendError>> {
    let phone = phone(options);
    let run = Run::new(&*phone.backend(Npu), linear(4, 64, 64), WeightStationary, true).expect("a product");
    (0..n).map(|_| run.submit(0, 4)?.wait().map(drop)).collect()
}

#[test]
fn a_lost_device_stays_lost() {
    for time in TIMES {
        let outcomes = outcomes(options("npu:lost@2", time), 4);
        assert_eq!(outcomes[0], Ok(()), "{time:?}");
        for outcome in &outcomes[1..] {
            assert!(matches!(outcome, Err(BackendError::DeviceLost { device, .. }) if device == "npu-sim"), "{time:?}");
        }
    }
}

#[test]
fn a_device_that_hangs_is_given_up_after_the_timeout() {
    for time in TIMES {
        let started = Instant::now();
        let outcomes = outcomes(options("npu:stuck@3; timeout=50ms", time), 5);
        let timed_out = BackendError::TimedOut { device: "npu-sim".into(), after: Duration::from_millis(50) };
        assert_eq!(outcomes[1], Ok(()));
        assert_eq!(outcomes[2..], [Err(timed_out.clone()), Err(timed_out.clone()), Err(timed_out)], "{time:?}");
        if matches!(time, TimeMode::Real { .. }) {
            assert!(started.elapsed() >= Duration::from_millis(50));
        }
    }
}

#[test]
fn a_hang_takes_as_much_virtual_time_as_the_timeout() {
    let phone = phone(options("npu:stuck@1; timeout=50ms", TimeMode::Virtual));
    let run = Run::new(&*phone.backend(Npu), linear(4, 64, 64), WeightStationary, true).expect("a product");
    let start = phone.clock().now();
    run.submit(0, 4).expect("accepted").wait().expect_err("hangs");
    let seconds = phone.clock().now() - start;
    assert!((0.05..0.06).contains(&seconds), "{seconds} s");
}

#[test]
fn a_processor_that_hangs_does_not_keep_the_phone_from_being_switched_off() {
    let phone = phone(options("npu:stuck@1; timeout=3600s", TimeMode::Real { scale: 0.0 }));
    let run = Run::new(&*phone.backend(Npu), linear(4, 64, 64), WeightStationary, true).expect("a product");
    let ticket = run.submit(0, 4).expect("accepted");
    // The ticket waits when it is dropped; on a thread of its own it is told that the processor has stopped.
    let waiting = std::thread::spawn(move || ticket.wait().map(drop));
    drop((run, phone));
    assert!(matches!(waiting.join().expect("no panic"), Err(BackendError::TimedOut { .. })));
}

#[test]
fn late_is_late_and_right() {
    let seconds = |faults: &str| {
        let phone = phone(options(faults, TimeMode::Virtual));
        let run = Run::new(&*phone.backend(Npu), linear(4, 2048, 2048), WeightStationary, true).expect("a product");
        fill(run.tensor(0), 4);
        let seconds: Vec<f64> = (0..3).map(|_| run.seconds(&phone, 4)).collect();
        (seconds, bits(run.tensor(1)))
    };
    let (usual, result) = seconds("");
    let (late, late_result) = seconds("npu:late=20ms@2");
    assert!((late[1] - usual[1] - 0.02).abs() < 1e-9 && (late[2] - usual[2]).abs() < 1e-12, "{late:?} and {usual:?}");
    assert_eq!(result, late_result);
    let (late, _) = seconds("npu:late=10x@1+");
    assert!(late[0] > 3.0 * usual[0], "{late:?} and {usual:?}");
}

#[test]
fn wrong_results_are_as_many_as_ordered() {
    for time in TIMES {
        let result = |faults: &str| {
            let phone = phone(options(faults, time));
            let run = Run::new(&*phone.backend(Npu), linear(4, 64, 64), WeightStationary, true).expect("a product");
            fill(run.tensor(0), 4);
            run.submit(0, 4).expect("a step").wait().expect("nothing says that it is wrong");
            bits(run.tensor(1))
        };
        let right = result("");
        for n in [1, 7, 256] {
            let wrong = result(&format!("npu:wrong={n}@1"));
            assert_eq!(right.iter().zip(&wrong).filter(|(a, b)| a != b).count(), n);
            assert_eq!(wrong, result(&format!("npu:wrong={n}@1")), "the same ones each time");
        }
        assert_ne!(right, result("npu:wrong=1000@1"), "all of them, when there are fewer");
    }
}

#[test]
fn compiling_fails_as_ordered() {
    let phone = phone(options("npu:oom@1; npu:compile-error@2", TimeMode::Virtual));
    let npu = phone.backend(Npu);
    let compile = || Run::new(&*npu, linear(4, 64, 64), WeightStationary, true).map(drop);
    assert!(matches!(compile(), Err(BackendError::OutOfMemory { bytes, .. }) if bytes == 64 * 64 * 9 / 16));
    assert!(matches!(compile(), Err(BackendError::CompileFailed { .. })));
    assert_eq!(compile(), Ok(()));
}

#[test]
fn graphs_beyond_the_limit_are_refused_until_others_go() {
    let limit = soc().npu_limits.max_graphs;
    let phone = timed();
    let npu = phone.backend(Npu);
    let compile = || Run::new(&*npu, linear(4, 64, 64), WeightStationary, false);
    let mut graphs: Vec<_> = (0..limit).map(|_| compile().expect("within the limit")).collect();
    let error = compile().expect_err("one too many");
    let (allowed, needed) = (limit as u64, limit as u64 + 1);
    assert_eq!(error, BackendError::LimitReached { device: "npu-sim".into(), what: "live graphs", allowed, needed });
    assert!(error.to_string().contains("live graphs"));
    graphs.pop();
    assert!(compile().is_ok());
}

#[test]
fn a_graph_that_is_too_large_is_refused() {
    let limit = soc().npu_limits.max_graph_bytes;
    let phone = timed();
    // Each row of 4-bit weights takes 9/16 of a byte a column.
    let rows = (limit / (16384 * 9 / 16)) as usize + 32;
    let error = Run::new(&*phone.backend(Npu), linear(4, rows, 16384), WeightStationary, false).expect_err("too large");
    assert!(
        matches!(error, BackendError::LimitReached { what: "bytes in one graph", allowed, .. } if allowed == limit)
    );
}

#[test]
fn both_operand_orders_give_the_same_bits() {
    for rows in [1, 5, 70] {
        let result = |order| {
            let phone = phone(options("", TimeMode::Virtual));
            let run = Run::new(&*phone.backend(Npu), linear(rows, 100, 75), order, true).expect("a product");
            fill(run.tensor(0), rows - rows / 3);
            run.submit(0, rows - rows / 3).expect("a step").wait().expect("nothing fails");
            bits(run.tensor(1))
        };
        let first = result(WeightStationary);
        assert_eq!(first, result(ActivationStationary));
        assert!(first.iter().any(|bits| *bits != 0));
    }
}

#[test]
fn decode_graphs_compute_in_integers_and_prefill_graphs_in_floats() {
    let result = |capacity| {
        let phone = phone(options("", TimeMode::Virtual));
        let run = Run::new(&*phone.backend(Npu), linear(capacity, 64, 512), WeightStationary, true).expect("a product");
        fill(run.tensor(0), 1);
        run.submit(0, 1).expect("a step").wait().expect("nothing fails");
        bits(run.tensor(1))[..64].iter().map(|bits| half::f16::from_bits(*bits).to_f32()).collect::<Vec<_>>()
    };
    let (integers, floats) = (result(1), result(2));
    let largest = floats.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let difference = integers.iter().zip(&floats).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert_ne!(integers, floats);
    assert!(difference < 2e-3 * largest, "{difference} of {largest}");
}

#[test]
fn a_wait_for_a_limited_time_does_not_outlast_a_hang() {
    for time in [TimeMode::Virtual, TimeMode::Real { scale: 0.0 }] {
        let phone = phone(options("npu:stuck@1; timeout=200ms", time));
        let run = Run::new(&*phone.backend(Npu), linear(4, 64, 64), WeightStationary, true).expect("a product");
        let ticket = run.submit(0, 4).expect("accepted");
        let timeline = ticket.timeline();
        assert_eq!(timeline.block_for(ticket.value(), Duration::from_millis(1)), Ok(false), "{time:?}");
        let error = timeline.block_for(ticket.value(), Duration::from_secs(60));
        assert!(matches!(error, Err(BackendError::TimedOut { .. })), "{time:?}: {error:?}");
    }
}

#[test]
fn a_hang_shows_in_the_trace() {
    let phone = phone(SimOptions { trace: true, ..options("npu:late=20ms@1", TimeMode::Virtual) });
    let run = Run::new(&*phone.backend(Npu), linear(4, 64, 64), WeightStationary, true).expect("a product");
    run.submit(0, 4).expect("accepted").wait().expect("late, but right");
    let json: serde_json::Value = serde_json::from_str(&phone.trace().to_json()).expect("JSON");
    let events = json["traceEvents"].as_array().expect("events");
    let hang = events.iter().find(|event| event["name"] == "hang").expect("a span");
    assert_eq!((hang["tid"].as_u64(), hang["dur"].as_f64()), (Some(3), Some(20_000.0)));
}
