// Attention of one row and one query head by one workgroup, over blocks of as many keys as there are invocations. The
// softmax is kept up to date from block to block: the largest score so far, the sum of the exponentials relative to it,
// and the weighted sum of the values, shrunk when a larger score comes. Only keys that the row sees are read.

// The query in quadruples of features.
var<workgroup> query: array<vec4<f32>, MAX_QUADS>;
// The weights of a block's keys, then the parts of the result.
var<workgroup> weights: array<f32, LANES>;
var<workgroup> parts: array<vec4<f32>, LANES>;

// One workgroup for a row and head: called by all its invocations.
fn compute(row: u32, head_of_part: u32, lane: u32) {
    let quads = params.head_dim / 4u;
    let head = params.first_column / params.head_dim + head_of_part;
    let cache_start = head / params.group_heads * params.context * quads;
    let row_start = (row * params.input_columns + head * params.head_dim) / 4u;
    let n_keys = step.past + row + 1u;
    if (lane < quads) {
        query[lane] = load4_queries(row_start + lane);
    }
    workgroupBarrier();
    // For the values, an invocation has four features of every `n_slices`th key.
    let quad = lane % quads;
    let slice = lane / quads;
    let n_slices = LANES / quads;
    var largest = -3.4e38;
    var sum = 0.0;
    var result = vec4<f32>(0.0);
    for (var first = 0u; first < n_keys; first += LANES) {
        let key = first + lane;
        var score = -3.4e38;
        if (key < n_keys) {
            var products = vec4<f32>(0.0);
            let start = cache_start + key * quads;
            for (var i = 0u; i < quads; i++) {
                products += query[i] * load4_keys(start + i);
            }
            score = params.scale * ((products.x + products.y) + (products.z + products.w));
        }
        let new_largest = max(largest, largest_of_all(lane, score));
        let weight = select(0.0, exp(score - new_largest), key < n_keys);
        let shrink = exp(largest - new_largest);
        largest = new_largest;
        weights[lane] = weight;
        // The barriers of the sum make the weights visible.
        sum = sum * shrink + sum_all(lane, weight);
        result *= shrink;
        if (slice < n_slices) {
            let n = min(LANES, n_keys - first);
            for (var i = slice; i < n; i += n_slices) {
                result += weights[i] * load4_values(cache_start + (first + i) * quads + quad);
            }
        }
        workgroupBarrier();
    }
    parts[lane] = result;
    workgroupBarrier();
    if (lane < quads) {
        var total = parts[lane];
        for (var i = 1u; i < n_slices; i++) {
            total += parts[i * quads + lane];
        }
        total /= sum;
        let at = (row * params.output_columns + head * params.head_dim) + 4u * lane;
        store(at, total.x);
        store(at + 1u, total.y);
        store(at + 2u, total.z);
        store(at + 3u, total.w);
    }
    workgroupBarrier();
}
