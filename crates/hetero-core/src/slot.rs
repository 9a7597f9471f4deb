//! Who may read and who may write a tensor, now.
//!
//! This file holds the argument for all shared memory of the workspace. A [`SharedTensor`] counts its borrowers in one
//! atomic: a positive count is that many [`View`]s, a negative one that many [`Slot`]s. Slots are only made from a
//! [`Partition`], whose parts do not overlap, and only when the count is zero; views only when no slot is out. So at
//! any time either nobody writes, or every element has at most one writer and no other reader. From that, references
//! into the memory are sound: a slot lends `&mut` only to rows of its own part, a view lends `&` to everything.
//!
//! The count is changed with Acquire when a right is taken and with Release when it is given back: what the last
//! holder wrote happens before what the next holder reads. A processor that works in the background holds its rights
//! through the [`crate::Ticket`], which gives them back only after the processor has finished.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use crate::{DType, Element, Part, Partition, Tensor, TensorDesc};

/// A tensor together with the count of those who use it.
#[derive(Debug)]
pub struct SharedTensor {
    tensor: Arc<dyn Tensor>,
    /// Views out when positive, slots out when negative.
    borrowers: AtomicIsize,
}

impl SharedTensor {
    /// Takes a tensor under this crate's rules.
    ///
    /// # Panics
    /// When the tensor has another owner: two counts of one memory would protect nothing.
    pub fn new(mut tensor: Arc<dyn Tensor>) -> Arc<SharedTensor> {
        assert!(Arc::get_mut(&mut tensor).is_some(), "a tensor must have one owner when it becomes shared");
        Arc::new(SharedTensor { tensor, borrowers: AtomicIsize::new(0) })
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
    /// When a slot of it is out.
    pub fn view(self: &Arc<Self>) -> View {
        let taken = self
            .borrowers
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |count| (count >= 0).then_some(count + 1));
        assert!(taken.is_ok(), "a tensor {:?} is read while it is being written", self.desc());
        View { tensor: Arc::clone(self) }
    }

    /// The exclusive right to all of the tensor.
    ///
    /// # Panics
    /// When a slot or a view of it is out.
    pub fn slot(self: &Arc<Self>) -> Slot {
        self.take_slots(1);
        let TensorDesc { rows, columns, .. } = *self.desc();
        Slot { tensor: Arc::clone(self), part: Part { rows: 0..rows, columns: 0..columns } }
    }

    /// The exclusive rights to the parts of a partition, appended to `slots` in the partition's order.
    ///
    /// # Panics
    /// When a slot or a view of the tensor is out, or the partition is of another shape.
    pub fn split(self: &Arc<Self>, partition: &Partition, slots: &mut Vec<Slot>) {
        let TensorDesc { rows, columns, .. } = *self.desc();
        assert_eq!(
            partition.shape(),
            (rows, columns),
            "a partition of another shape than the tensor {:?}",
            self.desc()
        );
        self.take_slots(partition.parts().len() as isize);
        slots.extend(partition.parts().iter().map(|part| Slot { tensor: Arc::clone(self), part: part.clone() }));
    }

    fn take_slots(&self, n_slots: isize) {
        let taken = self.borrowers.compare_exchange(0, -n_slots, Ordering::Acquire, Ordering::Relaxed);
        assert!(taken.is_ok(), "a tensor {:?} is to be written while it is in use", self.desc());
    }

    /// First element of a row, as an address inside the allocation.
    fn row_start(&self, row: usize, column: usize) -> Option<NonNull<u8>> {
        let desc = self.desc();
        debug_assert!(row < desc.rows && column <= desc.columns);
        let offset = (row * desc.columns + column) * desc.dtype.size();
        // SAFETY: row and column lie inside the tensor (callers check against its shape), so the offset lies inside
        // the `desc.bytes()` bytes that `Tensor` promises.
        self.tensor.host_ptr().map(|start| unsafe { start.add(offset) })
    }
}

/// The shared right to read all of a tensor; given back when dropped.
#[derive(Debug)]
pub struct View {
    tensor: Arc<SharedTensor>,
}

impl View {
    /// The tensor that may be read.
    pub fn tensor(&self) -> &SharedTensor {
        &self.tensor
    }

