//! Corrects predictions by what runs measure.
//!
//! A device that is hot, or that another program uses, is slower than its profile says. For each device the ratio of
//! measured to predicted seconds of its last steps is kept, and their median corrects the predictions: half of the
//! steps would have to be disturbed for a disturbance to count. When the median leaves the correction that the current
//! plan was made with, the plan is due to be made anew.

use std::sync::Arc;

use hetero_core::OpSpec;

use crate::cost::{ClassId, CostModel, DeviceCosts, PartShape};

/// How many steps the median is over.
const WINDOW: usize = 15;

/// Factors rise or fall by no more than this at once.
const MOST_CHANGE: f64 = 8.0;

/// By how much measured times differ from predicted ones, for each device.
#[derive(Clone, Debug)]
pub struct Corrections {
    devices: Vec<Ratios>,
    /// A relative change beyond this calls for a new plan.
    tolerance: f64,
}

#[derive(Clone, Debug, Default)]
struct Ratios {
    /// Measured over predicted, oldest first after `next`.
    last: Vec<f64>,
    next: usize,
    /// What the plan in use was made with.
    planned: f64,
}

/// A device is faster or slower than the plan in use assumes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Which device.
    pub device_idx: usize,
    /// What predictions were multiplied with when the plan was made.
    pub planned: f64,
    /// What they have to be multiplied with now.
    pub measured: f64,
}

impl Corrections {
    /// Of so many devices; predictions that are off by more than `tolerance` (0.15 for 15 %) call for a new plan.
    pub fn new(n_devices: usize, tolerance: f64) -> Corrections {
        assert!(tolerance > 0.0, "without tolerance every step calls for a new plan");
        let fresh = Ratios { last: Vec::with_capacity(WINDOW), next: 0, planned: 1.0 };
        Corrections { devices: vec![fresh; n_devices], tolerance }
    }

    /// Notes a step's busy seconds of a device and what the profile, without corrections, predicted for them. Allocates
    /// nothing. Says when the plan in use is due to be made anew.
    pub fn observe(&mut self, device_idx: usize, predicted_seconds: f64, measured_seconds: f64) -> Option<Drift> {
        let is_usable = predicted_seconds > 0.0 && measured_seconds > 0.0 && measured_seconds.is_finite();
        if !is_usable {
            return None;
        }
        let ratios = &mut self.devices[device_idx];
        let ratio = measured_seconds / predicted_seconds;
        if ratios.last.len() < WINDOW {
            ratios.last.push(ratio);
        } else {
            ratios.last[ratios.next] = ratio;
        }
        ratios.next = (ratios.next + 1) % WINDOW;
        // A few steps tell nothing yet.
        let measured = (ratios.last.len() > WINDOW / 2).then(|| ratios.median())?;
        let change = measured / ratios.planned - 1.0;
        (change.abs() > self.tolerance).then_some(Drift { device_idx, planned: ratios.planned, measured })
    }

    /// What the predictions of a device are to be multiplied with: 1 until enough steps were measured.
    pub fn factor(&self, device_idx: usize) -> f64 {
        let ratios = &self.devices[device_idx];
        if ratios.last.len() > WINDOW / 2 { ratios.median() } else { ratios.planned }
    }

    /// Takes the present factors as those that plans are made with, and gives costs corrected by them. What seems to
    /// have changed more than eightfold at once is followed so far for now.
    pub fn apply(&mut self, costs: Arc<dyn CostModel>) -> CorrectedCosts {
        let limited = |device_idx: usize| {
            let planned = self.devices[device_idx].planned;
            self.factor(device_idx).clamp(planned / MOST_CHANGE, planned * MOST_CHANGE)
        };
        let factors: Vec<f64> = (0..self.devices.len()).map(limited).collect();
        for (ratios, &factor) in self.devices.iter_mut().zip(&factors) {
            ratios.planned = factor;
        }
        CorrectedCosts { costs, factors }
    }
}

impl Ratios {
    fn median(&self) -> f64 {
        let mut sorted = [0.0; WINDOW];
        let sorted = &mut sorted[..self.last.len()];
        sorted.copy_from_slice(&self.last);
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

impl CorrectedCosts {
    /// What the seconds of a device are multiplied with.
    pub fn factor(&self, device_idx: usize) -> f64 {
        self.factors[device_idx]
    }
}

/// Costs of which each device's seconds are multiplied with a factor.
#[derive(Clone, Debug)]
pub struct CorrectedCosts {
    costs: Arc<dyn CostModel>,
    factors: Vec<f64>,
}

impl CostModel for CorrectedCosts {
    fn devices(&self) -> &[DeviceCosts] {
        self.costs.devices()
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        self.costs.class(spec)
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        Some(self.costs.seconds(device_idx, shape)? * self.factors[device_idx])
    }

    fn seconds_alone_and_beside(&self, device_idx: usize, shape: &PartShape) -> Option<[f64; 2]> {
        let seconds = self.costs.seconds_alone_and_beside(device_idx, shape)?;
        Some(seconds.map(|seconds| seconds * self.factors[device_idx]))
    }

    fn uncertainty(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.uncertainty(device_idx, shape)
    }

    fn submission_uncertainty(&self, device_idx: usize) -> f64 {
        self.costs.submission_uncertainty(device_idx)
    }

    fn joules(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.joules(device_idx, shape) * self.factors[device_idx]
    }

    fn bus_bytes(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.bus_bytes(device_idx, shape)
    }

    fn bus(&self) -> f64 {
        self.costs.bus()
    }

    fn idle_watts(&self) -> f64 {
        self.costs.idle_watts()
    }

    fn own_bytes(&self, device_idx: usize, class: ClassId, columns: usize) -> u64 {
        self.costs.own_bytes(device_idx, class, columns)
    }

    fn compile_seconds(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.compile_seconds(device_idx, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_move_the_factor_but_a_lasting_change_does() {
        let mut corrections = Corrections::new(2, 0.15);
        for step in 0..40 {
            // Every fifth step is disturbed tenfold.
            let measured = if step % 5 == 0 { 10.0 } else { 1.02 };
            assert_eq!(corrections.observe(0, 1.0, measured), None, "step {step}");
        }
        assert_eq!(corrections.factor(0), 1.02);
        let drifts: Vec<usize> = (0..WINDOW).filter(|_| corrections.observe(0, 1.0, 1.5).is_some()).collect();
        assert!((3..=9).contains(&drifts[0]), "the plan is made anew after {} steps", drifts[0]);
        assert_eq!(corrections.factor(1), 1.0);
    }

    #[test]
    fn nothing_measured_is_nothing_learnt() {
        let mut corrections = Corrections::new(1, 0.15);
        for measured in [f64::NAN, 0.0, f64::INFINITY, -1.0] {
            (0..WINDOW).for_each(|_| assert_eq!(corrections.observe(0, 1.0, measured), None));
        }
        assert_eq!(corrections.factor(0), 1.0);
    }
}
