//! A GPU that is open: memory, recorded commands, and their submission.
//!
//! vulkano checks the arguments of all calls but the last (and those of `import.rs`), and what is recorded has these properties:
//!
//! - Everything that recorded commands use is kept by [`Recorded`], and an executable waits for its submissions before
//!   it drops one, so nothing goes away under the GPU.
//! - Commands touch the tensors that their descriptor sets name. Those belong to the submission, whose rights were handed
//!   over to this device: nobody else touches what it writes, and what it reads was written before.
//! - Shaders stay within their buffers, because `Params` come from the shapes that the backend has checked.

use std::sync::Arc;
use std::thread::ThreadId;

use ash::vk;
use hetero_core::{BackendError, DeviceInfo, SharedTensor, WeightMatrix};
use hetero_shaders::checks::HeldKnobs;
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Features, Knobs, Limits};
use parking_lot::Mutex;
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferUsage, Subbuffer};
use vulkano::command_buffer::allocator::StandardCommandBufferAllocator;
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::device::{Device, DeviceOwned, Queue};
use vulkano::memory::MemoryPropertyFlags;
use vulkano::memory::allocator::{AllocationCreateInfo, DeviceLayout, MemoryTypeFilter, StandardMemoryAllocator};
use vulkano::sync::semaphore::{Semaphore, SemaphoreCreateInfo, SemaphoreType};
use vulkano::{Validated, VulkanError as Code, VulkanObject};

use crate::error::{allocation_error, backend_error};
use crate::import::{Importer, Imports};
use crate::pipeline_cache::PipelineCache;
use crate::placement::{Placement, Purpose};
use crate::recording::Recorded;
use crate::staging::Staging;
use crate::timeline::GpuTimeline;

/// Buffers begin on multiples of this, so that other processors can use what lies in them, and pieces of weights can be
/// bound by every device.
pub(crate) const ALIGNMENT: u64 = 256;

/// Buffers are filled up to this, so that kernels may read lines of 16 bytes.
const FILLED_UP_TO: u64 = 16;

/// A GPU that is open.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) info: DeviceInfo,
    /// The most bytes that a kernel can bind as one input or output.
    pub(crate) max_piece_bytes: u64,
    /// Bound pieces begin on multiples of this.
    pub(crate) piece_alignment: u64,
    /// What it says about its workgroups.
    pub(crate) limits: Limits,
    /// Whether work is queued before its inputs exist.
    pub(crate) queues_ahead: bool,
    /// Which variants of which kernels may be used.
    pub(crate) knobs: HeldKnobs,
    /// The most buffers that a kernel can bind.
    pub(crate) max_storage_buffers: u32,
    pub(crate) pipelines: PipelineCache,
    /// Where the device takes memory of the process.
    pub(crate) importer: Option<Importer>,
    pub(crate) tensor_imports: Imports<SharedTensor>,
    pub(crate) weight_imports: Imports<WeightMatrix>,
    pub(crate) timeline: Arc<GpuTimeline>,
    pub(crate) queue: Arc<Queue>,
    /// Which kind of memory holds what.
    pub(crate) placement: Placement,
    pub(crate) staging: Mutex<Staging>,
    memory: Arc<StandardMemoryAllocator>,
    pub(crate) commands: Arc<StandardCommandBufferAllocator>,
    pub(crate) sets: Arc<StandardDescriptorSetAllocator>,
    /// The lock keeps counts and submissions in one order.
    entrance: Mutex<Entrance>,
}

/// What is decided about a GPU when it is opened.
pub(crate) struct GpuSettings {
    pub(crate) features: Features,
    pub(crate) knobs: Knobs,
    /// See [`Gpu`].
    pub(crate) max_piece_bytes: u64,
    pub(crate) limits: Limits,
    pub(crate) queues_ahead: bool,
    pub(crate) placement: Placement,
}

/// Who has submitted what.
#[derive(Debug, Default)]
struct Entrance {
    /// Count of the last submission.
    last_value: u64,
    /// Who has made that, and the last one before it that was somebody else's.
    thread: Option<ThreadId>,
    last_of_others: u64,
}

/// So many submissions in a row of one thread, and the queue is believed to be that thread's alone.
const ALONE_AFTER: u64 = 64;

