// Rows and weights as 8-bit integers, four in a word, and their scales. Sums over a group of 32 are exact.

// [row, word of four inputs]
var<workgroup> inputs: array<u32, TILE_ROWS * 8u>;
// The scale of each row's group.
var<workgroup> input_scales: array<f32, TILE_ROWS>;
// [word of four inputs, quadruple of columns]
var<workgroup> numbers: array<vec4<u32>, 2u * TILE_COLUMNS>;
// The scales of the columns' groups.
var<workgroup> scales: array<vec4<f32>, TILE_COLUMNS / 4u>;

// Group `g` of the inputs of a tile's rows. Rows behind the last are computed like it, and not written.
fn put_inputs(row: u32, end: u32, g: u32, lane: u32) {
    let n_groups = (params.input_columns + 31u) / 32u;
    for (var i = lane; i < TILE_ROWS * 9u; i += LANES) {
        let r = i / 9u;
        let word = x[(min(row + r, end - 1u) * n_groups + g) * 9u + i % 9u];
        if (i % 9u == 8u) {
            input_scales[r] = bitcast<f32>(word);
        } else {
            inputs[r * 8u + i % 9u] = word;
        }
    }
}

// Weights of four inputs, for a quadruple of columns.
fn put_words(word: u32, quad: u32, values: vec4<u32>) {
    numbers[word * (TILE_COLUMNS / 4u) + quad] = values;
}

// Four nibbles in the low halves of bytes, each of which stands for 8 less, as signed bytes: with its highest bit turned
// over a nibble is that number in 4 bits, whose sign goes into the upper half.
fn bytes_of_nibbles(nibbles: vec4<u32>) -> vec4<u32> {
    let turned = nibbles ^ vec4<u32>(0x08080808u);
    return turned | ((turned & vec4<u32>(0x08080808u)) * 0x1eu);
}
