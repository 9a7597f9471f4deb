//! Pictures of tensors, bit for bit, and the patterns that show who wrote where.

use std::sync::Arc;

use half::{bf16, f16};
use hetero_core::{DType, Part, SharedTensor, TensorDesc};

/// What a tensor holds, as bits: NaN and negative zero are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) desc: TensorDesc,
    /// One word for each element, row after row.
    pub(crate) bits: Vec<u32>,
}

impl Image {
    /// Reads a tensor that nobody writes, wherever it lives.
    ///
    /// # Panics
    /// When the device fails to copy it.
    pub(crate) fn read(tensor: &Arc<SharedTensor>) -> Image {
        let desc = *tensor.desc();
        let mut bytes = vec![0; desc.bytes()];
        let read = tensor.view().read_bytes(&Part::whole(desc.rows, desc.columns), &mut bytes);
        read.unwrap_or_else(|error| panic!("a tensor {desc:?} cannot be read: {error}"));
        let word = |element: &[u8]| element.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte));
        Image { desc, bits: bytes.chunks_exact(desc.dtype.size()).map(word).collect() }
    }

    /// Writes a tensor that nobody uses, wherever it lives.
    ///
    /// # Panics
    /// When the device fails to copy it.
    pub(crate) fn write(&self, tensor: &Arc<SharedTensor>) {
        let desc = self.desc;
        let size = desc.dtype.size();
        let bytes: Vec<u8> = self.bits.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(size)).collect();
        let written = tensor.slot().write_bytes(&Part::whole(desc.rows, desc.columns), &bytes);
        written.unwrap_or_else(|error| panic!("a tensor {desc:?} cannot be written: {error}"));
    }

    /// An image whose elements are all made by `f` from row and column.
    pub(crate) fn from_fn(desc: TensorDesc, mut f: impl FnMut(usize, usize) -> u32) -> Image {
        let mut bits = Vec::with_capacity(desc.rows * desc.columns);
        for row in 0..desc.rows {
            bits.extend((0..desc.columns).map(|column| f(row, column)));
        }
        Image { desc, bits }
    }

    /// What outputs hold before a run: NaN that differ from element to element.
    pub(crate) fn sentinel(desc: TensorDesc) -> Image {
        let mut idx = 0;
        Image::from_fn(desc, |_, _| {
            idx += 1;
            sentinel(desc.dtype, idx)
        })
    }

    /// An element as a number.
    pub(crate) fn value(&self, row: usize, column: usize) -> f32 {
        let bits = self.bits[row * self.desc.columns + column];
        match self.desc.dtype {
            DType::U8 | DType::U32 => bits as f32,
            DType::F16 => f16::from_bits(bits as u16).to_f32(),
            DType::BF16 => bf16::from_bits(bits as u16).to_f32(),
            DType::F32 => f32::from_bits(bits),
        }
    }

    /// The first element outside some parts that has other bits in `after`.
    pub(crate) fn change_outside(&self, after: &Image, parts: &[Part]) -> Option<(usize, usize)> {
        let columns = self.desc.columns;
        let changed = self.bits.iter().zip(&after.bits).enumerate();
        changed
            .filter(|(_, (before, after))| before != after)
            .map(|(idx, _)| (idx / columns, idx % columns))
            .find(|(row, column)| !parts.iter().any(|part| part.rows.contains(row) && part.columns.contains(column)))
    }
}

/// The bits of a number in an element type.
pub(crate) fn number(dtype: DType, x: f32) -> u32 {
    match dtype {
        DType::U8 | DType::U32 => x as u32,
        DType::F16 => u32::from(f16::from_f32(x).to_bits()),
        DType::BF16 => u32::from(bf16::from_f32(x).to_bits()),
        DType::F32 => x.to_bits(),
    }
}

/// What input rows hold that are not in use: a NaN with a sign, unlike those of outputs; for ids one that no
/// vocabulary has.
pub(crate) fn unused(dtype: DType) -> u32 {
    match dtype {
        DType::U8 => 0xFF,
        DType::U32 => u32::MAX,
        DType::F16 => 0xFE00,
        DType::BF16 => 0xFFC0,
        DType::F32 => 0xFFC0_0000,
    }
}

/// A quiet NaN without a sign whose payload is made of `idx`.
fn sentinel(dtype: DType, idx: u32) -> u32 {
    match dtype {
        DType::U8 => 0xA0 | idx & 0x0F,
        DType::U32 => 0xA5A5_0000 | idx & 0xFFFF,
        DType::F16 => 0x7E00 | idx & 0xFF,
        DType::BF16 => 0x7FC0 | idx & 0x1F,
        DType::F32 => 0x7FC0_0000 | idx & 0xFFFF,
    }
}
