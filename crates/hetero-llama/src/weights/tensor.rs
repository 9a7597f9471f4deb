//! One stored tensor: its bytes, and its rows as numbers.

use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use hetero_core::{DType, StoredBytes};

use super::mapped_file::MappedFile;
use super::safetensors::TensorEntry;
use crate::error::LlamaError;

/// One tensor of a checkpoint. Cheap to clone: it shares the file, and no byte is read before somebody looks.
#[derive(Clone)]
pub struct TensorRef {
    file: Arc<MappedFile>,
    name: Arc<str>,
    shape: Arc<[usize]>,
    dtype: DType,
    range: Range<usize>,
}

impl TensorRef {
    pub(super) fn new(file: Arc<MappedFile>, entry: &TensorEntry, dtype: DType) -> TensorRef {
        TensorRef {
            file,
            name: entry.name.as_str().into(),
            shape: entry.shape.as_slice().into(),
            dtype,
            range: entry.bytes.clone(),
        }
    }

    /// The name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type: f32, f16 or bf16.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The file it is in.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// The elements, little-endian, rows one after another. Not aligned: safetensors promises no alignment.
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// Checks that the file still holds the tensor; to be called before a tensor is consumed.
    pub fn check(&self) -> Result<(), LlamaError> {
        self.file.check_length()
    }

    /// Gives the memory of the tensor's pages back, after it was consumed. It can be read again.
    pub fn release(&self) {
        self.file.advise_done(self.range.clone());
    }

    /// Gives the memory of some rows' pages back, as [`TensorRef::release`] does for all.
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn release_rows(&self, rows: Range<usize>) {
        assert!(rows.start <= rows.end && rows.end <= self.rows(), "rows {rows:?} of {self:?}");
        let row_size = self.columns() * self.dtype.size();
        let start = self.range.start;
        self.file.advise_done(start + rows.start * row_size..start + rows.end * row_size);
    }

    /// Rows of the tensor as a matrix: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        match self.shape.split_last() {
            Some((_, outer)) => outer.iter().product(),
            None => 1,
        }
    }

    /// Columns of the tensor as a matrix: the last dimension.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        assert!(row < self.rows(), "row {row} of {self:?}");
        let row_size = self.columns() * self.dtype.size();
        &self.bytes()[row * row_size..][..row_size]
    }

    /// One row as numbers: `out` is `[columns]`.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length.
    pub fn read_row_f32(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns(), "a row of {self:?}");
        decode_f32(self.row_bytes(row), self.dtype, out);
    }
}

/// One tensor of a checkpoint as bytes, whatever its dtype.
#[derive(Clone)]
pub struct RawTensor {
    file: Arc<MappedFile>,
    shape: Arc<[usize]>,
    range: Range<usize>,
}

impl RawTensor {
    pub(super) fn new(file: Arc<MappedFile>, entry: &TensorEntry) -> RawTensor {
        RawTensor { file, shape: entry.shape.as_slice().into(), range: entry.bytes.clone() }
    }

    /// The shape, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes; not aligned.
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// As [`TensorRef::check`].
    pub fn check(&self) -> Result<(), LlamaError> {
        self.file.check_length()
    }

    /// Copies the bytes and gives the memory of their pages back while going on. `out` is as long as they are.
    pub fn copy_and_release(&self, out: &mut [u8]) {
        const STRIDE: usize = 8 << 20;
        assert_eq!(out.len(), self.range.len(), "all bytes of the tensor");
        for (i, out) in out.chunks_mut(STRIDE).enumerate() {
            let start = i * STRIDE;
            out.copy_from_slice(&self.bytes()[start..start + out.len()]);
            self.file.advise_done(self.range.start + start..self.range.start + start + out.len());
        }
    }
}

impl StoredBytes for TensorRef {
    fn bytes(&self) -> &[u8] {
        TensorRef::bytes(self)
    }

    fn read_at(&self, start: usize, out: &mut [u8]) {
        assert!(start + out.len() <= self.range.len(), "bytes {start} to {} of {self:?}", start + out.len());
        self.file.read_at(self.range.start + start, out);
    }
}

impl Debug for TensorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {} in {:?}", self.name, self.shape, self.dtype, self.file)
    }
}

/// Converts little-endian elements, which may be unaligned; `bytes` has as many as `out`.
fn decode_f32(bytes: &[u8], dtype: DType, out: &mut [f32]) {
    debug_assert_eq!(bytes.len(), out.len() * dtype.size());
    match dtype {
        DType::F32 => {
            for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        DType::BF16 => {
            for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        DType::F16 => {
            // By blocks, because the processor's conversion of many is much faster than that of one.
            const BLOCK: usize = 256;
            let mut block = [f16::ZERO; BLOCK];
            let (halves, _) = bytes.as_chunks();
            for (halves, out) in halves.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
                for (bytes, half) in halves.iter().zip(&mut block) {
                    *half = f16::from_le_bytes(*bytes);
                }
                block[..out.len()].convert_to_f32_slice(out);
            }
        }
        DType::U8 | DType::U32 => unreachable!("a TensorRef is made of real numbers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, shape: &[usize], mut data: Vec<u8>) -> TensorRef {
        // One byte in front puts every element at an odd address.
        data.insert(0, 0xff);
        let n_bytes = data.len();
        let file = Arc::new(MappedFile::from_shared("memory", data.into()));
        let entry = TensorEntry { name: "t".into(), shape: shape.to_vec(), dtype: Ok(dtype), bytes: 1..n_bytes };
        TensorRef::new(file, &entry, dtype)
    }

    /// Stores 3 rows of 300 numbers with `to_bytes` and expects to read what `rounded` says.
    fn check_rows<const N: usize>(dtype: DType, to_bytes: fn(f32) -> [u8; N], rounded: fn(f32) -> f32) {
        let columns = 300;
        let value = |i: usize| i as f32 * 0.37 - 64.0;
        let data = (0..3 * columns).flat_map(|i| to_bytes(value(i))).collect();
        let tensor = tensor(dtype, &[3, columns], data);
        let mut row = vec![0.0; columns];
        tensor.read_row_f32(2, &mut row);
        for (i, actual) in row.into_iter().enumerate() {
            assert_eq!(actual, rounded(value(2 * columns + i)), "{dtype} column {i}");
        }
    }

    #[test]
    fn rows_of_every_dtype_are_read_unaligned() {
        check_rows(DType::F32, f32::to_le_bytes, |x| x);
        check_rows(DType::F16, |x| f16::from_f32(x).to_le_bytes(), |x| f16::from_f32(x).to_f32());
        check_rows(DType::BF16, |x| bf16::from_f32(x).to_le_bytes(), |x| bf16::from_f32(x).to_f32());
    }

    #[test]
    fn a_vector_is_a_matrix_of_one_row() {
        let tensor = tensor(DType::F32, &[2], [1f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect());
        assert_eq!((tensor.rows(), tensor.columns()), (1, 2));
    }

    #[test]
    #[should_panic(expected = "row 1 of")]
    fn a_row_outside_is_misuse() {
        tensor(DType::F32, &[1], vec![0; 4]).read_row_f32(1, &mut [0.0]);
    }
}
