//! Weights as the model holds them and as a backend holds them.

use std::any::Any;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;

use crate::quantize::{dequantize_panel_row, table_elements, table_row};
use crate::{Arrangement, Backend, BackendError, DType, DeviceId, HostTensor, Tensor, TensorDesc, WeightLayout};

/// How much of a stored table's row is read at once; a multiple of every element's size.
const PIECE_BYTES: usize = 4096;

/// A weight matrix in host-visible memory, never changed once it exists; the one copy that processors share.
#[derive(Clone)]
pub struct WeightMatrix {
    name: String,
    layout: WeightLayout,
    memory: WeightMemory,
}

#[derive(Clone)]
enum WeightMemory {
    /// Allocated by a backend, so that this backend and its friends reach it without a copy.
    Tensor(Arc<dyn Tensor>),
    /// Anything else that stays put, such as a mapped file.
    Stored(Arc<dyn StoredBytes>),
}

/// Bytes of a weight that no backend has allocated.
pub trait StoredBytes: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Copies those from `start` on into `out`.
    ///
    /// What is mapped from a file reads them another way: looking at one row through a map can make the system map,
    /// and count as resident, two megabytes around it.
    ///
    /// # Panics
    /// When there are not so many.
    fn read_at(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes()[start..start + out.len()]);
    }
}

impl WeightMatrix {
    /// Memory to build a matrix in: of `backend` where the host reaches that, so that it is used in place, else ordinary
    /// memory, from which [`Backend::load_weight`] copies.
    pub fn allocate(layout: &WeightLayout, backend: &dyn Backend) -> Result<Arc<dyn Tensor>, BackendError> {
        let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
        match backend.info().is_host_visible {
            true => backend.allocate(&desc),
            false => Ok(Arc::new(HostTensor::new(DeviceId::next(), desc)?)),
        }
    }

    /// Fills a fresh tensor and freezes it. `fill` gets exactly `layout.bytes()` bytes, all zero.
    ///
    /// # Panics
    /// When the tensor has another owner, is too small for the layout or is not host-visible.
    pub fn build<E>(
        name: impl Into<String>,
        layout: WeightLayout,
        mut tensor: Arc<dyn Tensor>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Arc<WeightMatrix>, E> {
        assert!(Arc::get_mut(&mut tensor).is_some(), "a tensor must have one owner when it becomes a weight");
        assert!(tensor.desc().bytes() >= layout.bytes(), "{:?} is too small for {layout:?}", tensor.desc());
        let start = tensor.host_ptr().expect("weights are built in host-visible memory");
        // SAFETY: `Tensor` promises `desc().bytes()` initialised bytes at `start`, of which these are the first; the
        // tensor was just shown to have this one owner, who makes no other reference while `fill` runs.
        fill(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), layout.bytes()) })?;
        Ok(Arc::new(WeightMatrix { name: name.into(), layout, memory: WeightMemory::Tensor(tensor) }))
    }

    /// Wraps bytes that exist already, such as part of a mapped file.
    ///
    /// # Panics
    /// When there are fewer bytes than the layout needs.
    pub fn from_bytes(name: impl Into<String>, layout: WeightLayout, bytes: Arc<dyn StoredBytes>) -> Arc<WeightMatrix> {
        assert!(bytes.bytes().len() >= layout.bytes(), "too few bytes for {layout:?}");
        Arc::new(WeightMatrix { name: name.into(), layout, memory: WeightMemory::Stored(bytes) })
    }

    /// What the matrix is called in the model, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Format, shape and order.
    pub fn layout(&self) -> &WeightLayout {
        &self.layout
    }

    /// The tensor that holds it, when a backend allocated it.
    pub fn tensor(&self) -> Option<&dyn Tensor> {
        match &self.memory {
            WeightMemory::Tensor(tensor) => Some(&**tensor),
            WeightMemory::Stored(_) => None,
        }
    }

    /// The bytes, `layout().bytes()` of them. Aligned to 64 when [`WeightMatrix::tensor`] is some, else perhaps not.
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            WeightMemory::Tensor(tensor) => {
                let start = tensor.host_ptr().expect("`build` has checked that the host reaches the tensor");
                // SAFETY: as in `build`; the matrix is frozen, so shared references are all there ever are.
                unsafe { std::slice::from_raw_parts(start.as_ptr(), self.layout.bytes()) }
            }
            WeightMemory::Stored(stored) => &stored.bytes()[..self.layout.bytes()],
        }
    }

    /// One row as numbers, `columns` of them: the meaning of the format.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.layout.rows, "row {row} of {self:?}");
        assert_eq!(out.len(), self.layout.columns, "a row of {self:?}");
        match self.layout.arrangement {
            Arrangement::Panels => {
                let panel = self.layout.panel_bytes();
                let panel_idx = row / WeightLayout::PANEL_ROWS;
                let bytes = &self.bytes()[panel_idx * panel..][..panel];
                dequantize_panel_row(&self.layout, bytes, row % WeightLayout::PANEL_ROWS, out);
            }
            Arrangement::Rows => self.read_table_row(row, out),
        }
    }

    fn read_table_row(&self, row: usize, out: &mut [f32]) {
        let WeightMemory::Stored(stored) = &self.memory else {
            return table_row(&self.layout, self.bytes(), row, out);
        };
        // In pieces through the stack, because a step must not allocate.
        let mut piece = [0; PIECE_BYTES];
        let size = self.layout.format.element_bits() / 8;
        let row_start = row * self.layout.columns * size;
        for (i, out) in out.chunks_mut(PIECE_BYTES / size).enumerate() {
            let bytes = &mut piece[..out.len() * size];
            stored.read_at(row_start + i * PIECE_BYTES, bytes);
            table_elements(self.layout.format, bytes, out);
        }
    }
}

impl Debug for WeightMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WeightLayout { format, rows, columns, .. } = self.layout;
        write!(f, "{} ({format} [{rows}, {columns}])", self.name)
    }
}

/// Rows of a weight matrix that one backend is to compute with.
#[derive(Clone, Debug)]
pub struct WeightRows {
    /// The whole matrix.
    pub matrix: Arc<WeightMatrix>,
    /// The rows; whole panels when the matrix is in panels.
    pub rows: Range<usize>,
}

impl WeightRows {
    /// All rows of a matrix.
    pub fn all(matrix: Arc<WeightMatrix>) -> WeightRows {
        let rows = 0..matrix.layout().rows;
        WeightRows { matrix, rows }
    }
}

/// Rows of a weight matrix as one backend holds them, made by [`crate::Backend::load_weight`].
pub trait Weight: Any + Debug + Send + Sync {
    /// The rows of which matrix.
    fn rows(&self) -> &WeightRows;

    /// The backend that made it, the only one that can use it.
    fn device(&self) -> DeviceId;

    /// Bytes that the backend holds besides the shared matrix; zero when it uses that.
    fn own_bytes(&self) -> u64;
}
