//! Costs for tests that need several devices to take part.

use std::sync::Arc;

use hetero_core::{Backend, DeviceKind, OpSpec};
use hetero_sched::cost::{ClassId, CostModel, DeviceCosts, PartShape};

/// Every device takes as long as every other, so that plans use all of them.
#[derive(Debug)]
pub(crate) struct Equal {
    devices: Vec<DeviceCosts>,
}

impl Equal {
    pub(crate) fn of(devices: &[Arc<dyn Backend>]) -> Arc<Equal> {
        let costs = |device: &Arc<dyn Backend>| DeviceCosts {
            submit_seconds: 1e-9,
            sync_seconds: 1e-9,
            ..DeviceCosts::new(&device.info().name, DeviceKind::Cpu)
        };
        Arc::new(Equal { devices: devices.iter().map(costs).collect() })
    }
}

impl CostModel for Equal {
    fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    fn class(&self, _: &OpSpec) -> ClassId {
        ClassId(0)
    }

    fn seconds(&self, _: usize, shape: &PartShape) -> Option<f64> {
        Some(1e-6 * (shape.rows * shape.columns) as f64)
    }

    fn joules(&self, _: usize, _: &PartShape) -> f64 {
        0.0
    }

    fn idle_watts(&self) -> f64 {
        0.0
    }

    fn own_bytes(&self, _: usize, _: ClassId, _: usize) -> u64 {
        0
    }

    fn compile_seconds(&self, _: usize, _: &PartShape) -> f64 {
        0.0
    }
}
