//! Who may read and who may write a tensor, now.
//!
//! This file holds the argument for all shared memory of the workspace. A [`SharedTensor`] keeps a table of the rights
//! that are out: each is a [`Claim`], rectangles to read and rectangles to write. Two claims conflict when one writes
//! an element that the other touches.
//!
//! A right lends references only while it is **active**, and active rights never conflict:
//!
//! - A right that conflicts with one in the table is refused, unless both were taken for the same queue: a processor
//!   that finishes each submission before it begins the next ([`SharedTensor::lend`]). So conflicting rights in the
//!   table are of one queue, and have an order.
//! - A right becomes active when no conflicting one that was taken before it is left in the table, and stays so until
//!   it is given back. Of two conflicting rights the later is therefore never active while the earlier exists.
//!
//! So at any time every element has at most one active writer, and no active reader beside it but that writer itself.
//! From that, references into the memory are sound: a slot lends `&mut` through `&mut self` to what it writes, a slot
//! or view lends `&` through `&self` to what it reads, and giving a right back takes `&mut self` or the right itself,
//! when none of these references lives any more.
//!
//! The table is behind a lock: what the last holder wrote happens before what the next holder reads. A processor that
//! works in the background holds its rights through the [`crate::Ticket`], which gives them back only after the
//! processor has finished.
//!
//! A processor that works with addresses takes rights **over** ([`crate::Bindings::hand_over`]): they lend no reference
//! any more, and are refused unless every conflicting right that was taken before is in the same processor's hands
//! already. Submissions of one processor touch memory one after the other, so it too is alone with what it writes.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    BackendError, Binding, ByteRuns, Claim, DeviceId, Element, Part, Partition, RowBlocks, Tensor, TensorDesc,
};

/// A tensor together with the rights to it that are out.
#[derive(Debug)]
pub struct SharedTensor {
    tensor: Arc<dyn Tensor>,
    table: Mutex<Table>,
    /// Claims to all of it, so that taking them allocates nothing.
    read_all: Arc<Claim>,
    write_all: Arc<Claim>,
}

#[derive(Debug)]
struct Table {
    lent: Vec<Lent>,
    next_id: u64,
}

/// A right that is out.
#[derive(Debug)]
struct Lent {
    /// Rises with the order of taking; clones of a view have the id of the first.
    id: u64,
    queue: Option<DeviceId>,
    /// The processor that works on it with addresses.
    handed_to: Option<DeviceId>,
    claim: Arc<Claim>,
}

impl SharedTensor {
    /// Takes a tensor under this crate's rules.
    ///
    /// # Panics
    /// When the tensor has another owner: two tables of one memory would protect nothing.
    pub fn new(mut tensor: Arc<dyn Tensor>) -> Arc<SharedTensor> {
        assert!(Arc::get_mut(&mut tensor).is_some(), "a tensor must have one owner when it becomes shared");
        let desc = tensor.desc();
        let whole = Part::whole(desc.rows, desc.columns);
        Arc::new(SharedTensor {
            tensor,
            // Room for what is out at a time, as a rule: a submission or two on each processor.
            table: Mutex::new(Table { lent: Vec::with_capacity(8), next_id: 0 }),
            read_all: Arc::new(Claim::new([whole.clone()], [])),
            write_all: Arc::new(Claim::new([], [whole])),
        })
    }

    /// Shape and element type.
    pub fn desc(&self) -> &TensorDesc {
        self.tensor.desc()
    }

    /// The tensor itself, for a backend to see what kind it is. Touching its memory takes a slot or a view.
    pub fn tensor(&self) -> &dyn Tensor {
        &*self.tensor
    }

    /// The right to read all of the tensor.
    ///
    /// # Panics
    /// When somebody may write a part of it.
    pub fn view(self: &Arc<Self>) -> View {
        View { right: self.take(&self.read_all, None) }
    }

