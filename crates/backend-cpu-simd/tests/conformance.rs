//! The CPU passes the suite that every backend passes, with float activations and with narrow ones.
//!
//! `HETERO_CPU_ISA` chooses the instruction set; `cargo xtask test` runs all of this machine's.

use backend_cpu_simd::{ActivationMode, CpuBackend, CpuOptions};
use hetero_conformance::{Expectations, Tolerance, run};
use hetero_core::WeightFormat;

fn backend(threads: usize, activations: ActivationMode) -> CpuBackend {
    CpuBackend::new(&CpuOptions { threads: Some(threads), activations }).expect("the CPU is always there")
}

/// Every operator in f32, with every weight format.
fn requirements() -> Expectations {
    let linear = WeightFormat::ALL.map(|format| format!("linear/{format}"));
    linear
        .iter()
        .fold(Expectations::new(), |expectations, pattern| expectations.requires(&format!("{pattern}/f32-f32-in")))
}

#[test]
fn float_activations_are_within_float_rounding() {
    run(&backend(2, ActivationMode::Float), &requirements()).assert_passed();
}

#[test]
fn narrow_activations_are_within_their_own_rounding() {
    const INT8: &str = "activations are 8-bit integers per group of 32";
    const BF16: &str = "activations are rounded to bf16";
    // Rounding to 1/127 of a group's largest value is an error of about 0.5 % of a value, in a sum as in one term; a
    // segment of several operators adds some of them up.
    let narrow =
        [(WeightFormat::W4G32, 1.5e-2, INT8), (WeightFormat::W8G32, 1.5e-2, INT8), (WeightFormat::Bf16, 5e-3, BF16)];
    let mut expectations = requirements();
    for (format, normalised, reason) in narrow {
        for (op, factor) in [
            ("linear", 1.0),
            ("shared_input", 1.0),
            ("gate_up", 2.0),
            ("mlp", 3.0),
            ("attention_block", 3.0),
            ("decoder", 6.0),
        ] {
            let tolerance = Tolerance::normalised(normalised * factor);
            expectations = expectations.tolerance(op, Some(format), tolerance, reason);
        }
    }
    run(&backend(3, ActivationMode::Fast), &expectations).assert_passed();
}
