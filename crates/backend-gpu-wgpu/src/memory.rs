//! Tensors in the GPU's memory, which the host reaches by copies.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{TryRecvError, channel};

use hetero_core::{BackendError, DeviceId, Tensor, TensorDesc};
use parking_lot::Mutex;
use wgpu::{Buffer, BufferUsages, CommandEncoder, MapMode, PollType, SubmissionIndex};

use crate::queue::Gpu;

/// A tensor in a buffer of its own.
#[derive(Debug)]
pub(crate) struct GpuTensor {
    desc: TensorDesc,
    gpu: Arc<Gpu>,
    buffer: Buffer,
    /// No other tensor of the process has it, so that what is made for a tensor is never taken for another's.
    id: u64,
    readback: Mutex<Readback>,
}

/// Memory that can be mapped, with a copy of some of the tensor.
#[derive(Debug, Default)]
struct Readback {
    buffer: Option<Buffer>,
    /// Which bytes of the tensor it holds, from its own beginning on.
    bytes: Range<u64>,
    /// The submission that copies them; `None` when they are out of date.
    submission: Option<SubmissionIndex>,
}

/// Mapping begins and ends on multiples of this.
const MAP_ALIGNMENT: u64 = wgpu::MAP_ALIGNMENT;

impl GpuTensor {
    pub(crate) fn new(gpu: &Arc<Gpu>, desc: TensorDesc) -> Result<GpuTensor, BackendError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let bytes = desc.checked_bytes().map_or(u64::MAX, |bytes| bytes as u64);
        if bytes > gpu.max_piece_bytes {
            return Err(BackendError::OutOfMemory { bytes });
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let buffer = gpu.buffer("tensor", bytes, usage)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(GpuTensor { desc, gpu: Arc::clone(gpu), buffer, id, readback: Mutex::default() })
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn is_of(&self, gpu: &Arc<Gpu>) -> bool {
        Arc::ptr_eq(&self.gpu, gpu)
    }

    /// For a submission that writes the tensor: what was copied out before is out of date.
    pub(crate) fn outdate(&self) {
        self.readback.lock().submission = None;
    }

    /// For a submission that writes what the caller will read: adds the copy of some bytes to it. [`GpuTensor::copied`]
    /// says when it has been submitted.
    pub(crate) fn copy_out(&self, encoder: &mut CommandEncoder, bytes: Range<u64>) -> Result<(), BackendError> {
        self.readback.lock().copy(&self.gpu, &self.buffer, encoder, bytes)
    }

    /// Says which submission has the copy of [`GpuTensor::copy_out`].
    pub(crate) fn copied(&self, submission: SubmissionIndex) {
        self.readback.lock().submission = Some(submission);
    }
}

impl Readback {
    /// Adds a copy to `encoder`, of whole words around `bytes`.
    fn copy(
        &mut self,
        gpu: &Gpu,
        from: &Buffer,
        encoder: &mut CommandEncoder,
        bytes: Range<u64>,
    ) -> Result<(), BackendError> {
        let bytes = bytes.start / MAP_ALIGNMENT * MAP_ALIGNMENT..bytes.end.next_multiple_of(MAP_ALIGNMENT);
        let n_bytes = bytes.end - bytes.start;
        self.submission = None;
        let to = match self.buffer.take() {
            Some(buffer) if buffer.size() >= n_bytes => buffer,
            _ => gpu.buffer("readback", n_bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?,
        };
        encoder.copy_buffer_to_buffer(from, bytes.start, &to, 0, n_bytes);
        self.buffer = Some(to);
        self.bytes = bytes;
        Ok(())
    }

    /// Whether some bytes of the tensor can be read as they are.
    fn has(&self, bytes: &Range<u64>) -> bool {
        self.submission.is_some() && self.bytes.start <= bytes.start && bytes.end <= self.bytes.end
    }

    /// Maps the memory when its submission has finished, and copies bytes of the tensor from `start` on.
    fn read(&self, gpu: &Gpu, start: u64, out: &mut [u8]) -> Result<(), BackendError> {
        let failed = |reason: String| BackendError::Failed { device: gpu.info.name.clone(), reason };
        let buffer = self.buffer.as_ref().ok_or_else(|| failed("nothing was copied out".to_owned()))?;
        let first = (start - self.bytes.start) / MAP_ALIGNMENT * MAP_ALIGNMENT;
        let end = (start + out.len() as u64 - self.bytes.start).next_multiple_of(MAP_ALIGNMENT);
        let (sender, mapped) = channel();
        buffer.map_async(MapMode::Read, first..end, move |result| {
            // Nobody listens any more when the wait has failed.
            let _ = sender.send(result);
        });
        gpu.timeline.poll(PollType::Wait { submission_index: self.submission.clone(), timeout: None })?;
        let result = loop {
            match mapped.try_recv() {
                Ok(result) => break result,
                Err(TryRecvError::Disconnected) => return Err(failed("a copy was given up".to_owned())),
                // Another thread that polls may be about to call back.
                Err(TryRecvError::Empty) => gpu.timeline.poll(PollType::Poll)?,
            };
            std::thread::yield_now();
        };
        if let Some(error) = gpu.timeline.failure() {
            return Err(error);
        }
        result.map_err(|error| failed(error.to_string()))?;
        let view = buffer.slice(first..end).get_mapped_range().map_err(|error| failed(error.to_string()))?;
        let skipped = (start - self.bytes.start - first) as usize;
        out.copy_from_slice(&view[skipped..skipped + out.len()]);
        drop(view);
        buffer.unmap();
        Ok(())
    }
}

// SAFETY: the description never changes, and there is no pointer to the elements.
unsafe impl Tensor for GpuTensor {
    fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    fn device(&self) -> DeviceId {
        self.gpu.info.id
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        None
    }

    fn download(&self, start: usize, out: &mut [u8]) -> Result<(), BackendError> {
        if out.is_empty() {
            return Ok(());
        }
        let start = start as u64;
        let bytes = start..start + out.len() as u64;
        // In the order in which a submission takes the two locks: it may write another part of this tensor.
        let entrance = self.gpu.enter();
        let mut readback = self.readback.lock();
        if !readback.has(&bytes) {
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            readback.copy(&self.gpu, &self.buffer, &mut encoder, bytes)?;
            readback.submission = Some(entrance.submit(encoder.finish()));
        }
        drop(entrance);
        readback.read(&self.gpu, start, out)
    }

    fn upload(&self, start: usize, bytes: &[u8]) -> Result<(), BackendError> {
        const WORD: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;
        if bytes.is_empty() {
            return Ok(());
        }
        let first = start / WORD * WORD;
        let end = (start + bytes.len()).next_multiple_of(WORD);
        let n_bytes = end - first;
        if n_bytes == bytes.len() {
            self.outdate();
            self.gpu.queue.write_buffer(&self.buffer, first as u64, bytes);
        } else {
            // wgpu writes whole words: what lies beside the bytes in theirs is read before.
            let mut words = vec![0; n_bytes];
            self.download(first, &mut words)?;
            words[start - first..start - first + bytes.len()].copy_from_slice(bytes);
            self.outdate();
            self.gpu.queue.write_buffer(&self.buffer, first as u64, &words);
        }
        self.gpu.timeline.failure().map_or(Ok(()), Err)
    }
}
