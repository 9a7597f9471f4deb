//! What came out: a table for people, and a panic that lists every failure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What came out of a run of the suite.
#[derive(Clone, Debug)]
pub struct Report {
    /// The backend's name.
    pub backend: String,
    /// One entry for each case and cut, and for each contract test.
    pub results: Vec<CaseResult>,
    /// What the backend's expectations say about tolerances.
    pub notes: Vec<String>,
}

/// What came out of one case in one cut.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// `op/format/detail/cut`.
    pub name: String,
    /// Operator, name of the segment, or `contract`.
    pub op: &'static str,
    /// Weight format or element types.
    pub format: String,
    /// What came out.
    pub outcome: Outcome,
    /// Normalised error against the oracle, where the case passed.
    pub error: Option<f64>,
    /// How long it took, preparations included.
    pub elapsed: Duration,
}

/// What came out of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It failed as expected.
    ExpectedFailure {
        /// Why that was expected.
        reason: String,
        /// What went wrong.
        message: String,
    },
    /// It failed, and how.
    Failed(String),
    /// All is well.
    Passed,
    /// It passed and should not have: the expectation is out of date.
    UnexpectedPass {
        /// Why a failure was expected.
        reason: String,
    },
    /// The backend says that it cannot, and why.
    Unsupported(String),
}

impl CaseResult {
    /// True when the case makes the suite red.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_) | Outcome::UnexpectedPass { .. })
    }

    /// A finding of the suite itself.
    pub(crate) fn of_suite(name: String, outcome: Outcome) -> CaseResult {
        CaseResult { name, op: "suite", format: String::new(), outcome, error: None, elapsed: Duration::ZERO }
    }
}

impl Report {
    /// Number of cases that passed.
    pub fn n_passed(&self) -> usize {
        self.count(|outcome| *outcome == Outcome::Passed)
    }

    /// Number of cases that the backend does not support.
    pub fn n_unsupported(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Unsupported(_)))
    }

    /// Number of cases that failed as expected.
    pub fn n_expected_failures(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::ExpectedFailure { .. }))
    }

    /// The cases that make the suite red.
    pub fn failures(&self) -> impl Iterator<Item = &CaseResult> {
        self.results.iter().filter(|result| result.is_failure())
    }

    /// Prints the table.
    ///
    /// # Panics
    /// When a case failed, or passed against the expectations, or when nothing passed at all.
    pub fn assert_passed(&self) {
        eprintln!("{self}");
        let failures: Vec<String> = self.failures().map(failure_line).collect();
        assert!(
            failures.is_empty(),
            "{} of {} cases failed on {}:\n{}",
            failures.len(),
            self.results.len(),
            self.backend,
            failures.join("\n")
        );
        assert!(
            self.n_passed() > 0,
            "no case passed on {}: a backend that supports nothing is not a backend",
            self.backend
        );
    }

    fn count(&self, is_counted: impl Fn(&Outcome) -> bool) -> usize {
        let results = self.results.iter();
        results.filter(|result| is_counted(&result.outcome)).count()
    }
}

fn failure_line(result: &CaseResult) -> String {
    let message = match &result.outcome {
        Outcome::UnexpectedPass { reason } => {
            format!("passes, though it was expected to fail: {reason}")
        }
        Outcome::Failed(message) => message.clone(),
        _ => String::new(),
    };
    format!("  {}: {message}", result.name)
}

#[derive(Default)]
struct Row {
    passed: usize,
    unsupported: usize,
    expected_failures: usize,
    failed: usize,
    error: f64,
    elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: BTreeMap<(&str, &str), Row> = BTreeMap::new();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for result in &self.results {
            let row = rows.entry((result.op, &result.format)).or_default();
            row.error = row.error.max(result.error.unwrap_or(0.0));
            row.elapsed += result.elapsed;
            match &result.outcome {
                Outcome::Passed => row.passed += 1,
                Outcome::Failed(_) | Outcome::UnexpectedPass { .. } => row.failed += 1,
                Outcome::Unsupported(reason) => {
                    row.unsupported += 1;
                    *reasons.entry(format!("unsupported: {reason}")).or_default() += 1;
                }
                Outcome::ExpectedFailure { reason, .. } => {
                    row.expected_failures += 1;
                    *reasons.entry(format!("expected to fail: {reason}")).or_default() += 1;
                }
            }
        }
        writeln!(f, "conformance of {}", self.backend)?;
        writeln!(
            f,
            "{:<16} {:<12} {:>6} {:>11} {:>8} {:>6} {:>9} {:>8}",
            "op", "format", "passed", "unsupported", "expected", "failed", "error", "ms"
        )?;
        for ((op, format), row) in &rows {
            writeln!(
                f,
                "{op:<16} {format:<12} {:>6} {:>11} {:>8} {:>6} {:>9.1e} {:>8}",
                row.passed,
                row.unsupported,
                row.expected_failures,
                row.failed,
                row.error,
                row.elapsed.as_millis()
            )?;
        }
        let elapsed: Duration = self.results.iter().map(|result| result.elapsed).sum();
        writeln!(
            f,
            "{} cases in {:.1} s: {} passed, {} unsupported, {} failed as expected, {} failed",
            self.results.len(),
            elapsed.as_secs_f64(),
            self.n_passed(),
            self.n_unsupported(),
            self.n_expected_failures(),
            self.failures().count()
        )?;
        for (reason, n) in &reasons {
            writeln!(f, "  {n:>4} {reason}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for result in self.failures() {
            writeln!(f, "failed:{}", failure_line(result))?;
        }
        Ok(())
    }
}
