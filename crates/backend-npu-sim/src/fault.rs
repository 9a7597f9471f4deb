//! Faults to order: which processor fails how, and when.
//!
//! A plan is written as pieces with semicolons between them:
//!
//! ```text
//! PROCESSOR:FAULT@WHEN
//! timeout=TIME
//! ```
//!
//! | part | forms |
//! |---|---|
//! | `PROCESSOR` | `cpu`, `gpu`, `npu` |
//! | `FAULT` of a submission | `late=10x` (takes ten times as long), `late=20ms`, `stuck`, `wrong` or `wrong=8` (so many values flipped), `lost` |
//! | `FAULT` of a compilation | `oom`, `compile-error` |
//! | `WHEN` | `3` (the third submission or compilation), `3+` (from the third on), `every=3`, `chance=0.01` or `chance=0.01,seed=7` |
//! | `TIME` | a number with `s`, `ms` or `us` |
//!
//! `timeout` is how long a processor may hang before it is stopped: of virtual time, or of real time in
//! [`crate::TimeMode::Real`].
//!
//! ```
//! use backend_npu_sim::FaultPlan;
//!
//! let plan = FaultPlan::parse("npu:late=10x@3; gpu:lost@chance=0.01,seed=7; timeout=500ms")?;
//! assert_eq!(plan.rules.len(), 2);
//! # Ok::<(), backend_npu_sim::FaultPlanError>(())
//! ```

use std::str::FromStr;
use std::time::Duration;

use hetero_core::DeviceKind;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::error::FaultPlanError;

/// Which processor fails how, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultPlan {
    /// All that apply at the same time happen together.
    pub rules: Vec<FaultRule>,
    /// How long a processor may hang before it is stopped.
    pub timeout: Duration,
}

/// One fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaultRule {
    /// Which processor fails.
    pub processor: DeviceKind,
    /// How.
    pub fault: Fault,
    /// At which of its submissions or, for faults of compiling, compilations.
    pub when: When,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A submission takes so many times as long; at least 1.
    LateByFactor(f64),
    /// A submission takes so many seconds longer.
    LateBySeconds(f64),
    /// A submission never finishes, and the processor is stopped after the plan's timeout.
    Stuck,
    /// So many values of a submission's last result have the wrong sign; zeros become one.
    Wrong {
        /// How many, at most all of them.
        values: usize,
    },
    /// The processor goes away at a submission.
    Lost,
    /// There is no memory for a compiled segment.
    OutOfMemory,
    /// The compiler fails.
    CompileError,
}

/// At which events a fault happens, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// At one.
    Nth(u64),
    /// At this and all later ones.
    From(u64),
    /// At each multiple.
    Every(u64),
    /// At each with a probability from 0 to 1; the same seed gives the same events.
    Chance {
        /// From 0 to 1.
        probability: f64,
        /// Of the random numbers.
        seed: u64,
    },
}

impl Default for FaultPlan {
    /// Nothing fails.
    fn default() -> FaultPlan {
        FaultPlan { rules: Vec::new(), timeout: FaultPlan::DEFAULT_TIMEOUT }
    }
}

impl FaultPlan {
    /// How long a processor may hang, when a plan does not say: what desktop systems give a GPU.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

    /// Reads a plan; the module's documentation has the forms.
    ///
    /// # Errors
    /// The first piece that is none of the forms.
    pub fn parse(text: &str) -> Result<FaultPlan, FaultPlanError> {
        let mut plan = FaultPlan::default();
        for piece in text.split(';').map(str::trim).filter(|piece| !piece.is_empty()) {
            match piece.strip_prefix("timeout=") {
                Some(time) => {
                    let seconds = seconds(time).filter(|seconds| *seconds > 0.0);
                    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                    plan.timeout = timeout.ok_or_else(|| FaultPlanError::bad_time(piece, time))?;
                }
                None => plan.rules.push(rule(piece)?),
            }
        }
        Ok(plan)
    }
}

impl FromStr for FaultPlan {
    type Err = FaultPlanError;

    fn from_str(text: &str) -> Result<FaultPlan, FaultPlanError> {
        FaultPlan::parse(text)
    }
}

