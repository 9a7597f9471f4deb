//! A GPU that is open: memory, recorded commands, and their submission. Its calls are checked by vulkano but for the last.
//!
//! vulkano checks the arguments of all calls but the last (and those of `import.rs`), and what is recorded has these properties:
//!
//! - Everything that recorded commands use is kept by [`Recorded`], and an executable waits for its submissions before
//!   it drops one, so nothing goes away under the GPU.
//! - Commands touch the tensors that their descriptor sets name. Those belong to the submission, whose rights were handed
//!   over to this device: nobody else touches what it writes, and what it reads was written before.
//! - Shaders stay within their buffers, because `Params` come from the shapes that the backend has checked.

use std::sync::Arc;

use ash::vk;
use hetero_core::{BackendError, DeviceInfo, SharedTensor, WeightMatrix};
use hetero_shaders::checks::HeldKnobs;
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Features, Knobs};
use parking_lot::Mutex;
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferUsage, Subbuffer};
use vulkano::command_buffer::allocator::StandardCommandBufferAllocator;
use vulkano::command_buffer::{
    CommandBuffer, CommandBufferBeginInfo, CommandBufferLevel, CommandBufferUsage, RecordingCommandBuffer,
};
use vulkano::descriptor_set::DescriptorSet;
use vulkano::descriptor_set::allocator::StandardDescriptorSetAllocator;
use vulkano::device::{Device, DeviceOwned, Queue};
use vulkano::memory::MemoryPropertyFlags;
use vulkano::memory::allocator::{AllocationCreateInfo, DeviceLayout, MemoryTypeFilter, StandardMemoryAllocator};
use vulkano::pipeline::{ComputePipeline, PipelineBindPoint, PipelineLayout};
use vulkano::sync::semaphore::{Semaphore, SemaphoreCreateInfo, SemaphoreType};
use vulkano::sync::{AccessFlags, DependencyInfo, MemoryBarrier, PipelineStages};
use vulkano::{Validated, VulkanError as Code, VulkanObject};

use crate::error::{allocation_error, backend_error, checked_error, invalid};
use crate::import::{Importer, Imports};
use crate::pipeline_cache::PipelineCache;
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
    /// Invocations of a workgroup that computes a panel of a matrix times a vector.
    pub(crate) vector_lanes: u32,
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
    queue: Arc<Queue>,
    memory: Arc<StandardMemoryAllocator>,
    commands: Arc<StandardCommandBufferAllocator>,
    pub(crate) sets: Arc<StandardDescriptorSetAllocator>,
    /// Count of the last submission; the lock keeps counts and submissions in one order.
    entrance: Mutex<u64>,
}

/// A dispatch to be recorded.
pub(crate) struct Call<'a> {
    pub(crate) pipeline: &'a Arc<ComputePipeline>,
    pub(crate) layout: &'a Arc<PipelineLayout>,
    pub(crate) set: &'a Arc<DescriptorSet>,
    pub(crate) workgroups: [u32; 2],
    /// What it waits for: the memory accesses of dispatches before it.
    pub(crate) is_behind_barrier: bool,
}

/// Commands that can be submitted again and again, with what they use.
pub(crate) struct Recorded {
    commands: CommandBuffer,
    _sets: Vec<Arc<DescriptorSet>>,
    _pipelines: Vec<Arc<ComputePipeline>>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

impl Gpu {
    pub(crate) fn new(
        info: DeviceInfo,
        (device, queue): (Arc<Device>, Arc<Queue>),
        (features, knobs): (Features, Knobs),
        max_piece_bytes: u64,
        vector_lanes: u32,
        pipelines: Option<KeptFile>,
    ) -> Result<Gpu, Validated<Code>> {
        let semaphore = SemaphoreCreateInfo { semaphore_type: SemaphoreType::Timeline, ..Default::default() };
        let semaphore = Arc::new(Semaphore::new(Arc::clone(&device), semaphore)?);
        let limits = device.physical_device().properties();
        Ok(Gpu {
            max_piece_bytes,
            piece_alignment: limits.min_storage_buffer_offset_alignment.as_devicesize(),
            vector_lanes,
            max_storage_buffers: limits.max_per_stage_descriptor_storage_buffers,
            pipelines: PipelineCache::new(&device, &info.name, features, pipelines)?,
            knobs: HeldKnobs::new(knobs),
            importer: Importer::new(&device),
            tensor_imports: Imports::default(),
            weight_imports: Imports::default(),
            timeline: Arc::new(GpuTimeline::new(semaphore, info.name.clone())),
            queue,
            memory: Arc::new(StandardMemoryAllocator::new_default(Arc::clone(&device))),
            commands: Arc::new(StandardCommandBufferAllocator::new(Arc::clone(&device), Default::default())),
            sets: Arc::new(StandardDescriptorSetAllocator::new(device, Default::default())),
            entrance: Mutex::new(0),
            info,
        })
    }

    /// Whether there is memory that both sides see at once and the host reads through its caches.
    pub(crate) fn has_cached_memory(&self) -> bool {
        let wanted =
            MemoryPropertyFlags::HOST_VISIBLE | MemoryPropertyFlags::HOST_COHERENT | MemoryPropertyFlags::HOST_CACHED;
        let types = &self.queue.device().physical_device().memory_properties().memory_types;
        types.iter().any(|kind| kind.property_flags.contains(wanted))
    }

