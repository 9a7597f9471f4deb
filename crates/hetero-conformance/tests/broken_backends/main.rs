//! The suite catches what it is there to catch: each way of being wrong makes the right cases red.

mod wrappers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use hetero_conformance::{Expectations, Outcome, ReferenceBackend, Report, Wrapped, run};
use hetero_core::{Binding, Bindings, Segment, StepParams, reference};

use wrappers::{NoBf16, Trespasser};

#[test]
fn a_write_into_the_neighbouring_part_is_caught() {
    let report = run_broken("linear/w4g32/f32-f32-in64-out64+bias", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        let part = &segment.nodes[0].part;
        let output = bindings.tensors.last().unwrap();
        let columns = output.tensor().desc().columns;
        if part.columns.end < columns {
            poke(output, part.rows.start * columns + part.columns.end);
        }
    });
    // Whole outputs and rows have no neighbour to the right.
    expect(
        &report,
        &[
            ("/whole", None),
            ("/rows", None),
            ("/columns", Some("a write outside the part or the rows in use: \"op\" at [0, 32]")),
            ("/hybrid", Some("a write outside the part or the rows in use")),
        ],
    );
}

#[test]
fn a_write_behind_the_rows_in_use_is_caught() {
    let report = run_broken("add/f32+f32-f32/f60-cap3-rows1,5+1,3/whole", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        let output = bindings.tensors.last().unwrap();
        poke(output, step.rows * output.tensor().desc().columns % 180);
    });
    assert_all(&report, "a write outside the part or the rows in use: \"op\" at [1, 0]");
}

#[test]
fn a_write_into_memory_between_the_tensors_is_caught() {
    let only = Expectations::new().only("add/f32+f32-f32/f60-cap3-rows1,5+1,3/whole");
    let report = run(&Trespasser::backend(), &only);
    assert_all(&report, "a write outside all tensors, into a guard");
}

#[test]
fn numbers_beyond_the_tolerance_are_caught() {
    let report = run_broken("linear/f32/f32-f32-in2048-out33", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        change_output(segment, bindings, step, |_, _, y| y * 1.0001 + 1e-6);
    });
    assert_all(&report, "normalised error");
}

#[test]
fn one_wrong_number_is_caught() {
    let report = run_broken("add/f32+f32-f32/f257-cap33", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        change_output(segment, bindings, step, |row, column, y| if (row, column) == (20, 100) { y + 1e-3 } else { y });
    });
    let wrong = report.failures().count();
    assert!(wrong >= 1 && wrong == report.results.len(), "{report}");
    assert_message(&report, "at [20, 100]");
}

#[test]
fn results_that_change_from_run_to_run_are_caught() {
    let n_runs = AtomicUsize::new(0);
    let report = run_broken("softmax/f32-f32/f2048-cap3-rows2,5+1,3/whole", move |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        if n_runs.fetch_add(1, Ordering::Relaxed) == 1 {
            change_output(segment, bindings, step, |_, _, y| f32::from_bits(y.to_bits() ^ 1));
        }
    });
    assert_all(&report, "run 2 differs from the first");
}

#[test]
fn writing_rows_that_are_not_in_use_is_caught() {
    let report = run_broken("swiglu/f32+f32-f32/f92-cap16", |segment, bindings, step| {
        let rows = segment.graph.capacity();
        reference::run_segment(segment, bindings, StepParams { rows, ..step });
    });
    assert_all(&report, "a write outside the part or the rows in use");
}

#[test]
fn a_selection_of_nothing_is_no_success() {
    let report = run(&ReferenceBackend::new(), &Expectations::new().only("no such case"));
    assert!(report.results.is_empty());
    assert_message(&report, "no case passed");
}

#[test]
fn a_position_that_stays_the_same_from_step_to_step_is_caught() {
    let report = run_broken("rope/f16-f16/h2-d64", |segment, bindings, step| {
        reference::run_segment(segment, bindings, StepParams { past: 31, ..step });
    });
    assert_all(&report, "step 1 (0 + 1 rows): \"op\" wrong");
}

#[test]
fn a_slot_that_is_never_freed_is_caught() {
    let report = run_broken("add/f32+f32-f32/f32-cap2", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        std::mem::forget(bindings.tensors.pop());
    });
    assert_all(&report, "2 of 3 bindings came back");
}

#[test]
fn a_view_that_is_kept_is_caught() {
    let report = run_broken("add/f32+f32-f32/f32-cap2", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        let Binding::Read(view) = &bindings.tensors[1] else { unreachable!("the second input is read") };
        std::mem::forget(view.clone());
    });
    assert_all(&report, "a right to \"input1\" was never given back");
}

