//! The phone's memory, which all its processors and the host reach: ordinary memory of this machine.

use std::sync::Arc;

use hetero_core::{Access, BackendError, DeviceId, HostTensor, Tensor, TensorDesc};

/// A zeroed tensor; pages that nobody touches take no memory.
pub(crate) fn allocate(device: DeviceId, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
    Ok(Arc::new(HostTensor::new(device, *desc)?))
}

/// Whatever the host reaches, every simulated processor reaches too.
pub(crate) fn access(tensor: &dyn Tensor) -> Access {
    match tensor.host_ptr() {
        Some(_) => Access::Direct,
        None => Access::NeedsCopy,
    }
}
