struct Step {
    past: u32,
    rows: u32,
    most_keys: u32,
    unused: u32,
}

struct Columns {
    first: u32,
    count: u32,
    total: u32,
    bias: u32,
}

struct Params {
    first_row: u32,
    end_row: u32,
    fixed_rows: u32,
    first_column: u32,
    n_columns: u32,
    input_columns: u32,
    output_columns: u32,
    group_heads: u32,
    head_dim: u32,
    context: u32,
    first_table_row: u32,
    n_table_rows: u32,
    panel_lines: u32,
    last_row_only: u32,
    scale: f32,
    epsilon: f32,
    others: array<Columns, 2>,
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<uniform> params: Params;

// One past the last row of the rectangle that is in use.
fn end_of_rows() -> u32 {
    return min(params.end_row, max(step.rows, params.fixed_rows));
}

// The bits of the nearest f16, ties to even.
fn bits_of_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x47800000u) {
        // 65536 and more, infinity, NaN.
        return sign | select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
    }
    if (magnitude < 0x38800000u) {
        // Below the smallest normal f16: adding one half shifts the digits to where a subnormal f16 has them.
        return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
    }
    return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}

// The bits of the nearest bf16, ties to even.
fn bits_of_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
