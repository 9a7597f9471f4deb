//! A backend around another one that changes something of it: for tests that need a device with a habit or a fault.

use std::fmt::Debug;
use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, DeviceInfo, Executable, OpSpec, Segment, Support, Tensor, TensorDesc, Weight,
    WeightRows,
};

use crate::ReferenceBackend;

/// What is different about a [`Wrapped`] backend. Everything that is not implemented is as the inner backend has it.
pub trait Wrapper: Debug + Send + Sync {
    /// As [`Backend::support`].
    fn support(&self, inner: &dyn Backend, op: &OpSpec) -> Support {
        inner.support(op)
    }

    /// As [`Backend::access`].
    fn access(&self, inner: &dyn Backend, tensor: &dyn Tensor) -> Access {
        inner.access(tensor)
    }

    /// As [`Backend::allocate`].
    fn allocate(&self, inner: &dyn Backend, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        inner.allocate(desc)
    }

    /// As [`Backend::compile`].
    fn compile(&self, inner: &dyn Backend, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        inner.compile(segment)
    }
}

/// A backend with something different about it.
#[derive(Debug)]
pub struct Wrapped<W> {
    inner: Arc<dyn Backend>,
    info: DeviceInfo,
    /// What is different.
    pub wrapper: W,
}

impl<W: Wrapper> Wrapped<W> {
    /// A new device that computes as the reference does.
    pub fn reference(wrapper: W) -> Wrapped<W> {
        Wrapped::around(Arc::new(ReferenceBackend::new()), wrapper)
    }

    /// A device with a change to it; the two are one.
    pub fn around(inner: Arc<dyn Backend>, wrapper: W) -> Wrapped<W> {
        let info = inner.info().clone();
        Wrapped { inner, info, wrapper }
    }

    /// Says otherwise what the device is. Its id stays.
    pub fn with_info(mut self, change: impl FnOnce(&mut DeviceInfo)) -> Wrapped<W> {
        let id = self.info.id;
        change(&mut self.info);
        self.info.id = id;
        self
    }
}

impl<W: Wrapper> Backend for Wrapped<W> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn support(&self, op: &OpSpec) -> Support {
        self.wrapper.support(&*self.inner, op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        self.wrapper.access(&*self.inner, tensor)
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        self.wrapper.allocate(&*self.inner, desc)
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        self.inner.load_weight(rows)
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        self.wrapper.compile(&*self.inner, segment)
    }
}
