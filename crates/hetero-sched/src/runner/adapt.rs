//! What a runner learns from the times of its steps, and what follows from it.

use std::sync::Arc;

use hetero_core::StepParams;

use super::planning::{Current, Planning};
use super::{Replan, Team};
use crate::cost::CostModel;
use crate::profile::online::{CorrectedCosts, Corrections, Drift};
use crate::solver::Objective;

/// A new plan must be faster by this part.
const LEAST_GAIN: f64 = 0.03;
/// Steps for which a plan stays after it was reconsidered. Where devices go up and down it is twice as many each time,
/// until a plan has lasted four times as long.
const FEWEST_STEPS: u32 = 16;
/// Of these, the most.
const MOST_STEPS: u32 = 4096;

/// What is known of devices besides their profile.
#[derive(Debug)]
pub(super) struct Adaptation {
    profiled: Arc<dyn CostModel>,
    corrections: Corrections,
    /// The profile with the corrections that plans are made with.
    corrected: CorrectedCosts,
    /// Why the plan is due to be reconsidered.
    drift: Option<Drift>,
    /// Steps since it was, and for how many it stays.
    n_since: u32,
    n_steps: u32,
}

impl Adaptation {
    pub(super) fn new(profiled: Arc<dyn CostModel>, tolerance: f64) -> Adaptation {
        let mut corrections = Corrections::new(profiled.devices().len(), tolerance);
        let corrected = corrections.apply(Arc::clone(&profiled));
        Adaptation { profiled, corrections, corrected, drift: None, n_since: 0, n_steps: 0 }
    }

    /// Takes what was measured of each device in a step, and what was predicted for it. Allocates nothing.
    pub(super) fn learn(&mut self, observed: impl Iterator<Item = [f64; 2]>) {
        self.n_since = self.n_since.saturating_add(1);
        for (device_idx, [measured, predicted]) in observed.enumerate() {
            let of_profile = predicted / self.corrected.factor(device_idx);
            let drift = self.corrections.observe(device_idx, of_profile, measured);
            if self.n_since >= self.n_steps {
                self.drift = self.drift.or(drift);
            }
        }
    }

    /// Whether the plan is to be reconsidered.
    pub(super) fn is_due(&self) -> bool {
        self.drift.is_some()
    }

    /// Why it is, if it is; from now on costs are those that are true.
    pub(super) fn take_drift(&mut self) -> Option<Drift> {
        let drift = self.drift.take()?;
        self.corrected = self.corrections.apply(Arc::clone(&self.profiled));
        let has_lasted = self.n_since >= 4 * self.n_steps;
        self.n_steps = if has_lasted { FEWEST_STEPS } else { (2 * self.n_steps).min(MOST_STEPS) };
        self.n_since = 0;
        Some(drift)
    }

    /// What plans are made with.
    pub(super) fn costs(&self) -> &CorrectedCosts {
        &self.corrected
    }
}

/// The plan in use beside the one that is best now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// Predicted seconds of a step by the one and by the other.
    seconds: [f64; 2],
    /// Whether the best one is enough better to be taken.
    is_new: bool,
}

impl Choice {
    /// Whether the plan in use was replaced.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }
}

impl Planning<'_> {
    /// Compares the plan in use with the one that is best now, and puts the former in the latter's place when nearly
    /// nothing is gained, or less than compiling would cost.
    pub(super) fn reconsider(&self, before: Option<&Current>, now: &mut Current) -> Choice {
        let solution = now.solution.as_ref().expect("who has costs has a solution");
        let best = solution.prediction.seconds;
        let new = Choice { seconds: [best, best], is_new: true };
        let Some((before, old)) = before.and_then(|before| Some((before, before.solution.as_ref()?))) else {
            return new;
        };
        let last = StepParams { past: now.predicted_past[1] - 1, rows: now.planned.rows };
        let Some(updated) = self.predict(&old.plan, last) else { return new };
        let seconds = [updated.prediction.seconds, best];
        let is_same = old.plan.placements() == solution.plan.placements();
        let is_for_time = self.team.options.solve.objective == Objective::Time;
        let gain = seconds[0] - best;
        let prepare_seconds = || self.predict(&solution.plan, last).map_or(0.0, |now| now.prediction.prepare_seconds);
        let n_steps = self.occasion.n_steps();
        let is_faster = gain > LEAST_GAIN * seconds[0] && gain * n_steps > prepare_seconds();
        let is_new = !is_same && (!is_for_time || is_faster);
        if !is_new {
            now.operations.clone_from(&before.operations);
            now.past = if before.past[1] == usize::MAX { before.past } else { now.predicted_past };
            now.solution = Some(Arc::new(updated));
        }
        Choice { seconds, is_new }
    }
}

impl Team {
    /// Tells that a device has drifted, and what came of it: once, and to who asks later.
    pub(super) fn tell_replan(&self, drift: &Drift, rows: usize, Choice { seconds, is_new }: Choice) {
        let device = self.devices()[drift.device_idx].info().name.clone();
        let replan = Replan { device, rows, factors: [drift.planned, drift.measured], seconds, is_new };
        tracing::info!(?replan, "a device is not as fast as planned with");
        self.state().replans.push(replan);
    }
}
