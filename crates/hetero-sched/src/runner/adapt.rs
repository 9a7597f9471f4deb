//! What a runner learns from the times of its steps, and what follows from it.

use std::sync::Arc;

use super::{Current, Replan, Team};
use crate::cost::CostModel;
use crate::profile::online::{CorrectedCosts, Corrections, Drift};
use crate::solver::{Objective, Solution};
use crate::{submissions, timing};

/// A new plan must be faster by this part.
const LEAST_GAIN: f64 = 0.03;
/// What it compiles must have paid off after so many steps: those of a longish reply.
const PAID_OFF_AFTER: f64 = 512.0;
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

    /// Why it is, if it is, and for each device by how much its costs change with it; from now on costs are those that
    /// are true.
    pub(super) fn take_drift(&mut self) -> Option<(Drift, Vec<f64>)> {
        let drift = self.drift.take()?;
        let n_devices = self.profiled.devices().len();
        let before: Vec<f64> = (0..n_devices).map(|device_idx| self.corrected.factor(device_idx)).collect();
        self.corrected = self.corrections.apply(Arc::clone(&self.profiled));
        let has_lasted = self.n_since >= 4 * self.n_steps;
        self.n_steps = if has_lasted { FEWEST_STEPS } else { (2 * self.n_steps).min(MOST_STEPS) };
        self.n_since = 0;
        let changes = before.iter().enumerate().map(|(idx, before)| self.corrected.factor(idx) / before);
        Some((drift, changes.collect()))
    }

    /// What plans are made with.
    pub(super) fn costs(&self) -> &CorrectedCosts {
        &self.corrected
    }
}

impl Team {
    /// Compares the plan in use with the one that is best now, and puts the former in the latter's place when nearly
    /// nothing is gained.
    pub(super) fn reconsider(
        &self,
        (drift, changes): &(Drift, Vec<f64>),
        before: Option<&Current>,
        now: &mut Current,
    ) -> Replan {
        let solution = now.solution.as_ref().expect("a single device does not drift");
        let best = solution.prediction.seconds;
        let device = self.devices()[drift.device_idx].info().name.clone();
        let mut replan = Replan {
            device,
            rows: now.rows,
            factors: [drift.planned, drift.measured],
            seconds: [best, best],
            is_new: true,
        };
        let Some(old) = before.and_then(|before| before.solution.as_ref()) else { return replan };
        let updated = self.updated(old, changes);
        replan.seconds[0] = updated.prediction.seconds;
        let is_same = old.plan.placements() == solution.plan.placements();
        let is_for_time = self.options.solve.objective == Objective::Time;
        let gain = replan.seconds[0] - best;
        let is_faster =
            gain > LEAST_GAIN * replan.seconds[0] && gain * PAID_OFF_AFTER > solution.prediction.compile_seconds;
        replan.is_new = !is_same && (!is_for_time || is_faster);
        if !replan.is_new && !is_same {
            now.operations.clone_from(&before.expect("it has a solution").operations);
            now.past = before.expect("it has a solution").past;
            now.solution = Some(Arc::new(updated));
        }
        replan
    }

    /// A plan with what it is predicted to take now that costs have changed.
    fn updated(&self, old: &Solution, changes: &[f64]) -> Solution {
        let mut solution = old.clone();
        let devices = self.costs.as_ref().expect("there is a plan").devices();
        let placed = old.plan.placements().iter().flatten();
        for (placed, seconds) in placed.zip(&mut solution.part_seconds) {
            *seconds *= changes[placed.device_idx];
        }
        solution.prediction.busy_seconds.iter_mut().zip(changes).for_each(|(busy, change)| *busy *= change);
        let list = submissions(&solution.plan);
        solution.prediction.seconds = timing::timeline(&solution.plan, &list, &solution.part_seconds, devices).seconds;
        solution
    }

    /// Tells it once, and keeps it for who asks later.
    pub(super) fn tell_replan(&self, replan: Replan) {
        let Replan { device, rows, factors: [before, now], seconds: [old, new], is_new } = &replan;
        tracing::info!(
            device,
            rows,
            before,
            now,
            old_seconds = old,
            new_seconds = new,
            is_new,
            "a device is not as fast as planned with"
        );
        self.state().replans.push(replan);
    }
}
