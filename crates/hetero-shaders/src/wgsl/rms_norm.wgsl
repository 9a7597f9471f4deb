// One workgroup for a row: `compute(row, lane)` is called by all its invocations.
fn compute(row: u32, lane: u32) {
    let n = params.n_columns;
    let start = row * n;
    var squares = 0.0;
    for (var column = lane; column < n; column += LANES) {
        let x = load_x(start + column);
        squares += x * x;
    }
    let scale = 1.0 / sqrt(sum_all(lane, squares) / f32(n) + params.epsilon);
    for (var column = lane; column < n; column += LANES) {
        store(start + column, load_x(start + column) * scale * load_table(column));
    }
}
