// Row `row`, head `head` of the input becomes row `head * context + past + row` of the cache.
fn compute(row: u32, column: u32) {
    let head = column / params.head_dim;
    let to_row = head * params.context + step.past + row;
    copy_element(row * params.input_columns + column, to_row * params.head_dim + column % params.head_dim);
}
