//! Attention against plain loops, and the same bits however it is cut.

use super::*;

struct Case {
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    stored: [Vec<u8>; 2],
    element: Element,
    positions: usize,
    past: usize,
    context: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
}

impl Case {
    fn new(element: Element, positions: usize, past: usize, kv_heads: usize, group: usize, head_dim: usize) -> Self {
        let mut random = Random::new((positions * 31 + past * 7 + head_dim) as u64);
        let context = past + positions + 5;
        let mut cache = |factor: f32| -> (Vec<f32>, Vec<u8>) {
            let mut exact = Vec::new();
            let mut stored = Vec::new();
            for i in 0..kv_heads * context * head_dim {
                // What lies beyond the newest position is old rubbish that must not show.
                let beyond = i / head_dim % context >= past + positions;
                let value = if beyond { f32::NAN } else { random.float() * factor };
                match element {
                    Element::F16 => {
                        let half = f16::from_f32(value);
                        exact.push(half.to_f32());
                        stored.extend(half.to_bits().to_ne_bytes());
                    }
                    _ => {
                        exact.push(value);
                        stored.extend(value.to_ne_bytes());
                    }
                }
            }
            (exact, stored)
        };
        let (keys, stored_keys) = cache(3.0);
        let (values, stored_values) = cache(1.0);
        let query = Random::new(77).floats(positions * kv_heads * group * head_dim);
        let stored = [stored_keys, stored_values];
        Self { query, keys, values, stored, element, positions, past, context, kv_heads, group, head_dim }
    }

    fn width(&self) -> usize {
        self.kv_heads * self.group * self.head_dim
    }

    /// Runs in cuts of so many positions and heads.
    fn run(&self, kernels: &Kernels, cut_positions: usize, cut_heads: usize) -> Vec<f32> {
        let width = self.width();
        let mut output = vec![UNTOUCHED; self.positions * width];
        let mut scratch = AttentionScratch::new(self.head_dim + 3);
        let row = self.head_dim * self.element.bytes();
        let params = Attention {
            query: Rows::of(&self.query, width),
            keys: Rows::of(&self.stored[0], row),
            values: Rows::of(&self.stored[1], row),
            element: self.element,
            output: RowsMut::of(&mut output, width),
            past: self.past,
            context: self.context,
            group: self.group,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
        };
        for kv_head in 0..self.kv_heads {
            for start in (0..self.positions).step_by(cut_positions) {
                for head in (0..self.group).step_by(cut_heads) {
                    let cut = AttentionCut {
                        kv_head,
                        heads: head..(head + cut_heads).min(self.group),
                        positions: start..(start + cut_positions).min(self.positions),
                    };
                    // SAFETY: all matrices have their documented shapes.
                    unsafe { (kernels.attention)(&params, &cut, &mut scratch) };
                }
            }
        }
        output
    }

    /// One head of one position, in f64.
    fn expected(&self, position: usize, head: usize) -> Vec<f64> {
        let (head_dim, kv_head) = (self.head_dim, head / self.group);
        let query = &self.query[position * self.width() + head * head_dim..][..head_dim];
        let row = |cache: &[f32], key: usize| -> Vec<f64> {
            cache[(kv_head * self.context + key) * head_dim..][..head_dim].iter().map(|&x| f64::from(x)).collect()
        };
        let n_keys = self.past + position + 1;
        let scores: Vec<f64> = (0..n_keys)
            .map(|key| {
                let products = row(&self.keys, key).into_iter().zip(query).map(|(k, &q)| k * f64::from(q));
                products.sum::<f64>() / (head_dim as f64).sqrt()
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut output = vec![0.0; head_dim];
        for (key, weight) in weights.iter().enumerate() {
            for (output, value) in output.iter_mut().zip(row(&self.values, key)) {
                *output += weight / total * value;
            }
        }
        output
    }
}

#[test]
fn attention_is_a_causal_softmax_average() {
    for kernels in Kernels::available() {
        for element in [Element::F32, Element::F16] {
            for head_dim in [20, 32, 64, 80, 96, 128, 256] {
                for (positions, past, kv_heads, group) in
                    [(1, 0, 2, 1), (1, 70, 2, 4), (5, 62, 1, 3), (33, 0, 1, 2), (3, 200, 1, 4), (70, 3, 1, 1)]
                {
                    let case = Case::new(element, positions, past, kv_heads, group, head_dim);
                    let output = case.run(kernels, positions, group);
                    for position in 0..positions {
                        for head in 0..kv_heads * group {
                            let actual = &output[position * case.width() + head * head_dim..][..head_dim];
                            for (&actual, expected) in actual.iter().zip(case.expected(position, head)) {
                                let what = format!("{} {element:?} d{head_dim} p{position} h{head}", kernels.name);
                                assert_close(actual, expected, 1.0, 3e-6, what);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_cut() {
    for kernels in Kernels::available() {
        for element in [Element::F32, Element::F16] {
            for head_dim in [20, 64, 80] {
                let case = Case::new(element, 37, 50, 2, 4, head_dim);
                let whole = case.run(kernels, 37, 4);
                for (positions, heads) in [(1, 4), (1, 1), (5, 4), (16, 3), (37, 1)] {
                    let cut = case.run(kernels, positions, heads);
                    assert_eq!(bits(&whole), bits(&cut), "{} {positions} positions, {heads} heads", kernels.name);
                }
            }
        }
    }
}
