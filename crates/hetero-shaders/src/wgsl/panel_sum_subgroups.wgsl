// As `panel_sum.wgsl`, within subgroups first. Invocations count by their place in the subgroup, so that the four that
// share the lines of a word are always neighbours in it.

struct Subgroup {
    idx: u32,
    count: u32,
    lane: u32,
    size: u32,
}

var<private> subgroup: Subgroup;
var<workgroup> partial: array<vec4<f32>, LANES>;

fn sum_of_panel(lane: u32, sum_of_lane: vec4<f32>) -> f32 {
    var sum = sum_of_lane;
    for (var n = 4u; n < min(subgroup.size, LANES); n = n * 2u) {
        sum += subgroupShuffleXor(sum, n);
    }
    if (subgroup.lane < 4u) {
        partial[subgroup.idx * 4u + subgroup.lane] = sum;
    }
    workgroupBarrier();
    var total = 0.0;
    if (lane < 16u) {
        for (var i = 0u; i < subgroup.count; i++) {
            total += partial[i * 4u + (lane >> 2u)][lane & 3u];
        }
    }
    workgroupBarrier();
    return total;
}

fn lane_of(local_lane: u32) -> u32 {
    return subgroup.idx * subgroup.size + subgroup.lane;
}
