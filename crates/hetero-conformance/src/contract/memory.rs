//! What a backend promises about tensors and weights.

use std::sync::Arc;

use hetero_core::{
    Access, BackendError, DType, Op, OpSpec, SharedTensor, Support, TensorDesc, WeightFormat, WeightRows,
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
        let Some(start) = tensor.host_ptr() else {
            return Err(Trouble::Unsupported("no host access".to_owned()));
        };
        require(start.addr().get().is_multiple_of(hetero_core::TENSOR_ALIGNMENT), "a tensor is not aligned")?;
        let image = Image::read(&SharedTensor::new(tensor));
        require(image.bits.iter().all(|&bits| bits == 0), "a tensor is not zeroed")?;
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
