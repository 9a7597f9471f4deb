//! Numbers into weight formats and back.
//!
//! Rounding follows the published GGUF rules, so that a matrix quantised here holds the same values as one quantised
//! by other engines: Q8_0 divides by the largest magnitude / 127, Q4_0 by the largest-magnitude element / -8, which
//! maps that element exactly to -8.

use half::{bf16, f16};

use crate::{WeightFormat, WeightLayout};

const PANEL: usize = WeightLayout::PANEL_ROWS;
const GROUP: usize = WeightLayout::GROUP_COLUMNS;

/// Writes up to 16 rows into one panel. `rows` is `[n, layout.columns]` with `n <= 16`, `panel` is
/// `layout.panel_bytes()` long; rows and columns beyond the given ones become zeros.
///
/// # Panics
/// When a slice is of the wrong length.
pub fn pack_panel(layout: &WeightLayout, rows: &[f32], panel: &mut [u8]) {
    assert_eq!(panel.len(), layout.panel_bytes(), "a panel of {layout:?}");
    assert!(rows.len().is_multiple_of(layout.columns) && rows.len() <= PANEL * layout.columns, "rows of {layout:?}");
    // A group of zeros has a zero scale; in w4g32 its nibbles stand for zero when they are 8.
    panel.fill(0);
    if layout.format == WeightFormat::W4G32 {
        panel[..layout.panel_quants_bytes()].fill(0x88);
    }
    let (quants, scales) = panel.split_at_mut(layout.panel_quants_bytes());
    for (r, row) in rows.chunks_exact(layout.columns).enumerate() {
        for (g, values) in row.chunks(GROUP).enumerate() {
            let mut group = [0.0; GROUP];
            group[..values.len()].copy_from_slice(values);
            let words_per_group = GROUP / layout.format.columns_per_word();
            let first_word = g * words_per_group;
            let mut put = |w: usize, word: [u8; 4]| {
                quants[((first_word + w) * PANEL + r) * 4..][..4].copy_from_slice(&word);
            };
            match layout.format {
                WeightFormat::F32 => (0..GROUP).for_each(|k| put(k, group[k].to_le_bytes())),
                WeightFormat::F16 => pack_pairs(&group, |x| f16::from_f32(x).to_bits(), put),
                WeightFormat::Bf16 => pack_pairs(&group, |x| bf16::from_f32(x).to_bits(), put),
                WeightFormat::W8G32 => {
                    let (scale, q) = quantize_group_w8(&group);
                    (0..8).for_each(|w| put(w, std::array::from_fn(|b| q[4 * w + b] as u8)));
                    put_scale(scales, g, r, scale);
                }
                WeightFormat::W4G32 => {
                    let (scale, q) = quantize_group_w4(&group);
                    (0..4).for_each(|w| put(w, std::array::from_fn(|b| q[4 * w + b] | q[16 + 4 * w + b] << 4)));
                    put_scale(scales, g, r, scale);
                }
            }
        }
    }
}

/// One group in w8g32: its scale and 32 integers from -127 to 127.
pub fn quantize_group_w8(group: &[f32; GROUP]) -> (f16, [i8; GROUP]) {
    let (smallest, largest) = extremes(group);
    let scale = largest.max(-smallest) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
    // `round` rounds halves away from zero, as the format's reference does.
    (f16::from_f32(scale), group.map(|x| (x * inverse).round() as i32 as i8))
}

/// One group in w4g32: its scale and 32 integers from 0 to 15, of which 8 stands for zero.
pub fn quantize_group_w4(group: &[f32; GROUP]) -> (f16, [u8; GROUP]) {
    let (smallest, largest) = extremes(group);
    let extreme = if largest > -smallest {
        largest
    } else if largest < -smallest {
        smallest
    } else {
        // The format's reference takes whichever comes first.
        group.iter().copied().find(|x| x.abs() == largest).unwrap_or(0.0)
    };
    let scale = extreme / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
    // Adding 8.5 and cutting off rounds to the nearest.
    (f16::from_f32(scale), group.map(|x| ((x * inverse + 8.5) as i32).clamp(0, 15) as u8))
}

/// The smallest and the largest value, or zero where that is further out. In lanes, so that the compiler uses vectors:
/// loading a model does this for every group of its weights.
fn extremes(group: &[f32; GROUP]) -> (f32, f32) {
    const LANES: usize = 8;
    let (mut smallest, mut largest) = ([0.0f32; LANES], [0.0f32; LANES]);
    for values in group.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let x = values[lane];
            smallest[lane] = if x < smallest[lane] { x } else { smallest[lane] };
            largest[lane] = if x > largest[lane] { x } else { largest[lane] };
        }
    }
    (smallest.into_iter().fold(0.0, f32::min), largest.into_iter().fold(0.0, f32::max))
}

