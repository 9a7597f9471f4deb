//! What was predicted for the steps of a plan beside what was measured of them.
//!
//! Measured are the steps by the present plan that the trace has. Submissions that compute the same operators in
//! different layers are one line.

use std::fmt;

use serde::Serialize;

use crate::explain::Seconds;
use crate::trace::{Doing, TraceEvent};
use crate::{Executor, Solution, Submission};

/// A plan's prediction and its measured steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Positions of the last step.
    pub rows: usize,
    /// Steps that were measured.
    pub n_steps: usize,
    /// Of a step.
    pub step: Compared,
    /// For each device that the plan uses, its name and the seconds of a step in which it works.
    pub devices: Vec<(String, Compared)>,
    /// What is submitted together, in the order of the plan.
    pub segments: Vec<SegmentReport>,
}

/// Operators that a device computes in one submission.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SegmentReport {
    /// The device's name.
    pub device: String,
    /// Names of the operators, each once, in their order.
    pub operators: Vec<String>,
    /// Submissions of this kind in a step, such as one for each layer.
    pub n_submissions: usize,
    /// Seconds of all of them.
    pub seconds: Compared,
}

/// Seconds, predicted and measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Compared {
    /// `None` where nothing was predicted.
    pub predicted: Option<f64>,
    /// The median over the steps, or the sum of such.
    pub measured: f64,
}

impl Compared {
    /// By which part the measured time is longer than the predicted one.
    pub fn error(&self) -> Option<f64> {
        self.predicted.filter(|&predicted| predicted > 0.0).map(|predicted| self.measured / predicted - 1.0)
    }
}

impl StepReport {
    /// Compares what the executor has recorded of its present plan; `None` without a recorded step.
    pub(crate) fn of(executor: &Executor, devices: Vec<String>, solution: Option<&Solution>) -> Option<StepReport> {
        let plan = executor.n_plans();
        let events = || executor.trace().events().filter(|event| event.plan == plan);
        let first = events().map(|event| event.submitted).fold(f64::INFINITY, f64::min);
        let mut rows = 0;
        let mut steps = Vec::new();
        for event in executor.trace().host_events() {
            if let Doing::Step { rows: step_rows, .. } = event.doing
                && event.end >= first
            {
                rows = step_rows;
                steps.push(event.end - event.start);
            }
        }
        let n_steps = steps.len();
        let measured = median(&mut steps)?;
        let step = Compared { predicted: solution.map(|solution| solution.prediction.seconds), measured };

        let list: Vec<&Submission> = executor.submissions().collect();
        let predicted: Vec<Option<f64>> = executor.predicted_seconds().collect();
        let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); list.len()];
        events().for_each(|event: &TraceEvent| seconds[event.run_idx].push(event.end - event.start));
        let mut segments: Vec<SegmentReport> = Vec::new();
        let mut busy = vec![None; devices.len()];
        for (idx, submission) in list.iter().enumerate() {
            let one = Compared { predicted: predicted[idx], measured: median(&mut seconds[idx]).unwrap_or(0.0) };
            let device_busy: &mut Option<Compared> = &mut busy[submission.device_idx];
            *device_busy = Some(device_busy.map_or(one, |sum| sum.plus(one)));
            let (device, operators) = (&devices[submission.device_idx], operators(executor, submission));
            match segments.iter_mut().find(|known| known.device == *device && known.operators == operators) {
                Some(known) => {
                    known.n_submissions += 1;
                    known.seconds = known.seconds.plus(one);
                }
                None => {
                    segments.push(SegmentReport { device: device.clone(), operators, n_submissions: 1, seconds: one })
                }
            }
        }
        let devices = devices.into_iter().zip(busy).filter_map(|(name, busy)| Some((name, busy?))).collect();
        Some(StepReport { rows, n_steps, step, devices, segments })
    }
}

impl Compared {
    fn plus(self, other: Compared) -> Compared {
        let predicted = self.predicted.zip(other.predicted).map(|(a, b)| a + b);
        Compared { predicted, measured: self.measured + other.measured }
    }
}

/// The operators of a submission, each once.
fn operators(executor: &Executor, submission: &Submission) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in &submission.parts {
        let name = executor.plan().graph().node(part.node).name;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl fmt::Display for StepReport {
    /// For people: the step, the devices, and a line for each kind of submission.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let StepReport { rows, n_steps, step, .. } = self;
        writeln!(f, "{n_steps} step{} of {rows} position{}: {step}", plural(*n_steps), plural(*rows))?;
        for (name, busy) in &self.devices {
            writeln!(f, "  {name} works {busy}")?;
        }
        for segment in &self.segments {
            let SegmentReport { device, operators, n_submissions, seconds } = segment;
            let operators = operators.join(" ");
            writeln!(f, "  {device}, {n_submissions} submission{}: {seconds}: {operators}", plural(*n_submissions))?;
        }
        Ok(())
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(predicted) = self.predicted {
            write!(f, "predicted {}, ", Seconds(predicted))?;
        }
        write!(f, "measured {}", Seconds(self.measured))?;
        match self.error() {
            Some(error) => write!(f, " ({:+.0} %)", 100.0 * error),
            None => Ok(()),
        }
    }
}
