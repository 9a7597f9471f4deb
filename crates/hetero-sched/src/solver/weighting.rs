//! What makes one plan better than another: seconds and joules of a step, and what must be made ready before it.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

use super::{Objective, Prediction, Preparation};

/// What choices ask for besides the time of the step; it adds up over the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outlay {
    /// Joules of a step.
    pub(crate) joules: f64,
    /// Bytes of weights that devices would hold as copies of their own, besides what they hold for other plans anyway.
    pub(crate) bytes: f64,
    /// Seconds to compile and load, once, what is not there yet.
    pub(crate) prepare_seconds: f64,
}

impl Add for Outlay {
    type Output = Outlay;

    fn add(self, other: Outlay) -> Outlay {
        Outlay {
            joules: self.joules + other.joules,
            bytes: self.bytes + other.bytes,
            prepare_seconds: self.prepare_seconds + other.prepare_seconds,
        }
    }
}

impl AddAssign for Outlay {
    fn add_assign(&mut self, other: Outlay) {
        *self = *self + other;
    }
}

impl Mul<Outlay> for f64 {
    type Output = Outlay;

    fn mul(self, outlay: Outlay) -> Outlay {
        Outlay {
            joules: self * outlay.joules,
            bytes: self * outlay.bytes,
            prepare_seconds: self * outlay.prepare_seconds,
        }
    }
}

impl Sum for Outlay {
    fn sum<I: Iterator<Item = Outlay>>(outlays: I) -> Outlay {
        outlays.fold(Outlay::default(), Add::add)
    }
}

/// What a number of seconds, joules and bytes is worth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighting {
    per_second: f64,
    per_joule: f64,
    idle_watts: f64,
    per_byte: f64,
    /// The part of the preparation that one step has to bear.
    per_prepare_second: f64,
}

impl Weighting {
    pub(crate) fn new(objective: Objective, preparation: Preparation, idle_watts: f64, per_byte: f64) -> Weighting {
        let (per_second, per_joule) = match objective {
            Objective::Time => (1.0, 0.0),
            Objective::Energy => (0.0, 1.0),
            Objective::Mixed { seconds_per_joule } => (1.0, seconds_per_joule),
        };
        Weighting { per_second, per_joule, idle_watts, per_byte, per_prepare_second: preparation.share() }
    }

    /// What a plan is worth that was predicted, bytes aside.
    pub(crate) fn of_prediction(&self, prediction: &Prediction) -> f64 {
        let prepare_seconds = prediction.prepare_seconds;
        let prepared = self.value(0.0, Outlay { prepare_seconds, ..Outlay::default() });
        self.per_second * prediction.seconds + self.per_joule * prediction.joules + prepared
    }

    pub(crate) fn value(&self, seconds: f64, outlay: Outlay) -> f64 {
        let seconds = seconds + self.per_prepare_second * outlay.prepare_seconds;
        self.per_second * seconds
            + self.per_joule * (outlay.joules + self.idle_watts * seconds)
            + self.per_byte * outlay.bytes
    }
}