/// One row of a panel as numbers; `out` is `layout.columns` long.
pub fn dequantize_panel_row(layout: &WeightLayout, panel: &[u8], row: usize, out: &mut [f32]) {
    let (quants, scales) = panel.split_at(layout.panel_quants_bytes());
    let words = quants.as_chunks::<4>().0;
    let words_per_group = GROUP / layout.format.columns_per_word();
    for (g, values) in out.chunks_mut(GROUP).enumerate() {
        let word = |w: usize| -> [u8; 4] { words[(g * words_per_group + w) * PANEL + row] };
        let half_word = |k: usize| -> u16 {
            let word = word(k / 2);
            u16::from_le_bytes([word[k % 2 * 2], word[k % 2 * 2 + 1]])
        };
        let scale = || {
            let start = (g * PANEL + row) * 2;
            f16::from_le_bytes([scales[start], scales[start + 1]]).to_f32()
        };
        match layout.format {
            WeightFormat::F32 => fill(values, |k| f32::from_le_bytes(word(k))),
            WeightFormat::F16 => fill(values, |k| f16::from_bits(half_word(k)).to_f32()),
            WeightFormat::Bf16 => fill(values, |k| bf16::from_bits(half_word(k)).to_f32()),
            WeightFormat::W8G32 => {
                let scale = scale();
                fill(values, |k| scale * f32::from(word(k / 4)[k % 4] as i8));
            }
            WeightFormat::W4G32 => {
                let scale = scale();
                fill(values, |k| {
                    let byte = word(k % 16 / 4)[k % 4];
                    let nibble = if k < 16 { byte & 15 } else { byte >> 4 };
                    scale * (f32::from(nibble) - 8.0)
                });
            }
        }
    }
}

/// One row of a panel in a quantised format as it is stored: integers and, for each group of 32 of them, the scale
/// that they are multiplied with. `integers` is `layout.columns` long, `scales` `layout.n_groups()`.
///
/// # Panics
/// When the format is not quantised.
pub fn panel_row_integers(layout: &WeightLayout, panel: &[u8], row: usize, integers: &mut [i8], scales: &mut [f32]) {
    let (quants, stored_scales) = panel.split_at(layout.panel_quants_bytes());
    let words_per_group = GROUP / layout.format.columns_per_word();
    for ((g, integers), scale) in integers.chunks_mut(GROUP).enumerate().zip(scales) {
        let byte = |k: usize| quants[((g * words_per_group + k / 4) * PANEL + row) * 4 + k % 4];
        match layout.format {
            WeightFormat::W8G32 => fill(integers, |k| byte(k) as i8),
            WeightFormat::W4G32 => fill(integers, |k| {
                let byte = byte(k % 16);
                (if k < 16 { byte & 15 } else { byte >> 4 }) as i8 - 8
            }),
            other => panic!("{other} has no integers"),
        }
        let start = (g * PANEL + row) * 2;
        *scale = f16::from_le_bytes([stored_scales[start], stored_scales[start + 1]]).to_f32();
    }
}

/// One row of a row-major table as numbers; `out` is `layout.columns` long. The bytes need no alignment.
pub fn table_row(layout: &WeightLayout, bytes: &[u8], row: usize, out: &mut [f32]) {
    let size = layout.format.element_bits() / 8;
    table_elements(layout.format, &bytes[row * layout.columns * size..][..layout.columns * size], out);
}

/// Elements of a table as numbers; `bytes` has as many as `out`, and needs no alignment.
pub(crate) fn table_elements(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    match format {
        WeightFormat::F32 => {
            let elements = bytes.as_chunks::<4>().0;
            fill(out, |k| f32::from_le_bytes(elements[k]));
        }
        WeightFormat::F16 => {
            let elements = bytes.as_chunks::<2>().0;
            fill(out, |k| f16::from_le_bytes(elements[k]).to_f32());
        }
        WeightFormat::Bf16 => {
            let elements = bytes.as_chunks::<2>().0;
            fill(out, |k| bf16::from_le_bytes(elements[k]).to_f32());
        }
        WeightFormat::W8G32 | WeightFormat::W4G32 => {
            unreachable!("`WeightLayout::table` refuses quantised tables")
        }
    }
}

fn pack_pairs(group: &[f32; GROUP], bits: impl Fn(f32) -> u16, mut put: impl FnMut(usize, [u8; 4])) {
    for w in 0..GROUP / 2 {
        let [a, b] = bits(group[2 * w]).to_le_bytes();
        let [c, d] = bits(group[2 * w + 1]).to_le_bytes();
        put(w, [a, b, c, d]);
    }
}

