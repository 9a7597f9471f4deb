//! A GPU that is open: its device and queue, and everything that goes through them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hetero_core::{BackendError, DeviceInfo};
use hetero_shaders::checks::HeldKnobs;
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Features, Knobs};
use parking_lot::{Mutex, MutexGuard};
use wgpu::{Buffer, BufferDescriptor, BufferUsages, CommandBuffer, PollType, SubmissionIndex};

use crate::error::{backend_error, scoped};
use crate::pipeline_cache::PipelineCache;
use crate::timeline::GpuTimeline;

/// Buffers are filled up to this, so that kernels may read lines of 16 bytes.
const BUFFER_ALIGNMENT: u64 = 16;

/// So much is staged for the GPU at most before it is sent off.
const STAGED_BYTES: usize = 32 << 20;

/// A GPU that is open.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) info: DeviceInfo,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    /// The most bytes that a kernel can bind as one input or output.
    pub(crate) max_piece_bytes: u64,
    /// What it says about its workgroups.
    pub(crate) workgroups: hetero_shaders::Limits,
    /// Which variants of which kernels may be used.
    pub(crate) knobs: HeldKnobs,
    pub(crate) pipelines: PipelineCache,
    pub(crate) timeline: Arc<GpuTimeline>,
    /// Count of the last submission of a segment. Holding the lock keeps counts, uploads and submissions in one order.
    entrance: Mutex<u64>,
    /// Submissions to wgpu's queue with commands in them.
    n_submissions: AtomicU64,
}

impl Gpu {
    pub(crate) fn new(
        info: DeviceInfo,
        (device, queue): (wgpu::Device, wgpu::Queue),
        (features, knobs): (Features, Knobs),
        max_piece_bytes: u64,
        workgroups: hetero_shaders::Limits,
        pipelines: Option<KeptFile>,
    ) -> Gpu {
        let timeline = Arc::new(GpuTimeline::new(device.clone(), info.name.clone()));
        let pipelines = PipelineCache::new(&device, &info.name, features, pipelines);
        let limits = device.limits();
        Gpu {
            info,
            device,
            queue,
            limits,
            max_piece_bytes,
            workgroups,
            knobs: HeldKnobs::new(knobs),
            pipelines,
            timeline,
            entrance: Mutex::new(0),
            n_submissions: AtomicU64::new(0),
        }
    }

    /// A zeroed buffer of at least so many bytes.
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer, BackendError> {
        let size = bytes.max(1).next_multiple_of(BUFFER_ALIGNMENT);
        if size > self.limits.max_buffer_size {
            return Err(BackendError::OutOfMemory { device: self.info.name.clone(), bytes });
        }
        let descriptor = BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let buffer = scoped(&self.device, || self.device.create_buffer(&descriptor))
            .map_err(|error| backend_error(&self.info.name, &error, size))?;
        // A device that is lost gives out buffers that are none.
        self.timeline.failure().map_or(Ok(buffer), Err)
    }

    /// A buffer for kernels to read that holds some bytes.
    pub(crate) fn constant(&self, label: &str, bytes: &[u8], usage: BufferUsages) -> Result<Buffer, BackendError> {
        let buffer = self.buffer(label, bytes.len() as u64, usage | BufferUsages::COPY_DST)?;
        for (idx, bytes) in bytes.chunks(STAGED_BYTES).enumerate() {
            let offset = (idx * STAGED_BYTES) as u64;
            let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
            let written = scoped(&self.device, || {
                if !words.is_empty() {
                    self.queue.write_buffer(&buffer, offset, words);
                }
                if !rest.is_empty() {
                    let mut word = [0; 4];
                    word[..rest.len()].copy_from_slice(rest);
                    self.queue.write_buffer(&buffer, offset + words.len() as u64, &word);
                }
                // What is staged is held until something is submitted.
                if bytes.len() == STAGED_BYTES {
                    self.queue.submit([]);
                }
            });
            written.map_err(|error| backend_error(&self.info.name, &error, bytes.len() as u64))?;
            if bytes.len() == STAGED_BYTES {
                self.timeline.poll(PollType::Poll)?;
            }
        }
        Ok(buffer)
    }

    /// Waits for the right to submit; while it is held nobody else does.
    pub(crate) fn enter(&self) -> Entrance<'_> {
        Entrance { gpu: self, last_value: self.entrance.lock() }
    }

    /// How often commands were submitted to wgpu's queue so far.
    pub(crate) fn n_submissions(&self) -> u64 {
        self.n_submissions.load(Ordering::Relaxed)
    }
}

/// The right to submit to a GPU.
pub(crate) struct Entrance<'a> {
    gpu: &'a Gpu,
    last_value: MutexGuard<'a, u64>,
}

impl Entrance<'_> {
    /// Submits commands that are no step, such as a copy.
    pub(crate) fn submit(&self, commands: CommandBuffer) -> SubmissionIndex {
        self.gpu.n_submissions.fetch_add(1, Ordering::Relaxed);
        self.gpu.queue.submit([commands])
    }

    /// Submits a step: the count at which it has finished.
    pub(crate) fn submit_step(&mut self, commands: CommandBuffer) -> Result<(u64, SubmissionIndex), BackendError> {
        let index = self.submit(commands);
        if let Some(error) = self.gpu.timeline.failure() {
            return Err(error);
        }
        *self.last_value += 1;
        self.gpu.timeline.add(&self.gpu.queue, *self.last_value, index.clone());
        Ok((*self.last_value, index))
    }
}
