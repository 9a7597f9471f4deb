//! Puts a shader together: declarations of its buffers for the element types, then the pieces of WGSL.

use std::fmt::Write as _;

use crate::kernel::{Features, Kernel};
use crate::{Element, Step};

mod linear;
mod tiled;

const COMMON: &str = include_str!("wgsl/common.wgsl");
const ELEMENTS: &str = include_str!("wgsl/elements.wgsl");
const ROWS: &str = include_str!("wgsl/rows.wgsl");
const HEADS: &str = include_str!("wgsl/heads.wgsl");
const REDUCE: &str = include_str!("wgsl/reduce.wgsl");
const REDUCE_SUBGROUPS: &str = include_str!("wgsl/reduce_subgroups.wgsl");

/// The WGSL of a kernel.
pub(crate) fn wgsl(kernel: Kernel, features: Features) -> String {
    let features = kernel.features(features);
    let mut source = Source { text: String::new(), features };
    let is_matrices = matches!(kernel, Kernel::LinearMatrices { .. });
    if is_matrices {
        source.add("enable wgpu_cooperative_matrix;\n");
    }
    if is_matrices || features.half || features.f16 && kernel.outputs().contains(&Element::F16) {
        source.add("enable f16;\n");
    }
    source.add(COMMON);
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
            Kernel::RopeCache { .. } | Kernel::LinearVector { .. } => {}
            Kernel::LinearTiled { .. } | Kernel::LinearMatrices { .. } => {}
            Kernel::Quantize { .. } => {
                self.add("@group(0) @binding(2) var<storage, read_write> output: array<u32>;");
            }
            _ => self.output(kernel.output()),
        }
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
                self.add(include_str!("wgsl/swish.wgsl"));
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
                self.add(include_str!("wgsl/turn.wgsl"));
                self.add(include_str!("wgsl/rope.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::RopeCache { cache } => {
                self.output_as("queries", 2, Element::F32);
                self.output_as("keys", 3, cache);
                self.output_as("values", 4, cache);
                for (name, binding) in [("q", 5), ("k", 6), ("v", 7)] {
                    self.scalars(name, binding, Element::F32);
                }
                self.words("frequencies", 8);
                self.add(include_str!("wgsl/turn.wgsl"));
                self.add(include_str!("wgsl/rope_cache.wgsl"));
                self.add(ELEMENTS);
            }
            Kernel::Quantize { input, is_whole_groups } => {
                self.rows(input, is_whole_groups, 3);
                self.add(include_str!("wgsl/quantize.wgsl"));
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
            Kernel::AttentionTiled { queries, keys, values, head_dim, tile, is_split, .. } => {
                self.quadruples("queries", 3, queries);
                self.quadruples("keys", 4, keys);
                self.quadruples("values", 5, values);
                self.attention_tile(head_dim, tile);
                if is_split {
                    self.splits();
                    self.add(include_str!("wgsl/attention_split.wgsl"));
                } else {
                    self.add(include_str!("wgsl/attention_whole.wgsl"));
                }
                self.add(include_str!("wgsl/attention_tiled.wgsl"));
            }
            Kernel::AttentionMerge { .. } => {
                self.scalars("sums", 3, Element::F32);
                self.constant("LANES", Kernel::MERGE_LANES);
                self.splits();
                self.add(include_str!("wgsl/attention_merge.wgsl"));
                self.main_of_lanes(HEADS, false);
            }
            Kernel::LinearVector { linear, rows, lanes } => self.linear_vector(linear, rows, lanes),
            Kernel::LinearTiled { linear, tile } => self.linear_tiled(linear, tile),
            Kernel::LinearMatrices { linear, rows, unit } => self.linear_matrices(linear, rows, unit),
        }
    }

    /// How the work of a tile of queries is shared by the invocations of a workgroup.
    fn attention_tile(&mut self, head_dim: u32, tile: u32) {
        // Invocations, and how many queries and keys each multiplies with each other.
        let (lanes, queries_each, keys_each) = match tile {
            1 => (64, 1, 1),
            4 => (128, 1, 2),
            8 => (128, 2, 2),
            16 => (256, 2, 2),
            _ => (256, 4, 2),
        };
        const KEYS: u32 = 64;
        debug_assert_eq!(lanes, tile / queries_each * (KEYS / keys_each), "every product has an invocation");
        let quads = head_dim / 4;
        // Of the values an invocation has one quadruple: with what is left, several queries, or several keys of one.
        let groups = lanes / quads;
        let query_groups = groups.min(tile);
        for (name, value) in [
            ("LANES", lanes),
            ("QUERIES", tile),
            ("KEYS", KEYS),
            ("DEPTH", 4),
            ("QUERIES_EACH", queries_each),
            ("KEYS_EACH", keys_each),
            ("HEAD_QUADS", quads),
            ("QUERY_GROUPS", query_groups),
            ("SLICES", groups / query_groups),
            ("RESULTS", tile.div_ceil(query_groups)),
        ] {
            self.constant(name, value);
        }
    }

    fn splits(&mut self) {
        self.constant("MAX_SPLITS", Step::MAX_SPLITS);
        self.constant("MIN_SPLIT_KEYS", Step::MIN_SPLIT_KEYS);
        self.add(include_str!("wgsl/splits.wgsl"));
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

    /// The only output, written by `store(element, number)` or, of a type of 16 bits, `store_bits(element, bits)`.
    fn output(&mut self, element: Element) {
        self.output_as("output", 2, element);
        self.add("fn store(i: u32, x: f32) { store_output(i, x); }");
        if element != Element::F32 {
            self.add("fn store_bits(i: u32, bits: u32) { store_bits_output(i, bits); }");
        }
    }

    /// An output, written by `store_NAME(element, number)` or, of a type of 16 bits, `store_bits_NAME(element, bits)`.
    fn output_as(&mut self, name: &str, binding: u32, element: Element) {
        let variable = match name {
            "output" => name.to_owned(),
            _ => format!("output_{name}"),
        };
        let declare =
            |unit: &str| format!("@group(0) @binding({binding}) var<storage, read_write> {variable}: array<{unit}>;");
        let rounded = if element == Element::F16 { "bits_of_f16(x)" } else { "bits_of_bf16(x)" };
        if element == Element::F32 {
            self.add(&declare("f32"));
            self.add(&format!("fn store_{name}(i: u32, x: f32) {{ {variable}[i] = x; }}"));
            return;
        }
        if self.features.f16 && element == Element::F16 {
            self.add(&declare("f16"));
            // What is a number of 16 bits already is not rounded again.
            self.add(&format!(
                "fn store_bits_{name}(i: u32, bits: u32) {{ {variable}[i] = f16(unpack2x16float(bits).x); }}"
            ));
        } else {
            // Two elements share a word and may be written by two invocations: each changes its half only.
            self.add(&declare("atomic<u32>"));
            self.add(&format!(
                "fn store_bits_{name}(i: u32, bits: u32) {{\n\
                 \x20   let shift = (i & 1u) * 16u;\n\
                 \x20   atomicAnd(&{variable}[i >> 1u], ~(0xffffu << shift));\n\
                 \x20   atomicOr(&{variable}[i >> 1u], bits << shift);\n\
                 }}"
            ));
        }
        self.add(&format!("fn store_{name}(i: u32, x: f32) {{ store_bits_{name}(i, {rounded}); }}"));
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

    /// The entry point of kernels that compute something by a workgroup, by subgroups where the device has them.
    fn main_of_workgroups(&mut self, text: &str) {
        self.main_of_lanes(text, self.features.subgroups);
    }

    /// The entry point of kernels that compute something by a workgroup, whose invocations may know their subgroups.
    fn main_of_lanes(&mut self, text: &str, has_subgroups: bool) {
        let (arguments, values) = match has_subgroups {
            true => (
                "@builtin(subgroup_id) subgroup_idx: u32,\n    @builtin(num_subgroups) n_subgroups: u32,\n    \
                 @builtin(subgroup_invocation_id) subgroup_lane: u32,\n    @builtin(subgroup_size) subgroup_size: u32,",
                "subgroup = Subgroup(subgroup_idx, n_subgroups, subgroup_lane, subgroup_size);",
            ),
            false => ("", ""),
        };
        let text = text.replace("/*subgroup arguments*/", arguments);
        self.add(&text.replace("/*subgroup values*/", values));
    }
}
