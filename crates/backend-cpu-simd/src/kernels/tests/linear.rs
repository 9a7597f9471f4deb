//! The linear kernels: values, untouched surroundings, and the same bits however the work is cut.

use super::*;

const SIZES_K: [usize; 5] = [32, 60, 92, 96, 2048];
const SIZES_N: [usize; 5] = [1, 15, 16, 17, 257];
const SIZES_M: [usize; 6] = [1, 2, 3, 7, 16, 33];

/// The shapes to try: all of the small ones, and a few of the large ones.
fn shapes() -> impl Iterator<Item = (usize, usize, usize)> {
    let all = SIZES_K.into_iter().flat_map(|k| SIZES_N.into_iter().map(move |n| (k, n)));
    let all = all.flat_map(|(k, n)| SIZES_M.into_iter().map(move |m| (m, n, k)));
    all.filter(|(m, n, k)| m * n * k <= 300_000)
}

/// Which kernel to call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Int8,
    Float,
    Bf16,
}

/// One linear layer and its input; the activations' rows are wider than K.
struct Case {
    kind: Kind,
    packed: Packed,
    activations: Vec<f32>,
    stride: usize,
    m: usize,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new(kind: Kind, format: WeightFormat, m: usize, n: usize, k: usize) -> Self {
        let seed = (m * 1_000_003 + n * 1009 + k) as u64;
        let stride = k + 5;
        let packed = Packed::random(format, n, k, seed);
        let mut random = Random::new(seed + 1);
        // What lies between the rows must not be read as if it were part of them.
        let activations = (0..m * stride).map(|i| if i % stride < k { random.float() } else { f32::NAN }).collect();
        let bias = (m % 2 == 1).then(|| random.floats(n));
        Self { kind, packed, activations, stride, m, bias }
    }

    /// Runs positions `rows`, panels cut at `cuts`; the output is `[rows, n + 3]` and was `UNTOUCHED`.
    fn run(&self, kernels: &Kernels, rows: Range<usize>, cuts: &[usize]) -> Vec<f32> {
        let weights = self.packed.weights();
        let out_stride = self.packed.n + 3;
        let mut output = vec![UNTOUCHED; rows.len() * out_stride];
        let to = RowsMut::of(&mut output, out_stride);
        let bias = self.bias.as_ref().map(|bias| Rows::of(bias, bias.len()));
        let k = self.packed.k;
        let activations = &self.activations[rows.start * self.stride..];
        let mut edges = vec![0];
        edges.extend_from_slice(cuts);
        edges.push(weights.n_panels());
        for panels in edges.windows(2).map(|edge| edge[0]..edge[1]) {
            let positions = rows.len();
            // SAFETY: all buffers have their documented shapes.
            unsafe {
                match self.kind {
                    Kind::Int8 => {
                        let mut quantized = Quantized::of(kernels, activations, self.stride, positions, k);
                        let activations = quantized.rows();
                        (kernels.linear_int8)(&LinearInt8 { weights, activations, output: to, bias, panels });
                    }
                    Kind::Float => {
                        let activations = Rows::of(activations, self.stride);
                        (kernels.linear_float)(&LinearFloat {
                            weights,
                            activations,
                            output: to,
                            bias,
                            positions,
                            panels,
                        });
                    }
                    Kind::Bf16 => {
                        let padded = k.next_multiple_of(GROUP);
                        let rounded = rounded(kernels, activations, self.stride, positions, k);
                        let activations = Rows::of(&rounded, padded);
                        let linear = kernels.linear_bf16.expect("checked by the caller");
                        linear(&LinearBf16 { weights, activations, output: to, bias, positions, panels });
                    }
                }
            }
        }
        output
    }

    /// The value and the sum of magnitudes of one output.
    fn expected(&self, kernels: &Kernels, position: usize, feature: usize) -> (f64, f64) {
        let k = self.packed.k;
        let row = &self.activations[position * self.stride..][..k];
        let weights = &self.packed.values[feature * k..][..k];
        let quantized = (self.kind == Kind::Int8).then(|| Quantized::of(kernels, row, k, 1, k));
        let mut sum = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[feature]));
        let mut magnitude = sum.abs();
        for column in 0..k {
            let activation = match (&quantized, self.kind) {
                (Some(quantized), _) => quantized.value(0, column),
                (None, Kind::Bf16) => bf16::from_f32(row[column]).to_f64(),
                (None, _) => f64::from(row[column]),
            };
            let product = activation * f64::from(weights[column]);
            sum += product;
            magnitude += product.abs();
        }
        (sum, magnitude)
    }
}

