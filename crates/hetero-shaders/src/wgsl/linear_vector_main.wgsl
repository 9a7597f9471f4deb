@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local_lane: u32,
    /*subgroup arguments*/
) {
    /*subgroup values*/
    let lane = lane_of(local_lane);
    let end = end_of_rows();
    for (var row = params.first_row + group.y * ROWS; row < end; row += groups.y * ROWS) {
        columns(group.x, row, end, lane);
    }
}
