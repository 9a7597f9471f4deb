// Numbers to integers of 8 bits with a scale for every 32 of them: what products of integers read. A group takes 9
// words: 8 of integers, four in each, lowest byte first, and the scale. `column` is a group; what lies behind the last
// column counts as zero.
fn compute(row: u32, column: u32) {
    let n_groups = params.n_columns;
    var largest = 0.0;
    for (var i = 0u; i < 8u; i++) {
        let four = abs(four_inputs(row, 8u * column + i));
        largest = max(largest, max(max(four.x, four.y), max(four.z, four.w)));
    }
    let start = (row * n_groups + column) * 9u;
    let inverse = select(0.0, 127.0 / largest, largest > 1.0e-30);
    for (var i = 0u; i < 8u; i++) {
        let integers = vec4<i32>(round(four_inputs(row, 8u * column + i) * inverse));
        output[start + i] = pack4xI8(integers);
    }
    output[start + 8u] = bitcast<u32>(largest / 127.0);
}
