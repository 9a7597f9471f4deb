//! Memory of the process as buffers of the GPU (`VK_EXT_external_memory_host`): what other processors have allocated,
//! and weights wherever they lie, used without a copy. Raw Vulkan calls, because vulkano has none for this.
//!
//! Whoever imports memory keeps its owner for as long as the buffer exists, and gives pages only: the extension takes
//! whole ones. What shares the last page with weights is mapped for the GPU too, but no shader looks at it.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use ash::vk;
use hetero_core::{BackendError, SharedTensor, Tensor, WeightMatrix};
use parking_lot::Mutex;
use vulkano::buffer::sys::RawBuffer;
use vulkano::buffer::{BufferCreateInfo, BufferUsage, Subbuffer};
use vulkano::device::Device;
use vulkano::memory::ExternalMemoryHandleTypes;
use vulkano::{Validated, VulkanError as Code, VulkanObject};

use crate::placement::{Placement, Purpose};

/// Memory of the process that the GPU reaches, with what keeps it there.
#[derive(Debug)]
pub(crate) struct Imported<O> {
    // Dropped in this order: nothing is freed under the buffer.
    buffer: Subbuffer<[u8]>,
    _memory: Memory,
    _owner: Arc<O>,
}

impl<O> Imported<O> {
    /// The bytes that were asked for, filled up to whole lines of 16 bytes.
    ///
    /// Clones must not be used when this is gone.
    pub(crate) fn buffer(&self) -> &Subbuffer<[u8]> {
        &self.buffer
    }
}

/// What has been imported and is still in use, by the address of its owner, who keeps it while it is.
#[derive(Debug)]
pub(crate) struct Imports<O>(Mutex<HashMap<usize, Weak<Imported<O>>>>);

impl<O> Default for Imports<O> {
    fn default() -> Self {
        Imports(Mutex::default())
    }
}

impl Imports<SharedTensor> {
    /// A tensor of another processor.
    pub(crate) fn tensor(
        &self,
        importer: &Importer,
        tensor: &Arc<SharedTensor>,
    ) -> Result<Arc<Imported<SharedTensor>>, ImportError> {
        self.get(tensor, || {
            let pages = Pages::of(tensor.tensor(), importer).ok_or(ImportError::NotPages)?;
            // SAFETY: `Pages::of` has the tensor's word for its pages, and the tensor is kept beside the buffer.
            unsafe { importer.import(pages) }
        })
    }
}

impl Imports<WeightMatrix> {
    /// A weight matrix, all of it.
    pub(crate) fn matrix(
        &self,
        importer: &Importer,
        matrix: &Arc<WeightMatrix>,
    ) -> Result<Arc<Imported<WeightMatrix>>, ImportError> {
        self.get(matrix, || {
            let pages = Pages::around(matrix.bytes(), importer).ok_or(ImportError::NotPages)?;
            // SAFETY: a matrix is frozen and its bytes stay where they are for as long as it lives, which is as long as
            // the buffer; the shaders only read them.
            unsafe { importer.import(pages) }
        })
    }
}

impl<O> Imports<O> {
    fn get(
        &self,
        owner: &Arc<O>,
        import: impl FnOnce() -> Result<(Subbuffer<[u8]>, Memory), ImportError>,
    ) -> Result<Arc<Imported<O>>, ImportError> {
        let mut imports = self.0.lock();
        let address = Arc::as_ptr(owner).addr();
        if let Some(imported) = imports.get(&address).and_then(Weak::upgrade) {
            return Ok(imported);
        }
        let (buffer, memory) = import()?;
        let imported = Arc::new(Imported { buffer, _memory: memory, _owner: Arc::clone(owner) });
        imports.retain(|_, import| import.strong_count() > 0);
        imports.insert(address, Arc::downgrade(&imported));
        Ok(imported)
    }
}

/// Why memory of the process cannot be used in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("it does not lie in pages of its own")]
    NotPages,
    #[error("the driver has no kind of memory for it that host and GPU see at once")]
    NoMemoryType,
    #[error("the driver refuses it: {0}")]
    Refused(Code),
}

impl ImportError {
    /// What it is to the caller of a backend.
    pub(crate) fn into_backend_error(self, device: &str, bytes: u64) -> BackendError {
        match self {
            ImportError::Refused(code) => crate::error::backend_error(device, code, bytes),
            error => BackendError::Failed { device: device.to_owned(), reason: error.to_string() },
        }
    }
}

/// Bytes within whole pages.
#[derive(Clone, Copy, Debug)]
struct Pages {
    start: NonNull<u8>,
    n_bytes: u64,
    /// Where the bytes begin, counted from the pages' beginning, and how many they are.
    offset: u64,
    used_bytes: u64,
}

impl Pages {
    /// Those of a tensor; `None` when it does not have them to itself.
    fn of(tensor: &dyn Tensor, importer: &Importer) -> Option<Pages> {
        let start = tensor.host_ptr()?;
        let used_bytes = tensor.desc().bytes().max(1) as u64;
        let n_bytes = used_bytes.next_multiple_of(importer.alignment);
        let has_all = tensor.host_pages().is_some_and(|bytes| bytes as u64 >= n_bytes);
        let is_aligned = (start.addr().get() as u64).is_multiple_of(importer.alignment);
        (has_all && is_aligned).then_some(Pages { start, n_bytes, offset: 0, used_bytes })
    }

