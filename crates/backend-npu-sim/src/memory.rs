//! The phone's memory: ordinary memory of this machine that all its processors and the host reach, or, for drivers that
//! share nothing, memory that only takes time.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_core::{Access, BackendError, ByteRuns, DeviceId, DeviceInfo, DeviceKind, HostTensor, Tensor, TensorDesc};

use crate::clock::VirtualClock;

/// A zeroed tensor; pages that nobody touches take no memory.
pub(crate) fn allocate(device: DeviceId, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
    Ok(Arc::new(HostTensor::new(device, *desc)?))
}

/// A tensor that the host reaches by copies.
pub(crate) fn allocate_copied(info: &DeviceInfo, desc: &TensorDesc, clock: &Arc<VirtualClock>) -> Arc<dyn Tensor> {
    let clock = Arc::clone(clock);
    let last = Mutex::new([f64::NAN; 2]);
    Arc::new(DriverTensor { device: info.id, kind: info.kind, desc: *desc, clock, last })
}

/// Whatever the host reaches, every simulated processor reaches too; and memory of the phone is one, whoever drives it.
pub(crate) fn access(tensor: &dyn Tensor) -> Access {
    match tensor.host_ptr() {
        Some(_) => Access::Direct,
        None if (tensor as &dyn Any).is::<DriverTensor>() => Access::Direct,
        None => Access::NeedsCopy,
    }
}

/// A tensor that the host reaches only through the driver of a processor, which copies. Nothing is kept in it: it takes
/// the time of copies where nothing is computed.
#[derive(Debug)]
struct DriverTensor {
    device: DeviceId,
    kind: DeviceKind,
    desc: TensorDesc,
    clock: Arc<VirtualClock>,
    /// When the last copy in either direction ended, in seconds.
    last: Mutex<[f64; 2]>,
}

impl DriverTensor {
    /// A copy in a direction. Those that come at once are one call of the driver.
    fn copy(&self, direction: usize, bytes: usize) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_continued = last[direction] == self.clock.now();
        self.clock.copy_piece(self.kind, bytes as u64, is_continued);
        last[direction] = self.clock.now();
    }
}

#[expect(unsafe_code, reason = "whoever lends references from a tensor must be able to rely on its address")]
// SAFETY: there is no pointer to what the tensor holds, and the description never changes.
unsafe impl Tensor for DriverTensor {
    fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        None
    }

    fn download(&self, _runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        self.copy(0, out.len());
        Ok(())
    }

    fn upload(&self, _runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        self.copy(1, bytes.len());
        Ok(())
    }
}
