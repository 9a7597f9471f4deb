//! Shaders of linear operators on many rows, by tiles in workgroup memory.

use std::fmt::Write as _;

use super::Source;
use super::linear::Names;
use crate::{Format, Linear, MatrixUnit, Tile};

impl Source {
    /// Many rows by tiles.
    pub(super) fn linear_tiled(&mut self, linear: Linear, tile: Tile) {
        self.operands(linear);
        self.constant("TILE_ROWS", tile.rows);
        self.constant("TILE_COLUMNS", tile.columns);
        self.constant("ROWS_EACH", tile.rows_each);
        self.constant("QUADS_EACH", tile.columns_each / 4);
        // Invocations side by side, and all of them.
        self.constant("ACROSS", tile.columns / tile.columns_each);
        self.constant("LANES", tile.lanes());
        self.add(include_str!("../wgsl/tile_memory.wgsl"));
        for matrix in 0..linear.form.n_matrices() {
            self.unpack(matrix, linear.format);
            let columns = Names::of(matrix).count;
            let text = include_str!("../wgsl/linear_tiled.wgsl").replace("N_COLUMNS", columns);
            let text = text.replace("/*products*/", &products(tile));
            self.add(&text.replace("_M", &format!("_{matrix}")));
        }
        let writes = |columns: &Names, values: &str| {
            format!(
                "        for (var i = 0u; i < ROWS_EACH * QUADS_EACH; i++) {{\n\
                 \x20           let to = row + lane / ACROSS * ROWS_EACH + i / QUADS_EACH;\n\
                 \x20           let n = TILE_COLUMNS * unit + 4u * (i % QUADS_EACH * ACROSS + lane % ACROSS);\n\
                 \x20           for (var c = 0u; c < 4u; c++) {{\n\
                 \x20               if (to < end && n + c < {}) {{\n\
                 \x20                   write_{}(to, {} + n + c, {values});\n\
                 \x20               }}\n\
                 \x20           }}\n\
                 \x20       }}\n",
                columns.count, columns.matrix, columns.first
            )
        };
        self.columns(linear.form, tile.columns, "tile", &writes, ["a[i][c]", "a[i][c], b[i][c]"]);
        self.add(include_str!("../wgsl/linear_tiled_main.wgsl"));
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
        let writes = |columns: &Names, values: &str| {
            format!(
                "        for (var i = 0u; i < QUADS_EACH; i++) {{\n\
                 \x20           let quad = lane + i * LANES;\n\
                 \x20           let to = row + (quad >> 4u);\n\
                 \x20           let n = 64u * unit + 4u * (quad & 15u);\n\
                 \x20           for (var c = 0u; c < 4u; c++) {{\n\
                 \x20               if (to < end && n + c < {}) {{\n\
                 \x20                   write_{}(to, {} + n + c, {values});\n\
                 \x20               }}\n\
                 \x20           }}\n\
                 \x20       }}\n",
                columns.count, columns.matrix, columns.first
            )
        };
        self.columns(linear.form, 64, "product", &writes, ["a[i][c]", "a[i][c], b[i][c]"]);
        self.main_of_workgroups(include_str!("../wgsl/linear_matrices_main.wgsl"));
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

/// The products of an invocation with four columns of the input, written out, so that its sums are registers whatever a
/// driver makes of arrays: `inputs` and `numbers` are read once for all of them.
fn products(tile: Tile) -> String {
    let quads_each = tile.columns_each / 4;
    let mut text = String::new();
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
                let _ = writeln!(text, "            sums[{sum}u] += x{row}.{component} * w{input}_{quad};");
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