/// Rows as bf16, padded with zeros to a multiple of 32.
fn rounded(kernels: &Kernels, input: &[f32], stride: usize, positions: usize, k: usize) -> Vec<u16> {
    let padded = k.next_multiple_of(GROUP);
    let mut output = vec![0x7fc0; positions * padded];
    let params = Convert {
        input: Rows { first: input.as_ptr().cast(), stride: stride * 4 },
        input_element: Element::F32,
        output: RowsMut { first: output.as_mut_ptr().cast(), stride: padded * 2 },
        output_element: Element::Bf16,
        features: k,
        padded_features: padded,
        positions: 0..positions,
    };
    // SAFETY: both matrices have their documented shapes.
    unsafe { (kernels.convert)(&params) };
    output
}

/// Every kernel with every format that it takes, on every instruction set.
fn kinds(mut check: impl FnMut(&Kernels, Kind, WeightFormat)) {
    for kernels in Kernels::available() {
        for format in WeightFormat::ALL {
            check(kernels, Kind::Float, format);
            if format.is_quantized() {
                check(kernels, Kind::Int8, format);
            }
        }
        if kernels.linear_bf16.is_some() {
            check(kernels, Kind::Bf16, WeightFormat::Bf16);
        }
    }
}

#[test]
fn outputs_are_right_and_nothing_else_is_written() {
    kinds(|kernels, kind, format| {
        for (m, n, k) in shapes() {
            let case = Case::new(kind, format, m, n, k);
            let output = case.run(kernels, 0..m, &[]);
            for (position, row) in output.chunks_exact(n + 3).enumerate() {
                for (feature, &actual) in row[..n].iter().enumerate() {
                    // A few columns of the wide shapes are enough, their last ones among them.
                    if feature >= 40 && feature + 20 < n {
                        continue;
                    }
                    let (expected, magnitude) = case.expected(kernels, position, feature);
                    let what = format!("{} {kind:?} {format:?} m{m} n{n} k{k} [{position}, {feature}]", kernels.name);
                    assert_close(actual, expected, magnitude, 3e-6, what);
                }
                assert!(row[n..].iter().all(|&value| value == UNTOUCHED), "{} writes beyond n", kernels.name);
            }
        }
    });
}

#[test]
fn bits_do_not_depend_on_the_number_of_positions_or_the_cut() {
    kinds(|kernels, kind, format| {
        for (m, n, k) in [(7, 17, 92), (33, 70, 96), (70, 100, 160), (19, 40, 2048)] {
            let case = Case { bias: Some(Random::new(5).floats(n)), ..Case::new(kind, format, m, n, k) };
            let whole = case.run(kernels, 0..m, &[]);
            let n_panels = n.div_ceil(PANEL_ROWS);
            let what = format!("{} {kind:?} {format:?} m{m} n{n} k{k}", kernels.name);
            assert_eq!(bits(&whole), bits(&case.run(kernels, 0..m, &[1])), "{what}, first panel alone");
            let each: Vec<_> = (1..n_panels).collect();
            assert_eq!(bits(&whole), bits(&case.run(kernels, 0..m, &each)), "{what}, panel by panel");
            for count in [1, 2, 3, 5, 7, 16] {
                let mut parts = Vec::new();
                for start in (0..m).step_by(count) {
                    parts.extend(case.run(kernels, start..(start + count).min(m), &[]));
                }
                assert_eq!(bits(&whole), bits(&parts), "{what}, {count} positions at a time");
            }
        }
    });
}

#[test]
fn a_range_of_panels_leaves_the_other_columns_alone() {
    kinds(|kernels, kind, format| {
        let case = Case::new(kind, format, 3, 100, 64);
        let whole = case.run(kernels, 0..3, &[]);
        let mut expected = whole.clone();
        for row in expected.chunks_exact_mut(103) {
            row[..32].fill(UNTOUCHED);
        }
        // An inner cut at the end of the matrix makes the last range empty; leaving out the first two panels.
        let weights = case.packed.weights();
        let mut output = vec![UNTOUCHED; 3 * 103];
        let to = RowsMut::of(&mut output, 103);
        let bias = case.bias.as_ref().map(|bias| Rows::of(bias, bias.len()));
        let panels = 2..7;
        // SAFETY: all buffers have their documented shapes.
        unsafe {
            match kind {
                Kind::Int8 => {
                    let mut quantized = Quantized::of(kernels, &case.activations, case.stride, 3, 64);
                    let activations = quantized.rows();
                    (kernels.linear_int8)(&LinearInt8 { weights, activations, output: to, bias, panels });
                }
                Kind::Float => {
                    let activations = Rows::of(&case.activations, case.stride);
                    (kernels.linear_float)(&LinearFloat {
                        weights,
                        activations,
                        output: to,
                        bias,
                        positions: 3,
                        panels,
                    });
                }
                Kind::Bf16 => {
                    let rounded = rounded(kernels, &case.activations, case.stride, 3, 64);
                    let activations = Rows::of(&rounded, 64);
                    let linear = kernels.linear_bf16.expect("checked by the caller");
                    linear(&LinearBf16 { weights, activations, output: to, bias, positions: 3, panels });
                }
            }
        }
        assert_eq!(bits(&expected), bits(&output), "{} {kind:?} {format:?}", kernels.name);
    });
}

