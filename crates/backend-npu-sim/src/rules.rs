//! What the simulated processors accept, and how much an NPU holds.

use std::sync::Arc;

use hetero_core::{BackendError, DType, DeviceKind, Op, OpSpec, Segment, Support, WeightFormat};
use parking_lot::Mutex;

use crate::soc::NpuLimits;
use crate::weight::stored_bytes;

/// Whether a processor computes an operator.
///
/// All of them take every operator, so that a whole model runs on any one. Sizes are never a reason: an NPU fills up
/// what is no multiple of its tile. What an NPU lacks are bf16 units; Hexagon's float units take f16 and its vector
/// unit f32.
pub(crate) fn support(kind: DeviceKind, spec: &OpSpec) -> Support {
    let inputs_fit = match spec.inputs[..] {
        [ids] if matches!(spec.op, Op::Embed { .. }) => ids == DType::U32,
        _ => spec.inputs.iter().all(|input| input.is_float()),
    };
    if !inputs_fit || !spec.output.is_float() {
        return Support::No("only floats are computed with".to_owned());
    }
    if kind == DeviceKind::Npu {
        if spec.inputs.iter().chain([&spec.output]).any(|dtype| *dtype == DType::BF16) {
            return Support::No("the NPU has no units for bf16 activations: it takes f16 and f32".to_owned());
        }
        if matches!(spec.op, Op::Linear { format: WeightFormat::Bf16, .. }) {
            return Support::No("the NPU has no units for bf16 weights: it takes w4g32, w8g32, f16 and f32".to_owned());
        }
    }
    Support::Yes
}

/// The graphs that are alive on an NPU.
#[derive(Debug)]
pub(crate) struct GraphMemory {
    device: String,
    limits: NpuLimits,
    n_live: Arc<Mutex<usize>>,
}

/// A live graph; dropping it frees its place.
#[derive(Debug)]
pub(crate) struct LiveGraph {
    n_live: Arc<Mutex<usize>>,
}

impl GraphMemory {
    pub(crate) fn new(device: &str, limits: NpuLimits) -> GraphMemory {
        GraphMemory { device: device.to_owned(), limits, n_live: Arc::default() }
    }

    /// Takes a place for a segment, or says which limit it breaks.
    pub(crate) fn take(&self, segment: &Segment) -> Result<LiveGraph, BackendError> {
        let reached = |what, allowed, needed| {
            Err(BackendError::LimitReached { device: self.device.clone(), what, allowed, needed })
        };
        let bytes = graph_bytes(segment);
        if bytes > self.limits.max_graph_bytes {
            return reached("bytes in one graph", self.limits.max_graph_bytes, bytes);
        }
        let mut n_live = self.n_live.lock();
        if *n_live >= self.limits.max_graphs {
            return reached("live graphs", self.limits.max_graphs as u64, *n_live as u64 + 1);
        }
        *n_live += 1;
        Ok(LiveGraph { n_live: Arc::clone(&self.n_live) })
    }
}

impl Drop for LiveGraph {
    fn drop(&mut self) {
        *self.n_live.lock() -= 1;
    }
}

/// Bytes of a compiled graph: its static tensors, which are the weights.
pub(crate) fn graph_bytes(segment: &Segment) -> u64 {
    let weights = segment.nodes.iter().flat_map(|node| &node.weights);
    weights.map(|weight| stored_bytes(weight.rows())).sum()
}
