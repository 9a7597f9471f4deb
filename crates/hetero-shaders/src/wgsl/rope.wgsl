// Here a column is a pair: all those of the first head, then those of the next.
fn compute(row: u32, pair: u32) {
    let half_dim = params.head_dim / 2u;
    let i = pair % half_dim;
    let first = row * params.output_columns + params.first_column + (pair / half_dim) * params.head_dim + i;
    let turned = sine_and_cosine(f32(step.past + row) * bitcast<f32>(frequencies[i]));
    let a = load_x(first);
    let b = load_x(first + half_dim);
    store(first, a * turned.y - b * turned.x);
    store(first + half_dim, b * turned.y + a * turned.x);
}
