//! What the solver asks about the devices: how long a part of an operator takes, and what starting it and waiting for
//! it cost.
//!
//! A [`CostModel`] is pure: the same question has the same answer, and asking measures nothing. Where the answers come
//! from (a measured profile, a table of published latencies, a formula) is its own business.
//!
//! All times are in seconds, all energies in joules.

mod profiled;

pub use profiled::{ProfiledCosts, ProfiledOptions};

use std::fmt::Debug;

use hetero_core::{DeviceKind, OpSpec, OperandOrder};

/// The most devices that a plan can use.
pub const MAX_DEVICES: usize = 4;

/// Devices, by their index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceSet(u8);

impl DeviceSet {
    /// None.
    pub const EMPTY: DeviceSet = DeviceSet(0);

    /// The devices from 0 to `n`, without `n`.
    ///
    /// # Panics
    /// When there are more than [`MAX_DEVICES`].
    pub fn first(n: usize) -> DeviceSet {
        assert!(n <= MAX_DEVICES, "a plan uses at most {MAX_DEVICES} devices, not {n}");
        DeviceSet(((1u16 << n) - 1) as u8)
    }

    /// One device.
    pub fn one(device_idx: usize) -> DeviceSet {
        DeviceSet::EMPTY.with(device_idx)
    }

    /// These and another one.
    pub fn with(self, device_idx: usize) -> DeviceSet {
        assert!(device_idx < MAX_DEVICES, "a plan uses at most {MAX_DEVICES} devices");
        DeviceSet(self.0 | 1 << device_idx)
    }

    /// These but one.
    pub fn without(self, device_idx: usize) -> DeviceSet {
        DeviceSet(self.0 & !(1 << device_idx))
    }

    /// Whether a device is one of these.
    pub fn contains(self, device_idx: usize) -> bool {
        device_idx < MAX_DEVICES && self.0 & (1 << device_idx) != 0
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their indices, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_DEVICES).filter(move |&idx| self.contains(idx))
    }

    /// The set as bits, lowest index first; below `1 << MAX_DEVICES`.
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl FromIterator<usize> for DeviceSet {
    fn from_iter<I: IntoIterator<Item = usize>>(devices: I) -> DeviceSet {
        devices.into_iter().fold(DeviceSet::EMPTY, DeviceSet::with)
    }
}

/// What using a device costs besides the work itself, and which shapes it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceCosts {
    /// The name by which users choose it.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// Seconds of the host for one submission.
    pub submit_seconds: f64,
    /// Seconds that it takes longer when the device's queue has run empty.
    pub submit_idle_seconds: f64,
    /// Seconds of the device before the first operator of a submission.
    pub start_seconds: f64,
    /// Seconds from a submission's completion until the host knows it, with the waiting policy that will be used.
    pub sync_seconds: f64,
    /// Cuts of weight rows on multiples of this run at full speed.
    pub row_alignment: usize,
    /// The numbers of positions for which it has compiled graphs, ascending; empty when it takes any number.
    pub standard_rows: Vec<usize>,
    /// Whether it matters which operand stays in its array.
    pub order_sensitive: bool,
    /// The most bytes of weights in one submission; `None` for any number.
    pub max_segment_weight_bytes: Option<u64>,
    /// The most submissions of different shapes or weights that it holds compiled; `None` for any number.
    pub max_graphs: Option<usize>,
    /// The number of the memory that it computes in. Devices with the same number reach each other's tensors; between
    /// others the host copies.
    pub memory: usize,
    /// Seconds of the host to copy out of the device's memory or into it, however little.
    pub copy_seconds: f64,
    /// The same for each byte, besides.
    pub copy_seconds_per_byte: f64,
}

impl DeviceCosts {
    /// A device that takes any shape and costs nothing besides the work itself.
    pub fn new(name: &str, kind: DeviceKind) -> DeviceCosts {
        DeviceCosts {
            name: name.to_owned(),
            kind,
            submit_seconds: 0.0,
            submit_idle_seconds: 0.0,
            start_seconds: 0.0,
            sync_seconds: 0.0,
            row_alignment: 32,
            standard_rows: Vec::new(),
            order_sensitive: false,
            max_segment_weight_bytes: None,
            max_graphs: None,
            memory: 0,
            copy_seconds: 0.0,
            copy_seconds_per_byte: 0.0,
        }
    }

    /// The number of positions that is computed when `rows` are asked for: the next standard number, or whole multiples
    /// of the largest. `rows` itself for a device that takes any number.
    pub fn padded_rows(&self, rows: usize) -> usize {
        match (self.standard_rows.iter().find(|&&standard| standard >= rows), self.standard_rows.last()) {
            (Some(&standard), _) => standard,
            (None, Some(&largest)) => rows.next_multiple_of(largest),
            (None, None) => rows,
        }
    }

    /// Of `rows` positions, at least 1, how many it computes first where it computes standard numbers one after the
    /// other: the largest that fits, or all that is left where that may be padded.
    pub fn next_chunk(&self, rows: usize) -> usize {
        let fitting = self.standard_rows.iter().rev().find(|&&size| size > 1 && size <= rows);
        // Padding up to a quarter of the work is less trouble than another graph.
        let is_tight = rows * 4 > self.padded_rows(rows) * 3;
        let taken = if is_tight { rows } else { fitting.map_or(rows, |&size| size) };
        taken.min(self.standard_rows.last().map_or(rows, |&largest| largest))
    }

