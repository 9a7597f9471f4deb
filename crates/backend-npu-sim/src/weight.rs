//! Weights of the simulated processors: the shared matrix in place, whatever the phone would do.

use std::sync::{Arc, Weak};

use hetero_core::{
    Arrangement, BackendError, DType, DeviceId, DeviceKind, HostTensor, StoredBytes, TensorDesc, Weight, WeightFormat,
    WeightLayout, WeightMatrix, WeightRows,
};
use parking_lot::Mutex;

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
/// All that are alive lie in the same bytes.
///
/// # Errors
/// When the system does not promise the memory.
pub fn blank_weight(name: &str, layout: WeightLayout) -> Result<Arc<WeightMatrix>, BackendError> {
    static SHARED: Mutex<Weak<Zeros>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock();
    let known = shared.upgrade().filter(|zeros| zeros.bytes().len() >= layout.bytes());
    let zeros = match known {
        Some(zeros) => zeros,
        None => {
            let zeros = Arc::new(Zeros::new(layout.bytes().max(LEAST_ZEROS))?);
            *shared = Arc::downgrade(&zeros);
            zeros
        }
    };
    Ok(WeightMatrix::from_bytes(name, layout, zeros))
}

/// So large an allocation always comes from the system as fresh pages, which nobody has to write to be zero.
const LEAST_ZEROS: usize = 64 << 20;

/// Zero bytes, as a matrix that was never filled.
struct Zeros(Arc<WeightMatrix>);

impl Zeros {
    fn new(bytes: usize) -> Result<Zeros, BackendError> {
        let layout = WeightLayout::table(WeightFormat::F32, 1, bytes.div_ceil(4));
        let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
        let tensor = HostTensor::new(DeviceId::next(), desc)?;
        Ok(Zeros(WeightMatrix::build("zeros", layout, Arc::new(tensor), |_| Ok::<_, BackendError>(()))?))
    }
}

impl StoredBytes for Zeros {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}
