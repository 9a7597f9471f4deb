// Linear operators on many rows by cooperative matrices: a workgroup of four subgroups computes a tile of `TILE_ROWS`
// rows and 64 columns, each subgroup 16 of the columns. The units multiply 16-bit floats and add in f32, so every number
// is put into workgroup memory as the nearest 16-bit float and what is missing to it, as another; of the four products
// the three that count are added, which is as exact as products in f32 are. `unpack_M` of each matrix comes before this, and depends on the format.
fn product_M(unit: u32, row: u32, end: u32, lane: u32) -> array<vec4<f32>, QUADS_EACH> {
    let n_groups = (params.input_columns + 31u) / 32u;
    let n_words = n_groups * WORDS_PER_GROUP;
    let n_panels = (N_COLUMNS + 15u) / 16u;
    let first = subgroup.idx * 16u;
/*sums*/
    for (var g = 0u; g < n_groups; g++) {
        put_inputs(row, end, g, lane);
        for (var i = lane; i < 16u * WORDS_PER_GROUP; i += LANES) {
            let quad = i & 3u;
            let word = (i >> 2u) % WORDS_PER_GROUP;
            let panel = i / (4u * WORDS_PER_GROUP);
            // Panels behind the last are computed like it, and not written.
            let panel_start = min(unit * 4u + panel, n_panels - 1u) * params.panel_lines;
            unpack_M(panel_start, n_words, g, word, quad, panel * 4u + quad);
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += SIZE) {
/*products*/
        }
        workgroupBarrier();
    }
/*stores*/
    workgroupBarrier();
    var quads: array<vec4<f32>, QUADS_EACH>;
    for (var i = 0u; i < QUADS_EACH; i++) {
        let at = 4u * (lane + i * LANES);
        quads[i] = vec4<f32>(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
    }
    workgroupBarrier();
    return quads;
}
