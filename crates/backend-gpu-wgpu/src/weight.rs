//! Weights in the GPU's memory, in pieces that a kernel can bind.

use hetero_core::{Arrangement, BackendError, DeviceId, Weight, WeightLayout, WeightRows};
use wgpu::{Buffer, BufferUsages};

use crate::queue::Gpu;

/// Rows of a matrix as copies in buffers of the GPU.
#[derive(Debug)]
pub(crate) struct GpuWeight {
    rows: WeightRows,
    device: DeviceId,
    pieces: Vec<Piece>,
}

/// Some of the rows, in one buffer.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) buffer: Buffer,
    /// Its first row, counted from the first of the weight.
    pub(crate) first_row: usize,
    pub(crate) n_rows: usize,
}

impl GpuWeight {
    pub(crate) fn new(gpu: &Gpu, rows: WeightRows) -> Result<GpuWeight, BackendError> {
        let layout = *rows.matrix.layout();
        // Panels are cut between panels, tables between rows.
        let (unit_rows, unit_bytes) = match layout.arrangement {
            Arrangement::Panels => (WeightLayout::PANEL_ROWS, layout.panel_bytes()),
            Arrangement::Rows => (1, layout.columns * layout.format.element_bits() / 8),
        };
        let most_units = (gpu.max_piece_bytes / unit_bytes.max(1) as u64) as usize;
        if most_units == 0 {
            return Err(BackendError::LimitReached {
                device: gpu.info.name.clone(),
                what: "bytes of a few rows of weights",
                allowed: gpu.max_piece_bytes,
                needed: unit_bytes as u64,
            });
        }
        let bytes = rows.matrix.bytes();
        let bytes = match layout.arrangement {
            Arrangement::Panels => &bytes[layout.byte_range(rows.rows.clone())],
            Arrangement::Rows => &bytes[rows.rows.start * unit_bytes..rows.rows.end * unit_bytes],
        };
        let piece_rows = most_units.saturating_mul(unit_rows);
        let mut pieces = Vec::new();
        for (idx, bytes) in bytes.chunks(most_units.saturating_mul(unit_bytes).max(1)).enumerate() {
            let first_row = idx * piece_rows;
            let n_rows = piece_rows.min(rows.rows.len() - first_row);
            let buffer = gpu.constant(rows.matrix.name(), bytes, BufferUsages::STORAGE)?;
            pieces.push(Piece { buffer, first_row, n_rows });
        }
        Ok(GpuWeight { rows, device: gpu.info.id, pieces })
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
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
