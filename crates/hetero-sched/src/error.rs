//! What can go wrong when a plan is made ready or run.

use std::time::Duration;

use hetero_core::BackendError;

use crate::solver::SolveError;

/// Why a plan cannot be made ready or has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedError {
    /// A device failed outside a plan, such as while memory was allocated.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A device of the plan failed.
    #[error("{error}")]
    Device {
        /// Which of the executor's devices.
        device_idx: usize,
        /// What happened.
        #[source]
        error: BackendError,
    },
    /// A device has been at a submission for far longer than predicted. It was waited for until its backend gave the
    /// submission up or finished it after all.
    #[error(
        "device {device} is stuck: a submission of about {} s had not finished after {} s",
        predicted.as_secs_f64(),
        waited.as_secs_f64()
    )]
    Stuck {
        /// Which of the executor's devices.
        device_idx: usize,
        /// Its name.
        device: String,
        /// How long it was waited for.
        waited: Duration,
        /// How long the submission takes as a rule.
        predicted: Duration,
    },
    /// There is no plan.
    #[error(transparent)]
    NoPlan(#[from] SolveError),
    /// Somebody asked to stop.
    #[error("the step was cancelled")]
    Cancelled,
    /// A device cannot compute an operator that was placed on it.
    #[error("device {device} cannot compute {op}: {reason}")]
    Unsupported {
        /// The device's name.
        device: String,
        /// The operator with its element types.
        op: String,
        /// The device's own reason.
        reason: String,
    },
    /// A device cannot reach a tensor that another one allocated.
    #[error("device {device} cannot reach the memory of device {owner} that holds {value}")]
    Unreachable {
        /// The device's name.
        device: String,
        /// The device that allocated the tensor.
        owner: String,
        /// What the tensor holds.
        value: String,
    },
    /// Of the state only the first positions are left: what came behind them was in the memory of a device that is
    /// lost. The team can go on, once the caller has run the positions from there on again.
    #[error("the keys and values of all but the first {kept} positions were lost with a device")]
    StateLost {
        /// Positions that are left.
        kept: usize,
    },
}

impl SchedError {
    /// Which of the executor's devices is of no further use, if one is to blame.
    pub fn device_idx(&self) -> Option<usize> {
        match self {
            SchedError::Device { device_idx, .. } | SchedError::Stuck { device_idx, .. } => Some(*device_idx),
            _ => None,
        }
    }
}
