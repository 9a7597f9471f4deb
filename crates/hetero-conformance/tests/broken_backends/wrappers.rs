//! Backends around the reference backend that change more than its arithmetic.

use std::sync::{Arc, Mutex};

use hetero_conformance::{ReferenceBackend, Wrapped, Wrapper};
use hetero_core::{Backend, BackendError, DType, Op, OpSpec, Support, Tensor, TensorDesc, reference};

/// A backend whose submissions flip a bit in one of its small tensors, whoever uses it.
#[derive(Debug)]
pub(crate) struct Trespasser {
    small: Arc<Mutex<Vec<usize>>>,
}

impl Trespasser {
    pub(crate) fn backend() -> Wrapped<Trespasser> {
        let small = Arc::new(Mutex::new(Vec::<usize>::new()));
        let known = Arc::clone(&small);
        let inner = ReferenceBackend::with_kernel(move |segment, bindings, step| {
            reference::run_segment(segment, bindings, step);
            let address = known.lock().unwrap()[1];
            let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address);
            // SAFETY: `allocate` exposed the address of a tensor that the one case which runs still holds, and the
            // suite holds no reference into it while a submission runs.
            unsafe { *pointer ^= 1 };
        });
        Wrapped::around(Arc::new(inner), Trespasser { small })
    }
}

impl Wrapper for Trespasser {
    fn allocate(&self, inner: &dyn Backend, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        let tensor = inner.allocate(desc)?;
        if (desc.rows, desc.columns) == (1, 64) {
            let start = tensor.host_ptr().unwrap();
            self.small.lock().unwrap().push(start.as_ptr().expose_provenance());
        }
        Ok(tensor)
    }
}

/// The reference backend without bf16.
#[derive(Debug)]
pub(crate) struct NoBf16;

impl Wrapper for NoBf16 {
    fn support(&self, inner: &dyn Backend, op: &OpSpec) -> Support {
        let is_bf16 = op.inputs.contains(&DType::BF16) || op.output == DType::BF16;
        match op.op {
            Op::Add { .. } if is_bf16 => Support::No("no bf16 here".to_owned()),
            _ => inner.support(op),
        }
    }
}
