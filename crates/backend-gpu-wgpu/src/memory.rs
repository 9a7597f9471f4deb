//! Tensors in the GPU's memory, which the host reaches by copies.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{TryRecvError, channel};

use hetero_core::{BackendError, ByteRuns, DeviceId, Tensor, TensorDesc};
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
    /// For the other direction: what the host has written, on its way into the tensor.
    staging: Option<Buffer>,
}

/// Writes begin and end on multiples of this.
const WORD: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;

/// Runs are copied with what lies between them when that is at most so many times as much.
const LEAST_DENSITY: usize = 2;

/// So many runs are written one by one.
const FEW_RUNS: usize = 2;

/// Mapping begins and ends on multiples of this.
const MAP_ALIGNMENT: u64 = wgpu::MAP_ALIGNMENT;

impl GpuTensor {
    pub(crate) fn new(gpu: &Arc<Gpu>, desc: TensorDesc) -> Result<GpuTensor, BackendError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let bytes = desc.checked_bytes().map_or(u64::MAX, |bytes| bytes as u64);
        if bytes > gpu.max_piece_bytes {
            return Err(BackendError::OutOfMemory { device: gpu.info.name.clone(), bytes });
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

    /// Copies many runs: wgpu takes memory for each write, so they go in one, and from there to where they belong.
    fn upload_packed(&self, runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        let entrance = self.gpu.enter();
        let mut readback = self.readback.lock();
        readback.submission = None;
        let staged = match readback.staging.take() {
            Some(buffer) if buffer.size() >= bytes.len() as u64 => buffer,
            _ => self.gpu.buffer("staging", bytes.len() as u64, BufferUsages::COPY_SRC | BufferUsages::COPY_DST)?,
        };
        self.gpu.queue.write_buffer(&staged, 0, bytes);
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (idx, run) in runs.iter().enumerate() {
            let from = (idx * runs.len) as u64;
            encoder.copy_buffer_to_buffer(&staged, from, &self.buffer, run.start as u64, runs.len as u64);
        }
        entrance.submit(encoder.finish());
        readback.staging = Some(staged);
        self.gpu.timeline.failure().map_or(Ok(()), Err)
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
        let bytes = words_around(bytes);
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

    /// Adds copies of runs to `encoder`, each of whole words and at a multiple of the returned distance from the
    /// beginning. They serve one [`Readback::read_packed`].
    fn copy_packed(
        &mut self,
        gpu: &Gpu,
        from: &Buffer,
        encoder: &mut CommandEncoder,
        runs: ByteRuns,
    ) -> Result<u64, BackendError> {
        let distance = (runs.len as u64 + MAP_ALIGNMENT).next_multiple_of(MAP_ALIGNMENT);
        (self.bytes, self.submission) = (0..0, None);
        let to = match self.buffer.take() {
            Some(buffer) if buffer.size() >= distance * runs.n as u64 => buffer,
            _ => {
                let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
                gpu.buffer("readback", distance * runs.n as u64, usage)?
            }
        };
        for (idx, run) in runs.iter().enumerate() {
            let words = words_around(run.start as u64..run.end as u64);
            encoder.copy_buffer_to_buffer(from, words.start, &to, idx as u64 * distance, words.end - words.start);
        }
        self.buffer = Some(to);
        Ok(distance)
    }

    /// Whether some bytes of the tensor can be read as they are.
    fn has(&self, bytes: &Range<u64>) -> bool {
        self.submission.is_some() && self.bytes.start <= bytes.start && bytes.end <= self.bytes.end
    }

    /// Reads runs of the tensor that lie within what was copied.
    fn read(&self, gpu: &Gpu, runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        let first = (runs.span().start as u64 - self.bytes.start) / MAP_ALIGNMENT * MAP_ALIGNMENT;
        let end = (runs.span().end as u64 - self.bytes.start).next_multiple_of(MAP_ALIGNMENT);
        let skipped = (self.bytes.start + first) as usize;
        self.map(gpu, self.submission.clone(), first..end, |bytes| {
            for (run, out) in runs.iter().zip(out.chunks_exact_mut(runs.len)) {
                out.copy_from_slice(&bytes[run.start - skipped..run.end - skipped]);
            }
        })
    }

    /// Reads runs that `submission` has copied by [`Readback::copy_packed`], at this distance.
    fn read_packed(
        &self,
        gpu: &Gpu,
        submission: SubmissionIndex,
        runs: ByteRuns,
        distance: u64,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        self.map(gpu, Some(submission), 0..distance * runs.n as u64, |bytes| {
            for ((idx, run), out) in runs.iter().enumerate().zip(out.chunks_exact_mut(runs.len)) {
                let skipped = run.start - words_around(run.start as u64..run.end as u64).start as usize;
                let start = idx * distance as usize + skipped;
                out.copy_from_slice(&bytes[start..start + runs.len]);
            }
        })
    }

    /// Maps memory when a submission has finished, for `read` to read.
    fn map(
        &self,
        gpu: &Gpu,
        submission: Option<SubmissionIndex>,
        bytes: Range<u64>,
        read: impl FnOnce(&[u8]),
    ) -> Result<(), BackendError> {
        let failed = |reason: String| BackendError::Failed { device: gpu.info.name.clone(), reason };
        let buffer = self.buffer.as_ref().ok_or_else(|| failed("nothing was copied out".to_owned()))?;
        let (sender, mapped) = channel();
        buffer.map_async(MapMode::Read, bytes.clone(), move |result| {
            // Nobody listens any more when the wait has failed.
            let _ = sender.send(result);
        });
        gpu.timeline.poll(PollType::Wait { submission_index: submission, timeout: None })?;
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
        let view = buffer.slice(bytes).get_mapped_range().map_err(|error| failed(error.to_string()))?;
        read(&view);
        drop(view);
        buffer.unmap();
        Ok(())
    }
}

/// The whole words that bytes lie in, as mapping wants them.
fn words_around(bytes: Range<u64>) -> Range<u64> {
    bytes.start / MAP_ALIGNMENT * MAP_ALIGNMENT..bytes.end.next_multiple_of(MAP_ALIGNMENT)
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

    fn download(&self, runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        if out.is_empty() {
            return Ok(());
        }
        let span = runs.span();
        let bytes = span.start as u64..span.end as u64;
        // In the order in which a submission takes the two locks: it may write another part of this tensor.
        let entrance = self.gpu.enter();
        let mut readback = self.readback.lock();
        if readback.has(&bytes) {
            drop(entrance);
            return readback.read(&self.gpu, runs, out);
        }
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if span.len() <= LEAST_DENSITY * out.len() {
            readback.copy(&self.gpu, &self.buffer, &mut encoder, bytes)?;
            readback.submission = Some(entrance.submit(encoder.finish()));
            drop(entrance);
            return readback.read(&self.gpu, runs, out);
        }
        let distance = readback.copy_packed(&self.gpu, &self.buffer, &mut encoder, runs)?;
        let submission = entrance.submit(encoder.finish());
        drop(entrance);
        readback.read_packed(&self.gpu, submission, runs, distance, out)
    }

    fn upload(&self, runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let is_word = |number: usize| number.is_multiple_of(WORD);
        if runs.n > FEW_RUNS && is_word(runs.start) && is_word(runs.len) && is_word(runs.distance) {
            return self.upload_packed(runs, bytes);
        }
        for (run, bytes) in runs.iter().zip(bytes.chunks_exact(runs.len)) {
            let (first, end) = (run.start / WORD * WORD, run.end.next_multiple_of(WORD));
            if end - first == bytes.len() {
                self.outdate();
                self.gpu.queue.write_buffer(&self.buffer, first as u64, bytes);
            } else {
                // wgpu writes whole words: what lies beside the bytes in theirs is read before.
                let mut words = vec![0; end - first];
                self.download(ByteRuns { start: first, len: end - first, distance: end - first, n: 1 }, &mut words)?;
                words[run.start - first..run.end - first].copy_from_slice(bytes);
                self.outdate();
                self.gpu.queue.write_buffer(&self.buffer, first as u64, &words);
            }
        }
        self.gpu.timeline.failure().map_or(Ok(()), Err)
    }
}