    /// The exclusive right to all of the tensor.
    ///
    /// # Panics
    /// When another right to it is out.
    pub fn slot(self: &Arc<Self>) -> Slot {
        Slot { right: self.take(&self.write_all, None) }
    }

    /// The exclusive rights to the parts of a partition, appended to `slots` in the partition's order.
    ///
    /// # Panics
    /// When another right to the tensor is out, or the partition is of another shape.
    pub fn split(self: &Arc<Self>, partition: &Partition, slots: &mut Vec<Slot>) {
        let TensorDesc { rows, columns, .. } = *self.desc();
        assert_eq!(
            partition.shape(),
            (rows, columns),
            "a partition of another shape than the tensor {:?}",
            self.desc()
        );
        slots.extend(partition.parts().iter().map(|part| {
            let claim = Arc::new(Claim::new([], [part.clone()]));
            Slot { right: self.take(&claim, None) }
        }));
    }

    /// The right to what a submission on `queue` claims: a slot when it writes anything.
    ///
    /// The submission may be queued behind others that conflict with it, so that the processor goes from one to the
    /// next without a word from the host. Their rights must have been taken in the order of submission. The right
    /// lends nothing before theirs have been given back.
    ///
    /// # Panics
    /// When the claim conflicts with a right that was not taken for the same queue, or reaches over the tensor's edge.
    pub fn lend(self: &Arc<Self>, claim: &Arc<Claim>, queue: DeviceId) -> Binding {
        let right = self.take(claim, Some(queue));
        if claim.writes().is_empty() { Binding::Read(View { right }) } else { Binding::Write(Slot { right }) }
    }

    fn take(self: &Arc<Self>, claim: &Arc<Claim>, queue: Option<DeviceId>) -> Right {
        assert!(self.write_all.covers(claim), "a claim to {claim:?} of a tensor {:?}", self.desc());
        let mut table = self.table();
        let mut is_first = true;
        for lent in table.lent.iter().filter(|lent| lent.claim.conflicts_with(claim)) {
            is_first = false;
            assert!(queue.is_some() && lent.queue == queue, "{}", self.conflict(claim, &lent.claim));
        }
        let id = table.next_id;
        table.next_id += 1;
        table.lent.push(Lent { id, queue, handed_to: None, claim: Arc::clone(claim) });
        drop(table);
        Right {
            tensor: Arc::clone(self),
            claim: Arc::clone(claim),
            id,
            is_active: AtomicBool::new(is_first),
            is_held: true,
            is_handed_over: false,
        }
    }

    fn conflict(&self, wanted: &Claim, lent: &Claim) -> String {
        let what = if wanted.writes().is_empty() {
            "is read while it is being written"
        } else {
            "is to be written while it is in use"
        };
        format!("a tensor {:?} {what}: {wanted:?} is wanted and {lent:?} is lent", self.desc())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A refusal panics under the lock, before the table is changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An element, as an address inside the allocation.
    fn element(&self, row: usize, column: usize) -> NonNull<u8> {
        let desc = self.desc();
        debug_assert!(row < desc.rows && column <= desc.columns);
        let offset = (row * desc.columns + column) * desc.dtype.size();
        let start = self.tensor.host_ptr().expect("the tensor is not host-visible: copy it first");
        // SAFETY: row and column lie inside the tensor, because claims do (`take`) and callers look for the element in
        // a claim, so the offset lies inside the `desc.bytes()` bytes that `Tensor` promises.
        unsafe { start.add(offset) }
    }
}

/// A right that is in the table of its tensor until it is given back.
#[derive(Debug)]
struct Right {
    tensor: Arc<SharedTensor>,
    claim: Arc<Claim>,
    id: u64,
    /// That no conflicting right before it is left has been seen.
    is_active: AtomicBool,
    is_held: bool,
    /// A processor works on it with addresses, so that it lends no references.
    is_handed_over: bool,
}

impl Right {
    /// Sees to it that the right is active.
    ///
    /// # Panics
    /// When it cannot be.
    fn activate(&self) {
        // Acquire, with the Release below: a thread that finds the right active sees what was written before that.
        if self.is_active.load(Ordering::Acquire) {
            return;
        }
        assert!(
            self.is_held && !self.is_handed_over,
            "a right to a tensor {:?} is used after it was given back or to a processor",
            self.tensor.desc()
        );
        let table = self.tensor.table();
        let before = table.lent.iter().find(|lent| lent.id < self.id && lent.claim.conflicts_with(&self.claim));
        assert!(
            before.is_none(),
            "a tensor {:?} is touched before an earlier submission has given it back: {before:?}",
            self.tensor.desc()
        );
        self.is_active.store(true, Ordering::Release);
    }

