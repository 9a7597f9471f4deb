//! Shaders of linear operators: the same for each matrix that a kernel takes, and what becomes of the products.

use std::fmt::Write as _;

use super::Source;
use crate::{Element, Form, Format, Linear};

impl Source {
    /// A few rows by workgroups of a panel.
    pub(super) fn linear_vector(&mut self, linear: Linear, rows: u32, lanes: u32) {
        self.operands(linear);
        self.constant("ROWS", rows);
        self.constant("LANES", lanes);
        self.add(match self.features.subgroups {
            true => include_str!("../wgsl/panel_sum_subgroups.wgsl"),
            false => include_str!("../wgsl/panel_sum.wgsl"),
        });
        for matrix in 0..linear.form.n_matrices() {
            self.accumulate(matrix, linear);
            self.add(&include_str!("../wgsl/linear_vector.wgsl").replace("_M", &format!("_{matrix}")));
        }
        let writes = |columns: &Names, values: &str| {
            format!(
                "        let n = 16u * unit + lane;\n\
                 \x20       for (var r = 0u; r < ROWS; r++) {{\n\
                 \x20           if (lane < 16u && n < {} && row + r < end) {{\n\
                 \x20               write_{}(row + r, {} + n, {values});\n\
                 \x20           }}\n\
                 \x20       }}\n",
                columns.count, columns.matrix, columns.first
            )
        };
        self.columns(linear.form, 16, "sums", &writes, ["a[r]", "a[r], b[r]"]);
        self.main_of_workgroups(include_str!("../wgsl/linear_vector_main.wgsl"));
    }

    /// `columns(group, row, end, lane)`: what a workgroup computes and writes. `product` of a matrix is what `writes` puts
    /// into its output, by `values` of one or of two matrices.
    pub(super) fn columns(
        &mut self,
        form: Form,
        unit: u32,
        product: &str,
        writes: &dyn Fn(&Names, &str) -> String,
        values: [&str; 2],
    ) {
        self.add("fn columns(group: u32, row: u32, end: u32, lane: u32) {\n    var unit = group;");
        let n_matrices = form.n_matrices();
        match form {
            Form::Gated => {
                let _ = write!(
                    self.text,
                    "    {{\n        let a = {product}_0(unit, row, end, lane);\n        \
                     let b = {product}_1(unit, row, end, lane);\n{}    }}\n}}\n",
                    writes(&Names::of(0), values[1])
                );
            }
            _ => {
                for matrix in 0..n_matrices {
                    let names = Names::of(matrix);
                    let count = names.count;
                    let condition = match matrix + 1 < n_matrices {
                        true => format!("if (unit < ({count} + {}u) / {unit}u) ", unit - 1),
                        false => String::new(),
                    };
                    let _ = write!(
                        self.text,
                        "    {condition}{{\n        let a = {product}_{matrix}(unit, row, end, lane);\n{}        \
                         return;\n    }}\n",
                        writes(&names, values[0])
                    );
                    if matrix + 1 < n_matrices {
                        let _ = writeln!(self.text, "    unit -= ({count} + {}u) / {unit}u;", unit - 1);
                    }
                }
                self.add("}");
            }
        }
    }

