//! Norm, rotation, gate, sum, softmax, conversion and cache writes.

use super::*;

const WIDTHS: [usize; 7] = [1, 15, 16, 17, 60, 96, 300];

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    for kernels in Kernels::available() {
        for features in WIDTHS {
            let stride = features + 2;
            let input = Random::new(1).floats(3 * stride);
            let weight = Random::new(2).floats(features);
            let mut output = vec![UNTOUCHED; 3 * stride];
            let params = RmsNorm {
                input: Rows::of(&input, stride),
                weight: Rows::of(&weight, features),
                output: RowsMut::of(&mut output, stride),
                epsilon: 1e-5,
                features,
                positions: 1..3,
            };
            // SAFETY: all matrices have their documented shapes.
            unsafe { (kernels.rms_norm)(&params) };
            assert!(output[..stride].iter().all(|&value| value == UNTOUCHED));
            for position in 1..3 {
                let row = &input[position * stride..][..features];
                let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / features as f64;
                for i in 0..features {
                    let expected = f64::from(row[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                    assert_close(output[position * stride + i], expected, expected.abs(), 1e-6, kernels.name);
                }
                assert_eq!(output[position * stride + features..][..2], [UNTOUCHED; 2]);
            }
        }
    }
}

#[test]
fn rope_rotates_each_half_split_pair() {
    for kernels in Kernels::available() {
        for head_dim in [2, 20, 32, 64, 80, 128] {
            let (half, stride) = (head_dim / 2, 3 * head_dim + 1);
            let before = Random::new(3).floats(2 * stride);
            let angles = Random::new(4).floats(2 * half);
            let cos: Vec<_> = angles.iter().map(|angle| (angle * 3.0).cos()).collect();
            let sin: Vec<_> = angles.iter().map(|angle| (angle * 3.0).sin()).collect();
            let mut data = before.clone();
            let params = Rope {
                data: RowsMut::of(&mut data, stride),
                cos: Rows::of(&cos, half),
                sin: Rows::of(&sin, half),
                head_dim,
                positions: 0..2,
                heads: 1..3,
            };
            // SAFETY: all matrices have their documented shapes.
            unsafe { (kernels.rope)(&params) };
            for position in 0..2 {
                let (before, after) = (&before[position * stride..][..stride], &data[position * stride..][..stride]);
                assert_eq!(before[..head_dim], after[..head_dim]);
                assert_eq!(before[stride - 1], after[stride - 1]);
                for head in 1..3 {
                    for i in 0..half {
                        let (a, b) =
                            (f64::from(before[head * head_dim + i]), f64::from(before[head * head_dim + half + i]));
                        let (c, d) = (f64::from(cos[position * half + i]), f64::from(sin[position * half + i]));
                        assert_close(after[head * head_dim + i], a * c - b * d, 1.0, 3e-7, kernels.name);
                        assert_close(after[head * head_dim + half + i], b * c + a * d, 1.0, 3e-7, kernels.name);
                    }
                }
            }
        }
    }
}

#[test]
fn swiglu_and_add_touch_their_columns_only() {
    for kernels in Kernels::available() {
        for features in WIDTHS {
            let a: Vec<_> = Random::new(5).floats(2 * features).iter().map(|x| x * 20.0).collect();
            let b = Random::new(6).floats(2 * features);
            let start = features / 3;
            for gate in [true, false] {
                let mut output = vec![UNTOUCHED; 2 * features];
                let params = Elementwise {
                    a: Rows::of(&a, features),
                    b: Rows::of(&b, features),
                    output: RowsMut::of(&mut output, features),
                    positions: 0..2,
                    features: start..features,
                };
                // SAFETY: all matrices have their documented shapes.
                unsafe { if gate { (kernels.swiglu)(&params) } else { (kernels.add)(&params) } };
                for (i, &actual) in output.iter().enumerate() {
                    let (x, y) = (f64::from(a[i]), f64::from(b[i]));
                    if i % features < start {
                        assert_eq!(actual, UNTOUCHED);
                    } else if gate {
                        let expected = x / (1.0 + (-x).exp()) * y;
                        assert_close(actual, expected, expected.abs(), 1e-6, kernels.name);
                    } else {
                        assert_close(actual, x + y, x.abs() + y.abs(), 1e-7, kernels.name);
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_rows_sum_to_one() {
    for kernels in Kernels::available() {
        for features in WIDTHS {
            let input: Vec<_> = Random::new(7).floats(2 * features).iter().map(|x| x * 30.0).collect();
            let mut output = vec![UNTOUCHED; 2 * features + 1];
            let params = Softmax {
                input: Rows::of(&input, features),
                output: RowsMut::of(&mut output, features),
                features,
                positions: 0..2,
            };
            // SAFETY: both matrices have their documented shapes.
            unsafe { (kernels.softmax)(&params) };
            for (from, to) in input.chunks_exact(features).zip(output.chunks_exact(features)) {
                let largest = from.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = from.iter().map(|&x| f64::from(x - largest).exp()).sum();
                for (&from, &to) in from.iter().zip(to) {
                    let expected = f64::from(from - largest).exp() / total;
                    assert_close(to, expected, expected, 2e-6, kernels.name);
                }
            }
            assert_eq!(output[2 * features], UNTOUCHED);
        }
    }
}

/// A value of an element type as the bits of its storage.
fn encode(element: Element, value: f32) -> Vec<u8> {
    match element {
        Element::F32 => value.to_ne_bytes().to_vec(),
        Element::F16 => f16::from_f32(value).to_bits().to_ne_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(value).to_bits().to_ne_bytes().to_vec(),
    }
}

fn decode(element: Element, bytes: &[u8]) -> f32 {
    match element {
        Element::F32 => f32::from_ne_bytes(bytes.try_into().expect("four bytes")),
        Element::F16 => f16::from_bits(u16::from_ne_bytes(bytes.try_into().expect("two bytes"))).to_f32(),
        Element::Bf16 => bf16::from_bits(u16::from_ne_bytes(bytes.try_into().expect("two bytes"))).to_f32(),
    }
}

#[test]
fn conversions_round_to_nearest_even_and_pad_with_zeros() {
    let elements = [Element::Bf16, Element::F16, Element::F32];
    let special =
        [0.0, -0.0, 1.0, 65504.0, 65520.0, 1e9, -1e9, 6.1e-5, 5.9e-8, 1e-30, f32::INFINITY, f32::NEG_INFINITY];
    let ties = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 0.100_097_656];
    for kernels in Kernels::available() {
        for (from, to) in elements.into_iter().flat_map(|from| elements.map(|to| (from, to))) {
            for features in WIDTHS {
                let padded = features.next_multiple_of(32);
                let mut values = Random::new(8).floats(features);
                for (value, special) in values.iter_mut().zip(special.iter().chain(&ties)) {
                    *value = *special;
                }
                let input: Vec<u8> = values.iter().flat_map(|&value| encode(from, value)).collect();
                let mut output = vec![0xaa; padded * to.bytes() + 1];
                let params = Convert {
                    input: Rows::of(&input, features * from.bytes()),
                    input_element: from,
                    output: RowsMut::of(&mut output, padded * to.bytes()),
                    output_element: to,
                    features,
                    padded_features: padded,
                    positions: 0..1,
                };
                // SAFETY: both matrices have their documented shapes.
                unsafe { (kernels.convert)(&params) };
                for (i, actual) in output.chunks_exact(to.bytes()).enumerate().take(padded) {
                    let expected = if i < features {
                        encode(to, decode(from, &input[i * from.bytes()..][..from.bytes()]))
                    } else {
                        encode(to, 0.0)
                    };
                    assert_eq!(actual, expected, "{} {from:?} to {to:?} value {i}", kernels.name);
                }
                assert_eq!(output.last(), Some(&0xaa));
            }
        }
        let nan = [f32::NAN; 20];
        for to in elements {
            let mut output = vec![0u8; 20 * to.bytes()];
            let params = Convert {
                input: Rows { first: nan.as_ptr().cast(), stride: 80 },
                input_element: Element::F32,
                output: RowsMut::of(&mut output, 20 * to.bytes()),
                output_element: to,
                features: 20,
                padded_features: 20,
                positions: 0..1,
            };
            // SAFETY: both matrices have their documented shapes.
            unsafe { (kernels.convert)(&params) };
            assert!(output.chunks_exact(to.bytes()).all(|bytes| decode(to, bytes).is_nan()), "{}", kernels.name);
        }
    }
}

#[test]
fn cache_writes_land_in_their_head_and_position() {
    for kernels in Kernels::available() {
        for element in [Element::F16, Element::F32] {
            for head_dim in [20, 32, 64] {
                let (heads, context, past, stride) = (3, 9, 4, 3 * head_dim + 2);
                let input = Random::new(9).floats(3 * stride);
                let mut cache = vec![0xaa; heads * context * head_dim * element.bytes()];
                let params = CacheWrite {
                    input: Rows::of(&input, stride),
                    cache: RowsMut::of(&mut cache, head_dim * element.bytes()),
                    element,
                    context,
                    head_dim,
                    past,
                    positions: 1..3,
                    kv_heads: 1..3,
                };
                // SAFETY: both matrices have their documented shapes.
                unsafe { (kernels.cache_write)(&params) };
                for (i, row) in cache.chunks_exact(head_dim * element.bytes()).enumerate() {
                    let (head, position) = (i / context, i % context);
                    if head >= 1 && (past + 1..past + 3).contains(&position) {
                        let from = &input[(position - past) * stride + head * head_dim..][..head_dim];
                        let expected: Vec<u8> = from.iter().flat_map(|&value| encode(element, value)).collect();
                        assert_eq!(row, expected);
                    } else {
                        assert!(row.iter().all(|&byte| byte == 0xaa), "{} head {head} {position}", kernels.name);
                    }
                }
            }
        }
    }
}