    /// Those that have some bytes to be read; `None` when the GPU cannot bind what begins there.
    fn around(bytes: &[u8], importer: &Importer) -> Option<Pages> {
        let address = bytes.as_ptr().addr() as u64;
        let offset = address % importer.alignment;
        let used_bytes = bytes.len().max(1) as u64;
        let n_bytes = (offset + used_bytes).next_multiple_of(importer.alignment);
        let start = NonNull::new(bytes.as_ptr().wrapping_sub(offset as usize).cast_mut())?;
        offset.is_multiple_of(importer.offset_alignment).then_some(Pages { start, n_bytes, offset, used_bytes })
    }
}

/// A device that takes memory of the process.
#[derive(Debug)]
pub(crate) struct Importer {
    device: Arc<Device>,
    /// Of pages.
    alignment: u64,
    /// Of what is bound.
    offset_alignment: u64,
    /// Types of memory that host and GPU see at once, the best one first.
    types: Vec<u32>,
}

impl Importer {
    /// `None` when the device does not have the extension on.
    pub(crate) fn new(device: &Arc<Device>, placement: &Placement) -> Option<Importer> {
        let properties = device.physical_device().properties();
        let alignment = properties.min_imported_host_pointer_alignment?;
        let offset_alignment = properties.min_storage_buffer_offset_alignment.as_devicesize();
        let is_on = device.enabled_extensions().ext_external_memory_host;
        let types = placement.types(Purpose::Tensor).to_vec();
        is_on.then(|| Importer { device: Arc::clone(device), alignment, offset_alignment, types })
    }

    /// Whether a tensor can be imported; it is seen by doing so.
    pub(crate) fn takes(&self, tensor: &dyn Tensor) -> bool {
        // SAFETY: `Pages::of` has the tensor's word for its pages, and the buffer is dropped before the borrow ends.
        Pages::of(tensor, self).is_some_and(|pages| unsafe { self.import(pages) }.is_ok())
    }

    /// A buffer over the bytes, and the memory to be dropped after it.
    ///
    /// # Safety
    ///
    /// The pages stay what and where they are until both are dropped.
    unsafe fn import(&self, pages: Pages) -> Result<(Subbuffer<[u8]>, Memory), ImportError> {
        const HANDLE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        let (device, fns) = (&self.device, self.device.fns());
        let info = BufferCreateInfo {
            size: pages.n_bytes,
            usage: BufferUsage::STORAGE_BUFFER,
            external_memory_handle_types: ExternalMemoryHandleTypes::HOST_ALLOCATION,
            ..BufferCreateInfo::default()
        };
        let buffer = RawBuffer::new(Arc::clone(device), info).map_err(|error| match error {
            Validated::Error(code) => ImportError::Refused(code),
            Validated::ValidationError(_) => ImportError::NoMemoryType,
        })?;
        let requirements = buffer.memory_requirements();
        if requirements.layout.size() > pages.n_bytes {
            return Err(ImportError::NoMemoryType);
        }
        let pointer = pages.start.as_ptr().cast();
        let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
        // SAFETY: the device has the extension, and the pointer is to pages of the size that it asks for.
        let result = unsafe {
            (fns.ext_external_memory_host.get_memory_host_pointer_properties_ext)(
                device.handle(),
                HANDLE,
                pointer,
                &mut properties,
            )
        };
        checked(result)?;
        let types = properties.memory_type_bits & requirements.memory_type_bits;
        let memory_type_index = self.types.iter().find(|&&idx| types & (1 << idx) != 0);
        let memory_type_index = *memory_type_index.ok_or(ImportError::NoMemoryType)?;
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HANDLE).host_pointer(pointer);
        let allocate = vk::MemoryAllocateInfo::default()
            .allocation_size(pages.n_bytes)
            .memory_type_index(memory_type_index)
            .push_next(&mut import);
        let mut handle = vk::DeviceMemory::null();
        // SAFETY: pointer and size are multiples of the alignment that the device asks for, and the type is one that it
        // gives for this pointer.
        let result = unsafe { (fns.v1_0.allocate_memory)(device.handle(), &allocate, std::ptr::null(), &mut handle) };
        checked(result)?;
        // Not as vulkano's memory: that would count it when it is freed, and not when it is made.
        let memory = Memory { device: Arc::clone(device), handle };
        // SAFETY: buffer and memory were made for each other, and neither is bound yet.
        let result = unsafe { (fns.v1_0.bind_buffer_memory)(device.handle(), buffer.handle(), memory.handle, 0) };
        checked(result)?;
        // SAFETY: it is bound to memory that the caller keeps.
        let buffer = Subbuffer::new(Arc::new(unsafe { buffer.assume_bound() }));
        let end = (pages.offset + pages.used_bytes).next_multiple_of(16).min(pages.n_bytes);
        Ok((buffer.slice(pages.offset..end), memory))
    }
}

fn checked(result: vk::Result) -> Result<(), ImportError> {
    if result == vk::Result::SUCCESS { Ok(()) } else { Err(ImportError::Refused(Code::from(result))) }
}

/// Imported memory, given back when it is dropped. The pages stay with their owner.
#[derive(Debug)]
struct Memory {
    device: Arc<Device>,
    handle: vk::DeviceMemory,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the handle is of this device, used nowhere else, and freed once.
        unsafe { (self.device.fns().v1_0.free_memory)(self.device.handle(), self.handle, std::ptr::null()) }
    }
}