fn put_scale(scales: &mut [u8], group: usize, row: usize, scale: f16) {
    scales[(group * PANEL + row) * 2..][..2].copy_from_slice(&scale.to_le_bytes());
}

fn fill<T>(out: &mut [T], f: impl Fn(usize) -> T) {
    for (k, x) in out.iter_mut().enumerate() {
        *x = f(k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with every sign and a spread of magnitudes.
    fn rows(n: usize, columns: usize) -> Vec<f32> {
        (0..n * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0 * if i % 7 == 0 { 3.0 } else { 1.0 }).collect()
    }

    #[test]
    fn what_is_packed_reads_back_within_the_format() {
        for format in WeightFormat::ALL {
            for (n, columns) in [(16, 32), (16, 96), (3, 45), (1, 1)] {
                let layout = WeightLayout::panels(format, n, columns);
                let values = rows(n, columns);
                let mut panel = vec![0xAA; layout.panel_bytes()];
                pack_panel(&layout, &values, &mut panel);
                for (r, row) in values.chunks(columns).enumerate() {
                    let mut back = vec![0.0; columns];
                    dequantize_panel_row(&layout, &panel, r, &mut back);
                    let largest = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let step = match format {
                        WeightFormat::F32 => 0.0,
                        WeightFormat::F16 => largest / 2048.0,
                        WeightFormat::Bf16 => largest / 256.0,
                        // Half a step, and 127 times the rounding of the scale to f16.
                        WeightFormat::W8G32 => largest / 127.0 * 0.57,
                        // The value opposite to the extreme one may be clipped by half a step more.
                        WeightFormat::W4G32 => largest / 8.0 * 1.01,
                    };
                    for (x, y) in row.iter().zip(&back) {
                        assert!((x - y).abs() <= step, "{format} {n}x{columns} row {r}: {x} became {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn integers_times_scales_are_the_numbers() {
        for format in [WeightFormat::W8G32, WeightFormat::W4G32] {
            for columns in [32, 96, 45, 1] {
                let layout = WeightLayout::panels(format, 16, columns);
                let mut panel = vec![0; layout.panel_bytes()];
                pack_panel(&layout, &rows(16, columns), &mut panel);
                for row in 0..16 {
                    let mut numbers = vec![0.0; columns];
                    dequantize_panel_row(&layout, &panel, row, &mut numbers);
                    let (mut integers, mut scales) = (vec![0; columns], vec![0.0; layout.n_groups()]);
                    panel_row_integers(&layout, &panel, row, &mut integers, &mut scales);
                    let products = integers.iter().enumerate().map(|(k, &q)| scales[k / GROUP] * f32::from(q));
                    assert_eq!(products.collect::<Vec<_>>(), numbers, "{format} {columns} columns, row {row}");
                }
            }
        }
    }

    #[test]
    fn groups_of_zeros_stay_zeros() {
        for format in WeightFormat::ALL {
            let layout = WeightLayout::panels(format, 16, 64);
            let mut panel = vec![0xAA; layout.panel_bytes()];
            pack_panel(&layout, &[0.0; 5 * 64], &mut panel);
            for r in 0..16 {
                let mut back = [1.0; 64];
                dequantize_panel_row(&layout, &panel, r, &mut back);
                assert_eq!(back, [0.0; 64], "{format} row {r}");
            }
        }
    }

    #[test]
    fn the_extreme_value_of_a_w4_group_is_exact() {
        let mut group = [0.25f32; GROUP];
        group[5] = -2.0;
        let (scale, q) = quantize_group_w4(&group);
        assert_eq!((scale.to_f32(), q[5], q[0]), (0.25, 0, 9));
        group[5] = 2.0;
        let (scale, q) = quantize_group_w4(&group);
        assert_eq!((scale.to_f32(), q[5], q[0]), (-0.25, 0, 7));
    }

    #[test]
    fn unaligned_tables_read_back() {
        for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16] {
            let layout = WeightLayout::table(format, 2, 3);
            let mut bytes = vec![0u8; layout.bytes()];
            for (i, element) in bytes.chunks_mut(format.element_bits() / 8).enumerate() {
                let x = i as f32 - 2.0;
                match format {
                    WeightFormat::F32 => element.copy_from_slice(&x.to_le_bytes()),
                    WeightFormat::F16 => element.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
                    _ => element.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                }
            }
            let mut row = [0.0; 3];
            table_row(&layout, &bytes, 1, &mut row);
            assert_eq!(row, [1.0, 2.0, 3.0]);
        }
    }
}
