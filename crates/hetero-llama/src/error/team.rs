//! Devices that cannot share the work in the way that was asked for.

use thiserror::Error;

use crate::Mode;

/// Why devices cannot share the work.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum TeamError {
    /// More devices than a plan can use.
    #[error("{n_devices} devices: expected at most {most}")]
    TooManyDevices {
        /// How many were chosen.
        n_devices: usize,
        /// How many there may be.
        most: usize,
    },

    /// A mode for processors that are not among those that may be used.
    #[error("mode {mode}: expected {expected} among the devices, found {found}")]
    Mode {
        /// The mode.
        mode: Mode,
        /// What it takes.
        expected: &'static str,
        /// Names of those that may be used.
        found: String,
    },

    /// Energy is to be small, and nobody knows what a device takes.
    #[error("objective {objective}: expected devices whose power is known, found {device}")]
    UnknownPower {
        /// What was to be small.
        objective: String,
        /// The device's name.
        device: String,
    },

    /// A device of which too little was measured to plan with it.
    #[error("device {device} could not be measured within {budget_seconds} s")]
    NotMeasured {
        /// Its name.
        device: String,
        /// The time that there was, in seconds.
        budget_seconds: f64,
    },
}

impl TeamError {
    /// What the user can do about it: one sentence, without a full stop at the end.
    pub fn fix(&self) -> String {
        match self {
            Self::TooManyDevices { .. } => "leave some out with `--devices`".into(),
            Self::Mode { .. } => {
                "choose processors for it with `--devices`, which `hetero devices` lists, or another mode".into()
            }
            Self::UnknownPower { .. } => {
                "only simulated processors say what they take: leave `--objective` out, or plan with `hetero plan`"
                    .into()
            }
            Self::NotMeasured { .. } => "measure the devices once with `hetero profile` and a larger `--budget`, or \
                leave this one out with `--devices`"
                .into(),
        }
    }
}
