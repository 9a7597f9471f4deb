//! The facts: what the paper says about Llama-8B on a Snapdragon 8 Gen 3, and how each is simulated.
//!
//! "v1" is arXiv 2501.14794v1 (HeteroLLM), "v2" is v2 of the same number (HeteroInfer). "Derived" values are computed
//! from stated ones: Hetero-layer prefills 236.92 / 1.302 = 182 tokens/s, so llama.cpp, 24.9 times slower, 7.3; it
//! decodes 14.01 / 1.220 = 11.48 tokens/s, llama.cpp 14.01 / 2.53 = 5.5.

use hetero_core::{DeviceKind, OperandOrder, StepParams};

use crate::paper::{Phone, Shape};
use DeviceKind::{Cpu, Gpu, Npu};

/// One fact.
pub(crate) struct Fact {
    /// What was measured.
    pub(crate) name: &'static str,
    /// The unit of the value.
    pub(crate) unit: &'static str,
    /// The value, or the least and the greatest.
    pub(crate) value: (f64, f64),
    /// Where it stands.
    pub(crate) source: &'static str,
    /// `paper` when it is stated, `derived` when it is computed from what is stated, `notes` when a reader's notes say
    /// it.
    pub(crate) confidence: &'static str,
    /// What it is used for.
    pub(crate) used: Use,
    /// The simulated value, or the least and the greatest, in the fact's unit.
    pub(crate) simulate: fn(&Phone) -> (f64, f64),
}

/// What a fact is used for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Use {
    /// The fit makes its error small.
    Fit,
    /// It is compared only, for this reason.
    Check(&'static str),
}

impl Fact {
    /// How far the simulated value is off, relative to the fact's; zero inside a range of values.
    pub(crate) fn error(&self, simulated: (f64, f64)) -> f64 {
        let off = |value: f64| {
            let nearest = value.clamp(self.value.0, self.value.1);
            value / nearest - 1.0
        };
        let (low, high) = (off(simulated.0), off(simulated.1));
        if low.abs() > high.abs() { low } else { high }
    }
}

/// An operator of table 3: latency of a product with `n` output and `k` input features.
macro_rules! latency {
    ($name:literal, $value:expr, $kind:expr, $n:literal x $k:literal, rows $m:expr, $used:expr) => {
        Fact {
            name: $name,
            unit: "us",
            value: range($value),
            source: "v2 table 3",
            confidence: "paper",
            used: $used,
            simulate: |phone| {
                let (least, most) = range($m);
                let us = |m: f64| phone.operator_seconds($kind, Shape { m: m as usize, n: $n, k: $k }) * 1e6;
                (us(least), us(most))
            },
        }
    };
}

/// A fact that is one number.
macro_rules! fact {
    ($name:literal, $value:expr, $unit:literal, $source:literal, $confidence:literal, $used:expr, $simulate:expr) => {
        Fact {
            name: $name,
            unit: $unit,
            value: range($value),
            source: $source,
            confidence: $confidence,
            used: $used,
            simulate: |phone| {
                let simulate: fn(&Phone) -> f64 = $simulate;
                let value = simulate(phone);
                (value, value)
            },
        }
    };
}

