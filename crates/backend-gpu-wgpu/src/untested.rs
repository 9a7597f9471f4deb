//! The device as it is: what a backend does but for asking whether the driver is to be trusted.

use std::any::Any;
use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, DeviceInfo, Executable, OpSpec, Segment, Support, Tensor, TensorDesc, Weight,
    WeightRows,
};
use hetero_shaders::Knobs;
use hetero_shaders::checks::Restrict;
use hetero_shaders::program::support;

use crate::executable::GpuExecutable;
use crate::memory::GpuTensor;
use crate::queue::Gpu;
use crate::weight::GpuWeight;

/// A GPU whose kernels are taken at their word.
#[derive(Debug)]
pub(crate) struct Untested(pub(crate) Arc<Gpu>);

impl Backend for Untested {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn support(&self, op: &OpSpec) -> Support {
        support(op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        let tensor: &dyn Any = tensor;
        match tensor.downcast_ref::<GpuTensor>() {
            Some(tensor) if tensor.is_of(&self.0) => Access::Direct,
            _ => Access::NeedsCopy,
        }
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        Ok(Arc::new(GpuTensor::new(&self.0, *desc)?))
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        Ok(Arc::new(GpuWeight::new(&self.0, rows)?))
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        if let Some(error) = self.0.timeline.failure() {
            return Err(error);
        }
        Ok(Arc::new(GpuExecutable::new(&self.0, segment)?))
    }
}

impl Restrict for Untested {
    fn knobs(&self) -> Knobs {
        Knobs::clone(&self.0.knobs)
    }

    fn hold(&self, knobs: Knobs) {
        self.0.knobs.hold(knobs);
    }
}