    /// The elements of one row, all columns.
    ///
    /// # Panics
    /// When the row does not exist, the element type is another, or the tensor is not host-visible.
    pub fn row<T: Element>(&self, row: usize) -> &[T] {
        let desc = self.tensor.desc();
        check_row::<T>(desc, row);
        let start = host_row(&self.tensor, row, 0);
        // SAFETY: `Tensor` promises `columns` initialised, aligned elements of this type from the start of the row;
        // `T` is plain data of the tensor's dtype. This view keeps the tensor alive and keeps slots away, so nobody
        // writes while the reference lives.
        unsafe { std::slice::from_raw_parts(start.cast::<T>().as_ptr(), desc.columns) }
    }
}

impl Clone for View {
    fn clone(&self) -> Self {
        // A view exists, so the count is positive and stays so.
        self.tensor.borrowers.fetch_add(1, Ordering::Relaxed);
        View { tensor: Arc::clone(&self.tensor) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.tensor.borrowers.fetch_sub(1, Ordering::Release);
    }
}

/// The exclusive right to one rectangle of a tensor; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    tensor: Arc<SharedTensor>,
    part: Part,
}

impl Slot {
    /// The tensor of which a part is owned.
    pub fn tensor(&self) -> &SharedTensor {
        &self.tensor
    }

    /// The part that is owned.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// The owned elements of one row of the tensor, `part().columns` of them.
    ///
    /// # Panics
    /// When the row is not in the part, the element type is another, or the tensor is not host-visible.
    pub fn row<T: Element>(&self, row: usize) -> &[T] {
        let start = self.owned_row::<T>(row);
        // SAFETY: as in `View::row`; the part is inside the tensor and nobody else has a right to it, and `&self`
        // keeps `row_mut` away while the reference lives.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.part.columns.len()) }
    }

    /// The owned elements of one row of the tensor, to be written.
    ///
    /// # Panics
    /// As [`Slot::row`].
    pub fn row_mut<T: Element>(&mut self, row: usize) -> &mut [T] {
        let start = self.owned_row::<T>(row);
        // SAFETY: as in `Slot::row`; `&mut self` makes this the only reference to the row that this slot lends.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.part.columns.len()) }
    }

    fn owned_row<T: Element>(&self, row: usize) -> NonNull<T> {
        check_row::<T>(self.tensor.desc(), row);
        assert!(self.part.rows.contains(&row), "row {row} is outside the slot's part {:?}", self.part);
        host_row(&self.tensor, row, self.part.columns.start).cast()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.tensor.borrowers.fetch_add(1, Ordering::Release);
    }
}

fn check_row<T: Element>(desc: &TensorDesc, row: usize) {
    assert_eq!(desc.dtype, T::DTYPE, "elements of another type");
    assert!(row < desc.rows, "row {row} of a tensor with {} rows", desc.rows);
}

fn host_row(tensor: &SharedTensor, row: usize, column: usize) -> NonNull<u8> {
    tensor.row_start(row, column).expect("the tensor is not host-visible: copy it first")
}

/// One tensor as a submission uses it.
#[derive(Debug)]
pub enum Binding {
    /// It is only read.
    Read(View),
    /// It is written, and perhaps read afterwards by the same submission.
    Write(Slot),
}

impl Binding {
    /// The tensor.
    pub fn tensor(&self) -> &SharedTensor {
        match self {
            Binding::Read(view) => view.tensor(),
            Binding::Write(slot) => slot.tensor(),
        }
    }

    /// The part that may be touched: all of it for a view.
    pub fn part(&self) -> Part {
        match self {
            Binding::Read(view) => Part::whole(view.tensor().desc().rows, view.tensor().desc().columns),
            Binding::Write(slot) => slot.part().clone(),
        }
    }

    /// Copies columns of one row, converted to f32, whatever the float type is.
    ///
    /// # Panics
    /// When the row or a column may not be touched, or the tensor does not hold floats.
    pub fn read_f32(&self, row: usize, first_column: usize, out: &mut [f32]) {
        match self.tensor().desc().dtype {
            DType::F32 => out.copy_from_slice(self.columns::<f32>(row, first_column, out.len())),
            DType::F16 => convert(self.columns::<half::f16>(row, first_column, out.len()), out, |x| x.to_f32()),
            DType::BF16 => convert(self.columns::<half::bf16>(row, first_column, out.len()), out, |x| x.to_f32()),
            other => panic!("{other} elements are not floats"),
        }
    }

