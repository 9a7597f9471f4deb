//! The tensors of a submission, with the rights to them.

use std::sync::Arc;

use crate::{BackendError, Claim, DType, DeviceId, Element, Part, SharedTensor, Slot, View};

/// One tensor as a submission uses it.
#[derive(Debug)]
pub enum Binding {
    /// It is only read.
    Read(View),
    /// It is written, and perhaps read by the same submission.
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

    /// The same, for a backend that keeps what it has made for the tensor for as long as the tensor exists.
    pub fn shared(&self) -> &Arc<SharedTensor> {
        match self {
            Binding::Read(view) => view.shared(),
            Binding::Write(slot) => slot.shared(),
        }
    }

    /// What may be touched.
    pub fn claim(&self) -> &Claim {
        match self {
            Binding::Read(view) => view.claim(),
            Binding::Write(slot) => slot.claim(),
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
        match self {
            Binding::Read(view) => view.columns(row, first_column, n_columns),
            Binding::Write(slot) => slot.columns(row, first_column, n_columns),
        }
    }

    /// Copies a rectangle into `out`, its rows one after the other, wherever the tensor lives.
    ///
    /// # Panics
    /// As [`View::read_bytes`].
    pub fn read_bytes(&self, part: &Part, out: &mut [u8]) -> Result<(), BackendError> {
        match self {
            Binding::Read(view) => view.read_bytes(part, out),
            Binding::Write(slot) => slot.read_bytes(part, out),
        }
    }

    /// Writes columns of one row, converted from f32 to the tensor's float type.
    ///
    /// # Panics
    /// When the binding is a view, the row or a column is not owned, or the tensor does not hold floats.
    pub fn write_f32(&mut self, row: usize, first_column: usize, values: &[f32]) {
        let Binding::Write(slot) = self else { panic!("a view cannot be written") };
        let n_columns = values.len();
        match slot.tensor().desc().dtype {
            DType::F32 => slot.columns_mut::<f32>(row, first_column, n_columns).copy_from_slice(values),
            DType::F16 => convert(values, slot.columns_mut(row, first_column, n_columns), half::f16::from_f32),
            DType::BF16 => convert(values, slot.columns_mut(row, first_column, n_columns), half::bf16::from_f32),
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

impl Bindings {
    /// For backends that work with addresses, when a submission is queued: from here on only the processor touches
    /// what is bound, after the submissions before it and until it has finished. The rights lend nothing any more, even
    /// when they come back.
    ///
    /// # Panics
    /// When one of the rights waits for another that is not in this processor's hands.
    pub fn hand_over(&mut self, processor: DeviceId) {
        for binding in &mut self.tensors {
            match binding {
                Binding::Read(view) => view.hand_over(processor),
                Binding::Write(slot) => slot.hand_over(processor),
            }
        }
    }

    /// For backends that compute through bindings, when a submission has been computed: gives the rights back, so that
    /// what is queued behind it may go on before the host has taken the list back. The list stays as it is.
    pub fn give_back(&mut self) {
        for binding in &mut self.tensors {
            match binding {
                Binding::Read(view) => view.give_back(),
                Binding::Write(slot) => slot.give_back(),
            }
        }
    }
}
