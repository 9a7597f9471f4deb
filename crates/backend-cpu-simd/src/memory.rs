//! Tensors in the machine's ordinary memory.

use std::ptr::NonNull;

use hetero_core::{BackendError, DeviceId, HostTensor, Tensor, TensorDesc};
use memmap2::MmapMut;

/// A zeroed tensor in anonymous pages of its own.
///
/// Pages come straight from the operating system and are touched for the first time when they are filled, so a KV cache
/// for a long context costs what of it is used. Weights, which are bytes, get huge pages where the system has them: a
/// decode step streams all of them and misses the address translation cache for every 4 KiB page otherwise. A cache
/// must not have them: it is filled at many places at once, and each would take a huge page for its first position.
#[derive(Debug)]
pub(crate) struct CpuTensor {
    desc: TensorDesc,
    device: DeviceId,
    /// Owns the pages. While the tensor is shared they are reached only through `start`.
    pages: MmapMut,
    start: NonNull<u8>,
}

impl CpuTensor {
    /// Allocates a tensor of `device`.
    pub(crate) fn new(device: DeviceId, desc: TensorDesc) -> Result<CpuTensor, BackendError> {
        let out_of_memory = |bytes| BackendError::OutOfMemory { device: "cpu".to_owned(), bytes };
        let bytes = desc.checked_bytes().ok_or_else(|| out_of_memory(u64::MAX))?;
        let mut pages = MmapMut::map_anon(bytes.max(1)).map_err(|_| out_of_memory(bytes as u64))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE && desc.dtype == hetero_core::DType::U8 {
            // Refused on kernels without huge pages, which are slower and otherwise the same.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        let start = NonNull::new(pages.as_mut_ptr()).ok_or_else(|| out_of_memory(bytes as u64))?;
        Ok(CpuTensor { desc, device, pages, start })
    }

    /// The elements' bytes, before the tensor is shared.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.desc.bytes()]
    }
}

/// Size of a huge page on x86-64 and on Arm with 4 KiB pages.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

// SAFETY: `desc` and `start` are set once; the pages are aligned to at least 4 KiB, zeroed (so initialised), mapped for
// reading and writing and owned by this value until it is dropped. No method gives out access to them.
unsafe impl Tensor for CpuTensor {
    fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        Some(self.start)
    }

    fn host_pages(&self) -> Option<usize> {
        // The system maps whole pages, and gives nobody else the rest of the last one.
        Some(self.desc.bytes().max(1).next_multiple_of(HostTensor::PAGE))
    }
}

// SAFETY: the pages belong to the process, not to a thread, and the value offers no access to them.
unsafe impl Send for CpuTensor {}
// SAFETY: as for `Send`; access goes through slots and views, which hold the rules of sharing.
unsafe impl Sync for CpuTensor {}