fn rule(piece: &str) -> Result<FaultRule, FaultPlanError> {
    let (processor, rest) = piece.split_once(':').ok_or_else(|| FaultPlanError::bad_form(piece))?;
    let (fault, when) = rest.split_once('@').ok_or_else(|| FaultPlanError::bad_form(piece))?;
    let processor = match processor.trim() {
        "cpu" => DeviceKind::Cpu,
        "gpu" => DeviceKind::Gpu,
        "npu" => DeviceKind::Npu,
        other => return Err(FaultPlanError::bad_processor(piece, other)),
    };
    let (fault, when) = (fault.trim(), when.trim());
    Ok(FaultRule {
        processor,
        fault: parse_fault(fault).ok_or_else(|| FaultPlanError::bad_fault(piece, fault))?,
        when: parse_when(when).ok_or_else(|| FaultPlanError::bad_when(piece, when))?,
    })
}

fn parse_fault(text: &str) -> Option<Fault> {
    let (name, amount) = match text.split_once('=') {
        Some((name, amount)) => (name, Some(amount)),
        None => (text, None),
    };
    Some(match (name, amount) {
        ("late", Some(amount)) => match amount.strip_suffix('x') {
            Some(factor) => Fault::LateByFactor(number(factor).filter(|factor| *factor >= 1.0)?),
            None => Fault::LateBySeconds(seconds(amount)?),
        },
        ("stuck", None) => Fault::Stuck,
        ("wrong", None) => Fault::Wrong { values: 1 },
        ("wrong", Some(values)) => Fault::Wrong { values: values.parse().ok().filter(|values| *values > 0)? },
        ("lost", None) => Fault::Lost,
        ("oom", None) => Fault::OutOfMemory,
        ("compile-error", None) => Fault::CompileError,
        _ => return None,
    })
}

fn parse_when(text: &str) -> Option<When> {
    let count = |text: &str| text.parse().ok().filter(|count| *count > 0);
    if let Some(chance) = text.strip_prefix("chance=") {
        let (probability, seed) = match chance.split_once(",seed=") {
            Some((probability, seed)) => (probability, seed.parse().ok()?),
            None => (chance, 0),
        };
        let probability = number(probability).filter(|probability| *probability <= 1.0)?;
        return Some(When::Chance { probability, seed });
    }
    if let Some(every) = text.strip_prefix("every=") {
        return count(every).map(When::Every);
    }
    match text.strip_suffix('+') {
        Some(first) => count(first).map(When::From),
        None => count(text).map(When::Nth),
    }
}

/// A time with its unit, in seconds.
fn seconds(text: &str) -> Option<f64> {
    // `s` comes last, because the others end with it.
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let (count, unit) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number(count.trim()).map(|count| count * unit)
}

/// A number that is neither negative nor infinite.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0)
}

/// The faults of one processor as they come up.
#[derive(Debug)]
pub(crate) struct FaultState {
    rules: Vec<(FaultRule, ChaCha8Rng)>,
    n_submissions: u64,
    n_compilations: u64,
}

/// What happens to one submission.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SubmissionFaults {
    /// How many times as long it takes, beyond once.
    pub(crate) extra_factor: f64,
    /// How many seconds longer it takes.
    pub(crate) extra_seconds: f64,
    pub(crate) is_stuck: bool,
    pub(crate) is_fatal: bool,
    /// Values to flip.
    pub(crate) n_wrong: usize,
    /// Where: a seed, other for each submission.
    pub(crate) seed: u64,
}

impl FaultState {
    pub(crate) fn new(plan: &FaultPlan, processor: DeviceKind) -> FaultState {
        let seed = |rule: &FaultRule| match rule.when {
            When::Chance { seed, .. } => seed,
            _ => 0,
        };
        let rules = plan.rules.iter().filter(|rule| rule.processor == processor);
        FaultState {
            rules: rules.map(|rule| (*rule, ChaCha8Rng::seed_from_u64(seed(rule)))).collect(),
            n_submissions: 0,
            n_compilations: 0,
        }
    }

    /// The next submission.
    pub(crate) fn submission(&mut self) -> SubmissionFaults {
        self.n_submissions += 1;
        let mut faults = SubmissionFaults { seed: self.n_submissions, ..SubmissionFaults::default() };
        for (rule, random) in &mut self.rules {
            if rule.fault.is_of_compiling() || !rule.when.happens(self.n_submissions, random) {
                continue;
            }
            match rule.fault {
                Fault::LateByFactor(factor) => faults.extra_factor += factor - 1.0,
                Fault::LateBySeconds(seconds) => faults.extra_seconds += seconds,
                Fault::Stuck => faults.is_stuck = true,
                Fault::Wrong { values } => faults.n_wrong += values,
                Fault::Lost => faults.is_fatal = true,
                Fault::OutOfMemory | Fault::CompileError => {}
            }
        }
        faults
    }

