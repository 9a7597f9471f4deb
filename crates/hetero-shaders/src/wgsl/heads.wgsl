// Kernels that compute a row and head by a workgroup: `compute(row, head, lane)` comes before this.

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    /*subgroup arguments*/
) {
    /*subgroup values*/
    let end = end_of_rows();
    for (var row = params.first_row + group.y; row < end; row += groups.y) {
        compute(row, group.x, lane);
    }
}
