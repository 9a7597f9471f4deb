//! Shaders of linear operators on many rows, by tiles in workgroup memory.

use std::fmt::Write as _;

use super::Source;
use super::linear::Names;
use crate::{Format, Linear, MatrixUnit, Tile};

impl Source {
    /// Many rows by tiles.
    pub(super) fn linear_tiled(&mut self, linear: Linear, tile: Tile) {
        let numbers = match (linear.is_integer, self.features.half) {
            (true, _) => Numbers::Integers,
            (false, true) => Numbers::Halves,
            (false, false) => Numbers::Floats,
        };
        self.operands(linear);
        self.constant("TILE_ROWS", tile.rows);
        self.constant("TILE_COLUMNS", tile.columns);
        self.constant("ROWS_EACH", tile.rows_each);
        self.constant("QUADS_EACH", tile.columns_each / 4);
        // Invocations side by side, and all of them.
        self.constant("ACROSS", tile.columns / tile.columns_each);
        self.constant("LANES", tile.lanes());
        self.add(match numbers {
            Numbers::Floats => include_str!("../wgsl/tile_memory.wgsl"),
            Numbers::Halves => include_str!("../wgsl/tile_memory_half.wgsl"),
            Numbers::Integers => include_str!("../wgsl/tile_memory_integer.wgsl"),
        });
        let [partial, before, after] = partial_sums(tile, numbers);
        for matrix in 0..linear.form.n_matrices() {
            match numbers {
                Numbers::Integers => self.unpack_integers(matrix, linear.format),
                _ => self.unpack(matrix, linear.format),
            }
            let columns = Names::of(matrix).count;
            let text = include_str!("../wgsl/linear_tiled.wgsl").replace("N_COLUMNS", columns);
            let text = text.replace("/*partial sums*/", &partial).replace("/*before*/", &before);
            let text = text.replace("/*products*/", &products(tile, numbers)).replace("/*after*/", &after);
            self.add(&text.replace("_M", &format!("_{matrix}")));
        }
        let quads = Quads {
            count: "ROWS_EACH * QUADS_EACH",
            row: "lane / ACROSS * ROWS_EACH + i / QUADS_EACH",
            column: "TILE_COLUMNS * unit + 4u * (i % QUADS_EACH * ACROSS + lane % ACROSS)",
        };
        let writes = |columns: &Names, values: &str| quads.writes(columns, values);
        self.columns(linear.form, tile.columns, "tile", &writes, ["a[i][c]", "a[i][c], b[i][c]"]);
        self.main_of_lanes(include_str!("../wgsl/linear_tiled_main.wgsl"), false);
    }

    /// Many rows by cooperative matrices.
    pub(super) fn linear_matrices(&mut self, linear: Linear, rows: u32, unit: MatrixUnit) {
        self.operands(linear);
        self.constant("TILE_ROWS", rows);
        self.constant("LANES", 4 * unit.subgroup);
        self.constant("SIZE", unit.size);
        self.constant("QUADS_EACH", rows * 16 / (4 * unit.subgroup));
        self.add(include_str!("../wgsl/matrix_memory.wgsl"));
        for matrix in 0..linear.form.n_matrices() {
            self.unpack(matrix, linear.format);
            let [sums, products, stores] = matrices(rows, unit.size);
            let text = include_str!("../wgsl/linear_matrices.wgsl").replace("N_COLUMNS", Names::of(matrix).count);
            let text =
                text.replace("/*sums*/", &sums).replace("/*products*/", &products).replace("/*stores*/", &stores);
            self.add(&text.replace("_M", &format!("_{matrix}")));
        }
        let quads = Quads {
            count: "QUADS_EACH",
            row: "((lane + i * LANES) >> 4u)",
            column: "64u * unit + 4u * ((lane + i * LANES) & 15u)",
        };
        let writes = |columns: &Names, values: &str| quads.writes(columns, values);
        self.columns(linear.form, 64, "product", &writes, ["a[i][c]", "a[i][c], b[i][c]"]);
        self.main_of_lanes(include_str!("../wgsl/linear_tiled_main.wgsl"), true);
    }

    /// `unpack` of the kernel with tiles of integers: puts one word of four panel rows into workgroup memory as signed
    /// bytes, and the scales of the group once.
    fn unpack_integers(&mut self, matrix: usize, format: Format) {
        let puts = match format {
            Format::W4G32 => {
                "    let mask = vec4<u32>(0x0f0f0f0fu);\n\
                 \x20   put_words(word, to, bytes_of_nibbles(words & mask));\n\
                 \x20   put_words(4u + word, to, bytes_of_nibbles((words >> vec4<u32>(4u)) & mask));\n"
            }
            // No other format has integers.
            _ => "    put_words(word, to, words);\n",
        };
        let _ = writeln!(
            self.text,
            "fn unpack_{matrix}(panel_start: u32, n_words: u32, g: u32, word: u32, quad: u32, to: u32) {{\n\
             \x20   let words = weights_{matrix}[panel_start + 4u * (g * WORDS_PER_GROUP + word) + quad];\n\
             {puts}\
             \x20   if (word == 0u) {{\n\
             \x20       scales[to] = scales_{matrix}(panel_start, n_words, g, quad);\n\
             \x20   }}\n}}"
        );
    }