    fn hand_over(&mut self, processor: DeviceId) {
        assert!(self.is_held, "a right to a tensor {:?} is used after it was given back", self.tensor.desc());
        let mut table = self.tensor.table();
        for lent in &mut table.lent {
            let is_before = lent.id < self.id && lent.handed_to != Some(processor);
            assert!(
                !is_before || !lent.claim.conflicts_with(&self.claim),
                "a tensor {:?} is submitted before an earlier submission has given it back: {lent:?}",
                self.tensor.desc()
            );
            if lent.id == self.id {
                lent.handed_to = Some(processor);
            }
        }
        drop(table);
        self.is_handed_over = true;
        *self.is_active.get_mut() = false;
    }

    /// The address of some columns of one row which lie within one of `parts`, those of this right's claim.
    fn lent<T: Element>(&self, row: usize, columns: std::ops::Range<usize>, is_allowed: bool) -> NonNull<T> {
        let desc = self.tensor.desc();
        assert_eq!(desc.dtype, T::DTYPE, "elements of another type");
        assert!(row < desc.rows, "row {row} of a tensor with {} rows", desc.rows);
        assert!(is_allowed, "row {row}, columns {columns:?} are outside the right's part: {:?}", self.claim);
        self.activate();
        self.tensor.element(row, columns.start).cast()
    }

    fn read<T: Element>(&self, row: usize, columns: std::ops::Range<usize>) -> &[T] {
        let n_columns = columns.len();
        let is_allowed = self.claim.may_read(&Part { rows: row..row + 1, columns: columns.clone() });
        let start = self.lent::<T>(row, columns, is_allowed);
        // SAFETY: `Tensor` promises initialised, aligned elements of this type, and `T` is plain data of the tensor's
        // dtype. The elements lie within one rectangle that this right claims, hence in one row inside the tensor, and
        // it is active, so nobody else writes them; `&self` keeps `write` away while the reference lives.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), n_columns) }
    }

    fn write<T: Element>(&mut self, row: usize, columns: std::ops::Range<usize>) -> &mut [T] {
        let n_columns = columns.len();
        let is_allowed = self.claim.may_write(&Part { rows: row..row + 1, columns: columns.clone() });
        let start = self.lent::<T>(row, columns, is_allowed);
        // SAFETY: as in `read`, for a rectangle that this right writes, so that nobody else touches the elements;
        // `&mut self` makes this the only reference that this right lends.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), n_columns) }
    }

