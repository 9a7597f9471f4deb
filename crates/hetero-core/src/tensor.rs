//! What an array is and where it lives.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::fmt::Debug;
use std::ptr::NonNull;

use memmap2::MmapMut;

use crate::{BackendError, ByteRuns, DType, DeviceId};

/// Shape and element type of a tensor: a matrix `[rows, columns]`, row-major, without padding.
///
/// Everything in a Llama is a matrix: activations are `[positions, features]`, a KV cache is
/// `[kv_heads * context, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns; also the distance in elements between rows.
    pub columns: usize,
    /// Type of the elements.
    pub dtype: DType,
}

impl TensorDesc {
    /// Size in bytes, or `None` when it does not fit in a `usize`.
    pub fn checked_bytes(&self) -> Option<usize> {
        self.rows.checked_mul(self.columns)?.checked_mul(self.dtype.size())
    }

    /// Size in bytes.
    ///
    /// # Panics
    /// When it does not fit in a `usize`; a tensor that exists always fits.
    pub fn bytes(&self) -> usize {
        self.checked_bytes().unwrap_or_else(|| panic!("the size of {self:?} overflows"))
    }
}

/// A typed array in some processor's memory, host-visible where memory is unified.
///
/// A tensor says nothing about who may touch it now: that is [`crate::SharedTensor`].
///
/// Where [`Tensor::host_ptr`] is none, the host reaches the elements by copies, with [`Tensor::download`] and
/// [`Tensor::upload`]. Nobody calls these but [`crate::Slot`] and [`crate::View`], which know who may: their
/// `read_bytes` and `write_bytes` serve both kinds of tensor.
///
/// # Safety
///
/// An implementor promises, because [`crate::Slot`] and [`crate::View`] make references from it:
/// - [`Tensor::desc`] never changes;
/// - when [`Tensor::host_ptr`] is `Some`, it always returns the same pointer, aligned to at least
///   [`TENSOR_ALIGNMENT`] bytes and valid for reads and writes of `desc().bytes()` initialised bytes until the tensor
///   is dropped;
/// - while the tensor is alive nothing but the holders of slots and views, and processors that run a submission on
///   their behalf, touches that memory.
pub unsafe trait Tensor: Any + Debug + Send + Sync {
    /// Shape and element type.
    fn desc(&self) -> &TensorDesc;

    /// The device in whose memory the tensor lives.
    fn device(&self) -> DeviceId;

    /// Where the host finds the elements; `None` when only the device can reach them.
    fn host_ptr(&self) -> Option<NonNull<u8>>;

    /// How many bytes from [`Tensor::host_ptr`] on are whole pages of the process's ordinary memory that belong to this
    /// tensor alone, initialised, for as long as it lives: what another processor's driver needs to take the memory in.
    /// `None` when it is anything else, such as memory that a driver has allocated.
    fn host_pages(&self) -> Option<usize> {
        None
    }

    /// Copies runs of bytes into `out`, one behind the other, where the host has no pointer to them. Waits until the
    /// device has finished what was submitted to it before. Any runs within the tensor will do; `out` is as long as
    /// they are together.
    fn download(&self, runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        let _ = (runs, out);
        panic!("a tensor {:?} is host-visible or has no way to be read", self.desc());
    }

    /// Copies `bytes`, one run behind the other, to where the runs lie in the tensor, where the host has no pointer to
    /// them: after what was submitted to the device before and before what is submitted afterwards. Returns when `bytes`
    /// is not needed any more, which may be before they have arrived.
    fn upload(&self, runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        let _ = (runs, bytes);
        panic!("a tensor {:?} is host-visible or has no way to be written", self.desc());
    }
}

/// Alignment in bytes of every host-visible tensor: a cache line, which is also the widest vector.
pub const TENSOR_ALIGNMENT: usize = 64;

/// A page-aligned tensor in ordinary host memory, zeroed when made.
///
/// Backends with nothing better to offer use it, and so do tests. Pages of a large tensor that nobody touches take no
/// memory and no time: they come from the system, which zeroes each when it is touched first.
#[derive(Debug)]
pub struct HostTensor {
    desc: TensorDesc,
    device: DeviceId,
    /// What was allocated.
    memory: Memory,
    start: NonNull<u8>,
}

