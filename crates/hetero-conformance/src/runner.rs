//! Runs cases: every step, every cut, and again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use hetero_core::{Backend, StepParams, Ticket, ValueId, ValueKind};

use crate::bench::{Bench, Snapshot, Trouble};
use crate::case::{Case, Cut};
use crate::compare::{Tolerance, compare, compare_bits};
use crate::expectations::Expectations;
use crate::report::{CaseResult, Outcome, Report};
use crate::{cases, contract};

/// How often the first step of a case runs; the results must be the same bits.
const N_REPEATS: usize = 3;

pub(crate) fn run_all(backend: &dyn Backend, expectations: &Expectations, only: Option<&str>) -> Report {
    let selected = |name: &str| only.is_none_or(|only| name.contains(only)) && expectations.selects(name);
    let mut results = Vec::new();
    for case in cases::all() {
        run_case(backend, &case, expectations, &selected, &mut results);
    }
    contract::run(backend, expectations, &selected, &mut results);
    // An expectation that matches nothing is out of date, unless the cases were not asked for.
    let is_complete = only.is_none() && expectations.selects_all();
    if is_complete {
        expectations.check_all_used(&mut results);
    }
    Report { backend: backend.info().name.clone(), results, notes: expectations.notes() }
}

/// What `f` says; a panic is a failure with its message.
pub(crate) fn caught<T>(f: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|panic| Err(Trouble::Failed(format!("panic: {}", panic_message(&*panic)))))
}

/// The message of a panic, empty when it has none.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(message) = panic.downcast_ref::<&str>() {
        message
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message
    } else {
        ""
    }
}

fn run_case(
    backend: &dyn Backend,
    case: &Case,
    expectations: &Expectations,
    selected: &dyn Fn(&str) -> bool,
    results: &mut Vec<CaseResult>,
) {
    let cuts: Vec<Cut> = case.cuts.iter().copied().filter(|&cut| selected(&case.name(cut))).collect();
    if cuts.is_empty() {
        return;
    }
    let mut started = Instant::now();
    let mut push = |cut: Cut, result: Result<f64, Trouble>| {
        let name = case.name(cut);
        let (error, trouble) = match result {
            Ok(error) => (Some(error), None),
            Err(trouble) => (None, Some(trouble)),
        };
        let outcome = expectations.judge(&name, trouble);
        let elapsed: Duration = started.elapsed();
        started = Instant::now();
        results.push(CaseResult { name, op: case.op, format: case.format.clone(), outcome, error, elapsed });
    };
    let tolerance = expectations.tolerance_of(case);
    let prepared = caught(|| {
        let bench = Bench::new(backend, case)?;
        let expected = bench.oracle();
        Ok((bench, expected))
    });
    let (bench, expected) = match prepared {
        Ok(prepared) => prepared,
        Err(trouble) => {
            for cut in cuts {
                push(cut, Err(trouble.clone()));
            }
            return;
        }
    };
    let mut bench = Some(bench);
    let mut run_once = |cut: Cut| -> Result<Run, Trouble> {
        // A failure may leave rights taken or memory spoilt, so the cut after it starts on a bench of its own.
        let current = match bench.take() {
            Some(bench) => bench,
            None => caught(|| Bench::new(backend, case))?,
        };
        let run = caught(|| run_cut(&current, cut, &expected, tolerance))?;
        bench = Some(current);
        Ok(run)
    };
    // The whole runs first, asked for or not: it is what the cuts are compared with.
    let whole = run_once(Cut::Whole);
    for cut in cuts {
        let error = if cut == Cut::Whole {
            whole.as_ref().map(|run| run.error).map_err(Trouble::clone)
        } else {
            run_once(cut).and_then(|run| {
                if let Ok(whole) = &whole {
                    let what = "the result depends on the cut";
                    same_bits(case, &whole.steps, &run.steps, what)?;
                }
                Ok(run.error)
            })
        };
        push(cut, error);
    }
}

/// What a case computed in one of its cuts.
struct Run {
    /// Everything after each step.
    steps: Vec<Snapshot>,
    /// The largest normalised error.
    error: f64,
}

