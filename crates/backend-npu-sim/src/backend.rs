//! A simulated processor as the rest of hetero sees it.

use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, DeviceId, DeviceInfo, DeviceKind, Executable, OpSpec, Segment, Support, Tensor,
    TensorDesc, Weight, WeightRows,
};
use parking_lot::Mutex;

use crate::clock::VirtualClock;
use crate::cost::compile_seconds;
use crate::executable::SimExecutable;
use crate::fault::{Fault, FaultState};
use crate::memory;
use crate::numerics::Arithmetic;
use crate::queue::Queue;
use crate::rules::{GraphMemory, graph_bytes, support};
use crate::simulated_soc::{MemoryMode, TimeMode};
use crate::soc::Soc;
use crate::timeline::VirtualTimeline;
use crate::weight::SimWeight;

/// One processor of a [`crate::SimulatedSoc`].
///
/// All processors of a phone reach the same memory, so every tensor of theirs and of the host is `Direct`.
#[derive(Debug)]
pub(crate) struct SimBackend {
    pub(crate) device: Arc<Device>,
}

/// What executables share with their backend.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) info: DeviceInfo,
    /// Which processor of the clock.
    pub(crate) idx: usize,
    pub(crate) soc: Arc<Soc>,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) timeline: Arc<VirtualTimeline>,
    pub(crate) time: TimeMode,
    pub(crate) memory: MemoryMode,
    /// None when nothing is computed.
    pub(crate) arithmetic: Option<Arithmetic>,
    pub(crate) faults: Mutex<FaultState>,
    /// What an NPU holds.
    pub(crate) graphs: Option<GraphMemory>,
    /// In real time, the thread, from the first submission on.
    pub(crate) queue: Mutex<Option<Arc<Queue>>>,
}

impl Device {
    /// What users call the simulated processor of a kind.
    pub(crate) fn name(kind: DeviceKind) -> String {
        format!("{kind}-sim")
    }

    /// What it is on a system.
    pub(crate) fn info(soc: &Soc, kind: DeviceKind) -> DeviceInfo {
        DeviceInfo {
            id: DeviceId::next(),
            name: Self::name(kind),
            kind,
            description: format!("{} of {}, simulated", soc.processor_description(kind), soc.name),
            version: format!("{} {}", env!("CARGO_PKG_VERSION"), soc.name),
            weight_row_alignment: if kind == DeviceKind::Npu { soc.npu_limits.tile } else { 32 },
            is_host_visible: true,
            max_tensor_bytes: None,
            max_segment_weight_bytes: (kind == DeviceKind::Npu).then_some(soc.npu_limits.max_graph_bytes),
            max_graphs: (kind == DeviceKind::Npu).then_some(soc.npu_limits.max_graphs),
        }
    }

    /// Why it takes no more submissions, if it has stopped.
    pub(crate) fn stop_error(&self) -> Option<BackendError> {
        match self.time {
            TimeMode::Real { .. } => self.queue.lock().as_ref().and_then(|queue| queue.failure()),
            TimeMode::Virtual | TimeMode::Free => self.timeline.stop_error(),
        }
    }

    /// The thread that runs submissions in real time.
    pub(crate) fn queue(&self) -> Result<Arc<Queue>, BackendError> {
        let mut queue = self.queue.lock();
        if let Some(queue) = &*queue {
            return Ok(Arc::clone(queue));
        }
        let started = Arc::new(Queue::new(&self.info.name, self.timeline.timeout)?);
        *queue = Some(Arc::clone(&started));
        Ok(started)
    }
}

impl Backend for SimBackend {
    fn info(&self) -> &DeviceInfo {
        &self.device.info
    }

    fn support(&self, op: &OpSpec) -> Support {
        support(self.device.info.kind, op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        memory::access(tensor)
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        let Device { info, clock, memory, .. } = &*self.device;
        match memory {
            MemoryMode::Shared => memory::allocate(info.id, desc),
            MemoryMode::Copied => Ok(memory::allocate_copied(info, desc, clock)),
        }
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        Ok(Arc::new(SimWeight::new(rows, self.device.info.id, self.device.info.kind)))
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        let device = &self.device;
        let (info, kind) = (&device.info, device.info.kind);
        for node in &segment.nodes {
            let spec = segment.graph.op_spec(node.node);
            if let Support::No(reason) = support(kind, &spec) {
                panic!("{spec} was placed on {} although: {reason}", info.name);
            }
            for weight in &node.weights {
                assert_eq!(weight.device(), info.id, "{:?} was loaded by another backend", weight.rows());
            }
        }
        if let Some(error) = device.stop_error() {
            return Err(error);
        }
        let fault = device.faults.lock().compilation();
        match fault {
            Some(Fault::OutOfMemory) => {
                let (device, bytes) = (info.name.clone(), graph_bytes(segment));
                return Err(BackendError::OutOfMemory { device, bytes });
            }
            Some(_) => {
                let reason = "a simulated fault".to_owned();
                return Err(BackendError::CompileFailed { device: info.name.clone(), reason });
            }
            None => {}
        }
        let graph = device.graphs.as_ref().map(|graphs| graphs.take(segment)).transpose()?;
        let seconds = if device.time == TimeMode::Free { 0.0 } else { compile_seconds(&device.soc, kind, segment) };
        device.clock.compile(device.idx, seconds);
        Ok(Arc::new(SimExecutable::new(Arc::clone(device), segment, graph)))
    }
}