    /// The elements of some columns of one row.
    ///
    /// # Panics
    /// As [`Slot::row`].
    pub fn columns<T: Element>(&self, row: usize, first_column: usize, n_columns: usize) -> &[T] {
        let (elements, start) = match self {
            Binding::Read(view) => (view.row::<T>(row), 0),
            Binding::Write(slot) => (slot.row::<T>(row), slot.part().columns.start),
        };
        assert!(
            first_column >= start && first_column + n_columns <= start + elements.len(),
            "columns {first_column}..{} are outside the binding's part {:?}",
            first_column + n_columns,
            self.part(),
        );
        &elements[first_column - start..][..n_columns]
    }

    /// Writes columns of one row, converted from f32 to the tensor's float type.
    ///
    /// # Panics
    /// When the binding is a view, the row or a column is not owned, or the tensor does not hold floats.
    pub fn write_f32(&mut self, row: usize, first_column: usize, values: &[f32]) {
        let Binding::Write(slot) = self else { panic!("a view cannot be written") };
        let start = slot.part().columns.start;
        assert!(
            first_column >= start && first_column + values.len() <= slot.part().columns.end,
            "columns {first_column}..{} are outside the slot's part {:?}",
            first_column + values.len(),
            slot.part(),
        );
        let owned = first_column - start..first_column - start + values.len();
        match slot.tensor().desc().dtype {
            DType::F32 => slot.row_mut::<f32>(row)[owned].copy_from_slice(values),
            DType::F16 => convert(values, &mut slot.row_mut(row)[owned], half::f16::from_f32),
            DType::BF16 => convert(values, &mut slot.row_mut(row)[owned], half::bf16::from_f32),
            other => panic!("{other} elements are not floats"),
        }
    }
}

fn convert<A: Copy, B>(from: &[A], to: &mut [B], f: impl Fn(A) -> B) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f(*from);
    }
}

/// The tensors of one submission; [`crate::Segment::binding_idx`] says which holds which value.
///
/// It moves into [`crate::Executable::submit`] and comes back from [`crate::Ticket::wait`], so the same list serves
/// every step and nothing is allocated.
#[derive(Debug, Default)]
pub struct Bindings {
    /// As many as [`crate::Segment::n_bindings`].
    pub tensors: Vec<Binding>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceId, HostTensor};

    fn shared(rows: usize, columns: usize) -> Arc<SharedTensor> {
        let desc = TensorDesc { rows, columns, dtype: DType::F32 };
        SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap()))
    }

    #[test]
    fn two_threads_write_their_parts_and_a_view_sees_both() {
        let tensor = shared(4, 6);
        let parts = vec![Part { rows: 0..4, columns: 0..2 }, Part { rows: 0..4, columns: 2..6 }];
        let mut slots = Vec::new();
        tensor.split(&Partition::new(4, 6, parts).unwrap(), &mut slots);
        std::thread::scope(|scope| {
            for mut slot in slots.drain(..) {
                scope.spawn(move || {
                    for row in 0..4 {
                        let first = slot.part().columns.start;
                        for (i, x) in slot.row_mut::<f32>(row).iter_mut().enumerate() {
                            *x = (row * 10 + first + i) as f32;
                        }
                    }
                });
            }
        });
        let view = tensor.view();
        for row in 0..4 {
            let expected: Vec<f32> = (0..6).map(|column| (row * 10 + column) as f32).collect();
            assert_eq!(view.row::<f32>(row), expected);
        }
    }

    #[test]
    #[should_panic(expected = "is read while it is being written")]
    fn reading_what_is_being_written_is_refused() {
        let tensor = shared(2, 2);
        let _slot = tensor.slot();
        let _view = tensor.view();
    }

    #[test]
    #[should_panic(expected = "is to be written while it is in use")]
    fn writing_what_is_being_read_is_refused() {
        let tensor = shared(2, 2);
        let _view = tensor.view();
        let _slot = tensor.slot();
    }

    #[test]
    #[should_panic(expected = "outside the slot's part")]
    fn a_slot_lends_no_row_outside_its_part() {
        let tensor = shared(4, 2);
        let parts = vec![Part { rows: 0..2, columns: 0..2 }, Part { rows: 2..4, columns: 0..2 }];
        let mut slots = Vec::new();
        tensor.split(&Partition::new(4, 2, parts).unwrap(), &mut slots);
        slots[0].row_mut::<f32>(2);
    }

    #[test]
    fn rights_come_back_when_dropped() {
        let tensor = shared(2, 2);
        drop(tensor.slot());
        let view = tensor.view();
        let second = view.clone();
        drop((view, second));
        drop(tensor.slot());
    }
}