impl Gpu {
    pub(crate) fn new(
        info: DeviceInfo,
        (device, queue): (Arc<Device>, Arc<Queue>),
        settings: GpuSettings,
        pipelines: Option<KeptFile>,
    ) -> Result<Gpu, Validated<Code>> {
        let semaphore = Arc::new(timeline_semaphore(&device)?);
        let limits = device.physical_device().properties();
        Ok(Gpu {
            max_piece_bytes: settings.max_piece_bytes,
            queues_ahead: settings.queues_ahead,
            importer: Importer::new(&device, &settings.placement),
            placement: settings.placement,
            staging: Mutex::default(),
            piece_alignment: limits.min_storage_buffer_offset_alignment.as_devicesize(),
            limits: settings.limits,
            max_storage_buffers: limits.max_per_stage_descriptor_storage_buffers,
            pipelines: PipelineCache::new(&device, &info.name, settings.features, pipelines)?,
            knobs: HeldKnobs::new(settings.knobs),
            tensor_imports: Imports::default(),
            weight_imports: Imports::default(),
            timeline: Arc::new(GpuTimeline::new(semaphore, info.name.clone())),
            queue,
            memory: Arc::new(StandardMemoryAllocator::new_default(Arc::clone(&device))),
            commands: Arc::new(StandardCommandBufferAllocator::new(Arc::clone(&device), Default::default())),
            sets: Arc::new(StandardDescriptorSetAllocator::new(device, Default::default())),
            entrance: Mutex::default(),
            info,
        })
    }

    /// A semaphore that counts from zero.
    pub(crate) fn timeline_semaphore(&self) -> Result<Semaphore, Validated<Code>> {
        timeline_semaphore(self.queue.device())
    }

    /// Whether there is memory that both sides see at once and the host reads through its caches.
    pub(crate) fn has_cached_memory(&self) -> bool {
        let wanted =
            MemoryPropertyFlags::HOST_VISIBLE | MemoryPropertyFlags::HOST_COHERENT | MemoryPropertyFlags::HOST_CACHED;
        let types = &self.queue.device().physical_device().memory_properties().memory_types;
        types.iter().any(|kind| kind.property_flags.contains(wanted))
    }

    /// A zeroed buffer of at least so many bytes, mapped for good and in memory that both sides see at once, unless it is
    /// in memory of the GPU's own.
    pub(crate) fn buffer(
        &self,
        bytes: u64,
        usage: BufferUsage,
        purpose: Purpose,
    ) -> Result<Subbuffer<[u8]>, BackendError> {
        let buffer = self.unwritten(bytes, usage, purpose)?;
        match self.is_staged(&buffer, purpose) {
            true => self.stage_zeros(&buffer)?,
            false => self.write(&buffer, |memory| memory.fill(0))?,
        }
        Ok(buffer)
    }

    /// Whether a staging buffer stands between the host and a buffer.
    fn is_staged(&self, buffer: &Subbuffer<[u8]>, purpose: Purpose) -> bool {
        self.placement.stages(purpose) || buffer.mapped_slice().is_err()
    }

    /// A buffer of whole lines that nobody has written.
    pub(crate) fn unwritten(
        &self,
        bytes: u64,
        usage: BufferUsage,
        purpose: Purpose,
    ) -> Result<Subbuffer<[u8]>, BackendError> {
        let size = bytes.max(1).checked_next_multiple_of(FILLED_UP_TO);
        let layout = size.and_then(|size| DeviceLayout::from_size_alignment(size, ALIGNMENT));
        let layout = layout.ok_or_else(|| BackendError::OutOfMemory { device: self.info.name.clone(), bytes })?;
        let usage = if self.placement.is_separate { usage | BufferUsage::TRANSFER_DST } else { usage };
        let mut failed = None;
        // Where the best kind of memory is full the next one serves.
        for &idx in self.placement.types(purpose) {
            let allocation = AllocationCreateInfo {
                memory_type_filter: MemoryTypeFilter::empty(),
                memory_type_bits: 1 << idx,
                ..AllocationCreateInfo::default()
            };
            let info = BufferCreateInfo { usage, ..BufferCreateInfo::default() };
            let memory: Arc<StandardMemoryAllocator> = Arc::clone(&self.memory);
            match Buffer::new(memory, info, allocation, layout) {
                Ok(buffer) => return Ok(Subbuffer::new(buffer)),
                Err(error) => failed = failed.or(Some(allocation_error(&self.info.name, error, bytes))),
            }
        }
        Err(failed.unwrap_or_else(|| BackendError::OutOfMemory { device: self.info.name.clone(), bytes }))
    }

