// The cache is split among several workgroups when it is long. How many, goes by the power of two above its length, so
// that commands recorded once serve until it has doubled. `MAX_SPLITS` and `MIN_SPLIT_KEYS` come before this.

fn split_keys() -> u32 {
    return max(MIN_SPLIT_KEYS, step.most_keys / MAX_SPLITS);
}

fn n_splits() -> u32 {
    return step.most_keys / split_keys();
}

// Where a split of a head of a row has its sums: of the weighted values, then the largest score and the sum of the
// weights.
fn split_start(row: u32, head: u32, split: u32) -> u32 {
    let n_heads = params.output_columns / params.head_dim;
    return ((row * n_heads + head) * MAX_SPLITS + split) * (params.head_dim + 4u);
}