    /// Inputs of linear kernels: the rows, the matrices, and `write_M(row, column, sum)`.
    pub(super) fn operands(&mut self, linear: Linear) {
        let bindings = linear.bindings();
        if linear.is_integer {
            self.words("x", bindings.rows);
        } else {
            self.rows(linear.input, linear.is_whole_groups, bindings.rows);
        }
        for matrix in 0..linear.form.n_matrices() {
            let binding = bindings.matrices + matrix as u32;
            let _ = writeln!(
                self.text,
                "@group(0) @binding({binding}) var<storage, read> weights_{matrix}: array<vec4<u32>>;"
            );
            if matches!(linear.format, Format::W8G32 | Format::W4G32) {
                // Behind the words: 16 scales of a group in two lines.
                let _ = writeln!(
                    self.text,
                    "fn scales_{matrix}(panel_start: u32, n_words: u32, g: u32, quad: u32) -> vec4<f32> {{\n\
                     \x20   let line = weights_{matrix}[panel_start + 4u * n_words + 2u * g + (quad >> 1u)];\n\
                     \x20   let pairs = select(line.xy, line.zw, (quad & 1u) == 1u);\n\
                     \x20   return vec4<f32>(unpack2x16float(pairs.x), unpack2x16float(pairs.y));\n\
                     }}"
                );
            }
        }
        self.constant("WORDS_PER_GROUP", linear.format.words_per_group());
        if let Some(element) = linear.bias {
            self.scalars("bias", bindings.bias, element);
        }
        let biased = |matrix: usize, sum: &str| match (linear.bias, matrix) {
            (None, _) => sum.to_owned(),
            (Some(_), 0) => format!("({sum} + load_bias(column))"),
            (Some(_), _) => format!("({sum} + load_bias(params.others[{}].bias + column))", matrix - 1),
        };
        match linear.form {
            Form::Single => {
                self.output(linear.output);
                let _ = writeln!(
                    self.text,
                    "fn write_0(row: u32, column: u32, sum: f32) {{\n\
                     \x20   store(row * params.output_columns + column, {});\n}}",
                    biased(0, "sum")
                );
            }
            Form::Residual(element) => {
                self.output(linear.output);
                self.scalars("residual", bindings.residual, element);
                let _ = writeln!(
                    self.text,
                    "fn write_0(row: u32, column: u32, sum: f32) {{\n\
                     \x20   let i = row * params.output_columns + column;\n\
                     \x20   store(i, {} + load_residual(i));\n}}",
                    biased(0, "sum")
                );
            }
            Form::Gated => {
                self.output(linear.output);
                self.add(include_str!("../wgsl/swish.wgsl"));
                let _ = writeln!(
                    self.text,
                    "fn write_0(row: u32, column: u32, gate: f32, up: f32) {{\n\
                     \x20   store(row * params.output_columns + column, swish({}) * {});\n}}",
                    biased(0, "gate"),
                    biased(1, "up")
                );
            }
            Form::Several(n) => {
                for matrix in 0..n as usize {
                    let name = format!("{matrix}");
                    self.output_as(&name, 2 + matrix as u32, linear.output);
                    let _ = writeln!(
                        self.text,
                        "fn write_{matrix}(row: u32, column: u32, sum: f32) {{\n\
                         \x20   store_{matrix}(row * {} + column, {});\n}}",
                        Names::of(matrix).total,
                        biased(matrix, "sum")
                    );
                }
            }
        }
    }

    /// Rows of numbers: `one_input(row, column)`, `two_inputs(row, pair)`, `four_inputs(row, quadruple)`, zeros behind the
    /// last column.
    pub(super) fn rows(&mut self, input: Element, is_whole_groups: bool, binding: u32) {
        if is_whole_groups {
            self.quadruples("x", binding, input);
            self.add(
                "fn four_inputs(row: u32, i: u32) -> vec4<f32> {\n\
                 \x20   return load4_x(row * (params.input_columns / 4u) + i);\n\
                 }\n\
                 fn two_inputs(row: u32, i: u32) -> vec2<f32> {\n\
                 \x20   let four = four_inputs(row, i >> 1u);\n\
                 \x20   return select(four.xy, four.zw, (i & 1u) == 1u);\n\
                 }\n\
                 fn one_input(row: u32, i: u32) -> f32 {\n\
                 \x20   return four_inputs(row, i >> 2u)[i & 3u];\n\
                 }",
            );
        } else {
            // What lies behind the last column is the next row, which may be NaN: zero weights would not help.
            self.scalars("x", binding, input);
            self.add(
                "fn one_input(row: u32, i: u32) -> f32 {\n\
                 \x20   if (i < params.input_columns) {\n\
                 \x20       return load_x(row * params.input_columns + i);\n\
                 \x20   }\n\
                 \x20   return 0.0;\n\
                 }\n\
                 fn two_inputs(row: u32, i: u32) -> vec2<f32> {\n\
                 \x20   return vec2<f32>(one_input(row, 2u * i), one_input(row, 2u * i + 1u));\n\
                 }\n\
                 fn four_inputs(row: u32, i: u32) -> vec4<f32> {\n\
                 \x20   return vec4<f32>(two_inputs(row, 2u * i), two_inputs(row, 2u * i + 1u));\n\
                 }",
            );
        }
    }

