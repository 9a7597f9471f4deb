//! What goes into memory that the host does not reach: through a staging buffer of a bounded size, many pieces at a time.
//!
//! Pieces gather in one half of the buffer while the GPU copies what is in the other one. Nobody waits for a copy before
//! what it wrote is used: [`Gpu::settle`] does, when a segment has been compiled. A weight may be dropped meanwhile; what
//! is copied is kept until then.

use hetero_core::{BackendError, Timeline};
use vulkano::buffer::{BufferUsage, Subbuffer};
use vulkano::command_buffer::{BufferCopy, CopyBufferInfo, RecordingCommandBuffer};
use vulkano::sync::{AccessFlags, PipelineStages};

use crate::error::invalid;
use crate::placement::Purpose;
use crate::queue::Gpu;
use crate::recording::{Recorded, barrier};

/// Bytes of each half of the staging buffer.
const HALF_BYTES: u64 = 16 << 20;

/// Copies begin on multiples of this.
const COPY_ALIGNMENT: u64 = 16;

/// The staging buffer; made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    halves: [Half; 2],
    /// The half that is being filled.
    filled_idx: usize,
}

#[derive(Debug, Default)]
struct Half {
    memory: Option<Subbuffer<[u8]>>,
    used_bytes: u64,
    /// What has been gathered.
    pieces: Vec<Piece>,
    /// The copy under way, and what is copied: those pieces.
    under_way: Option<(u64, Recorded)>,
}

/// A part of a buffer that is filled.
#[derive(Debug)]
enum Piece {
    /// From a place in the half.
    Copy {
        from: u64,
        to: Subbuffer<[u8]>,
    },
    Zeros {
        to: Subbuffer<[u8]>,
    },
}

impl Gpu {
    /// Fills a buffer that the host does not reach from its beginning, with zeros behind the bytes up to a whole line.
    pub(crate) fn stage(&self, to: &Subbuffer<[u8]>, bytes: &[u8]) -> Result<(), BackendError> {
        let mut staging = self.staging.lock();
        let mut start = 0;
        for bytes in bytes.chunks(HALF_BYTES as usize) {
            let n_bytes = (bytes.len() as u64).next_multiple_of(COPY_ALIGNMENT);
            if staging.filled().used_bytes + n_bytes > HALF_BYTES {
                staging.send(self)?;
            }
            let half = staging.filled();
            half.reuse(self)?;
            let memory = match &half.memory {
                Some(memory) => memory.clone(),
                None => {
                    let memory = self.unwritten(HALF_BYTES, BufferUsage::TRANSFER_SRC, Purpose::Tensor)?;
                    half.memory.insert(memory).clone()
                }
            };
            let from = half.used_bytes;
            self.write(&memory.slice(from..from + n_bytes), |memory| {
                memory[..bytes.len()].copy_from_slice(bytes);
                memory[bytes.len()..].fill(0);
            })?;
            half.used_bytes += n_bytes;
            half.pieces.push(Piece::Copy { from, to: to.clone().slice(start..start + n_bytes) });
            start += n_bytes;
        }
        Ok(())
    }

    /// Fills a buffer that the host does not reach with zeros.
    pub(crate) fn stage_zeros(&self, to: &Subbuffer<[u8]>) -> Result<(), BackendError> {
        let mut staging = self.staging.lock();
        let half = staging.filled();
        half.reuse(self)?;
        half.pieces.push(Piece::Zeros { to: to.clone() });
        Ok(())
    }

    /// Waits until everything is where it belongs.
    pub(crate) fn settle(&self) -> Result<(), BackendError> {
        let mut staging = self.staging.lock();
        staging.send(self)?;
        staging.halves.iter_mut().try_for_each(|half| half.reuse(self))
    }
}

impl Staging {
    fn filled(&mut self) -> &mut Half {
        &mut self.halves[self.filled_idx]
    }

    /// Has the GPU copy what has been gathered, and goes on with the other half.
    fn send(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        let half = &mut self.halves[self.filled_idx];
        if half.pieces.is_empty() || half.under_way.is_some() {
            return Ok(());
        }
        let commands =
            gpu.commands(|recording| half.record(recording).map_err(|error| invalid(&gpu.info.name, &error)))?;
        let value = gpu.submit(&commands, || {})?;
        half.under_way = Some((value, commands));
        self.filled_idx = 1 - self.filled_idx;
        Ok(())
    }
}

impl Half {
    /// Waits until what was gathered has been copied, if that is under way.
    fn reuse(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        if let Some((value, _)) = self.under_way {
            gpu.timeline.block_until(value)?;
            self.under_way = None;
            self.pieces.clear();
            self.used_bytes = 0;
        }
        Ok(())
    }

    fn record(&self, recording: &mut RecordingCommandBuffer) -> Result<(), Box<vulkano::ValidationError>> {
        for piece in &self.pieces {
            // SAFETY: nobody else touches the buffers before `Gpu::settle`, and they are kept until the copies have ended.
            // Ranges lie within them, and no two overlap in what they write, because each buffer is filled once.
            unsafe {
                match (piece, &self.memory) {
                    (Piece::Copy { from, to }, Some(memory)) => {
                        let region = BufferCopy { src_offset: *from, size: to.size(), ..BufferCopy::default() };
                        let info = CopyBufferInfo::buffers(memory.clone(), to.clone());
                        recording.copy_buffer(&CopyBufferInfo { regions: [region].into_iter().collect(), ..info })?;
                    }
                    (Piece::Copy { .. }, None) => unreachable!("what is copied lies in the half"),
                    (Piece::Zeros { to }, _) => drop(recording.fill_buffer(&to.clone().reinterpret(), 0)?),
                }
            }
        }
        let written = (PipelineStages::ALL_TRANSFER, AccessFlags::TRANSFER_WRITE);
        let read = (PipelineStages::COMPUTE_SHADER, AccessFlags::SHADER_READ | AccessFlags::SHADER_WRITE);
        // SAFETY: a barrier touches no memory by itself. Dispatches that are submitted later see what was written.
        unsafe { recording.pipeline_barrier(&barrier(written, read)) }?;
        Ok(())
    }
}
