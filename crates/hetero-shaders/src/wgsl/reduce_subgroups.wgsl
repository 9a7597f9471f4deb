// Sums and largest values over a workgroup, the same for all its invocations: within subgroups first, then over them.
// `LANES` comes before this; `subgroup` is set by `main`.

struct Subgroup {
    idx: u32,
    count: u32,
    lane: u32,
    size: u32,
}

var<private> subgroup: Subgroup;
var<workgroup> reduced: array<f32, LANES>;

fn sum_all(lane: u32, x: f32) -> f32 {
    let part = subgroupAdd(x);
    if (subgroup.lane == 0u) {
        reduced[subgroup.idx] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < subgroup.count; i++) {
        sum += reduced[i];
    }
    workgroupBarrier();
    return sum;
}

fn largest_of_all(lane: u32, x: f32) -> f32 {
    let part = subgroupMax(x);
    if (subgroup.lane == 0u) {
        reduced[subgroup.idx] = part;
    }
    workgroupBarrier();
    var largest = reduced[0];
    for (var i = 1u; i < subgroup.count; i++) {
        largest = max(largest, reduced[i]);
    }
    workgroupBarrier();
    return largest;
}
