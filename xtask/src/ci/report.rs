//! The table at the end of a run: steps, seconds, tests, and every skip with its reason.

use super::tally::Tally;
use std::time::Duration;

/// How a step ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Everything held.
    Passed,
    /// What did not hold, a line each.
    Failed(Vec<String>),
    /// Why it could not run here.
    Skipped(String),
}

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) struct StepReport {
    /// Name of the step.
    pub(crate) name: &'static str,
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// Time it took.
    pub(crate) took: Duration,
    /// Tests that ran in it.
    pub(crate) tally: Tally,
}

/// Prints the table and returns the number of failures: tests, and steps that failed without a test.
pub(crate) fn print(steps: &[StepReport], took: Duration) -> usize {
    println!("\nstep         result    seconds   tests");
    let mut total = Tally::default();
    let mut failures = 0;
    let mut skips: Vec<String> = Vec::new();
    for step in steps {
        let word = match &step.verdict {
            Verdict::Passed => "ok",
            Verdict::Failed(_) => "FAILED",
            Verdict::Skipped(_) => "skipped",
        };
        let tests = match step.tally.passed {
            0 => String::new(),
            n => n.to_string(),
        };
        let (name, seconds) = (step.name, step.took.as_secs_f64());
        let row = format!("{name:<12} {word:<8} {seconds:>8.1}  {tests:>6}");
        println!("{}", row.trim_end());
        match &step.verdict {
            Verdict::Skipped(reason) => skips.push(format!("step {name}: {reason}")),
            Verdict::Failed(_) => failures += step.tally.failed.max(1),
            Verdict::Passed => {}
        }
        let named = step.tally.skips.iter();
        skips.extend(named.map(|(test, reason)| format!("{name}: {test}: {reason}")));
        total.add(step.tally.clone());
    }

    if !skips.is_empty() {
        println!("\nskipped, {} in all:", skips.len());
        for skip in &skips {
            println!("  {skip}");
        }
    }
    if failures > 0 {
        println!("\nfailed:");
        for step in steps {
            if let Verdict::Failed(reasons) = &step.verdict {
                for reason in reasons {
                    println!("  {}: {reason}", step.name);
                }
            }
        }
    }
    let minutes = took.as_secs() / 60;
    println!("\nin {minutes} min {} s", took.as_secs() % 60);
    println!("{} passed, {failures} failed, {} skipped", total.passed, skips.len());
    failures
}