    /// `accumulate` of the vector kernel: adds the products of one word of four panel rows to the sums of each row.
    fn accumulate(&mut self, matrix: usize, linear: Linear) {
        let _ = writeln!(
            self.text,
            "fn accumulate_{matrix}(\n\
             \x20   sums: ptr<function, array<vec4<f32>, ROWS>>,\n\
             \x20   panel_start: u32, n_words: u32, word: u32, quad: u32, row: u32, end: u32,\n\
             ) {{\n\
             \x20   let words = weights_{matrix}[panel_start + 4u * word + quad];"
        );
        let each_row = |setup: &str, product: &str| {
            format!(
                "{setup}    for (var r = 0u; r < ROWS; r++) {{\n\
                 \x20       let at = min(row + r, end - 1u);\n{product}    }}\n}}"
            )
        };
        // The four rows of the panel, by component of `words`.
        let four = |f: &dyn Fn(char) -> String| "xyzw".chars().map(f).collect::<Vec<_>>().join(", ");
        let text = match linear.format {
            Format::W8G32 if linear.is_integer => each_row(
                "    let g = word >> 3u;\n    let scales = scales_MATRIX(panel_start, n_words, g, quad);\n",
                &format!(
                    "        let start = (at * (n_words >> 3u) + g) * 9u;\n\
                     \x20       let x_word = x[start + (word & 7u)];\n\
                     \x20       (*sums)[r] += bitcast<f32>(x[start + 8u]) * scales * vec4<f32>(vec4<i32>({}));\n",
                    four(&|c| format!("dot4I8Packed(words.{c}, x_word)"))
                ),
            ),
            Format::W4G32 if linear.is_integer => each_row(
                "    let g = word >> 2u;\n    let scales = scales_MATRIX(panel_start, n_words, g, quad);\n\
                 \x20   let low = words & vec4<u32>(0x0f0f0f0fu);\n\
                 \x20   let high = (words >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);\n",
                &format!(
                    "        let start = (at * (n_words >> 2u) + g) * 9u;\n\
                     \x20       let x_low = x[start + (word & 3u)];\n\
                     \x20       let x_high = x[start + 4u + (word & 3u)];\n\
                     \x20       // What nibbles stand for is 8 less than they are.\n\
                     \x20       let too_much = dot4I8Packed(0x08080808u, x_low) + dot4I8Packed(0x08080808u, x_high);\n\
                     \x20       let products = vec4<i32>({}) - too_much;\n\
                     \x20       (*sums)[r] += bitcast<f32>(x[start + 8u]) * scales * vec4<f32>(products);\n",
                    four(&|c| format!("dot4I8Packed(low.{c}, x_low) + dot4I8Packed(high.{c}, x_high)"))
                ),
            ),
            Format::F32 => each_row("", "        (*sums)[r] += bitcast<vec4<f32>>(words) * one_input(at, word);\n"),
            Format::F16 => each_row(
                "",
                &format!(
                    "        let x = two_inputs(at, word);\n        (*sums)[r] += vec4<f32>({});\n",
                    four(&|c| format!("dot(unpack2x16float(words.{c}), x)"))
                ),
            ),
            Format::Bf16 => each_row(
                "",
                "        let x = two_inputs(at, word);\n\
                 \x20       (*sums)[r] += bitcast<vec4<f32>>(words << vec4<u32>(16u)) * x.x\n\
                 \x20           + bitcast<vec4<f32>>(words & vec4<u32>(0xffff0000u)) * x.y;\n",
            ),
            Format::W8G32 => each_row(
                "    let scales = scales_MATRIX(panel_start, n_words, word >> 3u, quad);\n",
                &format!(
                    "        let x = four_inputs(at, word);\n        (*sums)[r] += scales * vec4<f32>({});\n",
                    four(&|c| format!("dot(vec4<f32>(unpack4xI8(words.{c})), x)"))
                ),
            ),
            Format::W4G32 => each_row(
                "    let scales = scales_MATRIX(panel_start, n_words, word >> 2u, quad);\n\
                 \x20   let low = words & vec4<u32>(0x0f0f0f0fu);\n\
                 \x20   let high = (words >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);\n",
                &format!(
                    "        let x = four_inputs(at, 8u * (word >> 2u) + (word & 3u));\n\
                     \x20       let y = four_inputs(at, 8u * (word >> 2u) + 4u + (word & 3u));\n\
                     \x20       (*sums)[r] += scales * vec4<f32>({});\n",
                    four(&|c| format!(
                        "dot(vec4<f32>(unpack4xU8(low.{c})) - 8.0, x) + dot(vec4<f32>(unpack4xU8(high.{c})) - 8.0, y)"
                    ))
                ),
            ),
        };
        self.add(&text.replace("MATRIX", &matrix.to_string()));
    }
}

/// What the parameters of a matrix's columns are called.
pub(super) struct Names {
    pub(super) matrix: usize,
    pub(super) first: &'static str,
    pub(super) count: &'static str,
    total: &'static str,
}

impl Names {
    pub(super) fn of(matrix: usize) -> Names {
        let [first, count, total] = match matrix {
            0 => ["params.first_column", "params.n_columns", "params.output_columns"],
            1 => ["params.others[0].first", "params.others[0].count", "params.others[0].total"],
            _ => ["params.others[1].first", "params.others[1].count", "params.others[1].total"],
        };
        Names { matrix, first, count, total }
    }
}