    /// The next compilation: [`Fault::OutOfMemory`], [`Fault::CompileError`] or none.
    pub(crate) fn compilation(&mut self) -> Option<Fault> {
        self.n_compilations += 1;
        let mut fault = None;
        for (rule, random) in &mut self.rules {
            // Every rule throws its dice, so that one does not change the others' luck.
            if rule.fault.is_of_compiling() && rule.when.happens(self.n_compilations, random) {
                fault = fault.or(Some(rule.fault));
            }
        }
        fault
    }
}

impl Fault {
    fn is_of_compiling(self) -> bool {
        matches!(self, Fault::OutOfMemory | Fault::CompileError)
    }
}

impl When {
    fn happens(self, count: u64, random: &mut ChaCha8Rng) -> bool {
        match self {
            When::Nth(n) => count == n,
            When::From(first) => count >= first,
            When::Every(n) => count.is_multiple_of(n),
            When::Chance { probability, .. } => {
                // 53 bits make a number from 0 to below 1.
                let thrown = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                thrown < probability
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let rule = |processor, fault, when| FaultRule { processor, fault, when };
        let plan = FaultPlan::parse(
            "npu:late=10x@3; gpu:late=20ms@4+; cpu:stuck@every=5;npu:wrong@1;npu:wrong=8@chance=0.5;\
             gpu:lost@chance=0.01,seed=7; npu:oom@2; npu : compile-error @ 1; timeout=500us",
        );
        let expected = vec![
            rule(DeviceKind::Npu, Fault::LateByFactor(10.0), When::Nth(3)),
            rule(DeviceKind::Gpu, Fault::LateBySeconds(0.02), When::From(4)),
            rule(DeviceKind::Cpu, Fault::Stuck, When::Every(5)),
            rule(DeviceKind::Npu, Fault::Wrong { values: 1 }, When::Nth(1)),
            rule(DeviceKind::Npu, Fault::Wrong { values: 8 }, When::Chance { probability: 0.5, seed: 0 }),
            rule(DeviceKind::Gpu, Fault::Lost, When::Chance { probability: 0.01, seed: 7 }),
            rule(DeviceKind::Npu, Fault::OutOfMemory, When::Nth(2)),
            rule(DeviceKind::Npu, Fault::CompileError, When::Nth(1)),
        ];
        assert_eq!(plan, Ok(FaultPlan { rules: expected, timeout: Duration::from_micros(500) }));
        assert_eq!(FaultPlan::parse(" ; "), Ok(FaultPlan::default()));
    }

    #[test]
    fn errors_name_the_piece_and_the_forms() {
        for (text, wrong, allowed) in [
            ("npu:stuck@5;apu:stuck@1", "\"apu:stuck@1\"", "cpu, gpu or npu"),
            ("npu:slow@1", "\"slow\"", "late=10x"),
            ("npu:late=0.5x@1", "\"late=0.5x\"", "late=10x"),
            ("npu:late=5@1", "\"late=5\"", "late=20ms"),
            ("npu:wrong=0@1", "\"wrong=0\"", "wrong=8"),
            ("npu:stuck@0", "\"0\"", "every=3"),
            ("npu:stuck@chance=1.5", "\"chance=1.5\"", "chance=0.01,seed=7"),
            ("npu:stuck", "\"npu:stuck\"", "PROCESSOR:FAULT@WHEN"),
            ("stuck@3", "\"stuck@3\"", "PROCESSOR:FAULT@WHEN"),
            ("timeout=0s", "\"0s\"", "500ms"),
            ("timeout=1e300s", "\"1e300s\"", "500ms"),
        ] {
            let message = FaultPlan::parse(text).expect_err(text).to_string();
            assert!(message.contains(wrong) && message.contains(allowed), "{text}: {message}");
        }
    }

    #[test]
    fn chance_is_repeatable_and_near_its_probability() {
        let plan = FaultPlan::parse("npu:stuck@chance=0.25,seed=3").expect("a plan");
        let throw = || {
            let mut state = FaultState::new(&plan, DeviceKind::Npu);
            (0..4000).map(|_| state.submission().is_stuck).collect::<Vec<_>>()
        };
        assert_eq!(throw(), throw());
        let n_stuck = throw().into_iter().filter(|stuck| *stuck).count();
        assert!((900..1100).contains(&n_stuck), "{n_stuck} of 4000");
        let mut other = FaultState::new(&plan, DeviceKind::Gpu);
        assert!(
            (0..100)
                .all(|_| other.submission() == SubmissionFaults { seed: other.n_submissions, ..Default::default() })
        );
    }
}
