// A linear operator on a few rows: a workgroup computes the 16 columns of one panel, and reads each of its bytes once.
// An invocation has four rows of the panel, one line of 16 bytes at a time; neighbours have neighbouring lines. The
// sums of the invocations are added up at the end. `accumulate` comes before this, and depends on the format.

var<workgroup> partial: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n_words = (params.input_columns + 31u) / 32u * WORDS_PER_GROUP;
    let panel_start = group.x * params.panel_lines;
    let quad = lane & 3u;
    let end = end_of_rows();
    for (var row = params.first_row + group.y * ROWS; row < end; row += groups.y * ROWS) {
        var sums: array<vec4<f32>, ROWS>;
        for (var word = lane >> 2u; word < n_words; word += LANES / 4u) {
            accumulate(&sums, panel_start, n_words, word, quad, row, end);
        }
        for (var r = 0u; r < ROWS; r++) {
            partial[lane] = sums[r];
            for (var n = LANES / 2u; n >= 4u; n = n / 2u) {
                workgroupBarrier();
                if (lane < n) {
                    partial[lane] += partial[lane + n];
                }
            }
            workgroupBarrier();
            let n = 16u * group.x + lane;
            if (lane < 16u && n < params.n_columns && row + r < end) {
                write(row + r, params.first_column + n, partial[lane >> 2u][lane & 3u]);
            }
            workgroupBarrier();
        }
    }
}