    /// A zeroed buffer of at least so many bytes, mapped for good, in memory that both sides see at once.
    pub(crate) fn buffer(&self, bytes: u64, usage: BufferUsage) -> Result<Subbuffer<[u8]>, BackendError> {
        let size = bytes.max(1).checked_next_multiple_of(FILLED_UP_TO);
        let layout = size.and_then(|size| DeviceLayout::from_size_alignment(size, ALIGNMENT));
        let layout = layout.ok_or_else(|| BackendError::OutOfMemory { device: self.info.name.clone(), bytes })?;
        let allocation = AllocationCreateInfo {
            memory_type_filter: MemoryTypeFilter {
                required_flags: MemoryPropertyFlags::HOST_VISIBLE | MemoryPropertyFlags::HOST_COHERENT,
                // Reading what is not cached is very slow for the host.
                preferred_flags: MemoryPropertyFlags::HOST_CACHED | MemoryPropertyFlags::DEVICE_LOCAL,
                not_preferred_flags: MemoryPropertyFlags::empty(),
            },
            ..AllocationCreateInfo::default()
        };
        let info = BufferCreateInfo { usage, ..BufferCreateInfo::default() };
        let memory: Arc<StandardMemoryAllocator> = Arc::clone(&self.memory);
        let buffer = Buffer::new(memory, info, allocation, layout);
        let buffer = buffer.map_err(|error| allocation_error(&self.info.name, error, bytes))?;
        let buffer = Subbuffer::new(buffer);
        self.write(&buffer, |memory| memory.fill(0))?;
        Ok(buffer)
    }

    /// A buffer that holds some bytes for good.
    pub(crate) fn filled(&self, bytes: &[u8], usage: BufferUsage) -> Result<Subbuffer<[u8]>, BackendError> {
        let buffer = self.buffer(bytes.len() as u64, usage)?;
        self.write(&buffer, |memory| memory[..bytes.len()].copy_from_slice(bytes))?;
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

    /// Records dispatches, one after the other.
    pub(crate) fn record(&self, calls: &[Call<'_>]) -> Result<Recorded, BackendError> {
        let name = &self.info.name;
        let begin = CommandBufferBeginInfo { usage: CommandBufferUsage::MultipleSubmit, ..Default::default() };
        let commands: Arc<StandardCommandBufferAllocator> = Arc::clone(&self.commands);
        let family = self.queue.queue_family_index();
        let recording = RecordingCommandBuffer::new(commands, family, CommandBufferLevel::Primary, begin);
        let mut recording = recording.map_err(|error| checked_error(name, error, 0))?;
        let shader = (PipelineStages::COMPUTE_SHADER, AccessFlags::SHADER_READ | AccessFlags::SHADER_WRITE);
        let written = (PipelineStages::COMPUTE_SHADER, AccessFlags::SHADER_WRITE);
        let host = (PipelineStages::HOST, AccessFlags::HOST_READ);
        let barrier = |from: (PipelineStages, AccessFlags), to: (PipelineStages, AccessFlags)| DependencyInfo {
            memory_barriers: [MemoryBarrier {
                src_stages: from.0,
                src_access: from.1,
                dst_stages: to.0,
                dst_access: to.1,
                ..MemoryBarrier::default()
            }]
            .into_iter()
            .collect(),
            ..DependencyInfo::default()
        };
        let mut dispatch = |call: &Call<'_>| -> Result<(), Box<vulkano::ValidationError>> {
            // SAFETY: the head of this file says what the commands touch and who keeps it alive; a barrier stands before
            // every dispatch that touches what another has written, or writes what another has read.
            unsafe {
                if call.is_behind_barrier {
                    recording.pipeline_barrier(&barrier(written, shader))?;
                }
                recording.bind_pipeline_compute(call.pipeline)?;
                let sets = [call.set.as_raw()];
                recording.bind_descriptor_sets(PipelineBindPoint::Compute, call.layout, 0, &sets, &[])?;
                recording.dispatch([call.workgroups[0], call.workgroups[1], 1])?;
            }
            Ok(())
        };
        calls.iter().try_for_each(&mut dispatch).map_err(|error| invalid(name, &error))?;
        // SAFETY: a barrier touches no memory by itself. This one makes what was written visible to the host, which a
        // semaphore alone does not.
        unsafe { recording.pipeline_barrier(&barrier(written, host)) }.map_err(|error| invalid(name, &error))?;
        // SAFETY: what was recorded is complete: no render pass and no query is open.
        let commands = unsafe { recording.end() }.map_err(|code| backend_error(name, code, 0))?;
        Ok(Recorded {
            commands,
            _sets: calls.iter().map(|call| Arc::clone(call.set)).collect(),
            _pipelines: calls.iter().map(|call| Arc::clone(call.pipeline)).collect(),
        })
    }

    /// Submits commands behind all before them: the count at which they have finished. `before` runs when nobody else
    /// submits.
    ///
    /// The caller keeps `recorded` until then, and submits it again only afterwards.
    pub(crate) fn submit(&self, recorded: &Recorded, before: impl FnOnce()) -> Result<u64, BackendError> {
        let mut last_value = self.entrance.lock();
        before();
        if let Some(error) = self.timeline.failure() {
            return Err(error);
        }
        let value = *last_value + 1;
        let (commands, semaphores, values) =
            ([recorded.commands.handle()], [self.timeline.semaphore().handle()], [value]);
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .command_buffers(&commands)
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
        *last_value = value;
        self.timeline.add(value);
        Ok(value)
    }
}
