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
    /// Reads a host-visible tensor that nobody writes.
    pub(crate) fn read(tensor: &Arc<SharedTensor>) -> Image {
        let desc = *tensor.desc();
        let view = tensor.view();
        let mut bits = Vec::with_capacity(desc.rows * desc.columns);
        for row in 0..desc.rows {
            match desc.dtype {
                DType::U8 => bits.extend(view.row::<u8>(row).iter().map(|&x| u32::from(x))),
                DType::U32 => bits.extend_from_slice(view.row::<u32>(row)),
                DType::F16 => bits.extend(view.row::<f16>(row).iter().map(|x| u32::from(x.to_bits()))),
                DType::BF16 => bits.extend(view.row::<bf16>(row).iter().map(|x| u32::from(x.to_bits()))),
                DType::F32 => bits.extend(view.row::<f32>(row).iter().map(|x| x.to_bits())),
            }
        }
        Image { desc, bits }
    }

    /// Writes a host-visible tensor that nobody uses.
    pub(crate) fn write(&self, tensor: &Arc<SharedTensor>) {
        let mut slot = tensor.slot();
        if self.bits.is_empty() {
            return;
        }
        for (row, bits) in self.bits.chunks_exact(self.desc.columns).enumerate() {
            match self.desc.dtype {
                DType::U8 => copy(bits, slot.row_mut::<u8>(row), |b| b as u8),
                DType::U32 => slot.row_mut::<u32>(row).copy_from_slice(bits),
                DType::F16 => copy(bits, slot.row_mut(row), |b| f16::from_bits(b as u16)),
                DType::BF16 => copy(bits, slot.row_mut(row), |b| bf16::from_bits(b as u16)),
                DType::F32 => copy(bits, slot.row_mut(row), f32::from_bits),
            }
        }
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

fn copy<B>(from: &[u32], to: &mut [B], f: impl Fn(u32) -> B) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f(*from);
    }
}