    /// `unpack` of the kernels with tiles: puts one word of four panel rows into workgroup memory as numbers, by
    /// `put_numbers(input, quadruple of columns, numbers)`.
    fn unpack(&mut self, matrix: usize, format: Format) {
        let _ = writeln!(
            self.text,
            "fn unpack_{matrix}(panel_start: u32, n_words: u32, g: u32, word: u32, quad: u32, to: u32) {{\n\
             \x20   let words = weights_{matrix}[panel_start + 4u * (g * WORDS_PER_GROUP + word) + quad];"
        );
        let text = match format {
            Format::F32 => "    put_numbers(word, to, bitcast<vec4<f32>>(words));\n}".to_owned(),
            Format::F16 => "    let xy = vec4<f32>(unpack2x16float(words.x).x, unpack2x16float(words.y).x, \
                 unpack2x16float(words.z).x, unpack2x16float(words.w).x);\n\
                 \x20   let zw = vec4<f32>(unpack2x16float(words.x).y, unpack2x16float(words.y).y, \
                 unpack2x16float(words.z).y, unpack2x16float(words.w).y);\n\
                 \x20   put_numbers(2u * word, to, xy);\n\
                 \x20   put_numbers(2u * word + 1u, to, zw);\n}"
                .to_owned(),
            Format::Bf16 => "    put_numbers(2u * word, to, bitcast<vec4<f32>>(words << vec4<u32>(16u)));\n\
                 \x20   put_numbers(2u * word + 1u, to, bitcast<vec4<f32>>(words & vec4<u32>(0xffff0000u)));\n}"
                .to_owned(),
            Format::W8G32 => "    let scales = scales_MATRIX(panel_start, n_words, g, quad);\n\
                 \x20   let signed = bitcast<vec4<i32>>(words);\n\
                 \x20   for (var i = 0u; i < 4u; i++) {\n\
                 \x20       let bytes = (signed << vec4<u32>(24u - 8u * i)) >> vec4<u32>(24u);\n\
                 \x20       put_numbers(4u * word + i, to, vec4<f32>(bytes) * scales);\n\
                 \x20   }\n}"
                .to_owned(),
            Format::W4G32 => "    let scales = scales_MATRIX(panel_start, n_words, g, quad);\n\
                 \x20   for (var i = 0u; i < 4u; i++) {\n\
                 \x20       let low = (words >> vec4<u32>(8u * i)) & vec4<u32>(15u);\n\
                 \x20       let high = (words >> vec4<u32>(8u * i + 4u)) & vec4<u32>(15u);\n\
                 \x20       put_numbers(4u * word + i, to, (vec4<f32>(low) - 8.0) * scales);\n\
                 \x20       put_numbers(16u + 4u * word + i, to, (vec4<f32>(high) - 8.0) * scales);\n\
                 \x20   }\n}"
                .to_owned(),
        };
        self.add(&text.replace("MATRIX", &matrix.to_string()));
    }
}

/// What a tile in registers multiplies and adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    /// In single precision.
    Floats,
    /// In half precision, the sums of groups in single precision.
    Halves,
    /// Integers of 8 bits, the sums of groups in single precision.
    Integers,
}

/// The quadruples of results that an invocation has, of a tile.
struct Quads {
    /// How many.
    count: &'static str,
    /// The row of number `i` in the tile.
    row: &'static str,
    /// Its first column among those of the matrix.
    column: &'static str,
}

impl Quads {
    /// Writes those that are in use into the output of a matrix.
    fn writes(&self, columns: &Names, values: &str) -> String {
        let Quads { count, row, column } = self;
        format!(
            "        for (var i = 0u; i < {count}; i++) {{\n\
             \x20           let to = row + {row};\n\
             \x20           let n = {column};\n\
             \x20           for (var c = 0u; c < 4u; c++) {{\n\
             \x20               if (to < end && n + c < {}) {{\n\
             \x20                   write_{}(to, {} + n + c, {values});\n\
             \x20               }}\n\
             \x20           }}\n\
             \x20       }}\n",
            columns.count, columns.matrix, columns.first
        )
    }
}

