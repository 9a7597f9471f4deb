// Sums and largest values over a workgroup, the same for all its invocations. `LANES` comes before this.

var<workgroup> reduced: array<f32, LANES>;

fn sum_all(lane: u32, x: f32) -> f32 {
    reduced[lane] = x;
    for (var n = LANES / 2u; n > 0u; n = n / 2u) {
        workgroupBarrier();
        if (lane < n) {
            reduced[lane] += reduced[lane + n];
        }
    }
    workgroupBarrier();
    let sum = reduced[0];
    workgroupBarrier();
    return sum;
}

fn largest_of_all(lane: u32, x: f32) -> f32 {
    reduced[lane] = x;
    for (var n = LANES / 2u; n > 0u; n = n / 2u) {
        workgroupBarrier();
        if (lane < n) {
            reduced[lane] = max(reduced[lane], reduced[lane + n]);
        }
    }
    workgroupBarrier();
    let largest = reduced[0];
    workgroupBarrier();
    return largest;
}