fn run_cut(bench: &Bench<'_>, cut: Cut, expected: &[Snapshot], tolerance: Tolerance) -> Result<Run, Trouble> {
    let case = bench.case;
    let partition = case.partition(cut);
    let parts = partition.parts();
    let mut segments = Vec::new();
    let mut executables = Vec::new();
    for part in parts {
        let segment = bench.segment(part)?;
        executables.push(bench.backend.compile(&segment)?);
        segments.push(segment);
    }
    let submit = |part_idx: usize, slots: &mut Vec<_>, step: StepParams| -> Result<Ticket, Trouble> {
        let bindings = bench.bind(&segments[part_idx], &partition, part_idx, slots);
        Ok(executables[part_idx].submit(bindings, step)?)
    };
    // Each part by itself, the last one first, so that a write into a neighbour is seen.
    let one_by_one = |mut before: Snapshot, step: StepParams| -> Result<Snapshot, Trouble> {
        for part_idx in (0..parts.len()).rev() {
            let mut slots = Vec::new();
            let ticket = submit(part_idx, &mut slots, step)?;
            bench.finish(&segments[part_idx], ticket, &parts[part_idx])?;
            drop(slots);
            before = bench.check_memory(&before, &parts[part_idx..=part_idx], step)?;
        }
        Ok(before)
    };
    let together = |before: Snapshot, step: StepParams| -> Result<Snapshot, Trouble> {
        let mut slots = Vec::new();
        let mut tickets = Vec::new();
        for part_idx in 0..parts.len() {
            tickets.push(submit(part_idx, &mut slots, step)?);
        }
        for (part_idx, ticket) in tickets.into_iter().enumerate() {
            bench.finish(&segments[part_idx], ticket, &parts[part_idx])?;
        }
        drop(slots);
        bench.check_memory(&before, parts, step)
    };

    let mut run = Run { steps: Vec::new(), error: 0.0 };
    for (step_idx, &step) in case.steps.iter().enumerate() {
        let mut first: Option<Snapshot> = None;
        for repeat in 0..if step_idx == 0 { N_REPEATS } else { 1 } {
            bench.fill(step_idx, step_idx == 0 && repeat == 0);
            let before = bench.snapshot();
            let after = if step_idx == 0 && repeat == 0 { one_by_one(before, step)? } else { together(before, step)? };
            if let Some(first) = &first {
                let what = format!("run {} differs from the first", repeat + 1);
                same_bits(case, std::slice::from_ref(first), std::slice::from_ref(&after), &what)?;
                continue;
            }
            let error = check_numbers(bench, step, &expected[step_idx], &after, tolerance)
                .map_err(|message| format!("step {step_idx} ({} + {} rows): {message}", step.past, step.rows))?;
            run.error = run.error.max(error);
            first = Some(after);
        }
        run.steps.extend(first);
    }
    Ok(run)
}

/// Compares outputs and state with the oracle's.
fn check_numbers(
    bench: &Bench<'_>,
    step: StepParams,
    expected: &Snapshot,
    found: &Snapshot,
    tolerance: Tolerance,
) -> Result<f64, String> {
    let case = bench.case;
    let whole = case.partition(Cut::Whole);
    let mut error = 0.0f64;
    for (idx, value) in case.graph.values().iter().enumerate() {
        if !is_result(value.kind) {
            continue;
        }
        let written = bench.written(ValueId(idx), whole.parts(), step);
        if case.exact {
            compare_bits(&expected[idx], &found[idx], &written)
                .map_err(|message| format!("{:?} {message}", value.name))?;
            continue;
        }
        let difference = compare(&expected[idx], &found[idx], &written, case.floor)
            .map_err(|message| format!("{:?} {message}", value.name))?;
        difference.check(tolerance).map_err(|message| format!("{:?} {message}", value.name))?;
        error = error.max(difference.normalised);
    }
    Ok(error)
}

/// Results of the same steps have the same bits.
fn same_bits(case: &Case, first: &[Snapshot], second: &[Snapshot], what: &str) -> Result<(), Trouble> {
    for (step_idx, (first, second)) in first.iter().zip(second).enumerate() {
        for (idx, value) in case.graph.values().iter().enumerate() {
            if !is_result(value.kind) {
                continue;
            }
            if let Some((row, column)) = first[idx].change_outside(&second[idx], &[]) {
                return Err(Trouble::Failed(format!(
                    "{what}: {:?} at [{row}, {column}] of step {step_idx}, {} and {}",
                    value.name,
                    first[idx].value(row, column),
                    second[idx].value(row, column),
                )));
            }
        }
    }
    Ok(())
}

/// Intermediates are used up within a segment, so a backend need not write them.
fn is_result(kind: ValueKind) -> bool {
    matches!(kind, ValueKind::Output | ValueKind::State)
}

impl Expectations {
    /// What a result means, given what is expected.
    pub(crate) fn judge(&self, name: &str, trouble: Option<Trouble>) -> Outcome {
        let expected = self.expected_failure(name);
        match (trouble, expected) {
            (None, None) => Outcome::Passed,
            (None, Some(reason)) => Outcome::UnexpectedPass { reason },
            (Some(Trouble::Unsupported(reason)), _) => match self.requirement(name) {
                Some(pattern) => Outcome::Failed(format!("unsupported, but {pattern:?} is required: {reason}")),
                None => Outcome::Unsupported(reason),
            },
            (Some(Trouble::Failed(message)), Some(reason)) => Outcome::ExpectedFailure { reason, message },
            (Some(Trouble::Failed(message)), None) => Outcome::Failed(message),
        }
    }
}