/// All facts, those of the fit first.
pub(crate) fn facts() -> Vec<Fact> {
    use Use::Fit;
    vec![
        latency!("attention projection, 1 row, GPU", 511.0, Gpu, 4096 x 4096, rows 1.0, Fit),
        latency!("attention projection, 1 row, NPU", 693.0, Npu, 4096 x 4096, rows 1.0, Fit),
        latency!("FFN-gate and -up, 1 row, GPU", 1903.0, Gpu, 28672 x 4096, rows 1.0, Fit),
        latency!("FFN-gate and -up, 1 row, NPU", 3886.0, Npu, 28672 x 4096, rows 1.0, Fit),
        latency!("FFN-down, 1 row, NPU", 6506.0, Npu, 4096 x 14336, rows 1.0, Fit),
        latency!("attention projection, 128 rows, GPU", 7306.0, Gpu, 4096 x 4096, rows 128.0, Fit),
        latency!("attention projection, 128 rows, NPU", 912.0, Npu, 4096 x 4096, rows 128.0, Fit),
        latency!("attention projection, 193 to 255 rows, GPU", (9e3, 11e3), Gpu, 4096 x 4096, rows (193.0, 255.0), Fit),
        latency!("attention projection, 193 to 255 rows, NPU", (1.2e3, 1.9e3), Npu, 4096 x 4096, rows (193.0, 255.0), Fit),
        latency!("attention projection, 256 rows, GPU", 10841.0, Gpu, 4096 x 4096, rows 256.0, Fit),
        latency!("attention projection, 256 rows, NPU", 1884.0, Npu, 4096 x 4096, rows 256.0, Fit),
        latency!("attention projection, 257 to 272 rows, GPU", 11000.0, Gpu, 4096 x 4096, rows (257.0, 272.0), Fit),
        latency!("attention projection, 257 to 272 rows, NPU", 1900.0, Npu, 4096 x 4096, rows (257.0, 272.0), Fit),
        latency!("FFN-down, 256 rows, GPU", 35231.0, Gpu, 4096 x 14336, rows 256.0, Fit),
        latency!("FFN-down, 256 rows, NPU", 23445.0, Npu, 4096 x 14336, rows 256.0, Fit),
        latency!("FFN-down, 257 to 384 rows, GPU", (35e3, 50e3), Gpu, 4096 x 14336, rows (257.0, 384.0), Fit),
        latency!("FFN-down, 257 to 384 rows, NPU", (23e3, 32e3), Npu, 4096 x 14336, rows (257.0, 384.0), Fit),
        fact!(
            "NPU: activations streaming over activations staying, FFN-up, 256 rows",
            6.0,
            "times",
            "v2 section 3.2",
            "paper",
            Fit,
            |phone| {
                let shape = Shape { m: 256, n: 14336, k: 4096 };
                let seconds = |order| phone.product(Npu, shape, order).alone_seconds();
                seconds(OperandOrder::WeightStationary) / seconds(OperandOrder::ActivationStationary)
            }
        ),
        fact!("bandwidth, GPU alone, products of a token", 43.3, "GB/s", "v2 section 5.4", "paper", Fit, |phone| {
            phone.decode_bytes_per_second(Gpu) / 1e9
        }),
        fact!(
            "bandwidth, GPU and NPU together, products but FFN-down",
            59.5,
            "GB/s",
            "v2 section 5.4",
            "paper",
            Fit,
            |phone| {
                let sum = phone.decode_bytes_per_second(Gpu) + npu_decode_bytes_per_second(phone);
                sum.min(phone.soc.bus.combined_bytes_per_second) / 1e9
            }
        ),
        fact!("decoding, GPU (Hetero-layer)", 11.48, "tokens/s", "v2 section 5.4", "derived", Fit, |phone| {
            1.0 / phone.whole_step(Gpu, StepParams { past: 272, rows: 1 }).seconds
        }),
        fact!("prefill of 256, Hetero-layer", 182.0, "tokens/s", "v2 sections 5.2, 5.5", "derived", Fit, |phone| {
            256.0 / phone.layer_level_prefill(256).seconds
        }),
        fact!("prefill of 256, CPU (llama.cpp)", 7.3, "tokens/s", "v2 section 5.2", "derived", Fit, |phone| {
            256.0 / phone.whole_step(Cpu, StepParams { past: 0, rows: 256 }).seconds
        }),
        fact!("decoding, CPU (llama.cpp)", 5.5, "tokens/s", "v2 section 5.4", "derived", Fit, |phone| {
            1.0 / phone.whole_step(Cpu, StepParams { past: 272, rows: 1 }).seconds
        }),
        fact!("preparing 4 graphs, length 135", 408.4, "ms", "v2 section 5.3.2", "paper", Fit, |phone| {
            phone.graph_preparation_seconds(135) * 1e3
        }),
        fact!("preparing 4 graphs, length 1000", 2050.0, "ms", "v2 section 5.3.2", "paper", Fit, |phone| {
            phone.graph_preparation_seconds(1000) * 1e3
        }),
        fact!("power, prefill of 256, Hetero-layer", 2.23, "W", "v2 section 5.8", "paper", Fit, |phone| {
            let run = phone.layer_level_prefill(256);
            run.joules / run.seconds
        }),
        fact!(
            "energy, 256 + 32 tokens, Hetero-layer over GPU-only",
            0.516,
            "times",
            "v2 section 5.8",
            "derived",
            Fit,
            |phone| {
                let decode = 32.0 * phone.whole_step(Gpu, StepParams { past: 272, rows: 1 }).joules;
                let gpu_only = phone.whole_step(Gpu, StepParams { past: 0, rows: 256 }).joules + decode;
                (phone.layer_level_prefill(256).joules + decode) / gpu_only
            }
        ),
        latency!(
            "FFN-down, 1 row, GPU", 1467.0, Gpu, 4096 x 14336, rows 1.0,
            Use::Check("contradicts 43.3 GB/s and 11.48 tokens/s: 33 MB cannot take so long at that rate")
        ),
        fact!(
            "attention projection, 1 row, GPU, waited for by clFinish",
            511.0,
            "us",
            "v2 table 3",
            "paper",
            Use::Check("table 3 cannot contain the whole 400 us of clFinish; what it contains is fitted apart"),
            |phone| {
                let wait = phone.soc.gpu.overheads.wait_seconds - phone.gpu_measurement_seconds;
                (phone.operator_seconds(Gpu, Shape { m: 1, n: 4096, k: 4096 }) + wait) * 1e6
            }
        ),
        fact!(
            "bandwidth, NPU alone, products but FFN-down",
            (40.0, 45.0),
            "GB/s",
            "v2 section 3.3",
            "paper",
            Use::Check("contradicts table 3, and 59.5 together less 43.3 for the GPU; the NPU's port has this rate"),
            |phone| npu_decode_bytes_per_second(phone) / 1e9
        ),
        fact!(
            "bandwidth, CPU alone, products of a token",
            (40.0, 45.0),
            "GB/s",
            "v2 section 3.3",
            "paper",
            Use::Check(
                "contradicts llama.cpp's 5.5 tokens/s, which is bound by arithmetic; the CPU's port has this rate"
            ),
            |phone| phone.decode_bytes_per_second(Cpu) / 1e9
        ),
        Fact {
            name: "FFN-down, NPU's speed over the GPU's, 32 to 1024 rows",
            unit: "times",
            value: (0.5, 1.5),
            source: "v2 section 3.2",
            confidence: "paper",
            used: Use::Check("follows from the rows above; below 256 rows neither latency is known"),
            simulate: |phone| {
                let ratio = |m: usize| {
                    let shape = Shape { m, n: 4096, k: 14336 };
                    let seconds = |kind| phone.product(kind, shape, OperandOrder::default()).alone_seconds();
                    seconds(Gpu) / seconds(Npu)
                };
                let ratios: Vec<f64> = (32..=1024).step_by(32).map(ratio).collect();
                (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max))
            },
        },
        fact!(
            "prefill of 256, GPU (MNN, v1)",
            57.2,
            "tokens/s",
            "v1: Hetero-layer is 3.18 times faster",
            "notes",
            Use::Check("another engine's kernels"),
            |phone| 256.0 / phone.whole_step(Gpu, StepParams { past: 0, rows: 256 }).seconds
        ),
        fact!(
            "prefill of 256, GPU (MNN, v2)",
            31.1,
            "tokens/s",
            "v2: Hetero-layer is 5.85 times faster",
            "derived",
            Use::Check("contradicts table 3, whose rows mean about 58 tokens/s, and v1"),
            |phone| 256.0 / phone.whole_step(Gpu, StepParams { past: 0, rows: 256 }).seconds
        ),
        fact!(
            "GPU's share, attention projections, 1 row",
            0.5,
            "of all",
            "v2 table 3",
            "paper",
            Use::Check("the best cut of a single operator, no contention"),
            |phone| best_gpu_share(phone, Shape { m: 1, n: 4096, k: 4096 })
        ),
        fact!(
            "GPU's share, FFN-gate and -up, 1 row",
            0.75,
            "of all",
            "v2 table 3",
            "paper",
            Use::Check("the best cut of a single operator, no contention"),
            |phone| best_gpu_share(phone, Shape { m: 1, n: 28672, k: 4096 })
        ),
        fact!(
            "GPU's share, FFN-down, 256 rows",
            0.4,
            "of all",
            "v2 table 3",
            "paper",
            Use::Check("the best cut of a single operator, no contention"),
            |phone| best_gpu_share(phone, Shape { m: 256, n: 4096, k: 14336 })
        ),
    ]
}

