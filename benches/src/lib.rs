//! What the criterion benches share; `cargo xtask bench --criterion` runs them.

use std::sync::Arc;

use hetero_core::quantize::pack_panel;
use hetero_core::{Backend, BackendError, DType, TensorDesc, WeightLayout, WeightMatrix};

/// A matrix in panels, in memory of `backend`. All panels hold the same numbers, which no kernel notices.
///
/// # Panics
/// When there is no memory for it.
pub fn random_matrix(backend: &dyn Backend, layout: WeightLayout) -> Arc<WeightMatrix> {
    let mut state = 1u32;
    let rows: Vec<f32> = (0..WeightLayout::PANEL_ROWS * layout.columns)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let tensor = backend.allocate(&desc).expect("memory for a matrix");
    let built = WeightMatrix::build("random", layout, tensor, |bytes| {
        let (first, rest) = bytes.split_at_mut(layout.panel_bytes());
        pack_panel(&layout, &rows, first);
        rest.chunks_exact_mut(first.len()).for_each(|panel| panel.copy_from_slice(first));
        Ok::<(), BackendError>(())
    });
    built.expect("filling cannot fail")
}
