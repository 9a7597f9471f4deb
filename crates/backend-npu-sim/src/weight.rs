//! Weights of the simulated processors: the shared matrix in place, whatever the phone would do.

use std::sync::Arc;

use hetero_core::{Arrangement, DType, DeviceId, DeviceKind, HostTensor, TensorDesc, Weight, WeightLayout};
use hetero_core::{BackendError, WeightMatrix, WeightRows};

/// Rows of a shared matrix.
#[derive(Debug)]
pub(crate) struct SimWeight {
    rows: WeightRows,
    device: DeviceId,
    own_bytes: u64,
}

impl SimWeight {
    /// An NPU's graphs hold their weights as static tensors of their own, so on the phone they would be there twice.
    pub(crate) fn new(rows: WeightRows, device: DeviceId, kind: DeviceKind) -> SimWeight {
        let own_bytes = if kind == DeviceKind::Npu { stored_bytes(&rows) } else { 0 };
        SimWeight { rows, device, own_bytes }
    }
}

impl Weight for SimWeight {
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

/// Bytes of some rows as they are stored.
pub(crate) fn stored_bytes(rows: &WeightRows) -> u64 {
    let layout = rows.matrix.layout();
    match layout.arrangement {
        Arrangement::Panels => layout.byte_range(rows.rows.clone()).len() as u64,
        Arrangement::Rows => (rows.rows.len() * layout.columns * layout.format.element_bits() / 8) as u64,
    }
}

/// A weight matrix of zero bytes that takes no memory until somebody reads it: for timing a model without its weights.
///
/// # Errors
/// When the system does not promise the memory.
pub fn blank_weight(name: &str, layout: WeightLayout) -> Result<Arc<WeightMatrix>, BackendError> {
    let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let tensor = HostTensor::new(DeviceId::next(), desc)?;
    WeightMatrix::build(name, layout, Arc::new(tensor), |_| Ok(()))
}
