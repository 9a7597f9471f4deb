//! What a backend says about itself: known failures, other tolerances, what it must support.

use hetero_core::WeightFormat;

use crate::Case;
use crate::compare::{Tolerance, default_tolerance};
use crate::report::{CaseResult, Outcome};

/// What is known about a backend beforehand. Everything has a reason, which the report repeats.
///
/// ```
/// use hetero_conformance::{Expectations, Tolerance};
/// use hetero_core::WeightFormat;
///
/// let expectations = Expectations::new()
///     .requires("linear/w4g32")
///     .tolerance(
///         "linear",
///         Some(WeightFormat::W4G32),
///         Tolerance::normalised(1e-2),
///         "activations are quantised to int8",
///     )
///     .fails("softmax/bf16", "the driver flushes small exponentials to zero");
/// # let _ = expectations;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    failures: Vec<(String, String)>,
    tolerances: Vec<ToleranceOverride>,
    requirements: Vec<String>,
    only: Vec<String>,
}

#[derive(Clone, Debug)]
struct ToleranceOverride {
    op: String,
    format: Option<WeightFormat>,
    tolerance: Tolerance,
    reason: String,
}

impl Expectations {
    /// All supported cases pass within the default tolerances.
    pub fn new() -> Expectations {
        Expectations::default()
    }

    /// Cases whose name contains `pattern` fail. Each that passes turns the suite red, so that the entry goes away
    /// with its cause.
    pub fn fails(mut self, pattern: &str, reason: &str) -> Expectations {
        self.failures.push((pattern.to_owned(), reason.to_owned()));
        self
    }

    /// Another tolerance for an operator (or segment, such as `mlp`) and a weight format, all formats with `None`.
    /// A later entry goes before an earlier one.
    pub fn tolerance(
        mut self,
        op: &str,
        format: Option<WeightFormat>,
        tolerance: Tolerance,
        reason: &str,
    ) -> Expectations {
        self.tolerances.push(ToleranceOverride { op: op.to_owned(), format, tolerance, reason: reason.to_owned() });
        self
    }

    /// Cases whose name contains `pattern` must not be unsupported.
    pub fn requires(mut self, pattern: &str) -> Expectations {
        self.requirements.push(pattern.to_owned());
        self
    }

    /// Runs only cases whose name contains `pattern`, or one of several patterns.
    pub fn only(mut self, pattern: &str) -> Expectations {
        self.only.push(pattern.to_owned());
        self
    }

    pub(crate) fn selects(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|pattern| name.contains(pattern))
    }

    pub(crate) fn selects_all(&self) -> bool {
        self.only.is_empty()
    }

    pub(crate) fn expected_failure(&self, name: &str) -> Option<String> {
        let mut failures = self.failures.iter();
        failures.find(|(pattern, _)| name.contains(pattern)).map(|(_, reason)| reason.clone())
    }

    pub(crate) fn requirement(&self, name: &str) -> Option<&str> {
        let mut requirements = self.requirements.iter();
        requirements.find(|pattern| name.contains(pattern.as_str())).map(String::as_str)
    }

    pub(crate) fn tolerance_of(&self, case: &Case) -> Tolerance {
        let default = default_tolerance(case.op, case.precision);
        let mut overrides = self.tolerances.iter().rev();
        let chosen = overrides
            .find(|entry| entry.op == case.op && (entry.format.is_none() || entry.format == case.weight_format));
        // Rounding to the output's type comes on top, so an override never makes a coarse type stricter.
        chosen.map_or(default, |entry| Tolerance {
            normalised: entry.tolerance.normalised.max(default.normalised),
            largest: entry.tolerance.largest.max(default.largest),
        })
    }

    /// Adds a failure for each entry that no case has matched.
    pub(crate) fn check_all_used(&self, results: &mut Vec<CaseResult>) {
        let patterns = self.failures.iter().map(|(pattern, _)| pattern);
        let unused: Vec<&String> = patterns
            .chain(&self.requirements)
            .filter(|pattern| !results.iter().any(|result| result.name.contains(*pattern)))
            .collect();
        for pattern in unused {
            results.push(CaseResult::of_suite(
                format!("expectation {pattern:?}"),
                Outcome::Failed("matches no case".to_owned()),
            ));
        }
    }

    /// The other tolerances, for the report.
    pub(crate) fn notes(&self) -> Vec<String> {
        let note = |entry: &ToleranceOverride| {
            let format = entry.format.map_or("all formats".to_owned(), |format| format.to_string());
            format!("tolerance of {} ({format}) is {:.1e}: {}", entry.op, entry.tolerance.normalised, entry.reason)
        };
        self.tolerances.iter().map(note).collect()
    }
}
