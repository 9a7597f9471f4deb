// Rows and weights as 16-bit floats. The inputs of a row come in groups of 32, as parts of the largest of their group, so
// that products are no larger than weights are. The 32 products of a group are added in 16 bits, and groups in f32: each
// number is off by 2^-11 of itself at most, and so is each product and each of 31 sums of a group, which leaves a group
// off by no more than 34 * 2^-11 of the sum of its products' magnitudes. Roundings to either side cancel out, so what is
// seen is about a thousandth of the largest result. Sums stay finite for weights below 2047 in magnitude.

// [row, quadruple of inputs]
var<workgroup> inputs: array<vec4<f16>, TILE_ROWS * 8u>;
// The largest magnitude of each row's group.
var<workgroup> largest: array<f32, TILE_ROWS>;
// [input, quadruple of columns]
var<workgroup> numbers: array<vec4<f16>, 8u * TILE_COLUMNS>;

// Group `g` of the inputs of a tile's rows. Rows behind the last are computed like it, and not written.
fn put_inputs(row: u32, end: u32, g: u32, lane: u32) {
    for (var r = lane; r < TILE_ROWS; r += LANES) {
        let at = min(row + r, end - 1u);
        var most = 0.0;
        for (var i = 0u; i < 8u; i++) {
            let four = abs(four_inputs(at, g * 8u + i));
            most = max(most, max(max(four.x, four.y), max(four.z, four.w)));
        }
        // Below this the reciprocal overflows; such a group is zero for every purpose.
        let inverse = select(0.0, 1.0 / most, most > 1.0e-30);
        for (var i = 0u; i < 8u; i++) {
            inputs[r * 8u + i] = vec4<f16>(four_inputs(at, g * 8u + i) * inverse);
        }
        largest[r] = most;
    }
}

// Weights of one input, for a quadruple of columns.
fn put_numbers(input: u32, quad: u32, values: vec4<f32>) {
    let finite = clamp(values, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    numbers[input * (TILE_COLUMNS / 4u) + quad] = vec4<f16>(finite);
}
