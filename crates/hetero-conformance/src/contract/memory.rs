//! What a backend promises about tensors and weights.

use std::sync::Arc;

use hetero_core::{
    Access, BackendError, DType, Op, OpSpec, Part, RowBlocks, SharedTensor, Support, TENSOR_ALIGNMENT, TensorDesc,
    WeightFormat, WeightRows,
};

use super::{Probe, require};
use crate::bench::Trouble;
use crate::case::Case;
use crate::sentinel::Image;
use crate::stimulus;

pub(super) fn allocation(probe: &Probe<'_>) -> Result<(), Trouble> {
    let info = probe.backend.info();
    require(!info.name.is_empty(), "the backend has no name")?;
    require(info == probe.backend.info(), "the backend's info changes")?;
    require(info.weight_row_alignment > 0, "the alignment of weight rows is zero")?;
    for (rows, columns, dtype) in
        [(1, 1, DType::F32), (3, 33, DType::F16), (7, 257, DType::BF16), (5, 1, DType::U32), (1, 4097, DType::U8)]
    {
        let desc = TensorDesc { rows, columns, dtype };
        let tensor = probe.backend.allocate(&desc)?;
        require(*tensor.desc() == desc, "a tensor of another shape or type")?;
        require(tensor.device() == info.id, "a tensor of another device")?;
        require(probe.backend.access(&*tensor) == Access::Direct, "a backend does not reach its own tensor directly")?;
        let start = tensor.host_ptr();
        require(start.is_some() == info.is_host_visible, "the host reaches tensors otherwise than the info says")?;
        let is_aligned = |start: std::ptr::NonNull<u8>| start.addr().get().is_multiple_of(TENSOR_ALIGNMENT);
        require(start.is_none_or(is_aligned), "a tensor is not aligned")?;
        let image = Image::read(&SharedTensor::new(tensor));
        require(image.bits.iter().all(|&bits| bits == 0), "a tensor is not zeroed")?;
    }
    Ok(())
}

/// Rectangles that begin and end anywhere go in and come out again, and nothing beside them changes.
pub(super) fn copies(probe: &Probe<'_>) -> Result<(), Trouble> {
    for dtype in [DType::F32, DType::F16, DType::U8] {
        let desc = TensorDesc { rows: 5, columns: 13, dtype };
        let tensor = SharedTensor::new(probe.backend.allocate(&desc)?);
        let mut expected = vec![0; desc.bytes()];
        for (rows, columns) in [(0..5, 0..13), (1..4, 3..8), (4..5, 12..13), (2..2, 0..13), (0..5, 5..5), (2..5, 0..13)]
        {
            let part = Part { rows, columns };
            let bytes: Vec<u8> = (0..part.area() * dtype.size()).map(|i| (i * 7 + part.columns.end) as u8).collect();
            tensor.slot().write_bytes(&part, &bytes)?;
            let mut back = vec![0; bytes.len()];
            tensor.view().read_bytes(&part, &mut back)?;
            require(back == bytes, "a rectangle reads back otherwise than it was written")?;
            if !bytes.is_empty() {
                for (row, bytes) in part.rows.clone().zip(bytes.chunks_exact(part.columns.len() * dtype.size())) {
                    let start = (row * desc.columns + part.columns.start) * dtype.size();
                    expected[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
            let mut all = vec![0; desc.bytes()];
            tensor.view().read_bytes(&Part::whole(desc.rows, desc.columns), &mut all)?;
            require(all == expected, "writing a rectangle changes what lies beside it")?;
        }
        let blocks = RowBlocks { first: 1, rows: 1, distance: 3, n: 2 };
        let bytes: Vec<u8> = (0..2 * 13 * dtype.size()).map(|i| (i * 11 + 3) as u8).collect();
        tensor.slot().write_blocks(&blocks, &bytes)?;
        let mut back = vec![0; bytes.len()];
        tensor.view().read_blocks(&blocks, &mut back)?;
        require(back == bytes, "rows at a distance read back otherwise than they were written")?;
        for (row, bytes) in [1, 4].into_iter().zip(bytes.chunks_exact(13 * dtype.size())) {
            expected[row * bytes.len()..(row + 1) * bytes.len()].copy_from_slice(bytes);
        }
        let mut all = vec![0; desc.bytes()];
        tensor.view().read_bytes(&Part::whole(desc.rows, desc.columns), &mut all)?;
        require(all == expected, "writing rows at a distance changes what lies between them")?;
    }
    Ok(())
}

pub(super) fn impossible_allocation(probe: &Probe<'_>) -> Result<(), Trouble> {
    for (rows, columns) in [(usize::MAX, 2), (usize::MAX / 8, 1)] {
        let desc = TensorDesc { rows, columns, dtype: DType::F32 };
        match probe.backend.allocate(&desc) {
            Err(BackendError::OutOfMemory { .. }) => {}
            Err(error) => return Err(Trouble::Failed(format!("not `OutOfMemory`: {error}"))),
            Ok(_) => return Err(Trouble::Failed(format!("{desc:?} was allocated"))),
        }
    }
    Ok(())
}

pub(super) fn weights(probe: &Probe<'_>) -> Result<(), Trouble> {
    let spec = |format| OpSpec {
        op: Op::Linear { in_features: 64, out_features: 70, format, bias: false },
        inputs: vec![DType::F32],
        output: DType::F32,
    };
    for format in WeightFormat::ALL {
        if probe.backend.support(&spec(format)) != Support::Yes {
            continue;
        }
        let case = Case::single(spec(format), WeightFormat::F32, 1, &[(0, 1)]);
        for matrix in stimulus::weights(&case, probe.backend)? {
            for rows in [0..70, 0..32, 32..70, 64..70] {
                let asked = WeightRows { matrix: Arc::clone(&matrix), rows };
                let weight = probe.backend.load_weight(asked.clone())?;
                let held = weight.rows();
                require(
                    held.rows == asked.rows && Arc::ptr_eq(&held.matrix, &matrix),
                    "a weight says that it holds other rows",
                )?;
                require(weight.device() == probe.backend.info().id, "a weight says that it is another device's")?;
            }
        }
    }
    Ok(())
}
