// Kernels that compute every element by itself: `compute(row, column)` comes before this.

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = group.x * 256u + lane;
    if (column >= params.n_columns) {
        return;
    }
    let end = end_of_rows();
    for (var row = params.first_row + group.y; row < end; row += groups.y) {
        compute(row, column);
    }
}
