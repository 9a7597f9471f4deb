//! The simplest backend: runs the oracle's loops within `submit`. It shows how little a backend is, and tests the suite.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hetero_core::{
    Access, Backend, BackendError, Bindings, DType, DeviceId, DeviceInfo, DeviceKind, Executable, HostTensor, OpSpec,
    Segment, StepParams, Support, Tensor, TensorDesc, Ticket, Timeline, Weight, WeightRows, reference,
};

type Kernel = dyn Fn(&Segment, &mut Bindings, StepParams) + Send + Sync;

/// A backend that computes with [`reference::run_segment`], at once and on the caller's thread.
pub struct ReferenceBackend {
    info: DeviceInfo,
    kernel: Arc<Kernel>,
    timeline: Arc<Counter>,
}

impl ReferenceBackend {
    /// A new device.
    #[expect(clippy::new_without_default, reason = "a device is made, not defaulted")]
    pub fn new() -> ReferenceBackend {
        ReferenceBackend::with_kernel(reference::run_segment)
    }

    /// A device that computes with `kernel` instead, for tests of the suite.
    pub fn with_kernel(
        kernel: impl Fn(&Segment, &mut Bindings, StepParams) + Send + Sync + 'static,
    ) -> ReferenceBackend {
        ReferenceBackend {
            info: DeviceInfo {
                id: DeviceId::next(),
                name: "reference".to_owned(),
                kind: DeviceKind::Cpu,
                description: "plain loops".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                weight_row_alignment: 32,
                is_host_visible: true,
                max_tensor_bytes: None,
                max_segment_weight_bytes: None,
                max_graphs: None,
            },
            kernel: Arc::new(kernel),
            timeline: Arc::default(),
        }
    }
}

impl fmt::Debug for ReferenceBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferenceBackend").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Backend for ReferenceBackend {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn support(&self, op: &OpSpec) -> Support {
        let is_lookup = matches!(op.op, hetero_core::Op::Embed { .. });
        let inputs_fit = match op.inputs[..] {
            [ids] if is_lookup => ids == DType::U32,
            _ => op.inputs.iter().all(|input| input.is_float()),
        };
        if inputs_fit && op.output.is_float() {
            Support::Yes
        } else {
            Support::No("only floats are computed with".to_owned())
        }
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        match tensor.host_ptr() {
            Some(_) => Access::Direct,
            None => Access::NeedsCopy,
        }
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        Ok(Arc::new(HostTensor::new(self.info.id, *desc)?))
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        Ok(Arc::new(SharedWeight { rows, device: self.info.id }))
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        for node in &segment.nodes {
            let spec = segment.graph.op_spec(node.node);
            if let Support::No(reason) = self.support(&spec) {
                panic!("{spec} is not supported: {reason}");
            }
        }
        Ok(Arc::new(SegmentLoops {
            segment: segment.clone(),
            kernel: Arc::clone(&self.kernel),
            timeline: Arc::clone(&self.timeline),
        }))
    }
}

struct SegmentLoops {
    segment: Segment,
    kernel: Arc<Kernel>,
    timeline: Arc<Counter>,
}

impl fmt::Debug for SegmentLoops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentLoops").field("segment", &self.segment).finish_non_exhaustive()
    }
}

impl Executable for SegmentLoops {
    fn submit(&self, mut bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        // One submission at a time, so that they complete in order. A panic is the caller's misuse and leaves
        // nothing half done that a later submission could see, so a poisoned lock is as good as new.
        let running = self.timeline.running.lock();
        let running = running.unwrap_or_else(PoisonError::into_inner);
        (self.kernel)(&self.segment, &mut bindings, step);
        bindings.give_back();
        let value = self.timeline.completed.fetch_add(1, Ordering::Release) + 1;
        drop(running);
        Ok(Ticket::new(Arc::clone(&self.timeline) as Arc<dyn Timeline>, value, bindings))
    }
}

/// Counts submissions, which have finished when `submit` returns.
#[derive(Debug, Default)]
struct Counter {
    completed: AtomicU64,
    running: Mutex<()>,
}

impl Timeline for Counter {
    fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        assert!(value <= self.completed(), "nothing is under way that could reach {value}");
        Ok(())
    }
}

/// Rows used where they lie.
#[derive(Debug)]
struct SharedWeight {
    rows: WeightRows,
    device: DeviceId,
}

impl Weight for SharedWeight {
    fn rows(&self) -> &WeightRows {
        &self.rows
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn own_bytes(&self) -> u64 {
        0
    }
}
