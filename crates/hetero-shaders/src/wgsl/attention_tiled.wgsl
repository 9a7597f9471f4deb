// Attention of a tile of queries by one workgroup: the query heads that share a head of keys and values, and several
// rows, so that keys and values are read once for all of them. A query is a row and head, the heads of a row first.
//
// Keys come in blocks of `KEYS`. For a block, queries and keys pass through workgroup memory by `DEPTH` quadruples of
// features, and each invocation multiplies `QUERIES_EACH` queries with `KEYS_EACH` keys; then the scores become weights
// relative to the largest so far, and the weighted values are added to results that were shrunk when a larger score has
// come. For the values, an invocation has one quadruple of features of `RESULTS` queries, of every `SLICES`th four keys.
//
// What a query adds, and in which order, goes by its own position and never by its place in a tile: keys that it does
// not see have the weight zero, which changes nothing. `keys_of` (all keys, or those of one part) and `finish` come
// before this.

const MASKED = -3.4e38;

// [quadruple of features, query], [quadruple of features, key]; the odd length keeps banks apart.
var<workgroup> query_tile: array<vec4<f32>, DEPTH * (QUERIES + 1u)>;
var<workgroup> key_tile: array<vec4<f32>, DEPTH * (KEYS + 1u)>;
// [query, four keys]: scores, then weights.
var<workgroup> weights: array<vec4<f32>, QUERIES * (KEYS / 4u + 1u)>;
var<workgroup> shrinks: array<f32, QUERIES>;
var<workgroup> largest_scores: array<f32, QUERIES>;
var<workgroup> slice_sums: array<f32, LANES>;

fn row_of(query: u32, end: u32) -> u32 {
    // Queries behind the last are computed like it, and not written.
    return min(params.first_row + query / params.group_heads, end - 1u);
}

