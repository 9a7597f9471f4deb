// Sine and cosine of an angle that is not negative, to some units in the last place up to 2^17, the positions of the
// longest contexts: multiples of a quarter turn are taken off in three pieces that sum up to pi / 2 (Cody and Waite),
// and polynomials of the Cephes library are good for the rest.
fn sine_and_cosine(angle: f32) -> vec2<f32> {
    let quarter = floor(angle * 0.636619772 + 0.5);
    let x = ((angle - quarter * 1.5703125) - quarter * 4.837512969970703125e-4) - quarter * 7.549789948768648e-8;
    let z = x * x;
    let sine = x + x * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4));
    let cosine = 1.0 - 0.5 * z
        + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
    let turn = u32(quarter) & 3u;
    let swapped = select(vec2<f32>(sine, cosine), vec2<f32>(cosine, sine), (turn & 1u) == 1u);
    return vec2<f32>(
        select(swapped.x, -swapped.x, turn >= 2u),
        select(swapped.y, -swapped.y, turn == 1u || turn == 2u),
    );
}