#[test]
fn nan_is_caught() {
    let report = run_broken("attention/f32+f16+f16-f32", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        change_output(segment, bindings, step, |row, column, y| if (row, column) == (0, 3) { f32::NAN } else { y });
    });
    let untouched = |name: &str| name.ends_with("/columns") || name.ends_with("/hybrid");
    let failed: Vec<&str> = report.failures().map(|result| result.name.as_str()).collect();
    assert!(report.results.iter().all(|result| result.is_failure() || untouched(&result.name)), "{report}");
    assert!(!failed.is_empty());
    assert_message(&report, "not finite or not written: NaN");
}

#[test]
fn an_output_that_is_not_written_is_caught() {
    let report = run_broken("rms_norm/f16/f32-f32-f92-cap16", |_, _, _| {});
    assert_all(&report, "not finite or not written");
}

#[test]
fn a_modified_input_is_caught() {
    let report = run_broken("swiglu/bf16+bf16-bf16/f60-cap3", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        poke(&bindings.tensors[0], 0);
    });
    assert_all(&report, "an input was modified: \"input0\" at [0, 0]");
}

#[test]
fn a_modified_cache_is_caught() {
    let report = run_broken("cache_write/f32-f16/kv2-d32", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        poke(bindings.tensors.last().unwrap(), 0);
    });
    assert_all(&report, "a write outside the part or the rows in use: \"cache\" at [0, 0]");
}

#[test]
fn a_result_that_depends_on_the_cut_is_caught() {
    let report = run_broken("linear/w8g32/bf16-f32-", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        let part = &segment.nodes[0].part;
        if part.columns.len() < 65 {
            change_output(segment, bindings, step, |_, _, y| f32::from_bits(y.to_bits() ^ 1));
        }
    });
    let is_hit = |name: &str| name.ends_with("/columns") || name.ends_with("/hybrid");
    for result in &report.results {
        let narrow = result.name.contains("out17");
        assert_eq!(result.is_failure(), is_hit(&result.name) && !narrow, "{report}");
    }
    assert_message(&report, "the result depends on the cut: \"op\" at [0, 0]");
}

#[test]
fn reading_rows_that_are_not_in_use_is_caught() {
    // A sum over all rows of the input, as per-tensor quantisation would make.
    let report = run_broken("convert/f32-f32/all-f33-cap7", |segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        let mut row = [0.0; 33];
        bindings.tensors[0].read_f32(6, 0, &mut row);
        change_output(segment, bindings, step, |_, column, y| y + 0.0 * row[column]);
    });
    assert_all(&report, "bits");
}

#[test]
fn misuse_that_is_accepted_is_caught() {
    let report = run_broken("contract/misuse", |segment, bindings, step| {
        // Neither checks anything nor computes anything unless all is well.
        if catch_unwind(AssertUnwindSafe(|| reference::check_step(segment, bindings, step))).is_ok() {
            reference::run_segment(segment, bindings, step);
        }
    });
    for result in report.results.iter().filter(|result| !result.name.contains("compiling")) {
        let Outcome::Failed(message) = &result.outcome else { panic!("{}: {:?}", result.name, result.outcome) };
        assert!(message.contains("accepted"), "{}: {message}", result.name);
    }
}

#[test]
fn a_wrong_result_fails_the_contract_too() {
    let report = run_broken("contract/several submissions", |_, _, _| {});
    assert_all(&report, "not finite or not written");
}

#[test]
fn a_panic_is_a_failure_of_its_case_alone() {
    let report = run_broken("softmax/f16-f16", |segment, bindings, step| {
        assert!(segment.graph.capacity() != 16, "sixteen is too many");
        reference::run_segment(segment, bindings, step);
    });
    for result in &report.results {
        assert_eq!(result.is_failure(), result.name.contains("cap16"), "{report}");
    }
    assert_message(&report, "panic: sixteen is too many");
}

#[test]
fn what_is_unsupported_is_counted_and_named() {
    let backend = Wrapped::reference(NoBf16);
    let report = run(&backend, &Expectations::new().only("add/"));
    report.assert_passed();
    assert!(report.n_unsupported() > 0 && report.n_passed() > 0);
    assert_eq!(report.n_unsupported() + report.n_passed(), report.results.len());
    let text = report.to_string();
    assert!(text.contains("unsupported: add (bf16, bf16) -> bf16: no bf16 here"), "{text}");

    let required = Expectations::new().only("add/").requires("add/bf16");
    let report = run(&backend, &required);
    assert!(report.failures().all(|result| result.name.starts_with("add/bf16")));
    assert_message(&report, "unsupported, but \"add/bf16\" is required");

    let report = run(&backend, &Expectations::new().only("add/bf16+bf16-bf16"));
    assert_message(&report, "no case passed");
}

