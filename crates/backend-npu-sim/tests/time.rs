//! What takes how long, through the whole path: compile, submit, wait, count.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use backend_npu_sim::{MemoryMode, Numerics, SimOptions, TimeMode};
use hetero_core::DeviceKind::{Cpu, Gpu, Npu};
use hetero_core::OperandOrder::{ActivationStationary, WeightStationary};
use hetero_core::{Access, DType, Part, SharedTensor, TensorDesc};
use support::{Run, TINY, busy_seconds, linear, llama, phone, product_seconds, soc, timed};

#[test]
fn npu_time_is_a_staircase_of_its_tile() {
    let tile = soc().npu_limits.tile;
    let seconds = |rows| product_seconds(Npu, [rows, 4096, 4096], WeightStationary);
    for step in 2..8 {
        let at_step = seconds(step * tile);
        assert_eq!(seconds((step - 1) * tile + 1), at_step, "all of a step costs the same");
        assert!(seconds(step * tile + 1) > at_step, "the next step costs more");
    }
}

#[test]
fn an_npu_computes_what_it_was_compiled_for() {
    let phone = timed();
    for (kind, is_fixed) in [(Npu, true), (Gpu, false), (Cpu, false)] {
        let run = Run::new(&*phone.backend(kind), linear(256, 4096, 4096), WeightStationary, false);
        let run = run.expect("a product");
        let seconds = [256, 128, 1].map(|rows| run.seconds(&phone, rows));
        let is_same = seconds.iter().all(|x| (x - seconds[0]).abs() < 1e-9);
        assert_eq!(is_same, is_fixed, "{kind}: {seconds:?}");
    }
}

#[test]
fn the_operand_order_matters_to_the_npu_alone() {
    for (kind, matters) in [(Npu, true), (Gpu, false), (Cpu, false)] {
        let seconds =
            [ActivationStationary, WeightStationary].map(|order| product_seconds(kind, [256, 14336, 4096], order));
        assert_eq!((seconds[0] / seconds[1] - 1.0).abs() > 0.5, matters, "{kind}: {seconds:?}");
    }
}

#[test]
fn gpu_and_npu_together_get_more_of_the_bus_than_one_and_no_more_than_there_is() {
    let soc = soc();
    let phone = timed();
    let run =
        |kind, n| Run::new(&*phone.backend(kind), linear(1, n, 4096), WeightStationary, false).expect("a product");
    // The paper's cut of FFN-gate and -up: three quarters on the GPU.
    let (gpu, npu) = (run(Gpu, 21504), run(Npu, 7168));
    // Bytes over the bus for each second, of submissions that are waited for at the end.
    let rate = |runs: &[&Run]| {
        phone.reset_usage();
        let start = phone.clock().now();
        let tickets: Vec<_> = runs.iter().map(|run| run.submit(0, 1).expect("a step")).collect();
        for ticket in tickets {
            ticket.wait().expect("nothing fails");
        }
        let seconds = phone.clock().now() - start;
        let usage = phone.usage();
        let busy: f64 = usage.iter().map(|usage| usage.busy_seconds).sum();
        (usage.iter().map(|usage| usage.bytes).sum::<f64>() / seconds, busy / seconds)
    };
    let ((gpu_rate, _), (npu_rate, _), (rate, n_busy)) = (rate(&[&gpu]), rate(&[&npu]), rate(&[&gpu, &npu]));
    assert!(gpu_rate <= soc.gpu.bytes_per_second && npu_rate <= soc.npu.bytes_per_second);
    assert!(rate <= soc.bus.combined_bytes_per_second);
    assert!(rate > gpu_rate.max(npu_rate) && n_busy > 1.0, "{rate} bytes/s, {n_busy} busy");
}

#[test]
fn energy_is_idle_power_and_what_work_takes() {
    let phone = timed();
    let run = Run::new(&*phone.backend(Gpu), linear(64, 4096, 4096), WeightStationary, false).expect("a product");
    run.seconds(&phone, 64);
    phone.reset_usage();
    let start = phone.clock().now();
    for _ in 0..3 {
        run.seconds(&phone, 64);
    }
    phone.clock().advance(0.5);
    let seconds = phone.clock().now() - start;
    for usage in phone.usage() {
        let power = phone.soc().power(usage.kind);
        let expected = power.idle_watts * seconds
            + power.active_watts * usage.busy_seconds
            + power.joules_per_byte * usage.bytes
            + power.joules_per_operation * usage.operations;
        assert!((usage.joules - expected).abs() <= 1e-9 * expected, "{usage:?}");
        assert_eq!(usage.submissions, if usage.kind == Gpu { 3 } else { 0 });
        assert_eq!(usage.busy_seconds > 0.0, usage.kind == Gpu);
    }
}

