// [row, quadruple of inputs]
var<workgroup> inputs: array<vec4<f32>, TILE_ROWS * 8u>;
// [input, quadruple of columns]
var<workgroup> numbers: array<vec4<f32>, 8u * TILE_COLUMNS>;

// Weights of one input, for a quadruple of columns.
fn put_numbers(input: u32, quad: u32, values: vec4<f32>) {
    numbers[input * (TILE_COLUMNS / 4u) + quad] = values;
}