#[test]
fn an_expected_failure_turns_red_when_it_passes() {
    let expectations = |pattern| {
        let expectations = Expectations::new().only("softmax/f16-f16");
        expectations.fails(pattern, "the driver rounds badly")
    };
    let broken = ReferenceBackend::with_kernel(|segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        if segment.graph.capacity() == 16 {
            change_output(segment, bindings, step, |_, _, y| y * 2.0);
        }
    });
    let report = run(&broken, &expectations("cap16"));
    report.assert_passed();
    assert!(report.n_expected_failures() > 0);

    let report = run(&ReferenceBackend::new(), &expectations("cap16"));
    let failed = report.failures().count();
    assert!(failed > 0 && report.failures().all(|result| result.name.contains("cap16")));
    let panic = catch_unwind(|| report.assert_passed()).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("passes, though it was expected to fail: the driver rounds badly"));
}

#[test]
fn a_tolerance_of_the_backend_is_used_and_noted() {
    let noisy = ReferenceBackend::with_kernel(|segment, bindings, step| {
        reference::run_segment(segment, bindings, step);
        change_output(segment, bindings, step, |_, _, y| y * 1.004);
    });
    let only = || Expectations::new().only("linear/w4g32/f32-f32-in96-out17");
    assert!(run(&noisy, &only()).failures().count() > 0);
    let tolerance = hetero_conformance::Tolerance::normalised(0.01);
    let format = Some(hetero_core::WeightFormat::W4G32);
    let report = run(&noisy, &only().tolerance("linear", format, tolerance, "activations in int8"));
    report.assert_passed();
    assert!(report.to_string().contains("activations in int8"));
}

#[test]
fn an_expectation_that_matches_nothing_is_a_failure() {
    let report = run(&ReferenceBackend::new(), &Expectations::new().fails("gemm/f64", "old"));
    assert_eq!(report.failures().count(), 1);
    assert_message(&report, "matches no case");
}

fn run_broken(only: &str, kernel: impl Fn(&Segment, &mut Bindings, StepParams) + Send + Sync + 'static) -> Report {
    let backend = ReferenceBackend::with_kernel(kernel);
    run(&backend, &Expectations::new().only(only))
}

/// Every case fails, with this in the message.
fn assert_all(report: &Report, message: &str) {
    assert!(!report.results.is_empty(), "no such case");
    for result in &report.results {
        let Outcome::Failed(found) = &result.outcome else { panic!("{} is {:?}", result.name, result.outcome) };
        assert!(found.contains(message), "{}: {found}", result.name);
    }
}

/// Some failure has this in its message, and `assert_passed` says so.
fn assert_message(report: &Report, message: &str) {
    let panic = catch_unwind(|| report.assert_passed()).unwrap_err();
    let found = panic.downcast_ref::<String>().unwrap();
    assert!(found.contains(message), "{found}");
}

/// What each case, found by a piece of its name, came to: `None` when it passed.
fn expect(report: &Report, expected: &[(&str, Option<&str>)]) {
    assert_eq!(report.results.len(), expected.len(), "{report}");
    for (piece, message) in expected {
        let mut results = report.results.iter();
        let result = results.find(|result| result.name.contains(piece)).unwrap();
        match (message, &result.outcome) {
            (None, Outcome::Passed) => {}
            (Some(message), Outcome::Failed(found)) if found.contains(message) => {}
            (_, outcome) => panic!("{} is {outcome:?}", result.name),
        }
    }
}

/// Changes the numbers that the last node of a segment wrote.
fn change_output(segment: &Segment, bindings: &mut Bindings, step: StepParams, f: impl Fn(usize, usize, f32) -> f32) {
    let node = segment.nodes.last().unwrap();
    let output = segment.graph.node(node.node).output;
    let binding = &mut bindings.tensors[segment.binding_idx(output)];
    let first = node.part.columns.start;
    let mut row = vec![0.0; node.part.columns.len()];
    for m in node.part.rows.start..node.part.rows.end.min(step.rows) {
        binding.read_f32(m, first, &mut row);
        for (idx, y) in row.iter_mut().enumerate() {
            *y = f(m, first + idx, *y);
        }
        binding.write_f32(m, first, &row);
    }
}

/// Flips a bit of an element by its address, right or no right.
fn poke(binding: &Binding, idx: usize) {
    let tensor = binding.tensor();
    let size = tensor.desc().dtype.size();
    assert!((idx + 1) * size <= tensor.desc().bytes());
    let start = tensor.tensor().host_ptr().unwrap();
    // SAFETY: the byte lies inside the tensor, as just checked. The suite runs this on its own thread and holds no
    // reference into a tensor while a submission runs, so nobody else is looking.
    unsafe { *start.as_ptr().add(idx * size) ^= 1 };
}