#[test]
fn a_copied_rectangle_is_one_call_of_the_driver() {
    let phone = phone(SimOptions { memory: MemoryMode::Copied, numerics: Numerics::None, ..SimOptions::default() });
    let [gpu, npu] = [Gpu, Npu].map(|kind| phone.backend(kind));
    let desc = TensorDesc { rows: 4, columns: 32, dtype: DType::F32 };
    let tensor = SharedTensor::new(gpu.allocate(&desc).expect("no memory is taken"));
    assert!(!gpu.info().is_host_visible && tensor.tensor().host_ptr().is_none());
    assert_eq!(npu.access(tensor.tensor()), Access::Direct, "the phone's memory is one, whoever drives it");
    let part = Part { rows: 1..4, columns: 8..24 };
    let mut bytes = vec![0; part.area() * 4];
    let costs = phone.soc().overheads(Gpu);
    let call = costs.copy_seconds + bytes.len() as f64 / costs.copy_bytes_per_second;
    for n_calls in 1..4 {
        // In turns, so that each is a call of its own.
        match n_calls % 2 {
            1 => tensor.view().read_bytes(&part, &mut bytes).expect("a copy"),
            _ => tensor.slot().write_bytes(&part, &bytes).expect("a copy"),
        }
        let expected = f64::from(n_calls) * call;
        assert!((phone.clock().now() - expected).abs() < 1e-9 * expected, "{n_calls} calls: {}", phone.clock().now());
    }
}

#[test]
#[should_panic(expected = "copied memory is for timing alone")]
fn nothing_is_computed_in_memory_that_keeps_nothing() {
    phone(SimOptions { memory: MemoryMode::Copied, ..SimOptions::default() });
}

#[test]
fn the_same_calls_give_the_same_trace_byte_for_byte() {
    let trace = || {
        let phone = phone(SimOptions { trace: true, ..SimOptions::default() });
        let runs = [Npu, Gpu, Cpu]
            .map(|kind| Run::new(&*phone.backend(kind), llama(8, TINY), WeightStationary, true).expect("a tiny model"));
        for past in [0, 8] {
            let tickets = runs.each_ref().map(|run| run.submit(past, 5).expect("a step"));
            while !tickets[0].is_complete() {}
            phone.clock().copy(Gpu, 4096);
            for ticket in tickets {
                ticket.wait().expect("nothing fails");
            }
        }
        phone.trace().to_json()
    };
    let json = trace();
    assert_eq!(json, trace());

    let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let events = parsed["traceEvents"].as_array().expect("events");
    let tracks: Vec<_> = events.iter().filter(|event| event["name"] == "thread_name").collect();
    assert_eq!(tracks.len(), 4);
    let n_nodes = llama(8, TINY).nodes().len();
    for (track, name) in [(1, "cpu"), (2, "gpu"), (3, "npu")] {
        let spans: Vec<_> = events.iter().filter(|event| event["tid"] == track && event["ph"] == "X").collect();
        assert_eq!(spans.len(), 2 * n_nodes, "{name}");
        let edges = spans.iter().map(|span| (span["ts"].as_f64(), span["dur"].as_f64()));
        let mut last_end = 0.0;
        for (start, duration) in edges {
            let (start, duration) = (start.expect("a time"), duration.expect("a time"));
            assert!(start >= last_end - 1e-3 && duration >= 0.0, "nodes of one processor do not overlap");
            last_end = start + duration;
        }
    }
    assert!(json.contains("layers.1.down") && json.contains("linear w4g32"));
    for action in ["compile", "submit", "wait", "poll", "copy"] {
        assert!(events.iter().any(|event| event["tid"] == 0 && event["name"] == action), "{action}");
    }
}

#[test]
fn without_time_everything_is_finished_at_once() {
    let phone = phone(SimOptions { time: TimeMode::Free, ..SimOptions::default() });
    let run = Run::new(&*phone.backend(Npu), llama(8, TINY), WeightStationary, true).expect("a tiny model");
    assert!(run.submit(0, 8).expect("a step").is_complete());
    assert_eq!(phone.clock().now(), 0.0);
}

#[test]
fn real_time_takes_as_long_as_virtual_time_says() {
    let scale = 20.0;
    let phone = phone(SimOptions { time: TimeMode::Real { scale }, ..SimOptions::default() });
    let run = Run::new(&*phone.backend(Gpu), linear(1, 2048, 2048), WeightStationary, true).expect("a product");
    let started = std::time::Instant::now();
    run.submit(0, 1).expect("a step").wait().expect("nothing fails");
    let least = busy_seconds(&phone, Gpu) * scale;
    assert!(least > 1e-3 && started.elapsed().as_secs_f64() >= least, "{:?} of {least} s", started.elapsed());
}
