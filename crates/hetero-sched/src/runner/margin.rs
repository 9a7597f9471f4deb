//! Whether a plan for several devices is better than one device by more than is known.
//!
//! Costs that were measured are off by something, and the solver finds exactly those plans that such errors flatter. So
//! a plan for several devices has to gain more than the errors of what it moves; what it leaves where it was is off by
//! the same in both plans and cancels. Errors of different operators are taken as independent and add up by their
//! squares; what submissions cost is off by the same for all of a device.

use std::collections::BTreeMap;
use std::fmt;

use hetero_core::{NodeId, StepParams};

use super::Team;
use crate::cost::{CostModel, DeviceSet, PartShape};
use crate::explain::Seconds;
use crate::solver::{Objective, Solution, SolveError, SolveOptions};

/// One device computes everything because what others would gain is less than what is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Margin {
    /// The device's name.
    pub device: String,
    /// Positions of the step.
    pub rows: usize,
    /// Predicted seconds of a step on the device alone, and by the best plan for several.
    pub seconds: [f64; 2],
    /// By how many seconds their difference may be off.
    pub error_seconds: f64,
}

impl fmt::Display for Margin {
    /// For people: which device, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Margin { device, rows, seconds: [alone, several], error_seconds } = self;
        let plural = if *rows == 1 { "" } else { "s" };
        // Beyond that nothing is known, however much more it is.
        let error = match 100.0 * error_seconds / alone {
            error if error > 100.0 => "more than 100 %".to_owned(),
            error => format!("{error:.0} %"),
        };
        write!(
            f,
            "{device} alone at {rows} position{plural}: {} a step, and the gain of {:.0} % by several processors is within \
             the profile's error of {error}",
            Seconds(*alone),
            100.0 * (alone - several).max(0.0) / alone,
        )
    }
}

/// The best plan of a single device in the place of a plan for several, if that does not gain more than costs may be off.
/// `solve` finds the best plan with other options.
pub(super) fn choose(
    costs: &dyn CostModel,
    step: StepParams,
    options: &SolveOptions,
    found: Solution,
    solve: impl Fn(&SolveOptions) -> Result<Solution, SolveError>,
) -> (Solution, Option<Margin>) {
    let used = devices_of(&found);
    if used.len() < 2 || options.objective != Objective::Time || !is_uncertain(costs) {
        return (found, None);
    }
    let share = options.preparation.share();
    let value = |solution: &Solution| solution.prediction.seconds + share * solution.prediction.prepare_seconds;
    let alone = options.devices.iter().filter(|&idx| idx < costs.devices().len()).filter_map(|device_idx| {
        // One that cannot compute everything, or holds too little, is no choice.
        let solution = solve(&SolveOptions { devices: DeviceSet::one(device_idx), ..options.clone() }).ok()?;
        Some((device_idx, solution))
    });
    let Some((device_idx, alone)) = alone.min_by(|a, b| value(&a.1).total_cmp(&value(&b.1))) else {
        return (found, None);
    };
    let error_seconds = error_between(costs, step, &alone, &found);
    if value(&alone) - value(&found) > error_seconds {
        return (found, None);
    }
    let seconds = [alone.prediction.seconds, found.prediction.seconds];
    let device = costs.devices()[device_idx].name.clone();
    (alone, Some(Margin { device, rows: step.rows, seconds, error_seconds }))
}

/// Seconds by which the difference of two predictions may be off.
fn error_between(costs: &dyn CostModel, step: StepParams, one: &Solution, other: &Solution) -> f64 {
    let mut operators: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let mut submissions: BTreeMap<usize, f64> = BTreeMap::new();
    for (sign, solution) in [(1.0, one), (-1.0, other)] {
        let graph = solution.plan.graph();
        let mut seconds = solution.part_seconds.iter();
        for (node_idx, placed) in solution.plan.placements().iter().enumerate() {
            let class = costs.class(&graph.op_spec(NodeId(node_idx)));
            for part in placed {
                let seconds = seconds.next().expect("seconds of each part");
                let device = &costs.devices()[part.device_idx];
                let end = part.part.rows.end.min(step.rows);
                let n_rows = end.saturating_sub(part.part.rows.start);
                if n_rows == 0 {
                    continue;
                }
                let shape = PartShape {
                    class,
                    rows: device.padded_rows(n_rows),
                    past: step.past,
                    columns: part.part.columns.len(),
                    order: part.operand_order,
                    companions: DeviceSet::EMPTY,
                };
                let error = seconds * costs.uncertainty(part.device_idx, &shape);
                *operators.entry((part.device_idx, class.0)).or_default() += sign * error;
            }
        }
        for submission in crate::submissions(&solution.plan) {
            let error = costs.submission_uncertainty(submission.device_idx);
            *submissions.entry(submission.device_idx).or_default() += sign * error;
        }
    }
    let of_operators: f64 = operators.values().map(|error| error * error).sum();
    let of_submissions: f64 = submissions.values().map(|error| error.abs()).sum();
    of_operators.sqrt() + of_submissions
}

fn is_uncertain(costs: &dyn CostModel) -> bool {
    (0..costs.devices().len()).any(|device_idx| costs.submission_uncertainty(device_idx) > 0.0)
}

/// The devices that a plan uses.
pub(super) fn devices_of(solution: &Solution) -> DeviceSet {
    solution.plan.placements().iter().flatten().map(|placed| placed.device_idx).collect()
}

impl Team {
    /// Where one device computes everything because what others would gain is less than what is known of them.
    pub fn margins(&self) -> Vec<Margin> {
        self.state().margins.clone()
    }

    /// Notes that this is so, once for each device and number of positions.
    pub(super) fn tell_margin(&self, margin: Margin) {
        let mut state = self.state();
        let is_same = |known: &Margin| known.device == margin.device && known.rows == margin.rows;
        match state.margins.iter_mut().find(|known| is_same(known)) {
            Some(known) => *known = margin,
            None => {
                tracing::info!(%margin, "several devices are not worth it");
                state.margins.push(margin);
            }
        }
    }
}
