//! Operators that copy: table lookup, row selection, change of element type.

use crate::{Binding, Part, RowSelection, StepParams, Weight};

/// Row `ids[m]` of the table becomes row `m` of the output.
pub(super) fn embed(ids: &Binding, table: &dyn Weight, output: &mut Binding, part: &Part) {
    let matrix = &table.rows().matrix;
    let mut row = vec![0.0; matrix.layout().columns];
    for m in part.rows.clone() {
        let id = ids.columns::<u32>(m, 0, 1)[0] as usize;
        assert!(id < matrix.layout().rows, "token id {id} with a vocabulary of {}", matrix.layout().rows);
        matrix.read_row(id, &mut row);
        output.write_f32(m, part.columns.start, &row[part.columns.clone()]);
    }
}

/// Copies rows, converting elements to the output's type.
pub(super) fn convert(input: &Binding, rows: RowSelection, step: StepParams, output: &mut Binding, part: &Part) {
    let mut row = vec![0.0; part.columns.len()];
    for m in part.rows.clone() {
        let source = match rows {
            RowSelection::All => m,
            RowSelection::Last => step.rows - 1,
        };
        input.read_f32(source, part.columns.start, &mut row);
        output.write_f32(m, part.columns.start, &row);
    }
}
