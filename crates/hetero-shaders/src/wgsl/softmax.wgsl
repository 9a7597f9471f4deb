// One workgroup for a row: `compute(row, lane)` is called by all its invocations.
fn compute(row: u32, lane: u32) {
    let n = params.n_columns;
    let start = row * n;
    var largest = -3.4e38;
    for (var column = lane; column < n; column += LANES) {
        largest = max(largest, load_x(start + column));
    }
    largest = largest_of_all(lane, largest);
    var sum = 0.0;
    for (var column = lane; column < n; column += LANES) {
        sum += exp(load_x(start + column) - largest);
    }
    sum = sum_all(lane, sum);
    for (var column = lane; column < n; column += LANES) {
        store(start + column, exp(load_x(start + column) - largest) / sum);
    }
}
