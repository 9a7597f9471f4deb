// A workgroup goes over all keys that its queries see, and writes what comes out.

fn n_splits() -> u32 {
    return 1u;
}

fn keys_of(n_keys: u32, split: u32) -> vec2<u32> {
    return vec2<u32>(0u, n_keys);
}

fn finish(row: u32, head: u32, split: u32, quad: u32, result: vec4<f32>, sum: f32, largest: f32) {
    let total = result / sum;
    let at = row * params.output_columns + head * params.head_dim + 4u * quad;
    store(at, total.x);
    store(at + 1u, total.y);
    store(at + 2u, total.z);
    store(at + 3u, total.w);
}