    /// The number of positions that is computed when `rows` are, in standard numbers one after the other.
    pub fn piped_rows(&self, rows: usize) -> usize {
        let (mut left, mut computed) = (rows, 0);
        while left > 0 {
            let chunk = self.next_chunk(left);
            computed += self.padded_rows(chunk);
            left -= chunk;
        }
        computed
    }
}

/// A kind of operator with its shapes and element types, as a cost model numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub usize);

/// A part of an operator whose cost is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartShape {
    /// Which operator.
    pub class: ClassId,
    /// Positions that are computed, padding included.
    pub rows: usize,
    /// Positions before the first of them: what attention looks back at.
    pub past: usize,
    /// Columns of the output; for a linear operator rows of its weight matrix.
    pub columns: usize,
    /// Which operand stays in the array of an order-sensitive device.
    pub order: OperandOrder,
    /// Other devices that compute parts of the same node at the same time, and may slow this one down.
    pub companions: DeviceSet,
}

/// How long parts of operators take. See the module's documentation.
pub trait CostModel: Debug + Send + Sync {
    /// The devices; a device index of all other methods is an index into this.
    fn devices(&self) -> &[DeviceCosts];

    /// The number of an operator. Operators that cost the same may share one; an operator that is not known has one
    /// for which [`CostModel::seconds`] is always `None`.
    fn class(&self, spec: &OpSpec) -> ClassId;

    /// Seconds for which a part occupies a device, or `None` when the device cannot compute it.
    ///
    /// Where there is a [`CostModel::bus`], the time beside companions is an estimate, and what counts in the end is the
    /// time without any, stretched where the bus is short.
    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64>;

    /// [`CostModel::seconds`] without companions, and with those of the shape: one question where both take the same work
    /// to tell.
    fn seconds_alone_and_beside(&self, device_idx: usize, shape: &PartShape) -> Option<[f64; 2]> {
        let alone = PartShape { companions: DeviceSet::EMPTY, ..*shape };
        Some([self.seconds(device_idx, &alone)?, self.seconds(device_idx, shape)?])
    }

    /// Bytes that a part moves over the memory bus, where there is a [`CostModel::bus`].
    fn bus_bytes(&self, _device_idx: usize, _shape: &PartShape) -> f64 {
        0.0
    }

    /// Bytes per second that all devices together move at most. Infinite where devices do not share a bus, or where
    /// [`CostModel::seconds`] says all about how companions slow each other down.
    fn bus(&self) -> f64 {
        f64::INFINITY
    }

    /// The part of [`CostModel::seconds`] by which they may be off: zero where they are taken as they are. What runs on
    /// one device is off by the same, so that it cancels between plans that have it in common.
    fn uncertainty(&self, _device_idx: usize, _shape: &PartShape) -> f64 {
        0.0
    }

    /// Seconds by which what a submission costs besides its work may be off.
    fn submission_uncertainty(&self, _device_idx: usize) -> f64 {
        0.0
    }

    /// Joules that a part takes besides what the machine takes when it is idle.
    fn joules(&self, device_idx: usize, shape: &PartShape) -> f64;

    /// Watts of the machine when nothing runs.
    fn idle_watts(&self) -> f64;

    /// Bytes of its own that a device needs to hold so many weight rows of an operator: zero where it computes on the
    /// shared matrix.
    fn own_bytes(&self, device_idx: usize, class: ClassId, columns: usize) -> u64;

    /// Seconds to compile a part for a device, once for each shape.
    fn compile_seconds(&self, device_idx: usize, shape: &PartShape) -> f64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_the_next_standard_number() {
        let mut costs = DeviceCosts { standard_rows: vec![1, 32, 256], ..DeviceCosts::new("npu", DeviceKind::Npu) };
        let padded: Vec<usize> =
            [1, 2, 32, 33, 256, 257, 700].into_iter().map(|rows| costs.padded_rows(rows)).collect();
        assert_eq!(padded, [1, 32, 32, 256, 256, 512, 768]);
        costs.standard_rows.clear();
        assert_eq!(costs.padded_rows(33), 33);
    }

    #[test]
    fn standard_numbers_come_one_after_the_other_where_padding_is_more_than_a_quarter() {
        let standard_rows = vec![1, 32, 64, 128, 256, 512];
        let mut costs = DeviceCosts { standard_rows, ..DeviceCosts::new("npu", DeviceKind::Npu) };
        let piped = |rows: usize| (costs.next_chunk(rows), costs.piped_rows(rows));
        // 300 is 256 and 44 of 64; 400 of 512 is padded; 700 is 512, 128 and 60 of 64.
        assert_eq!([300, 400, 700].map(piped), [(256, 320), (400, 512), (512, 704)]);
        assert_eq!([1, 20, 256, 2000].map(piped), [(1, 1), (20, 32), (256, 256), (512, 2048)]);
        costs.standard_rows.clear();
        assert_eq!((costs.next_chunk(33), costs.piped_rows(33)), (33, 33));
    }

    #[test]
    fn device_sets_are_sets() {
        let set: DeviceSet = [2, 0].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2]);
        assert_eq!((set.len(), set.without(2), set.contains(1)), (2, DeviceSet::one(0), false));
    }
}
