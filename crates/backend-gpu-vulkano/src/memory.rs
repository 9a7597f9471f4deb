//! Tensors in memory that host and GPU share.

use std::ptr::NonNull;
use std::sync::Arc;

use hetero_core::{BackendError, DType, DeviceId, Tensor, TensorDesc};
use vulkano::buffer::{BufferUsage, Subbuffer};

use crate::placement::Purpose;
use crate::queue::Gpu;

/// A tensor in a buffer of its own, mapped for as long as it lives.
#[derive(Debug)]
pub(crate) struct GpuTensor {
    desc: TensorDesc,
    gpu: Arc<Gpu>,
    buffer: Subbuffer<[u8]>,
}

impl GpuTensor {
    pub(crate) fn new(gpu: &Arc<Gpu>, desc: TensorDesc) -> Result<GpuTensor, BackendError> {
        let bytes = desc.checked_bytes().map_or(u64::MAX, |bytes| bytes as u64);
        // Raw bytes hold weights, which are bound in pieces.
        if bytes > gpu.max_piece_bytes && desc.dtype != DType::U8 {
            return Err(BackendError::OutOfMemory { device: gpu.info.name.clone(), bytes });
        }
        let buffer = gpu.buffer(bytes, BufferUsage::STORAGE_BUFFER, Purpose::Tensor)?;
        buffer.mapped_slice().map_err(|error| {
            let reason = format!("memory that the host should reach is not mapped: {error}");
            BackendError::Failed { device: gpu.info.name.clone(), reason }
        })?;
        Ok(GpuTensor { desc, gpu: Arc::clone(gpu), buffer })
    }

    pub(crate) fn buffer(&self) -> &Subbuffer<[u8]> {
        &self.buffer
    }

    pub(crate) fn is_of(&self, gpu: &Arc<Gpu>) -> bool {
        Arc::ptr_eq(&self.gpu, gpu)
    }
}

// SAFETY: the description never changes. The buffer begins on a multiple of `queue::ALIGNMENT`, is at least as long as the
// elements, was zeroed, and stays mapped at one address until it is dropped with the tensor; this crate touches it in
// submissions only, for those who hold slots and views.
unsafe impl Tensor for GpuTensor {
    fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    fn device(&self) -> DeviceId {
        self.gpu.info.id
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        // `GpuTensor::new` has seen that it is mapped.
        self.buffer.mapped_slice().ok().map(NonNull::cast)
    }
}
