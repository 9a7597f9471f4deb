//! Puts a shader together: declarations of its buffers for the element types, then the pieces of WGSL.

use std::fmt::Write as _;

use crate::kernel::{Features, Kernel};
use crate::{Element, Format};

const COMMON: &str = include_str!("wgsl/common.wgsl");
const ELEMENTS: &str = include_str!("wgsl/elements.wgsl");
const ROWS: &str = include_str!("wgsl/rows.wgsl");
const HEADS: &str = include_str!("wgsl/heads.wgsl");
const REDUCE: &str = include_str!("wgsl/reduce.wgsl");
const REDUCE_SUBGROUPS: &str = include_str!("wgsl/reduce_subgroups.wgsl");

/// The WGSL of a kernel.
pub(crate) fn wgsl(kernel: Kernel, features: Features) -> String {
    let mut source = Source { text: String::new(), features };
    let output = kernel.output();
    if features.f16 && output == Element::F16 {
        source.add("enable f16;\n");
    }
    source.add(COMMON);
    source.output(output);
    source.body(kernel);
    source.text
}

struct Source {
    text: String,
    features: Features,
}

impl Source {
    fn body(&mut self, kernel: Kernel) {
        match kernel {
            Kernel::Add { inputs, .. } => {
                self.scalars("a", 3, inputs[0]);
                self.scalars("b", 4, inputs[1]);
                self.add(include_str!("wgsl/add.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::Swiglu { inputs, .. } => {
                self.scalars("a", 3, inputs[0]);
                self.scalars("b", 4, inputs[1]);
                self.add(include_str!("wgsl/swiglu.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::Convert { input, output } => {
                self.scalars("x", 3, input);
                self.copy_element("x", input, output);
                self.add(include_str!("wgsl/convert.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::Embed { table, output } => {
                self.words("ids", 3);
                self.scalars("table", 4, table);
                self.copy_element("table", table, output);
                self.add(include_str!("wgsl/embed.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::CacheWrite { input, cache } => {
                self.scalars("x", 3, input);
                self.copy_element("x", input, cache);
                self.add(include_str!("wgsl/cache_write.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::Rope { input, .. } => {
                self.scalars("x", 3, input);
                self.words("frequencies", 4);
                self.add(include_str!("wgsl/rope.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::RmsNorm { input, table, .. } => {
                self.scalars("x", 3, input);
                self.scalars("table", 4, table);
                self.reductions(Kernel::ROW_LANES);
                self.add(include_str!("wgsl/rms_norm.wgsl"));
                self.main_of_workgroups(ROWS);
            }
            Kernel::Softmax { input, .. } => {
                self.scalars("x", 3, input);
                self.reductions(Kernel::ROW_LANES);
                self.add(include_str!("wgsl/softmax.wgsl"));
                self.main_of_workgroups(ROWS);
            }
            Kernel::Attention { queries, keys, values, .. } => {
                self.quadruples("queries", 3, queries);
                self.quadruples("keys", 4, keys);
                self.quadruples("values", 5, values);
                self.reductions(Kernel::HEAD_LANES);
                self.constant("MAX_QUADS", Kernel::MAX_HEAD_DIM / 4);
                self.add(include_str!("wgsl/attention.wgsl"));
                self.main_of_workgroups(HEADS);
            }
            Kernel::LinearVector { format, input, bias, is_whole_groups, rows, lanes, .. } => {
                self.linear(format, input, bias, is_whole_groups);
                self.constant("ROWS", rows);
                self.constant("LANES", lanes);
                self.accumulate(format);
                self.add(match self.features.subgroups {
                    true => include_str!("wgsl/linear_vector_subgroups.wgsl"),
                    false => include_str!("wgsl/linear_vector.wgsl"),
                });
            }
            Kernel::LinearTiled { format, input, bias, is_whole_groups, tile_rows, .. } => {
                self.linear(format, input, bias, is_whole_groups);
                self.constant("TILE_ROWS", tile_rows);
                self.unpack(format);
                self.add(include_str!("wgsl/linear_tiled.wgsl"));
            }
        }
    }

    fn add(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn constant(&mut self, name: &str, value: u32) {
        let _ = writeln!(self.text, "const {name} = {value}u;");
    }

    /// An input of 32-bit words.
    fn words(&mut self, name: &str, binding: u32) {
        let _ = writeln!(self.text, "@group(0) @binding({binding}) var<storage, read> {name}: array<u32>;");
    }

    /// An input that is read element by element, by `load_NAME(element)`.
    fn scalars(&mut self, name: &str, binding: u32, element: Element) {
        self.words(name, binding);
        let value = match element {
            Element::F32 => format!("bitcast<f32>({name}[i])"),
            Element::F16 => format!("unpack2x16float({name}[i >> 1u] >> ((i & 1u) * 16u)).x"),
            Element::Bf16 => format!("bitcast<f32>(({name}[i >> 1u] >> ((i & 1u) * 16u)) << 16u)"),
        };
        let _ = writeln!(self.text, "fn load_{name}(i: u32) -> f32 {{ return {value}; }}");
    }

    /// An input that is read in quadruples, by `load4_NAME(quadruple)`.
    fn quadruples(&mut self, name: &str, binding: u32, element: Element) {
        let unit = if element == Element::F32 { "vec4<u32>" } else { "vec2<u32>" };
        let value = match element {
            Element::F32 => "bitcast<vec4<f32>>(words)",
            Element::F16 => "vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y))",
            Element::Bf16 => {
                "bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u))"
            }
        };
        let _ = writeln!(
            self.text,
            "@group(0) @binding({binding}) var<storage, read> {name}: array<{unit}>;\n\
             fn load4_{name}(i: u32) -> vec4<f32> {{ let words = {name}[i]; return {value}; }}"
        );
    }

    /// The output, written by `store(element, number)` or, of a type of 16 bits, `store_bits(element, bits)`.
    fn output(&mut self, element: Element) {
        let declare = |unit: &str| format!("@group(0) @binding(2) var<storage, read_write> output: array<{unit}>;");
        let rounded = if element == Element::F16 { "bits_of_f16(x)" } else { "bits_of_bf16(x)" };
        if element == Element::F32 {
            self.add(&declare("f32"));
            self.add("fn store(i: u32, x: f32) { output[i] = x; }");
            return;
        }
        if self.features.f16 && element == Element::F16 {
            self.add(&declare("f16"));
            // What is a number of 16 bits already is not rounded again.
            self.add("fn store_bits(i: u32, bits: u32) { output[i] = f16(unpack2x16float(bits).x); }");
        } else {
            // Two elements share a word and may be written by two invocations: each changes its half only.
            self.add(&declare("atomic<u32>"));
            self.add(
                "fn store_bits(i: u32, bits: u32) {\n\
                 \x20   let shift = (i & 1u) * 16u;\n\
                 \x20   atomicAnd(&output[i >> 1u], ~(0xffffu << shift));\n\
                 \x20   atomicOr(&output[i >> 1u], bits << shift);\n\
                 }",
            );
        }
        self.add(&format!("fn store(i: u32, x: f32) {{ store_bits(i, {rounded}); }}"));
    }

    /// `copy_element(from, to)`: the very bits where the types are the same.
    fn copy_element(&mut self, name: &str, input: Element, output: Element) {
        let body = match input == output && output != Element::F32 {
            true => format!("store_bits(to, ({name}[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu)"),
            false => format!("store(to, load_{name}(at))"),
        };
        let _ = writeln!(self.text, "fn copy_element(at: u32, to: u32) {{ {body}; }}");
    }

    fn reductions(&mut self, lanes: u32) {
        self.constant("LANES", lanes);
        self.add(if self.features.subgroups { REDUCE_SUBGROUPS } else { REDUCE });
    }

    /// The entry point of kernels that compute something by a workgroup.
    fn main_of_workgroups(&mut self, text: &str) {
        let (arguments, values) = match self.features.subgroups {
            true => (
                "@builtin(subgroup_id) subgroup_idx: u32,\n    @builtin(num_subgroups) n_subgroups: u32,\n    \
                 @builtin(subgroup_invocation_id) subgroup_lane: u32,",
                "subgroup = Subgroup(subgroup_idx, n_subgroups, subgroup_lane);",
            ),
            false => ("", ""),
        };
        let text = text.replace("/*subgroup arguments*/", arguments);
        self.add(&text.replace("/*subgroup values*/", values));
    }

    /// Inputs of linear kernels: `one_input(row, column)`, `two_inputs(row, pair)`, `four_inputs(row, quadruple)`, which are
    /// zeros behind the last column; and `write(row, column, sum)`.
    fn linear(&mut self, format: Format, input: Element, bias: Option<Element>, is_whole_groups: bool) {
        if is_whole_groups {
            self.quadruples("x", 3, input);
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
            self.scalars("x", 3, input);
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
        self.add("@group(0) @binding(4) var<storage, read> weights: array<vec4<u32>>;");
        self.constant("WORDS_PER_GROUP", format.words_per_group());
        let sum = match bias {
            Some(element) => {
                self.scalars("bias", 5, element);
                "sum + load_bias(column)"
            }
            None => "sum",
        };
        let _ = writeln!(
            self.text,
            "fn write(row: u32, column: u32, sum: f32) {{ store(row * params.output_columns + column, {sum}); }}"
        );
        if matches!(format, Format::W8G32 | Format::W4G32) {
            // Behind the words: 16 scales of a group in two lines.
            self.add(
                "fn scales_of(panel_start: u32, n_words: u32, g: u32, quad: u32) -> vec4<f32> {\n\
                 \x20   let line = weights[panel_start + 4u * n_words + 2u * g + (quad >> 1u)];\n\
                 \x20   let pairs = select(line.xy, line.zw, (quad & 1u) == 1u);\n\
                 \x20   return vec4<f32>(unpack2x16float(pairs.x), unpack2x16float(pairs.y));\n\
                 }",
            );
        }
    }

    /// `accumulate` of the vector kernel: adds the products of one word of four panel rows to the sums of each row.
    fn accumulate(&mut self, format: Format) {
        self.add(
            "fn accumulate(\n\
             \x20   sums: ptr<function, array<vec4<f32>, ROWS>>,\n\
             \x20   panel_start: u32, n_words: u32, word: u32, quad: u32, row: u32, end: u32,\n\
             ) {\n\
             \x20   let words = weights[panel_start + 4u * word + quad];",
        );
        let each_row = |setup: &str, product: &str| {
            format!(
                "{setup}    for (var r = 0u; r < ROWS; r++) {{\n\
                 \x20       let at = min(row + r, end - 1u);\n{product}    }}\n}}"
            )
        };
        // The four rows of the panel, by component of `words`.
        let four = |f: &dyn Fn(char) -> String| "xyzw".chars().map(f).collect::<Vec<_>>().join(", ");
        let text = match format {
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
                "    let scales = scales_of(panel_start, n_words, word >> 3u, quad);\n",
                &format!(
                    "        let x = four_inputs(at, word);\n        (*sums)[r] += scales * vec4<f32>({});\n",
                    four(&|c| format!("dot(vec4<f32>(unpack4xI8(words.{c})), x)"))
                ),
            ),
            Format::W4G32 => each_row(
                "    let scales = scales_of(panel_start, n_words, word >> 2u, quad);\n\
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
        self.add(&text);
    }

    /// `unpack` of the tiled kernel: puts one word of four panel rows into workgroup memory as numbers. `to` is the
    /// quadruple of columns.
    fn unpack(&mut self, format: Format) {
        self.add(
            "fn unpack(panel_start: u32, n_words: u32, g: u32, word: u32, quad: u32, to: u32) {\n\
             \x20   let words = weights[panel_start + 4u * (g * WORDS_PER_GROUP + word) + quad];",
        );
        let text = match format {
            Format::F32 => "    numbers[16u * word + to] = bitcast<vec4<f32>>(words);\n}".to_owned(),
            Format::F16 => "    let xy = vec4<f32>(unpack2x16float(words.x).x, unpack2x16float(words.y).x, \
                 unpack2x16float(words.z).x, unpack2x16float(words.w).x);\n\
                 \x20   let zw = vec4<f32>(unpack2x16float(words.x).y, unpack2x16float(words.y).y, \
                 unpack2x16float(words.z).y, unpack2x16float(words.w).y);\n\
                 \x20   numbers[32u * word + to] = xy;\n\
                 \x20   numbers[32u * word + 16u + to] = zw;\n}"
                .to_owned(),
            Format::Bf16 => "    numbers[32u * word + to] = bitcast<vec4<f32>>(words << vec4<u32>(16u));\n\
                 \x20   numbers[32u * word + 16u + to] = bitcast<vec4<f32>>(words & vec4<u32>(0xffff0000u));\n}"
                .to_owned(),
            Format::W8G32 => "    let scales = scales_of(panel_start, n_words, g, quad);\n\
                 \x20   let signed = bitcast<vec4<i32>>(words);\n\
                 \x20   for (var i = 0u; i < 4u; i++) {\n\
                 \x20       let bytes = (signed << vec4<u32>(24u - 8u * i)) >> vec4<u32>(24u);\n\
                 \x20       numbers[16u * (4u * word + i) + to] = vec4<f32>(bytes) * scales;\n\
                 \x20   }\n}"
                .to_owned(),
            Format::W4G32 => "    let scales = scales_of(panel_start, n_words, g, quad);\n\
                 \x20   for (var i = 0u; i < 4u; i++) {\n\
                 \x20       let low = (words >> vec4<u32>(8u * i)) & vec4<u32>(15u);\n\
                 \x20       let high = (words >> vec4<u32>(8u * i + 4u)) & vec4<u32>(15u);\n\
                 \x20       numbers[16u * (4u * word + i) + to] = (vec4<f32>(low) - 8.0) * scales;\n\
                 \x20       numbers[16u * (16u + 4u * word + i) + to] = (vec4<f32>(high) - 8.0) * scales;\n\
                 \x20   }\n}"
                .to_owned(),
        };
        self.add(&text);
    }
}
