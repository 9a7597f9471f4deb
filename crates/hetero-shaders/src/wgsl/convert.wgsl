fn compute(row: u32, column: u32) {
    let from_row = select(row, step.rows - 1u, params.last_row_only == 1u);
    let at = params.first_column + column;
    copy_element(from_row * params.input_columns + at, row * params.output_columns + at);
}
