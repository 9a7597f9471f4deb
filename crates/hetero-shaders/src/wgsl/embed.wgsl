// The table may be bound in pieces, one dispatch each; each writes the rows whose ids it has.
fn compute(row: u32, column: u32) {
    let id = ids[row];
    if (id < params.first_table_row || id - params.first_table_row >= params.n_table_rows) {
        return;
    }
    let at = params.first_column + column;
    let table_row = id - params.first_table_row;
    copy_element(table_row * params.output_columns + at, row * params.output_columns + at);
}
