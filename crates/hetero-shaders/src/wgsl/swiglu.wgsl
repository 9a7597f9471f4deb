fn compute(row: u32, column: u32) {
    let i = row * params.output_columns + params.first_column + column;
    store(i, swish(load_a(i)) * load_b(i));
}
