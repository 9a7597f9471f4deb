struct Subgroup {
    idx: u32,
    count: u32,
    lane: u32,
    size: u32,
}

var<private> subgroup: Subgroup;
// What is missing to a 16-bit float is multiplied with this, so that it has as many digits however small it is.
const REST = 2048.0;

// [row, input]: the nearest 16-bit floats, and what is missing to them.
var<workgroup> inputs: array<f16, TILE_ROWS * 32u>;
var<workgroup> rest_of_inputs: array<f16, TILE_ROWS * 32u>;
// [input, column]
var<workgroup> numbers: array<f16, 32u * 64u>;
var<workgroup> rest_of_numbers: array<f16, 32u * 64u>;
// [row, column]
var<workgroup> results: array<f32, TILE_ROWS * 64u>;

// The nearest 16-bit floats, none of them infinite, by integers: what is missing to them is not zero to a compiler that
// takes conversions back and forth for none.
fn halves(values: vec4<f32>) -> vec4<f32> {
    let finite = clamp(values, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    let low = bits_of_f16(finite.x) | (bits_of_f16(finite.y) << 16u);
    let high = bits_of_f16(finite.z) | (bits_of_f16(finite.w) << 16u);
    return vec4<f32>(unpack2x16float(low), unpack2x16float(high));
}

// Group `g` of the inputs of a tile's rows. Rows behind the last are computed like it, and not written.
fn put_inputs(row: u32, end: u32, g: u32, lane: u32) {
    for (var quad = lane; quad < TILE_ROWS * 8u; quad += LANES) {
        let values = four_inputs(min(row + (quad >> 3u), end - 1u), g * 8u + (quad & 7u));
        let nearest = halves(values);
        let rest = halves((values - nearest) * REST);
        for (var i = 0u; i < 4u; i++) {
            inputs[4u * quad + i] = f16(nearest[i]);
            rest_of_inputs[4u * quad + i] = f16(rest[i]);
        }
    }
}

// Weights of one input, for a quadruple of columns.
fn put_numbers(input: u32, quad: u32, values: vec4<f32>) {
    let nearest = halves(values);
    let rest = halves((values - nearest) * REST);
    let at = 64u * input + 4u * quad;
    for (var i = 0u; i < 4u; i++) {
        numbers[at + i] = f16(nearest[i]);
        rest_of_numbers[at + i] = f16(rest[i]);
    }
}
