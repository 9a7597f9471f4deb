@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    /*subgroup arguments*/
) {
    /*subgroup values*/
    let end = end_of_rows();
    for (var row = params.first_row + group.y * TILE_ROWS; row < end; row += groups.y * TILE_ROWS) {
        columns(group.x, row, end, lane);
    }
}
