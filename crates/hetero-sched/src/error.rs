//! What can go wrong when a plan is made ready or run.

use hetero_core::BackendError;

/// Why a plan cannot be made ready or has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedError {
    /// A device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
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
}
