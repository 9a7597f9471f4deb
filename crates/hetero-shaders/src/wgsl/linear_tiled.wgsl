// Linear operators on many rows: a workgroup computes 64 columns of `TILE_ROWS` rows. For each group of 32 columns of
// the input, the rows and the weights as numbers are put into workgroup memory; then each invocation multiplies
// `TILE_ROWS / 16` rows with four columns. Sums go over the inputs in order, whatever the tile, so results do not depend
// on it. `unpack_M` of each matrix comes before this, and depends on the format.
fn tile_M(unit: u32, row: u32, end: u32, lane: u32) -> array<vec4<f32>, TILE_ROWS / 16u> {
    let n_groups = (params.input_columns + 31u) / 32u;
    let n_words = n_groups * WORDS_PER_GROUP;
    let n_panels = (N_COLUMNS + 15u) / 16u;
    let tile_column = lane & 15u;
    let tile_row = (lane >> 4u) * (TILE_ROWS / 16u);
    var sums: array<vec4<f32>, TILE_ROWS / 16u>;
    for (var g = 0u; g < n_groups; g++) {
        for (var i = lane; i < TILE_ROWS * 8u; i += 256u) {
            // Rows behind the last are computed like it, and not written.
            inputs[i] = four_inputs(min(row + (i >> 3u), end - 1u), g * 8u + (i & 7u));
        }
        for (var i = lane; i < 16u * WORDS_PER_GROUP; i += 256u) {
            let quad = i & 3u;
            let word = (i >> 2u) % WORDS_PER_GROUP;
            let panel = i / (4u * WORDS_PER_GROUP);
            // Panels behind the last are computed like it, and not written.
            let panel_start = min(unit * 4u + panel, n_panels - 1u) * params.panel_lines;
            unpack_M(panel_start, n_words, g, word, quad, panel * 4u + quad);
        }
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) {
            let w0 = numbers[64u * k + tile_column];
            let w1 = numbers[64u * k + 16u + tile_column];
            let w2 = numbers[64u * k + 32u + tile_column];
            let w3 = numbers[64u * k + 48u + tile_column];
            for (var r = 0u; r < TILE_ROWS / 16u; r++) {
                let x = inputs[(tile_row + r) * 8u + k];
                sums[r] += x.x * w0;
                sums[r] += x.y * w1;
                sums[r] += x.z * w2;
                sums[r] += x.w * w3;
            }
        }
        workgroupBarrier();
    }
    return sums;
}
