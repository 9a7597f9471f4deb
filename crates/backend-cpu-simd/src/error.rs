//! Why the CPU backend cannot start.

use crate::dispatch::UnavailableIsa;

/// Why the CPU backend cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// An instruction set was forced that this machine does not have.
    #[error(transparent)]
    UnavailableIsa(#[from] UnavailableIsa),
    /// A number of threads that makes no sense.
    #[error("{threads} worker threads: expected 1 to {limit}")]
    BadThreads {
        /// What was asked for.
        threads: usize,
        /// The most that are allowed.
        limit: usize,
    },
    /// The system refused a thread.
    #[error("the system refused a worker thread: {reason}")]
    NoThread {
        /// What the system said.
        reason: String,
    },
}

impl CpuError {
    /// What the user can do about it.
    pub fn fix(&self) -> String {
        match self {
            CpuError::UnavailableIsa(_) => "unset the variable, or choose an instruction set of the list".into(),
            CpuError::BadThreads { limit, .. } => {
                format!("give 1 to {limit} threads; as many as performance cores is best")
            }
            CpuError::NoThread { .. } => "raise the limit on threads (`ulimit -u`), or give fewer `--threads`".into(),
        }
    }
}
