// [row, quadruple of inputs]
var<workgroup> inputs: array<vec4<f32>, TILE_ROWS * 8u>;
// [input, quadruple of columns]
var<workgroup> numbers: array<vec4<f32>, 8u * TILE_COLUMNS>;

// Group `g` of the inputs of a tile's rows. Rows behind the last are computed like it, and not written.
fn put_inputs(row: u32, end: u32, g: u32, lane: u32) {
    for (var i = lane; i < TILE_ROWS * 8u; i += LANES) {
        inputs[i] = four_inputs(min(row + (i >> 3u), end - 1u), g * 8u + (i & 7u));
    }
}

// Weights of one input, for a quadruple of columns.
fn put_numbers(input: u32, quad: u32, values: vec4<f32>) {
    numbers[input * (TILE_COLUMNS / 4u) + quad] = values;
}
