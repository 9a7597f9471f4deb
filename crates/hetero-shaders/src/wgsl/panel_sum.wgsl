// The sums of all invocations, each of which has four columns of a panel: the first 16 get that of one column each.

var<workgroup> partial: array<vec4<f32>, LANES>;

fn sum_of_panel(lane: u32, sum: vec4<f32>) -> f32 {
    partial[lane] = sum;
    for (var n = LANES / 2u; n >= 4u; n = n / 2u) {
        workgroupBarrier();
        if (lane < n) {
            partial[lane] += partial[lane + n];
        }
    }
    workgroupBarrier();
    let total = partial[(lane >> 2u) & 3u][lane & 3u];
    workgroupBarrier();
    return total;
}

fn lane_of(local_lane: u32) -> u32 {
    return local_lane;
}
