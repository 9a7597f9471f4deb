// A linear operator on many rows: a workgroup computes 64 columns of `TILE_ROWS` rows. For each group of 32 columns of
// the input, the rows and the weights as numbers are put into workgroup memory; then each invocation multiplies
// `TILE_ROWS / 16` rows with four columns. Sums go over the inputs in order, whatever the tile, so results do not depend
// on it. `unpack` comes before this, and depends on the format.

// [row, quadruple of inputs]
var<workgroup> inputs: array<vec4<f32>, TILE_ROWS * 8u>;
// [input, quadruple of columns]
var<workgroup> numbers: array<vec4<f32>, 32u * 16u>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n_groups = (params.input_columns + 31u) / 32u;
    let n_words = n_groups * WORDS_PER_GROUP;
    let n_panels = (params.n_columns + 15u) / 16u;
    let end = end_of_rows();
    let tile_column = lane & 15u;
    let tile_row = (lane >> 4u) * (TILE_ROWS / 16u);
    for (var row = params.first_row + group.y * TILE_ROWS; row < end; row += groups.y * TILE_ROWS) {
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
                let panel_start = min(group.x * 4u + panel, n_panels - 1u) * params.panel_lines;
                unpack(panel_start, n_words, g, word, quad, panel * 4u + quad);
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
        let n = 64u * group.x + 4u * tile_column;
        for (var r = 0u; r < TILE_ROWS / 16u; r++) {
            let to = row + tile_row + r;
            for (var i = 0u; i < 4u; i++) {
                if (to < end && n + i < params.n_columns) {
                    write(to, params.first_column + n + i, sums[r][i]);
                }
            }
        }
    }
}
