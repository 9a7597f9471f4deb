// As `linear_vector.wgsl`, with the sums added up within subgroups first. Invocations count by their place in the
// subgroup, so that the four that share the lines of a word are always neighbours in it.

var<workgroup> partial: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup_idx: u32,
    @builtin(num_subgroups) n_subgroups: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let n_words = (params.input_columns + 31u) / 32u * WORDS_PER_GROUP;
    let panel_start = group.x * params.panel_lines;
    let lane = subgroup_idx * subgroup_size + subgroup_lane;
    let quad = lane & 3u;
    let end = end_of_rows();
    for (var row = params.first_row + group.y * ROWS; row < end; row += groups.y * ROWS) {
        var sums: array<vec4<f32>, ROWS>;
        for (var word = lane >> 2u; word < n_words; word += LANES / 4u) {
            accumulate(&sums, panel_start, n_words, word, quad, row, end);
        }
        for (var r = 0u; r < ROWS; r++) {
            var sum = sums[r];
            for (var n = 4u; n < min(subgroup_size, LANES); n = n * 2u) {
                sum += subgroupShuffleXor(sum, n);
            }
            if (subgroup_lane < 4u) {
                partial[subgroup_idx * 4u + quad] = sum;
            }
            workgroupBarrier();
            let n = 16u * group.x + lane;
            if (lane < 16u && n < params.n_columns && row + r < end) {
                var total = 0.0;
                for (var i = 0u; i < n_subgroups; i++) {
                    total += partial[i * 4u + (lane >> 2u)][lane & 3u];
                }
                write(row + r, params.first_column + n, total);
            }
            workgroupBarrier();
        }
    }
}
