//! How a processor is driven: the traits that every backend implements.

use std::any::Any;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Bindings, Claim, OpSpec, Segment, SharedTensor, Tensor, TensorDesc, Ticket, Weight, WeightRows};

/// One processor. Its submissions complete in order.
///
/// The crate's documentation holds the contract: order, visibility, lifetime, who may block. A backend's own
/// documentation adds only what is different about it.
pub trait Backend: Debug + Send + Sync {
    /// What the processor is: plain data, always the same.
    fn info(&self) -> &DeviceInfo;

    /// Whether it can compute an operator. Asked before anything is placed; an answer never changes.
    fn support(&self, op: &OpSpec) -> Support;

    /// How it reaches a tensor, whoever allocated it.
    fn access(&self, tensor: &dyn Tensor) -> Access;

    /// A zeroed tensor in memory that suits this processor.
    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError>;

    /// Makes rows of a weight matrix ready for use. May copy and repack, and then says so in
    /// [`Weight::own_bytes`].
    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError>;

    /// Makes a segment ready to run many times. May be slow.
    ///
    /// # Panics
    /// When [`Backend::support`] says no to one of its operators.
    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError>;
}

/// A segment compiled for one backend.
pub trait Executable: Any + Debug + Send + Sync {
    /// Queues one run and returns at once. [`Segment::binding_idx`] says which of `bindings` holds
    /// which value.
    ///
    /// # Panics
    /// When a binding does not fit its value, when `step.rows` is zero or above the graph's capacity, or when the
    /// step does not fit into a cache.
    fn submit(&self, bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError>;

    /// Queues one run that waits for [`Executable::start`], so that its inputs need not exist yet; the count at which it
    /// will have finished. `tensors` are those that will be bound, with what will be claimed of them: no right to them
    /// is held meanwhile, and nothing of them is touched. `None` when the processor cannot do so, or not now.
    ///
    /// Callers use [`crate::QueuedAhead`], which says when this may be asked for.
    ///
    /// # Panics
    /// As [`Executable::submit`], here or when it is started.
    fn queue_ahead(
        &self,
        tensors: &[(Arc<SharedTensor>, Arc<Claim>)],
        step: StepParams,
    ) -> Option<Result<u64, BackendError>> {
        let _ = (tensors, step);
        None
    }

    /// Lets the run that was queued ahead as `value` begin. What the host and other processors have written until now is
    /// visible to it. After an error it has not begun.
    ///
    /// # Panics
    /// When `bindings` are not those of the tensors that it was queued for, or no such run is waiting.
    fn start(&self, value: u64, bindings: Bindings) -> Result<Ticket, BackendError> {
        let _ = bindings;
        unreachable!("nothing was queued ahead as {value}")
    }

    /// Lets the run that was queued ahead as `value` end without touching any tensor.
    fn take_back(&self, value: u64) {
        unreachable!("nothing was queued ahead as {value}")
    }
}

/// What changes from step to step, so that nothing is compiled anew for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepParams {
    /// Positions that are in the KV cache already; the first row of this step has this position.
    pub past: usize,
    /// Rows in use: positions of this step.
    pub rows: usize,
}

/// Identifies one backend instance within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(u32);

impl DeviceId {
    /// An id that no other device of the process has.
    pub fn next() -> DeviceId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        DeviceId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The kinds of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Central processor.
    Cpu,
    /// Graphics processor.
    Gpu,
    /// Neural processor.
    Npu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
            DeviceKind::Npu => "npu",
        })
    }
}

/// What a processor is.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Identifies it within the process.
    pub id: DeviceId,
    /// The name by which users choose it, such as `cpu` or `gpu-vulkano:0`.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// For people: product name, instruction set, number of threads.
    pub description: String,
    /// Version of backend and driver; measurements made under another one are void.
    pub version: String,
    /// Cuts of weight rows on multiples of this run at full speed.
    pub weight_row_alignment: usize,
    /// Whether the host reaches the tensors that the processor allocates by a pointer, rather than by copies.
    pub is_host_visible: bool,
    /// The largest tensor in bytes, where there is a limit.
    pub max_tensor_bytes: Option<u64>,
    /// The most bytes of weights, as they are stored, that one segment may use, where there is a limit.
    pub max_segment_weight_bytes: Option<u64>,
    /// The most compiled segments that it holds at a time, where there is a limit.
    pub max_graphs: Option<usize>,
}

/// Whether a backend can compute an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Yes,
    /// It cannot, and why.
    No(String),
}

/// How a backend reaches a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// In place.
    Direct,
    /// Only in a copy, which is a step of its own in the plan.
    NeedsCopy,
}

/// What a caller cannot foresee.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The processor or its driver has gone away; the backend is of no further use.
    #[error("device {device} is lost: {reason}")]
    DeviceLost {
        /// Its name.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// An allocation did not fit.
    #[error("device {device} is out of memory: {bytes} bytes were wanted")]
    OutOfMemory {
        /// Its name; `host` for memory that is no device's own.
        device: String,
        /// Its size.
        bytes: u64,
    },
    /// A segment that the processor takes by its rules, but that its compiler fails at.
    #[error("device {device} failed to compile a segment: {reason}")]
    CompileFailed {
        /// Its name.
        device: String,
        /// What the compiler said.
        reason: String,
    },
    /// More than the processor holds at a time, such as compiled graphs.
    #[error("device {device} holds at most {allowed} {what}, and {needed} are needed")]
    LimitReached {
        /// Its name.
        device: String,
        /// What is limited, in the plural: `live graphs`, `bytes of live graphs`.
        what: &'static str,
        /// The most that it holds.
        allowed: u64,
        /// What it would have to hold.
        needed: u64,
    },
    /// A submission has not finished in time. The processor was stopped: it touches no memory any more, and the
    /// backend is of no further use.
    #[error("device {device} has not finished within {} s and was stopped", after.as_secs_f64())]
    TimedOut {
        /// Its name.
        device: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The processor took a submission and failed at it; what it wrote is void.
    #[error("device {device} failed: {reason}")]
    Failed {
        /// Its name.
        device: String,
        /// What went wrong.
        reason: String,
    },
}