    /// A buffer that holds some bytes for good.
    pub(crate) fn filled(
        &self,
        bytes: &[u8],
        usage: BufferUsage,
        purpose: Purpose,
    ) -> Result<Subbuffer<[u8]>, BackendError> {
        let buffer = self.unwritten(bytes.len() as u64, usage, purpose)?;
        match self.is_staged(&buffer, purpose) {
            true => self.stage(&buffer, bytes)?,
            false => self.write(&buffer, |memory| {
                memory[..bytes.len()].copy_from_slice(bytes);
                memory[bytes.len()..].fill(0);
            })?,
        }
        Ok(buffer)
    }

    /// Writes a buffer of this backend's own that no submission uses.
    pub(crate) fn write(&self, buffer: &Subbuffer<[u8]>, fill: impl FnOnce(&mut [u8])) -> Result<(), BackendError> {
        match buffer.write() {
            Ok(mut memory) => {
                fill(&mut memory);
                Ok(())
            }
            Err(error) => Err(BackendError::Failed { device: self.info.name.clone(), reason: error.to_string() }),
        }
    }

    /// Submits commands behind all before them: the count at which they have finished. `before` runs when nobody else
    /// submits.
    ///
    /// The caller keeps `recorded` until then, and submits it again only afterwards.
    pub(crate) fn submit(&self, recorded: &Recorded, before: impl FnOnce()) -> Result<u64, BackendError> {
        self.enqueue(recorded, None, before)
    }

    /// As [`Gpu::submit`], but the commands, and all behind them, wait until a semaphore has a value that is above zero.
    /// The caller keeps the semaphore too.
    pub(crate) fn submit_behind(&self, recorded: &Recorded, gate: (&Semaphore, u64)) -> Result<u64, BackendError> {
        self.enqueue(recorded, Some(gate), || {})
    }

    /// Whether, as far as is known, nobody but this thread uses the queue, which would be kept waiting by what waits.
    pub(crate) fn is_alone(&self) -> bool {
        let entrance = self.entrance.lock();
        let is_last = entrance.thread == Some(std::thread::current().id());
        is_last && (entrance.last_of_others == 0 || entrance.last_value - entrance.last_of_others >= ALONE_AFTER)
    }

    fn enqueue(
        &self,
        recorded: &Recorded,
        gate: Option<(&Semaphore, u64)>,
        before: impl FnOnce(),
    ) -> Result<u64, BackendError> {
        let mut entrance = self.entrance.lock();
        before();
        if let Some(error) = self.timeline.failure() {
            return Err(error);
        }
        let value = entrance.last_value + 1;
        let (commands, semaphores, values) = ([recorded.handle()], [self.timeline.semaphore().handle()], [value]);
        let awaited = gate.map(|(semaphore, value)| (semaphore.handle(), value));
        let (awaited, awaited_value) = awaited.unwrap_or((vk::Semaphore::null(), 0));
        let stages = vk::PipelineStageFlags::COMPUTE_SHADER | vk::PipelineStageFlags::DRAW_INDIRECT;
        let (awaited, awaited_values, stages) = ([awaited], [awaited_value], [stages]);
        let n_awaited = usize::from(gate.is_some());
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&awaited_values[..n_awaited])
            .signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .command_buffers(&commands)
            .wait_semaphores(&awaited[..n_awaited])
            .wait_dst_stage_mask(&stages[..n_awaited])
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline);
        let device = self.queue.device();
        // SAFETY: handles are of this device and alive; `with` holds the queue's lock; the commands are not under way, as
        // the caller has seen; the semaphore is a timeline whose values rise by one under `entrance`.
        let result = self.queue.with(|_queue| unsafe {
            (device.fns().v1_0.queue_submit)(self.queue.handle(), 1, &info, vk::Fence::null())
        });
        if result != vk::Result::SUCCESS {
            return Err(self.timeline.fail(backend_error(&self.info.name, Code::from(result), 0)));
        }
        let thread = Some(std::thread::current().id());
        if entrance.thread != thread {
            entrance.last_of_others = entrance.last_value;
            entrance.thread = thread;
        }
        entrance.last_value = value;
        self.timeline.add(value);
        Ok(value)
    }
}

fn timeline_semaphore(device: &Arc<Device>) -> Result<Semaphore, Validated<Code>> {
    let info = SemaphoreCreateInfo { semaphore_type: SemaphoreType::Timeline, ..Default::default() };
    Semaphore::new(Arc::clone(device), info)
}
