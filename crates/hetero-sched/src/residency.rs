//! What devices hold for the plans that live together: which rows of which weights, and the segments that are compiled
//! with them.
//!
//! Every executor of a team keeps its compiled segments here too, so that one can make room for what another needs: what
//! no present plan uses is given up, what was not used for longest first. Rows that no segment uses stay for later, as
//! long as no budget is in the way.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hetero_core::{
    Backend, BackendError, Claim, DeviceId, Executable, NodeId, OperandOrder, Part, SharedTensor, Weight, WeightMatrix,
    WeightRows,
};

use crate::PlacedPart;
use crate::solver::Inventory;

/// Rows of a matrix on a device: the device, the address of the matrix, the rows. A loaded weight keeps its matrix
/// alive, so an address is not used again while it is here.
pub(crate) type RowsKey = (DeviceId, usize, Range<usize>);

/// A device of an executor and what it computes in one submission.
pub(crate) type SegmentKey = (usize, Vec<(NodeId, Part, OperandOrder)>);

/// The weights that devices have loaded, so that the plans of prefill and decode use the same ones, and who uses them.
#[derive(Debug, Default)]
pub struct Residency {
    loaded: HashMap<RowsKey, Arc<dyn Weight>>,
    /// The compiled segments of each executor.
    executors: Vec<Weak<Mutex<Graphs>>>,
    /// The most bytes that devices may hold as copies of their own.
    budget: Option<u64>,
}

/// The compiled segments of an executor.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    pub(crate) compiled: HashMap<SegmentKey, Compiled>,
    /// The plan that the executor runs.
    pub(crate) plan: u64,
}

/// A segment as a device runs it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) executable: Arc<dyn Executable>,
    pub(crate) tensors: Arc<[(Arc<SharedTensor>, Arc<Claim>)]>,
    /// The rows that it computes with.
    pub(crate) weights: Vec<(RowsKey, Arc<dyn Weight>)>,
    pub(crate) device: DeviceId,
    /// The last plan that it was for.
    pub(crate) plan: u64,
}

impl Residency {
    /// Nothing loaded.
    pub fn new() -> Residency {
        Residency::default()
    }

    /// Nothing loaded, and no room for more than so many bytes of weights besides the shared matrices.
    pub fn with_budget(bytes: u64) -> Residency {
        Residency { budget: Some(bytes), ..Residency::default() }
    }

    /// Rows of a matrix on a device, loaded if they are not yet.
    pub fn load(
        &mut self,
        backend: &dyn Backend,
        matrix: &Arc<WeightMatrix>,
        rows: Range<usize>,
    ) -> Result<Arc<dyn Weight>, BackendError> {
        let key = rows_key(backend, matrix, rows.clone());
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

    /// For each of some devices, the bytes that it holds besides the shared matrices, and of these the bytes of rows of
    /// which it holds another copy too, because plans cut the matrix differently.
    pub fn own_bytes_of(&self, devices: &[Arc<dyn Backend>]) -> Vec<[u64; 2]> {
        let of_device = |device: &Arc<dyn Backend>| {
            let id = device.info().id;
            let mut held: HashMap<usize, Vec<(Range<usize>, u64)>> = HashMap::new();
            for ((_, matrix, rows), weight) in self.loaded.iter().filter(|((its, ..), _)| *its == id) {
                held.entry(*matrix).or_default().push((rows.clone(), weight.own_bytes()));
            }
            let bytes = held.values().flatten().map(|(_, bytes)| bytes).sum();
            [bytes, held.into_values().map(repeated_bytes).sum()]
        };
        devices.iter().map(of_device).collect()
    }

    /// Takes an executor's compiled segments up.
    pub(crate) fn register(&mut self, graphs: &Arc<Mutex<Graphs>>) {
        self.executors.retain(|known| known.strong_count() > 0);
        self.executors.push(Arc::downgrade(graphs));
    }

    /// Makes room for the rows that an executor wants to load, if there is a budget: gives up what neither these rows
    /// nor a present plan of another executor needs.
    pub(crate) fn make_room(&mut self, own: &Arc<Mutex<Graphs>>, wanted: HashSet<RowsKey>) {
        if self.budget.is_none() {
            return;
        }
        let mut needed = wanted;
        let executors: Vec<Arc<Mutex<Graphs>>> = self.executors.iter().filter_map(Weak::upgrade).collect();
        for other in executors.iter().filter(|other| !Arc::ptr_eq(other, own)) {
            needed.extend(lock(other).present().flat_map(|compiled| compiled.rows().cloned()));
        }
        for graphs in &executors {
            let is_own = Arc::ptr_eq(graphs, own);
            let mut graphs = lock(graphs);
            let plan = graphs.plan;
            graphs.compiled.retain(|_, compiled| {
                (!is_own && compiled.plan == plan) || compiled.rows().all(|rows| needed.contains(rows))
            });
        }
        self.loaded.retain(|rows, _| needed.contains(rows));
    }

    /// Gives up a compiled segment of a device that no present plan needs, `own` being in preparation: the executor's
    /// own that was used by the oldest plan, or else another's. Whether there was one.
    pub(crate) fn forget(&mut self, own: &Arc<Mutex<Graphs>>, device: DeviceId) -> bool {
        if lock(own).forget(device) {
            return true;
        }
        let others = self.executors.iter().filter_map(Weak::upgrade).filter(|other| !Arc::ptr_eq(other, own));
        others.into_iter().any(|other| lock(&other).forget(device))
    }

    /// By what an inventory knows matrices.
    pub(crate) fn matrices(&self, weights: &[Arc<WeightMatrix>]) -> Vec<usize> {
        weights.iter().map(address).collect()
    }

    /// What is there, as plans for a graph with these weights see it. What present plans of executors other than `own`
    /// need is pinned.
    pub(crate) fn inventory(
        &self,
        own: Option<&Arc<Mutex<Graphs>>>,
        devices: &[Arc<dyn Backend>],
        weights: &[Arc<WeightMatrix>],
    ) -> Inventory {
        let mut inventory = Inventory::default().seen_by(self.matrices(weights));
        let idx_of = |id: DeviceId| devices.iter().position(|device| device.info().id == id);
        let mut pinned = HashSet::new();
        for graphs in self.executors.iter().filter_map(Weak::upgrade) {
            let is_own = own.is_some_and(|own| Arc::ptr_eq(own, &graphs));
            let graphs = lock(&graphs);
            if is_own {
                for (device_idx, nodes) in graphs.compiled.keys() {
                    for (node, part, operand_order) in nodes {
                        let (part, operand_order) = (part.clone(), *operand_order);
                        inventory.compiled(*node, PlacedPart { device_idx: *device_idx, part, operand_order });
                    }
                }
            } else {
                for compiled in graphs.present() {
                    pinned.extend(compiled.rows().cloned());
                    idx_of(compiled.device).into_iter().for_each(|device_idx| inventory.pin_graph(device_idx));
                }
            }
        }
        for (key, weight) in &self.loaded {
            if let Some(device_idx) = idx_of(key.0) {
                let rows = (device_idx, key.1, key.2.clone());
                inventory.hold(rows, weight.own_bytes(), pinned.contains(key));
            }
        }
        inventory
    }
}

impl Graphs {
    /// The segments of the executor's plan.
    fn present(&self) -> impl Iterator<Item = &Compiled> {
        self.compiled.values().filter(|compiled| compiled.plan == self.plan)
    }

