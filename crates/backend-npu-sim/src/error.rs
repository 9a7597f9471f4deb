//! Why a plan of faults cannot be read.

/// Why a plan of faults cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {piece:?}: {found:?} is not {expected}")]
pub struct FaultPlanError {
    /// The piece of the plan that is wrong.
    pub piece: String,
    /// What of it is wrong.
    pub found: String,
    /// What would be right.
    pub expected: &'static str,
}

impl FaultPlanError {
    fn new(piece: &str, found: &str, expected: &'static str) -> FaultPlanError {
        FaultPlanError { piece: piece.to_owned(), found: found.to_owned(), expected }
    }

    pub(crate) fn bad_form(piece: &str) -> FaultPlanError {
        Self::new(piece, piece, "PROCESSOR:FAULT@WHEN, such as npu:late=10x@3, nor timeout=500ms")
    }

    pub(crate) fn bad_processor(piece: &str, found: &str) -> FaultPlanError {
        Self::new(piece, found, "a processor: cpu, gpu or npu")
    }

    pub(crate) fn bad_fault(piece: &str, found: &str) -> FaultPlanError {
        let expected = "a fault: late=10x, late=20ms, stuck, wrong, wrong=8, lost, oom or compile-error";
        Self::new(piece, found, expected)
    }

    pub(crate) fn bad_when(piece: &str, found: &str) -> FaultPlanError {
        Self::new(piece, found, "a time of its own: 3, 3+, every=3, chance=0.01 or chance=0.01,seed=7")
    }

    pub(crate) fn bad_time(piece: &str, found: &str) -> FaultPlanError {
        Self::new(piece, found, "a time above zero, such as 500ms, 2s or 100us")
    }
}
