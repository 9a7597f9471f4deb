// Linear operators on a few rows: a workgroup computes the 16 columns of one panel, and reads each of its bytes once.
// An invocation has four rows of the panel, one line of 16 bytes at a time; neighbours have neighbouring lines. The sums
// of the invocations are added up at the end. `accumulate_M` and `write_M` of each matrix `M`, `sum_of_panel` and
// `columns` (which of the matrices and panels a workgroup has, and what it writes) come with this.

// The sums of one panel of a matrix: in the first 16 invocations, of a column each, for each row.
fn sums_M(panel: u32, row: u32, end: u32, lane: u32) -> array<f32, ROWS> {
    let n_words = (params.input_columns + 31u) / 32u * WORDS_PER_GROUP;
    let panel_start = panel * params.panel_lines;
    var sums: array<vec4<f32>, ROWS>;
    for (var word = lane >> 2u; word < n_words; word += LANES / 4u) {
        accumulate_M(&sums, panel_start, n_words, word, lane & 3u, row, end);
    }
    var totals: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        totals[r] = sum_of_panel(lane, sums[r]);
    }
    return totals;
}