#[test]
fn integer_kernels_agree_bit_by_bit_where_the_float_part_is_fused_alike() {
    // The integer part is exact everywhere; with one group there is no sum of floats, so all instruction sets agree.
    for format in [WeightFormat::W4G32, WeightFormat::W8G32] {
        let case = Case::new(Kind::Int8, format, 6, 48, 32);
        let plain = case.run(&Kernels::available()[0], 0..6, &[]);
        for kernels in Kernels::available() {
            assert_eq!(bits(&plain), bits(&case.run(kernels, 0..6, &[])), "{} {format:?}", kernels.name);
        }
    }
}

#[test]
fn extreme_bytes_do_not_saturate() {
    for kernels in Kernels::available() {
        for format in [WeightFormat::W4G32, WeightFormat::W8G32] {
            let mut packed = Packed::random(format, 16, 64, 3);
            let quants = 2 * format.group_bytes();
            for (i, line) in packed.lines.iter_mut().enumerate() {
                for (j, byte) in line.0.iter_mut().enumerate() {
                    if i * 64 + j < quants {
                        *byte = match format {
                            WeightFormat::W4G32 => [0xff, 0x00][j % 8 / 4],
                            _ => [127, 129][j % 8 / 4],
                        };
                    } else {
                        *byte = f16::ONE.to_le_bytes()[j % 2];
                    }
                }
            }
            let activations = [127.0; 64];
            let case =
                Case { kind: Kind::Int8, packed, activations: activations.to_vec(), stride: 64, m: 1, bias: None };
            let output = case.run(kernels, 0..1, &[]);
            let (even, odd) = if format == WeightFormat::W4G32 { (7.0, -8.0) } else { (127.0, -127.0) };
            for (row, &actual) in output[..16].iter().enumerate() {
                let weight = if row % 2 == 0 { even } else { odd };
                assert_eq!(actual, weight * 127.0 * 64.0, "{} {format:?} row {row}", kernels.name);
            }
            assert_eq!(case.m, 1);
        }
    }
}

#[test]
fn quantised_activations_are_near_and_their_sums_exact() {
    for kernels in Kernels::available() {
        for (positions, k) in [(1, 32), (3, 60), (16, 92), (33, 96), (2, 2048), (17, 7)] {
            let input = Random::new(k as u64).floats(positions * k);
            let quantized = Quantized::of(kernels, &input, k, positions, k);
            for position in 0..positions {
                for group in 0..k.div_ceil(GROUP) {
                    let at = quantized.at(position, group);
                    let values = &quantized.values[at * GROUP..][..GROUP];
                    let sum: i32 = values.iter().map(|&value| i32::from(value)).sum();
                    let factor = if kernels.name == "avx512" { -128 } else { -8 };
                    assert_eq!(quantized.corrections[at], factor * sum);
                    assert!(values.iter().all(|&value| value >= -127));
                    let present = GROUP.min(k - group * GROUP);
                    assert!(values[present..].iter().all(|&value| value == 0), "padding is zero");
                    for column in group * GROUP..group * GROUP + present {
                        let exact = f64::from(input[position * k + column]);
                        let error = (quantized.value(position, column) - exact).abs();
                        assert!(error <= 0.5001 * f64::from(quantized.scales[at]), "{} {error}", kernels.name);
                    }
                }
            }
        }
        let zeros = Quantized::of(kernels, &[0.0; 64], 64, 1, 64);
        assert!(zeros.values.iter().all(|&value| value == 0));
    }
}

#[test]
fn embedding_rows_are_exact() {
    for format in WeightFormat::ALL {
        let packed = Packed::random(format, 19, 92, 7);
        for row in 0..19 {
            let mut output = vec![UNTOUCHED; 95];
            let params = EmbedRow { weights: packed.weights(), row, output: RowsMut::of(&mut output, 95) };
            // SAFETY: the output has room for k values.
            unsafe { (Kernels::available()[0].embed_row)(&params) };
            assert_eq!(bits(&output[..92]), bits(&packed.values[row * 92..][..92]), "{format:?}");
            assert_eq!(output[92..], [UNTOUCHED; 3]);
        }
    }
}
