//! Matrices as a pointer and a row stride: what kernels read and write.

/// Rows to read.
#[derive(Clone, Copy, Debug)]
pub struct Rows<T> {
    /// The first element of row 0.
    pub first: *const T,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// Rows to write.
#[derive(Clone, Copy, Debug)]
pub struct RowsMut<T> {
    /// The first element of row 0.
    pub first: *mut T,
    /// Elements from one row to the next.
    pub stride: usize,
}

// SAFETY: these are addresses and no more; only kernels follow them, and the contract of each kernel call says what must
// be readable, writable and not shared.
unsafe impl<T> Send for Rows<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Rows<T> {}
// SAFETY: as above.
unsafe impl<T> Send for RowsMut<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for RowsMut<T> {}

impl<T> Rows<T> {
    /// A matrix of `[data.len() / stride, stride]`, for as long as the caller keeps `data`.
    pub fn of(data: &[T], stride: usize) -> Self {
        Self { first: data.as_ptr(), stride }
    }

    /// Row `index`.
    ///
    /// # Safety
    ///
    /// The row exists.
    #[inline(always)]
    pub(crate) unsafe fn row(self, index: usize) -> *const T {
        // SAFETY: the caller vouches for the row.
        unsafe { self.first.add(index * self.stride) }
    }
}

impl<T> RowsMut<T> {
    /// A matrix of `[data.len() / stride, stride]`, for as long as the caller keeps `data`.
    pub fn of(data: &mut [T], stride: usize) -> Self {
        Self { first: data.as_mut_ptr(), stride }
    }

    /// The same rows, to read.
    pub fn as_rows(self) -> Rows<T> {
        Rows { first: self.first, stride: self.stride }
    }

    /// Row `index`.
    ///
    /// # Safety
    ///
    /// The row exists.
    #[inline(always)]
    pub(crate) unsafe fn row(self, index: usize) -> *mut T {
        // SAFETY: the caller vouches for the row.
        unsafe { self.first.add(index * self.stride) }
    }
}
