// A workgroup goes over one part of the keys and writes its sums, which `attention_merge.wgsl` puts together.

fn keys_of(n_keys: u32, split: u32) -> vec2<u32> {
    let first = split * split_keys();
    return vec2<u32>(first, min(n_keys, first + split_keys()));
}

fn finish(row: u32, head: u32, split: u32, quad: u32, result: vec4<f32>, sum: f32, largest: f32) {
    let start = split_start(row, head, split);
    for (var i = 0u; i < 4u; i++) {
        store(start + 4u * quad + i, result[i]);
    }
    if (quad == 0u) {
        store(start + params.head_dim, largest);
        store(start + params.head_dim + 1u, sum);
    }
}