/// The sums of a group where they are not those of all groups: their declaration, what is done before the products of a
/// group, and how they are added up.
fn partial_sums(tile: Tile, numbers: Numbers) -> [String; 3] {
    let quads_each = tile.columns_each / 4;
    let element = match numbers {
        Numbers::Floats => return [const { String::new() }; 3],
        Numbers::Halves => "vec4<f16>",
        Numbers::Integers => "vec4<i32>",
    };
    let ty = format!("array<{element}, ROWS_EACH * QUADS_EACH>");
    let mut after = String::new();
    for row in 0..tile.rows_each {
        for quad in 0..quads_each {
            let sum = row * quads_each + quad;
            let scale = match numbers {
                Numbers::Integers => {
                    format!("input_scales[down * ROWS_EACH + {row}u] * scales[{quad}u * ACROSS + across]")
                }
                _ => format!("largest[down * ROWS_EACH + {row}u]"),
            };
            let _ = writeln!(after, "        sums[{sum}u] += {scale} * vec4<f32>(partial[{sum}u]);");
        }
    }
    [format!("    var partial: {ty};"), format!("        partial = {ty}();"), after]
}

/// The products of an invocation with four columns of the input, written out, so that its sums are registers whatever a
/// driver makes of arrays: `inputs` and `numbers` are read once for all of them.
fn products(tile: Tile, numbers: Numbers) -> String {
    let quads_each = tile.columns_each / 4;
    let mut text = String::new();
    if numbers == Numbers::Integers {
        for quad in 0..quads_each {
            let _ = writeln!(
                text,
                "            let w{quad} = numbers[k * (TILE_COLUMNS / 4u) + {quad}u * ACROSS + across];"
            );
        }
        for row in 0..tile.rows_each {
            let _ = writeln!(text, "            let x{row} = inputs[(down * ROWS_EACH + {row}u) * 8u + k];");
            for quad in 0..quads_each {
                let dots = "xyzw".chars().map(|c| format!("dot4I8Packed(w{quad}.{c}, x{row})"));
                let dots = dots.collect::<Vec<_>>().join(", ");
                let _ = writeln!(text, "            partial[{}u] += vec4<i32>({dots});", row * quads_each + quad);
            }
        }
        return text;
    }
    let sums = if numbers == Numbers::Halves { "partial" } else { "sums" };
    for input in 0..4 {
        for quad in 0..quads_each {
            let _ = writeln!(
                text,
                "            let w{input}_{quad} = numbers[(4u * k + {input}u) * (TILE_COLUMNS / 4u) + {quad}u * ACROSS + across];"
            );
        }
    }
    for row in 0..tile.rows_each {
        let _ = writeln!(text, "            let x{row} = inputs[(down * ROWS_EACH + {row}u) * 8u + k];");
        for (input, component) in "xyzw".chars().enumerate() {
            for quad in 0..quads_each {
                let sum = row * quads_each + quad;
                let _ = writeln!(text, "            {sums}[{sum}u] += x{row}.{component} * w{input}_{quad};");
            }
        }
    }
    text
}

/// What a subgroup does with its 16 columns of a tile: its sums, a step of `size` inputs, and where the sums go.
fn matrices(rows: u32, size: u32) -> [String; 3] {
    let [mut sums, mut products, mut stores] = [const { String::new() }; 3];
    let matrix = |element: &str, role: &str| format!("coop_mat{size}x{size}<{element}, {role}>");
    for column in 0..16 / size {
        for name in ["numbers", "rest_of_numbers"] {
            let at = format!("64u * k + first + {}u", size * column);
            let ty = matrix("f16", "B");
            let _ = writeln!(products, "            let {name}_{column} = coopLoadT<{ty}>(&{name}[{at}], 64u);");
        }
    }
    for row in 0..rows / size {
        for name in ["inputs", "rest_of_inputs"] {
            let (at, ty) = (format!("{}u + k", 32 * size * row), matrix("f16", "A"));
            let _ = writeln!(products, "            let {name}_{row} = coopLoadT<{ty}>(&{name}[{at}], 32u);");
        }
        for column in 0..16 / size {
            for name in ["sum", "rest_of_sum"] {
                let _ = writeln!(sums, "    var {name}_{row}_{column}: {};", matrix("f32", "C"));
            }
            for (sum, a, b) in [
                ("rest_of_sum", "rest_of_inputs", "numbers"),
                ("rest_of_sum", "inputs", "rest_of_numbers"),
                ("sum", "inputs", "numbers"),
            ] {
                let sum = format!("{sum}_{row}_{column}");
                let _ = writeln!(products, "            {sum} = coopMultiplyAdd({a}_{row}, {b}_{column}, {sum});");
            }
            let sum = format!("sum_{row}_{column} + rest_of_sum_{row}_{column} * (1.0 / REST)");
            let at = format!("{}u + first", 64 * size * row + size * column);
            let _ = writeln!(
                stores,
                "    let total_{row}_{column} = {sum};\n    coopStoreT(total_{row}_{column}, &results[{at}], 64u);"
            );
        }
    }
    [sums, products, stores]
}
