//! Commands that are recorded once: dispatches with the barriers between them, and copies.

use std::sync::Arc;

use ash::vk;
use hetero_core::BackendError;
use vulkano::VulkanObject;
use vulkano::buffer::Subbuffer;
use vulkano::command_buffer::allocator::StandardCommandBufferAllocator;
use vulkano::command_buffer::{
    CommandBuffer, CommandBufferBeginInfo, CommandBufferLevel, CommandBufferUsage, DispatchIndirectCommand,
    RecordingCommandBuffer,
};
use vulkano::descriptor_set::DescriptorSet;
use vulkano::pipeline::{ComputePipeline, PipelineBindPoint, PipelineLayout};
use vulkano::sync::{AccessFlags, DependencyInfo, MemoryBarrier, PipelineStages};

use crate::error::{backend_error, checked_error, invalid};
use crate::queue::Gpu;

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
    sets: Vec<Arc<DescriptorSet>>,
    pipelines: Vec<Arc<ComputePipeline>>,
}

impl Recorded {
    pub(crate) fn handle(&self) -> vk::CommandBuffer {
        self.commands.handle()
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

impl Gpu {
    /// Records dispatches, one after the other. With `held` they read there how many workgroups they have, and what they
    /// read may be written between submission and beginning ([`crate::gate`]).
    pub(crate) fn record(
        &self,
        calls: &[Call<'_>],
        held: Option<&Subbuffer<[DispatchIndirectCommand]>>,
    ) -> Result<Recorded, BackendError> {
        let name = &self.info.name;
        let mut recorded =
            self.commands(|recording| dispatches(recording, calls, held).map_err(|error| invalid(name, &error)))?;
        recorded.sets = calls.iter().map(|call| Arc::clone(call.set)).collect();
        recorded.pipelines = calls.iter().map(|call| Arc::clone(call.pipeline)).collect();
        Ok(recorded)
    }

    /// Records commands that can be submitted again and again. The caller keeps what they use.
    pub(crate) fn commands(
        &self,
        record: impl FnOnce(&mut RecordingCommandBuffer) -> Result<(), BackendError>,
    ) -> Result<Recorded, BackendError> {
        let name = &self.info.name;
        let begin = CommandBufferBeginInfo { usage: CommandBufferUsage::MultipleSubmit, ..Default::default() };
        let allocator: Arc<StandardCommandBufferAllocator> = Arc::clone(&self.commands);
        let family = self.queue.queue_family_index();
        let recording = RecordingCommandBuffer::new(allocator, family, CommandBufferLevel::Primary, begin);
        let mut recording = recording.map_err(|error| checked_error(name, error, 0))?;
        record(&mut recording)?;
        // SAFETY: what was recorded is complete: no render pass and no query is open.
        let commands = unsafe { recording.end() }.map_err(|code| backend_error(name, code, 0))?;
        Ok(Recorded { commands, sets: Vec::new(), pipelines: Vec::new() })
    }
}

type Recording<T> = Result<T, Box<vulkano::ValidationError>>;

fn dispatches(
    recording: &mut RecordingCommandBuffer,
    calls: &[Call<'_>],
    held: Option<&Subbuffer<[DispatchIndirectCommand]>>,
) -> Recording<()> {
    let shader = (PipelineStages::COMPUTE_SHADER, AccessFlags::SHADER_READ | AccessFlags::SHADER_WRITE);
    let written = (PipelineStages::COMPUTE_SHADER, AccessFlags::SHADER_WRITE);
    let host = (PipelineStages::HOST, AccessFlags::HOST_READ);
    // What the host wrote after the submission is made visible by nothing else. The stage of the semaphore's wait is
    // among the sources, so that this comes behind it.
    let from_host =
        (PipelineStages::HOST | PipelineStages::COMPUTE_SHADER, AccessFlags::HOST_WRITE | AccessFlags::SHADER_WRITE);
    let to_commands = (
        PipelineStages::COMPUTE_SHADER | PipelineStages::DRAW_INDIRECT,
        shader.1 | AccessFlags::UNIFORM_READ | AccessFlags::INDIRECT_COMMAND_READ,
    );
    if held.is_some() {
        // SAFETY: a barrier touches no memory by itself.
        unsafe { recording.pipeline_barrier(&barrier(from_host, to_commands)) }?;
    }
    for (idx, call) in (0_u64..).zip(calls) {
        // SAFETY: the head of `queue.rs` says what the commands touch and who keeps it alive; a barrier stands before
        // every dispatch that touches what another has written, or writes what another has read. Numbers of
        // workgroups that are read are zeros or those of the call.
        unsafe {
            if call.is_behind_barrier {
                recording.pipeline_barrier(&barrier(written, shader))?;
            }
            recording.bind_pipeline_compute(call.pipeline)?;
            let sets = [call.set.as_raw()];
            recording.bind_descriptor_sets(PipelineBindPoint::Compute, call.layout, 0, &sets, &[])?;
            match held {
                Some(held) => recording.dispatch_indirect(&held.clone().slice(idx..idx + 1))?,
                None => recording.dispatch([call.workgroups[0], call.workgroups[1], 1])?,
            };
        }
    }
    // SAFETY: a barrier touches no memory by itself. This one makes what was written visible to the host, which a
    // semaphore alone does not.
    unsafe { recording.pipeline_barrier(&barrier(written, host)) }?;
    Ok(())
}

/// A barrier between memory accesses in some stages and later ones in others.
pub(crate) fn barrier(from: (PipelineStages, AccessFlags), to: (PipelineStages, AccessFlags)) -> DependencyInfo {
    DependencyInfo {
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
    }
}