    fn read_bytes(&self, bounds: &Part, runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        assert!(self.claim.may_read(bounds), "{bounds:?} is outside the right's part: {:?}", self.claim);
        assert_eq!(out.len(), runs.bytes(), "the bytes of {bounds:?} of a tensor {:?}", self.tensor.desc());
        self.activate();
        let Some(pointer) = self.tensor.tensor.host_ptr() else { return self.tensor.tensor.download(runs, out) };
        for (run, out) in runs.iter().zip(out.chunks_exact_mut(runs.len.max(1))) {
            // SAFETY: as in `read`: a run lies within `bounds`, which this right claims, and any initialised memory is
            // bytes.
            let bytes = unsafe { std::slice::from_raw_parts(pointer.add(run.start).as_ptr(), run.len()) };
            out.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn write_bytes(&mut self, bounds: &Part, runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        assert!(self.claim.may_write(bounds), "{bounds:?} is outside the right's part: {:?}", self.claim);
        assert_eq!(bytes.len(), runs.bytes(), "the bytes of {bounds:?} of a tensor {:?}", self.tensor.desc());
        self.activate();
        let Some(pointer) = self.tensor.tensor.host_ptr() else { return self.tensor.tensor.upload(runs, bytes) };
        for (run, bytes) in runs.iter().zip(bytes.chunks_exact(runs.len.max(1))) {
            // SAFETY: as in `read_bytes`, for bytes that this right writes, and `&mut self` makes this the only
            // reference that it lends. All element types are plain data: any bytes are elements.
            let out = unsafe { std::slice::from_raw_parts_mut(pointer.add(run.start).as_ptr(), run.len()) };
            out.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn give_back(&mut self) {
        if std::mem::replace(&mut self.is_held, false) {
            *self.is_active.get_mut() = false;
            let mut table = self.tensor.table();
            let idx = table.lent.iter().position(|lent| lent.id == self.id);
            table.lent.swap_remove(idx.expect("a right that is held is in the table"));
        }
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The shared right to read rectangles of a tensor; given back when dropped.
#[derive(Debug)]
pub struct View {
    right: Right,
}

impl View {
    /// The tensor that may be read.
    pub fn tensor(&self) -> &SharedTensor {
        &self.right.tensor
    }

    pub(crate) fn shared(&self) -> &Arc<SharedTensor> {
        &self.right.tensor
    }

    /// What may be read.
    pub fn claim(&self) -> &Claim {
        &self.right.claim
    }

    /// The elements of one row, all columns.
    ///
    /// # Panics
    /// When the row does not exist or may not be read, the element type is another, or the tensor is not host-visible.
    pub fn row<T: Element>(&self, row: usize) -> &[T] {
        self.right.read(row, 0..self.tensor().desc().columns)
    }

    /// The elements of some columns of one row.
    ///
    /// # Panics
    /// As [`View::row`].
    pub fn columns<T: Element>(&self, row: usize, first_column: usize, n_columns: usize) -> &[T] {
        self.right.read(row, first_column..first_column + n_columns)
    }

    /// Copies a rectangle into `out`, its rows one after the other, wherever the tensor lives. May wait for the device.
    ///
    /// # Panics
    /// When the rectangle may not be read, or `out` is not as long as it.
    pub fn read_bytes(&self, part: &Part, out: &mut [u8]) -> Result<(), BackendError> {
        self.right.read_bytes(part, ByteRuns::of_part(self.tensor().desc(), part), out)
    }

    /// Copies blocks of rows into `out`, one behind the other; otherwise as [`View::read_bytes`].
    pub fn read_blocks(&self, blocks: &RowBlocks, out: &mut [u8]) -> Result<(), BackendError> {
        let desc = self.tensor().desc();
        self.right.read_bytes(&blocks.bounds(desc), ByteRuns::of_blocks(desc, blocks), out)
    }

    pub(crate) fn give_back(&mut self) {
        self.right.give_back();
    }

    pub(crate) fn hand_over(&mut self, processor: DeviceId) {
        self.right.hand_over(processor);
    }
}

impl Clone for View {
    /// # Panics
    /// When the view was given back.
    fn clone(&self) -> Self {
        let Right { tensor, claim, id, is_active, is_held, is_handed_over } = &self.right;
        assert!(*is_held, "a view of {:?} is cloned after it was given back", tensor.desc());
        let mut table = tensor.table();
        let lent = table.lent.iter().find(|lent| lent.id == *id);
        let Lent { queue, handed_to, .. } = *lent.expect("a right that is held is in the table");
        // The same id: whoever waits for this view waits for the clone as well.
        table.lent.push(Lent { id: *id, queue, handed_to, claim: Arc::clone(claim) });
        drop(table);
        let right = Right {
            tensor: Arc::clone(tensor),
            claim: Arc::clone(claim),
            id: *id,
            is_active: AtomicBool::new(is_active.load(Ordering::Acquire)),
            is_held: true,
            is_handed_over: *is_handed_over,
        };
        View { right }
    }
}

/// The exclusive right to rectangles of a tensor, and perhaps the shared right to read others; given back when
/// dropped.
#[derive(Debug)]
pub struct Slot {
    right: Right,
}

impl Slot {
    /// The tensor of which a part is owned.
    pub fn tensor(&self) -> &SharedTensor {
        &self.right.tensor
    }

    pub(crate) fn shared(&self) -> &Arc<SharedTensor> {
        &self.right.tensor
    }

    /// What may be read and written.
    pub fn claim(&self) -> &Claim {
        &self.right.claim
    }

    /// The owned columns of a row of the tensor.
    ///
    /// # Panics
    /// When the row is in none of the owned rectangles, or in several.
    pub fn owned_columns(&self, row: usize) -> std::ops::Range<usize> {
        let mut parts = self.claim().writes().iter().filter(|part| part.rows.contains(&row));
        let part = parts.next();
        let part = part.unwrap_or_else(|| panic!("row {row} is outside the slot's part {:?}", self.claim().writes()));
        assert!(parts.next().is_none(), "row {row} is in several parts of the slot: say which columns");
        part.columns.clone()
    }

    /// The owned elements of one row of the tensor, [`Slot::owned_columns`] of it.
    ///
    /// # Panics
    /// When the row is not in the part, the element type is another, or the tensor is not host-visible.
    pub fn row<T: Element>(&self, row: usize) -> &[T] {
        self.right.read(row, self.owned_columns(row))
    }

    /// The owned elements of one row of the tensor, to be written.
    ///
    /// # Panics
    /// As [`Slot::row`].
    pub fn row_mut<T: Element>(&mut self, row: usize) -> &mut [T] {
        self.right.write(row, self.owned_columns(row))
    }

    /// The elements of some columns of one row, owned or to be read.
    ///
    /// # Panics
    /// As [`Slot::row`].
    pub fn columns<T: Element>(&self, row: usize, first_column: usize, n_columns: usize) -> &[T] {
        self.right.read(row, first_column..first_column + n_columns)
    }

    /// The owned elements of some columns of one row, to be written.
    ///
    /// # Panics
    /// As [`Slot::row`].
    pub fn columns_mut<T: Element>(&mut self, row: usize, first_column: usize, n_columns: usize) -> &mut [T] {
        self.right.write(row, first_column..first_column + n_columns)
    }

    /// Copies a rectangle into `out`, its rows one after the other, wherever the tensor lives. May wait for the device.
    ///
    /// # Panics
    /// As [`View::read_bytes`].
    pub fn read_bytes(&self, part: &Part, out: &mut [u8]) -> Result<(), BackendError> {
        self.right.read_bytes(part, ByteRuns::of_part(self.tensor().desc(), part), out)
    }

    /// Writes a rectangle from `bytes`, its rows one after the other, wherever the tensor lives.
    ///
    /// # Panics
    /// When the rectangle is not owned, or `bytes` is not as long as it.
    pub fn write_bytes(&mut self, part: &Part, bytes: &[u8]) -> Result<(), BackendError> {
        let runs = ByteRuns::of_part(self.tensor().desc(), part);
        self.right.write_bytes(part, runs, bytes)
    }

    /// Writes blocks of rows from `bytes`, one behind the other; otherwise as [`Slot::write_bytes`].
    pub fn write_blocks(&mut self, blocks: &RowBlocks, bytes: &[u8]) -> Result<(), BackendError> {
        let desc = *self.tensor().desc();
        self.right.write_bytes(&blocks.bounds(&desc), ByteRuns::of_blocks(&desc, blocks), bytes)
    }

    pub(crate) fn give_back(&mut self) {
        self.right.give_back();
    }

    pub(crate) fn hand_over(&mut self, processor: DeviceId) {
        self.right.hand_over(processor);
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
