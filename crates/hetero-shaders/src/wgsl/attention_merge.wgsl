// Puts together what `attention_split.wgsl` has left: one workgroup for a row and head.
fn compute(row: u32, head_of_part: u32, lane: u32) {
    let head = params.first_column / params.head_dim + head_of_part;
    var largest = -3.4e38;
    for (var split = 0u; split < n_splits(); split++) {
        largest = max(largest, load_sums(split_start(row, head, split) + params.head_dim));
    }
    for (var column = lane; column < params.head_dim; column += LANES) {
        var result = 0.0;
        var sum = 0.0;
        for (var split = 0u; split < n_splits(); split++) {
            let start = split_start(row, head, split);
            let shrink = exp(load_sums(start + params.head_dim) - largest);
            result += shrink * load_sums(start + column);
            sum += shrink * load_sums(start + params.head_dim + 1u);
        }
        store(row * params.output_columns + head * params.head_dim + column, result / sum);
    }
}