#[derive(Debug)]
enum Memory {
    /// Of the allocator: up to a page more than is used, so that the elements can begin on one.
    Allocated(NonNull<u8>, Layout),
    /// Pages of the system. An allocator that has served some as large before gives out those, and writes zeros.
    Pages(#[expect(dead_code, reason = "owned for as long as the tensor lives")] MmapMut),
}

impl HostTensor {
    /// A page, on the processors that matter here: what sharing memory with other processors asks for.
    pub const PAGE: usize = 4096;

    /// Tensors from this size on have pages of the system. Smaller ones are soon zeroed, and a process has only so many
    /// ranges of pages.
    const LARGE: usize = 128 << 10;

    /// Allocates a zeroed tensor of `device`.
    pub fn new(device: DeviceId, desc: TensorDesc) -> Result<HostTensor, BackendError> {
        let out_of_memory = |bytes| BackendError::OutOfMemory { device: "host".to_owned(), bytes };
        let layout = Self::layout(&desc).ok_or_else(|| out_of_memory(u64::MAX))?;
        if desc.bytes() >= Self::LARGE {
            let pages = MmapMut::map_anon(desc.bytes().next_multiple_of(Self::PAGE));
            let mut pages = pages.map_err(|_| out_of_memory(desc.bytes() as u64))?;
            let start = NonNull::from(&mut pages[..]).cast();
            return Ok(HostTensor { desc, device, memory: Memory::Pages(pages), start });
        }
        // SAFETY: the layout's size is not zero, `layout` makes it more than a page.
        let allocation = unsafe { alloc_zeroed(layout) };
        // Small allocations that fail mean that the process cannot go on.
        let Some(allocation) = NonNull::new(allocation) else { handle_alloc_error(layout) };
        let padding = allocation.addr().get().next_multiple_of(Self::PAGE) - allocation.addr().get();
        // SAFETY: the padding is less than a page, and `layout` adds a page to the bytes of the elements.
        let start = unsafe { allocation.add(padding) };
        Ok(HostTensor { desc, device, memory: Memory::Allocated(allocation, layout), start })
    }

    /// A page more than the elements take, whole pages.
    fn layout(desc: &TensorDesc) -> Option<Layout> {
        let bytes = desc.checked_bytes()?.max(1).checked_next_multiple_of(Self::PAGE)?;
        Layout::from_size_align(bytes.checked_add(Self::PAGE)?, align_of::<u64>()).ok()
    }
}

// SAFETY: `desc` and `start` are set once; `start` is page-aligned, the elements after it lie inside `memory`, which
// is zeroed (so initialised) and owned by this value until it is dropped, and no method gives out access to it.
unsafe impl Tensor for HostTensor {
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
        // `layout` rounded it up, so that it overflows as little here.
        Some(self.desc.bytes().max(1).next_multiple_of(Self::PAGE))
    }
}

// SAFETY: the value owns plain memory and offers no access to it, so moving it to another thread moves an address.
unsafe impl Send for HostTensor {}
// SAFETY: as for `Send`; access to the memory goes through slots and views, which hold the rules of sharing.
unsafe impl Sync for HostTensor {}

impl Drop for HostTensor {
    fn drop(&mut self) {
        if let Memory::Allocated(allocation, layout) = self.memory {
            // SAFETY: it came from `alloc_zeroed` with this same layout, and only this place frees it.
            unsafe { dealloc(allocation.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_tensors_are_page_aligned_and_zero_sized_ones_exist() {
        for (rows, columns) in [(0, 4), (1, 1), (3, 5), (100, 100), (181, 181)] {
            let tensor = HostTensor::new(DeviceId::next(), TensorDesc { rows, columns, dtype: DType::F32 }).unwrap();
            assert_eq!(tensor.host_ptr().unwrap().as_ptr() as usize % HostTensor::PAGE, 0);
        }
    }

    #[test]
    fn a_size_that_overflows_is_out_of_memory_rather_than_a_panic() {
        let desc = TensorDesc { rows: usize::MAX, columns: 2, dtype: DType::F32 };
        assert!(matches!(HostTensor::new(DeviceId::next(), desc), Err(BackendError::OutOfMemory { .. })));
    }
}
