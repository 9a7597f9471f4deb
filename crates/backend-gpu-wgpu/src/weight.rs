//! Weights in the GPU's memory, in pieces that a kernel can bind.

use hetero_core::{BackendError, DeviceId, Weight, WeightRows};
use hetero_shaders::program::{Piece, Pieces, cut};
use wgpu::{Buffer, BufferUsages};

use crate::queue::Gpu;

/// Rows of a matrix as copies in buffers of the GPU.
#[derive(Debug)]
pub(crate) struct GpuWeight {
    rows: WeightRows,
    device: DeviceId,
    pieces: Vec<Piece<Buffer>>,
}

impl GpuWeight {
    pub(crate) fn new(gpu: &Gpu, rows: WeightRows) -> Result<GpuWeight, BackendError> {
        let cuts = cut(&rows, gpu.max_piece_bytes).map_err(|too_large| BackendError::LimitReached {
            device: gpu.info.name.clone(),
            what: "bytes of a few rows of weights",
            allowed: gpu.max_piece_bytes,
            needed: too_large.bytes,
        })?;
        let bytes = rows.matrix.bytes();
        let mut pieces = Vec::with_capacity(cuts.len());
        for (range, first_row, n_rows) in cuts {
            let buffer = gpu.constant(rows.matrix.name(), &bytes[range], BufferUsages::STORAGE)?;
            pieces.push(Piece { buffer, first_row, n_rows });
        }
        Ok(GpuWeight { rows, device: gpu.info.id, pieces })
    }
}

impl Pieces<Buffer> for GpuWeight {
    fn pieces(&self) -> &[Piece<Buffer>] {
        &self.pieces
    }
}

impl Weight for GpuWeight {
    fn rows(&self) -> &WeightRows {
        &self.rows
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn own_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.buffer.size()).sum()
    }
}