    /// Gives up the segment of a device that was used by the oldest plan, if that is not the present one.
    fn forget(&mut self, device: DeviceId) -> bool {
        let of_device =
            |(_, compiled): &(&SegmentKey, &Compiled)| compiled.device == device && compiled.plan < self.plan;
        let of_device = self.compiled.iter().filter(of_device);
        // The nodes make the choice among those of one plan the same every time.
        let oldest = of_device.min_by_key(|(key, compiled)| (compiled.plan, key.1.first().map(|(node, ..)| *node)));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return false };
        self.compiled.remove(&key);
        true
    }
}

impl Compiled {
    fn rows(&self) -> impl Iterator<Item = &RowsKey> {
        self.weights.iter().map(|(rows, _)| rows)
    }
}

/// What a device's rows of a matrix are known by.
pub(crate) fn rows_key(backend: &dyn Backend, matrix: &Arc<WeightMatrix>, rows: Range<usize>) -> RowsKey {
    (backend.info().id, address(matrix), rows)
}

/// The compiled segments of an executor.
pub(crate) fn lock(graphs: &Mutex<Graphs>) -> MutexGuard<'_, Graphs> {
    graphs.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(matrix: &Arc<WeightMatrix>) -> usize {
    Arc::as_ptr(matrix).addr()
}

/// Of ranges of rows with their bytes, the bytes of rows that an earlier range has too.
pub(crate) fn repeated_bytes(mut held: Vec<(Range<usize>, u64)>) -> u64 {
    held.sort_by_key(|(rows, _)| (rows.start, rows.end));
    let (mut end, mut repeated) = (0, 0.0);
    for (rows, bytes) in held {
        let common = rows.end.min(end).saturating_sub(rows.start);
        repeated += bytes as f64 * common as f64 / rows.len().max(1) as f64;
        end = end.max(rows.end);
    }
    repeated as u64
}

#[cfg(test)]
mod tests {
    use super::repeated_bytes;

    #[test]
    fn rows_in_several_cuts_count_from_their_second_copy_on() {
        assert_eq!(repeated_bytes(vec![(0..32, 320), (32..64, 320)]), 0);
        assert_eq!(repeated_bytes(vec![(32..64, 320), (0..64, 640)]), 320);
        assert_eq!(repeated_bytes(vec![(0..64, 640), (0..32, 320), (16..96, 800)]), 320 + 480);
    }
}
