//! Weights as the CPU holds them: it computes on the shared matrix, in place.

use std::sync::Arc;

use hetero_core::{Arrangement, BackendError, DType, DeviceId, Tensor, TensorDesc, Weight, WeightLayout, WeightRows};

use crate::kernels::PanelWeights;
use crate::memory::CpuTensor;

/// Rows of a shared matrix, or a small table of numbers.
#[derive(Debug)]
pub(crate) struct CpuWeight {
    rows: WeightRows,
    device: DeviceId,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// The shared panels, in place.
    Shared,
    /// A copy of panels that lie where vectors cannot load them.
    Copied(CpuTensor),
    /// A table of one row as numbers.
    Row(Vec<f32>),
    /// A table that is looked up row by row, in place.
    Table,
}

impl CpuWeight {
    pub(crate) fn new(rows: WeightRows, device: DeviceId) -> Result<CpuWeight, BackendError> {
        let layout = *rows.matrix.layout();
        let held = match layout.arrangement {
            Arrangement::Rows if layout.rows == 1 => {
                let mut row = vec![0.0; layout.columns];
                rows.matrix.read_row(0, &mut row);
                Held::Row(row)
            }
            Arrangement::Rows => Held::Table,
            Arrangement::Panels => {
                let bytes = &rows.matrix.bytes()[layout.byte_range(rows.rows.clone())];
                if bytes.as_ptr().addr().is_multiple_of(WeightLayout::PANEL_ALIGNMENT) {
                    Held::Shared
                } else {
                    Held::Copied(copy(bytes, device)?)
                }
            }
        };
        Ok(CpuWeight { rows, device, held })
    }

    /// The rows as kernels take them. Valid as long as this weight is.
    ///
    /// # Panics
    /// When the weight is a table.
    pub(crate) fn panels(&self) -> PanelWeights {
        let layout = self.rows.matrix.layout();
        let panels = match &self.held {
            Held::Shared => self.rows.matrix.bytes()[layout.byte_range(self.rows.rows.clone())].as_ptr(),
            Held::Copied(tensor) => tensor.host_ptr().expect("CPU tensors are host-visible").as_ptr().cast_const(),
            Held::Row(_) | Held::Table => panic!("{:?} is a table, not a matrix of a linear operator", self.rows),
        };
        PanelWeights { format: layout.format, panels, n: self.rows.rows.len(), k: layout.columns }
    }

    /// A table of one row, such as a norm's scales or a bias.
    ///
    /// # Panics
    /// When the weight is something else.
    pub(crate) fn row(&self) -> &[f32] {
        match &self.held {
            Held::Row(row) => row,
            _ => panic!("{:?} is not a table of one row", self.rows),
        }
    }
}

impl Weight for CpuWeight {
    fn rows(&self) -> &WeightRows {
        &self.rows
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn own_bytes(&self) -> u64 {
        match &self.held {
            Held::Shared | Held::Table => 0,
            Held::Copied(tensor) => tensor.desc().bytes() as u64,
            Held::Row(row) => size_of_val(&row[..]) as u64,
        }
    }
}

fn copy(bytes: &[u8], device: DeviceId) -> Result<CpuTensor, BackendError> {
    let desc = TensorDesc { rows: 1, columns: bytes.len(), dtype: DType::U8 };
    let mut tensor = CpuTensor::new(device, desc)?;
    tensor.bytes_mut().copy_from_slice(bytes);
    Ok(tensor)
}

/// A loaded weight as this backend's own.
///
/// # Panics
/// When another backend loaded it.
pub(crate) fn downcast(weight: &Arc<dyn Weight>) -> &CpuWeight {
    let any: &dyn std::any::Any = &**weight;
    any.downcast_ref().unwrap_or_else(|| panic!("{:?} was loaded by another backend", weight.rows()))
}
