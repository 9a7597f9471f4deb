fn compute(row: u32, column: u32) {
    let i = row * params.output_columns + params.first_column + column;
    let gate = load_a(i);
    // Beyond 88 the exponential leaves f32, which WGSL need not handle; the quotient is as good as zero there.
    store(i, gate / (1.0 + exp(min(-gate, 88.0))) * load_b(i));
}
