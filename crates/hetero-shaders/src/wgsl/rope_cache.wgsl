// What stands between the products of a layer and its attention, for pairs of features: those of the queries are turned,
// those of the keys are turned and put into the cache, those of the values are put into theirs. Queries may be some heads
// only; keys and values are whole.
fn compute(row: u32, pair: u32) {
    let half_dim = params.head_dim / 2u;
    let n_query_pairs = params.others[0].count / 2u;
    let n_key_pairs = params.others[0].total / 2u;
    let i = pair % half_dim;
    let angle = f32(step.past + row) * bitcast<f32>(frequencies[i]);
    if (pair < n_query_pairs) {
        let first = row * params.output_columns + params.first_column + pair / half_dim * params.head_dim + i;
        let turned = sine_and_cosine(angle);
        let a = load_q(first);
        let b = load_q(first + half_dim);
        store_queries(first, a * turned.y - b * turned.x);
        store_queries(first + half_dim, b * turned.y + a * turned.x);
        return;
    }
    let is_value = pair - n_query_pairs >= n_key_pairs;
    let own_pair = pair - n_query_pairs - select(0u, n_key_pairs, is_value);
    let head = own_pair / half_dim;
    let at = row * params.others[0].total + head * params.head_dim + i;
    let to = (head * params.context + step.past + row) * params.head_dim + i;
    if (is_value) {
        store_values(to, load_v(at));
        store_values(to + half_dim, load_v(at + half_dim));
        return;
    }
    let turned = sine_and_cosine(angle);
    let a = load_k(at);
    let b = load_k(at + half_dim);
    store_keys(to, a * turned.y - b * turned.x);
    store_keys(to + half_dim, b * turned.y + a * turned.x);
}
