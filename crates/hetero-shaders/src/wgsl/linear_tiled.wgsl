// Linear operators on many rows: a workgroup computes a tile of `TILE_ROWS` rows and `TILE_COLUMNS` columns. For each
// group of 32 columns of the input, the rows and the weights are put into workgroup memory; then each invocation
// multiplies `ROWS_EACH` rows with `QUADS_EACH` quadruples of columns. Sums go over the inputs in order, whatever the
// tile, so results do not depend on it. `unpack_M` of each matrix comes before this, and depends on the format.
fn tile_M(unit: u32, row: u32, end: u32, lane: u32) -> array<vec4<f32>, ROWS_EACH * QUADS_EACH> {
    let n_groups = (params.input_columns + 31u) / 32u;
    let n_words = n_groups * WORDS_PER_GROUP;
    let n_panels = (N_COLUMNS + 15u) / 16u;
    let across = lane % ACROSS;
    let down = lane / ACROSS;
    var sums: array<vec4<f32>, ROWS_EACH * QUADS_EACH>;
/*partial sums*/
    for (var g = 0u; g < n_groups; g++) {
        put_inputs(row, end, g, lane);
        for (var i = lane; i < TILE_COLUMNS / 4u * WORDS_PER_GROUP; i += LANES) {
            let quad = i & 3u;
            let word = (i >> 2u) % WORDS_PER_GROUP;
            let panel = i / (4u * WORDS_PER_GROUP);
            // Panels behind the last are computed like it, and not written.
            let panel_start = min(unit * (TILE_COLUMNS / 16u) + panel, n_panels - 1u) * params.panel_lines;
            unpack_M(panel_start, n_words, g, word, quad, panel * 4u + quad);
        }
        workgroupBarrier();
/*before*/
        for (var k = 0u; k < 8u; k++) {
/*products*/
        }
/*after*/
        workgroupBarrier();
    }
    return sums;
}
