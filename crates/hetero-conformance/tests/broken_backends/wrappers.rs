//! Backends around the reference backend that change more than its arithmetic.

use std::sync::{Arc, Mutex};

use hetero_conformance::ReferenceBackend;
use hetero_core::{
    Access, Backend, BackendError, DType, DeviceInfo, Executable, Op, OpSpec, Segment, Support, Tensor, TensorDesc,
    Weight, WeightRows, reference,
};

/// A backend whose submissions flip a bit in one of its small tensors, whoever uses it.
#[derive(Debug)]
pub(crate) struct Trespasser {
    inner: ReferenceBackend,
    small: Arc<Mutex<Vec<usize>>>,
}

impl Trespasser {
    pub(crate) fn new() -> Trespasser {
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
        Trespasser { inner, small }
    }
}

impl Backend for Trespasser {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn support(&self, op: &OpSpec) -> Support {
        self.inner.support(op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        self.inner.access(tensor)
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        let tensor = self.inner.allocate(desc)?;
        if (desc.rows, desc.columns) == (1, 64) {
            let start = tensor.host_ptr().unwrap();
            self.small.lock().unwrap().push(start.as_ptr().expose_provenance());
        }
        Ok(tensor)
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        self.inner.load_weight(rows)
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        self.inner.compile(segment)
    }
}

/// The reference backend without bf16.
#[derive(Debug)]
pub(crate) struct NoBf16(pub(crate) ReferenceBackend);

impl Backend for NoBf16 {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn support(&self, op: &OpSpec) -> Support {
        let is_bf16 = op.inputs.contains(&DType::BF16) || op.output == DType::BF16;
        match op.op {
            Op::Add { .. } if is_bf16 => Support::No("no bf16 here".to_owned()),
            _ => self.0.support(op),
        }
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        self.0.access(tensor)
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        self.0.allocate(desc)
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        self.0.load_weight(rows)
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        self.0.compile(segment)
    }
}
