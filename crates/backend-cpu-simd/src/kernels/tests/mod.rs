//! Every kernel on every instruction set of this machine, against plain loops in f64.

mod attention;
mod elementwise;
mod linear;

use half::{bf16, f16};

use super::*;
use crate::dispatch::Kernels;

/// What no kernel writes by itself: a value of an output that still has it was not touched.
const UNTOUCHED: f32 = -12345.678;

/// A reproducible sequence of numbers.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Between -1 and 1.
    fn float(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// 64 bytes at an address that is a multiple of 64.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

/// A weight matrix in panels, packed by the letter of the layout, and its exact values.
struct Packed {
    lines: Vec<Line>,
    format: WeightFormat,
    n: usize,
    k: usize,
    /// `[n, k]`.
    values: Vec<f32>,
}

impl Packed {
    fn random(format: WeightFormat, n: usize, k: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let panel_bytes = format.panel_bytes(k);
        let mut bytes = vec![0u8; n.div_ceil(PANEL_ROWS) * panel_bytes];
        let mut values = vec![0.0; n * k];
        let quants = k.div_ceil(GROUP) * format.group_bytes();
        for row in 0..n {
            let lane = row % PANEL_ROWS;
            let panel = &mut bytes[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
            for column in 0..k {
                let word = |word: usize| (word * PANEL_ROWS + lane) * 4;
                let group = column / GROUP;
                let scale_at = quants + (group * PANEL_ROWS + lane) * 2;
                if format.is_quantized() && column % GROUP == 0 {
                    let scale = f16::from_f32(0.01 + random.float().abs() * 0.02);
                    panel[scale_at..scale_at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                let scale = || f16::from_le_bytes([panel[scale_at], panel[scale_at + 1]]).to_f32();
                values[row * k + column] = match format {
                    WeightFormat::F32 => {
                        let value = random.float();
                        panel[word(column)..][..4].copy_from_slice(&value.to_le_bytes());
                        value
                    }
                    WeightFormat::F16 => {
                        let value = f16::from_f32(random.float());
                        panel[word(column / 2) + column % 2 * 2..][..2].copy_from_slice(&value.to_le_bytes());
                        value.to_f32()
                    }
                    WeightFormat::Bf16 => {
                        let value = bf16::from_f32(random.float());
                        panel[word(column / 2) + column % 2 * 2..][..2].copy_from_slice(&value.to_le_bytes());
                        value.to_f32()
                    }
                    WeightFormat::W8G32 => {
                        // The ends of the range are where saturation would show.
                        let value = (random.float() * 140.0).clamp(-127.0, 127.0) as i8;
                        let scale = scale();
                        panel[word(column / 4) + column % 4] = value as u8;
                        scale * f32::from(value)
                    }
                    WeightFormat::W4G32 => {
                        let nibble = ((random.float() + 1.0) * 8.0).min(15.0) as u8;
                        let scale = scale();
                        let k = column % GROUP;
                        let byte = word(group * 4 + k % 16 / 4) + k % 4;
                        panel[byte] |= if k < 16 { nibble } else { nibble << 4 };
                        scale * (f32::from(nibble) - 8.0)
                    }
                };
            }
        }
        let mut lines = vec![Line([0; 64]); bytes.len() / 64];
        for (line, bytes) in lines.iter_mut().zip(bytes.chunks_exact(64)) {
            line.0.copy_from_slice(bytes);
        }
        Self { lines, format, n, k, values }
    }

    fn weights(&self) -> PanelWeights {
        PanelWeights { format: self.format, panels: self.lines.as_ptr().cast(), n: self.n, k: self.k }
    }
}

/// Quantised activations and the buffers that hold them.
struct Quantized {
    values: Vec<i8>,
    scales: Vec<f32>,
    corrections: Vec<i32>,
    positions: usize,
    k: usize,
}

impl Quantized {
    fn of(kernels: &Kernels, input: &[f32], stride: usize, positions: usize, k: usize) -> Self {
        let count = QuantizedRows::n_scales(positions, k);
        let mut this = Self {
            values: vec![99; count * GROUP],
            scales: vec![9.0; count],
            corrections: vec![9; count],
            positions,
            k,
        };
        let output = this.rows();
        let groups = output.groups();
        let params =
            QuantizeActivations { input: Rows::of(input, stride), output, positions: 0..positions, groups: 0..groups };
        // SAFETY: the input has all rows, and the buffers are of the documented sizes.
        unsafe { (kernels.quantize_activations)(&params) };
        this
    }

    fn rows(&mut self) -> QuantizedRows {
        QuantizedRows {
            values: self.values.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            corrections: self.corrections.as_mut_ptr(),
            positions: self.positions,
            k: self.k,
        }
    }

    /// Where a group of a position lies, by the documented layout.
    fn at(&self, position: usize, group: usize) -> usize {
        let groups = self.k.div_ceil(GROUP);
        let tile = position / 16;
        let in_tile = (self.positions - tile * 16).min(16);
        tile * 16 * groups + group * in_tile + position % 16
    }

    /// What a quantised activation stands for.
    fn value(&self, position: usize, column: usize) -> f64 {
        let at = self.at(position, column / GROUP);
        f64::from(self.scales[at]) * f64::from(self.values[at * GROUP + column % GROUP])
    }
}

/// Asserts that `actual` is `expected` but for `tolerance` times the sum of the magnitudes that make it up.
#[track_caller]
fn assert_close(actual: f32, expected: f64, magnitude: f64, tolerance: f64, what: impl core::fmt::Display) {
    let difference = (f64::from(actual) - expected).abs();
    assert!(
        difference <= tolerance * magnitude.max(1e-30),
        "{what}: {actual} instead of {expected}, off by {difference:e} of {magnitude}"
    );
}

/// The bits of floats, for comparisons that allow nothing.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
