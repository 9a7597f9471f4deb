//! Weights: where they lie, when that is this GPU's memory, else copies; in pieces that a kernel can bind.

use std::any::Any;
use std::sync::Arc;

use hetero_core::{BackendError, DeviceId, Weight, WeightMatrix, WeightRows};
use hetero_shaders::program::{Piece, Pieces, cut};
use vulkano::buffer::{BufferUsage, Subbuffer};

use crate::import::Imported;
use crate::memory::GpuTensor;
use crate::placement::Purpose;
use crate::queue::Gpu;

/// Rows of a matrix as the GPU reads them.
#[derive(Debug)]
pub(crate) struct GpuWeight {
    rows: WeightRows,
    device: DeviceId,
    pieces: Vec<Piece<Subbuffer<[u8]>>>,
    /// The matrix, where it is memory of the process that is used in place. Behind the pieces, which are of it.
    _import: Option<Arc<Imported<WeightMatrix>>>,
    own_bytes: u64,
}

impl GpuWeight {
    pub(crate) fn new(gpu: &Arc<Gpu>, rows: WeightRows) -> Result<GpuWeight, BackendError> {
        let cuts = cut(&rows, gpu.max_piece_bytes).map_err(|too_large| BackendError::LimitReached {
            device: gpu.info.name.clone(),
            what: "bytes of a few rows of weights",
            allowed: gpu.max_piece_bytes,
            needed: too_large.bytes,
        })?;
        let tensor = rows.matrix.tensor().and_then(|tensor| {
            let tensor: &dyn Any = tensor;
            tensor.downcast_ref::<GpuTensor>().filter(|tensor| tensor.is_of(gpu))
        });
        // Memory of its own is so much faster for the GPU that a copy pays with the first few steps.
        let is_separate = gpu.placement.is_separate;
        let import = match (&tensor, &gpu.importer) {
            (None, Some(importer)) if !is_separate => match gpu.weight_imports.matrix(importer, &rows.matrix) {
                Ok(import) => Some(import),
                Err(error) => {
                    tracing::debug!(device = %gpu.info.name, matrix = ?rows.matrix, %error, "a weight is copied");
                    None
                }
            },
            _ => None,
        };
        let whole = tensor.filter(|_| !is_separate).map(GpuTensor::buffer);
        let whole = whole.or(import.as_ref().map(|import| import.buffer()));
        let mut pieces = Vec::with_capacity(cuts.len());
        let mut own_bytes = 0;
        for (range, first_row, n_rows) in cuts {
            let in_place = whole.filter(|_| (range.start as u64).is_multiple_of(gpu.piece_alignment));
            let buffer = match in_place {
                Some(whole) => {
                    // Whole lines of 16 bytes: behind the last row of a table there may be half a word.
                    let end = (range.end as u64).next_multiple_of(16).min(whole.size());
                    whole.clone().slice(range.start as u64..end)
                }
                None => gpu.filled(&rows.matrix.bytes()[range], BufferUsage::STORAGE_BUFFER, Purpose::Weights)?,
            };
            own_bytes += if in_place.is_some() { 0 } else { buffer.size() };
            pieces.push(Piece { buffer, first_row, n_rows });
        }
        Ok(GpuWeight { rows, device: gpu.info.id, pieces, _import: import, own_bytes })
    }
}

impl Pieces<Subbuffer<[u8]>> for GpuWeight {
    fn pieces(&self) -> &[Piece<Subbuffer<[u8]>>] {
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
        self.own_bytes
    }
}
