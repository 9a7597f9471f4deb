//! Which device holds which rows of which weight.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use hetero_core::{Backend, BackendError, DeviceId, Weight, WeightMatrix, WeightRows};

/// The weights that devices have loaded, so that the plans of prefill and decode use the same ones.
#[derive(Debug, Default)]
pub struct Residency {
    /// By device, address of the matrix and rows. A loaded weight keeps its matrix alive, so an address is never
    /// used again.
    loaded: HashMap<(DeviceId, usize, Range<usize>), Arc<dyn Weight>>,
}

impl Residency {
    /// Nothing loaded.
    pub fn new() -> Residency {
        Residency::default()
    }

    /// Rows of a matrix on a device, loaded if they are not yet.
    pub fn load(
        &mut self,
        backend: &dyn Backend,
        matrix: &Arc<WeightMatrix>,
        rows: Range<usize>,
    ) -> Result<Arc<dyn Weight>, BackendError> {
        let key = (backend.info().id, Arc::as_ptr(matrix).addr(), rows.clone());
        if let Some(weight) = self.loaded.get(&key) {
            return Ok(Arc::clone(weight));
        }
        let weight = backend.load_weight(WeightRows { matrix: Arc::clone(matrix), rows })?;
        self.loaded.insert(key, Arc::clone(&weight));
        Ok(weight)
    }

    /// Bytes that devices hold besides the shared matrices.
    pub fn own_bytes(&self) -> u64 {
        self.loaded.values().map(|weight| weight.own_bytes()).sum()
    }
}