/// The NPU's share of a token leaves out FFN-down, which table 3 gives to the GPU whole.
fn npu_decode_bytes_per_second(phone: &Phone) -> f64 {
    phone.bytes_per_second_of(Npu, |shape| shape.k == 4096)
}

/// One number, or the least and the greatest.
trait IntoRange {
    fn into_range(self) -> (f64, f64);
}

impl IntoRange for f64 {
    fn into_range(self) -> (f64, f64) {
        (self, self)
    }
}

impl IntoRange for (f64, f64) {
    fn into_range(self) -> (f64, f64) {
        self
    }
}

fn range(value: impl IntoRange) -> (f64, f64) {
    value.into_range()
}

/// The GPU's share of the weight rows at which a product that is measured alone is finished first.
fn best_gpu_share(phone: &Phone, shape: Shape) -> f64 {
    let finished = |gpu_rows: usize| {
        let seconds = |kind, n| phone.operator_seconds(kind, Shape { n, ..shape });
        seconds(Gpu, gpu_rows).max(seconds(Npu, shape.n - gpu_rows))
    };
    let cuts = (32..shape.n).step_by(32);
    let best = cuts.min_by(|&a, &b| finished(a).total_cmp(&finished(b))).unwrap_or(shape.n);
    best as f64 / shape.n as f64
}