fn compute(tile: u32, group_head: u32, split: u32, lane: u32, end: u32) {
    let first_query = tile * QUERIES;
    let first_head = params.first_column / params.head_dim + group_head * params.group_heads;
    let cache_start = first_head / params.group_heads * params.context * HEAD_QUADS;
    let seen = keys_of(step.past + row_of(first_query + QUERIES - 1u, end) + 1u, split);

    // Of the scores.
    let key_lane = lane % (KEYS / KEYS_EACH);
    let query_lane = lane / (KEYS / KEYS_EACH) * QUERIES_EACH;
    // Of the weights: one query and some of its keys.
    let weighted = lane / (LANES / QUERIES);
    let weighted_lane = lane % (LANES / QUERIES);
    var largest = MASKED;
    // Of the values.
    let quad = lane % HEAD_QUADS;
    let first_result = lane / HEAD_QUADS % QUERY_GROUPS;
    let slice = lane / HEAD_QUADS / QUERY_GROUPS;
    var results: array<vec4<f32>, RESULTS>;
    var sums: array<f32, RESULTS>;
    if (weighted_lane == 0u) {
        largest_scores[weighted] = MASKED;
    }

    for (var first = seen.x; first < seen.y; first += KEYS) {
        var scores: array<array<f32, KEYS_EACH>, QUERIES_EACH>;
        for (var depth = 0u; depth < HEAD_QUADS; depth += DEPTH) {
            for (var i = lane; i < QUERIES * DEPTH; i += LANES) {
                let query = first_query + i / DEPTH;
                let d = depth + i % DEPTH;
                let head = first_head + query % params.group_heads;
                let start = (row_of(query, end) * params.input_columns + head * params.head_dim) / 4u;
                // Behind the last feature there are zeros.
                let four = load4_queries(start + min(d, HEAD_QUADS - 1u));
                query_tile[i % DEPTH * (QUERIES + 1u) + i / DEPTH] = select(vec4<f32>(0.0), four, d < HEAD_QUADS);
            }
            for (var i = lane; i < KEYS * DEPTH; i += LANES) {
                let d = min(depth + i % DEPTH, HEAD_QUADS - 1u);
                let key = min(first + i / DEPTH, seen.y - 1u);
                key_tile[i % DEPTH * (KEYS + 1u) + i / DEPTH] = load4_keys(cache_start + key * HEAD_QUADS + d);
            }
            workgroupBarrier();
            for (var d = 0u; d < DEPTH; d++) {
                var keys: array<vec4<f32>, KEYS_EACH>;
                for (var j = 0u; j < KEYS_EACH; j++) {
                    keys[j] = key_tile[d * (KEYS + 1u) + key_lane + j * (KEYS / KEYS_EACH)];
                }
                for (var i = 0u; i < QUERIES_EACH; i++) {
                    let query = query_tile[d * (QUERIES + 1u) + query_lane + i];
                    for (var j = 0u; j < KEYS_EACH; j++) {
                        scores[i][j] += dot(query, keys[j]);
                    }
                }
            }
            workgroupBarrier();
        }
        for (var i = 0u; i < QUERIES_EACH; i++) {
            let query = query_lane + i;
            let n_seen = step.past + row_of(first_query + query, end) + 1u;
            for (var j = 0u; j < KEYS_EACH; j++) {
                let key = key_lane + j * (KEYS / KEYS_EACH);
                let is_seen = first + key < min(n_seen, seen.y);
                weights[query * (KEYS / 4u + 1u) + key / 4u][key % 4u] = select(MASKED, params.scale * scores[i][j], is_seen);
            }
        }
        workgroupBarrier();
        var four = weights[weighted * (KEYS / 4u + 1u)];
        for (var i = 1u; i < KEYS / 4u; i++) {
            four = max(four, weights[weighted * (KEYS / 4u + 1u) + i]);
        }
        let new_largest = max(largest, max(max(four.x, four.y), max(four.z, four.w)));
        if (weighted_lane == 0u) {
            shrinks[weighted] = select(exp(largest - new_largest), 1.0, largest == new_largest);
            largest_scores[weighted] = new_largest;
        }
        largest = new_largest;
        workgroupBarrier();
        for (var key = weighted_lane; key < KEYS; key += LANES / QUERIES) {
            let at = weighted * (KEYS / 4u + 1u) + key / 4u;
            let score = weights[at][key % 4u];
            weights[at][key % 4u] = select(0.0, exp(score - largest), score > MASKED);
        }
        workgroupBarrier();
        if (slice < SLICES) {
            for (var j = 0u; j < RESULTS; j++) {
                let shrink = shrinks[min(first_result + j * QUERY_GROUPS, QUERIES - 1u)];
                results[j] *= shrink;
                sums[j] *= shrink;
            }
            let last = seen.y - 1u - first;
            for (var i = slice; i * 4u <= min(last, KEYS - 1u); i += SLICES) {
                let start = cache_start + first * HEAD_QUADS + quad;
                let v0 = load4_values(start + 4u * i * HEAD_QUADS);
                let v1 = load4_values(start + min(4u * i + 1u, last) * HEAD_QUADS);
                let v2 = load4_values(start + min(4u * i + 2u, last) * HEAD_QUADS);
                let v3 = load4_values(start + min(4u * i + 3u, last) * HEAD_QUADS);
                for (var j = 0u; j < RESULTS; j++) {
                    let query = min(first_result + j * QUERY_GROUPS, QUERIES - 1u);
                    let w = weights[query * (KEYS / 4u + 1u) + i];
                    results[j] += w.x * v0;
                    results[j] += w.y * v1;
                    results[j] += w.z * v2;
                    results[j] += w.w * v3;
                    sums[j] += (w.x + w.y) + (w.z + w.w);
                }
            }
        }
        // The barriers of the next block stand before its weights.
    }
    if (SLICES > 1u) {
        // Several slices have one query each.
        workgroupBarrier();
        key_tile[lane] = results[0];
        slice_sums[lane] = sums[0];
        workgroupBarrier();
        for (var i = 1u; i < SLICES; i++) {
            let other = min(lane + i * QUERY_GROUPS * HEAD_QUADS, LANES - 1u);
            results[0] += key_tile[other];
            sums[0] += slice_sums[other];
        }
    }
    workgroupBarrier();
    if (slice == 0u) {
        for (var j = 0u; j < RESULTS; j++) {
            let query = first_result + j * QUERY_GROUPS;
            let row = params.first_row + (first_query + query) / params.group_heads;
            if (query < QUERIES && row < end) {
                let head = first_head + (first_query + query) % params.group_heads;
                finish(row, head, split, quad, results[j], sums[j], largest_scores[query]);
            }
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let end = end_of_rows();
    let n_queries = (end - params.first_row) * params.group_heads;
    let splits = n_splits();
    for (var tile = group.y; tile * QUERIES < n_queries; tile += groups.y) {
        compute(tile, group.x / splits, group.x % splits, lane, end);
    }
}
