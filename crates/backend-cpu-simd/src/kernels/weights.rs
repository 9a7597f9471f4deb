//! Weight matrices in panels of 16 rows, as the kernels address them.

use core::ops::Range;

use hetero_core::WeightLayout;

pub use hetero_core::WeightFormat;

/// Rows (output features) of a panel.
pub const PANEL_ROWS: usize = WeightLayout::PANEL_ROWS;
/// Columns (input features) that share one scale; every panel's K is padded to a multiple of it.
pub const GROUP: usize = WeightLayout::GROUP_COLUMNS;

/// A weight matrix `[n, k]`: `ceil(n / 16)` panels one after the other.
#[derive(Clone, Copy, Debug)]
pub struct PanelWeights {
    /// How each weight is stored.
    pub format: WeightFormat,
    /// The first panel, aligned to 64 bytes.
    pub panels: *const u8,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

// SAFETY: an address and no more; only kernels follow it, and the contract of each kernel call says what must be readable.
unsafe impl Send for PanelWeights {}
// SAFETY: as above.
unsafe impl Sync for PanelWeights {}

impl PanelWeights {
    /// Number of panels, the last of which may be padded.
    pub const fn n_panels(&self) -> usize {
        self.n.div_ceil(PANEL_ROWS)
    }

    /// Number of groups of 32 columns, the last of which may be padded.
    pub const fn groups(&self) -> usize {
        self.k.div_ceil(GROUP)
    }

    /// The panels as a range: the whole of the work on this matrix.
    pub const fn all_panels(&self) -> Range<usize> {
        0..self.n_panels()
    }

    /// The first byte of a panel.
    ///
    /// # Safety
    ///
    /// The panel exists.
    #[inline(always)]
    pub(crate) unsafe fn panel(&self, index: usize) -> *const u8 {
        // SAFETY: the caller vouches for the panel.
        unsafe { self.panels.add(index * self.format.panel_bytes(self.k)) }
    }
}
