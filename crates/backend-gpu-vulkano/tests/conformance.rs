//! The GPU passes the suite that every backend passes, in each variant of the kernels that the device has.

use backend_gpu_vulkano::{Ahead, VulkanBackend, VulkanOptions, WeightMemory};
use hetero_conformance::{Expectations, Tolerance, run};
use hetero_core::WeightFormat;
use hetero_shaders::{Knobs, Variant};

fn check(options: &VulkanOptions, expectations: &Expectations) {
    // Software too is to do right what it gains nothing from.
    let options = VulkanOptions { ahead: Ahead::Always, ..options.clone() };
    let backend = VulkanBackend::new(&options).unwrap_or_else(|error| panic!("{error}; {}", error.fix()));
    run(&backend, expectations).assert_passed();
    let complaints = backend.complaints();
    assert!(complaints.is_empty(), "the validation layers complained: {complaints:#?}");
}

#[test]
fn with_all_that_the_device_has() {
    let mut expectations = Expectations::new().requires("attention/f16+f16+f16-f16").requires("decoder/w4g32");
    for format in WeightFormat::ALL {
        expectations = expectations.requires(&format!("linear/{format}"));
    }
    check(&VulkanOptions::default(), &expectations);
}

/// What is computed otherwise without subgroups and 16-bit floats: sums over a workgroup, and results in f16.
#[test]
fn with_plain_kernels() {
    let plain = ["linear/w4g32", "rms_norm/", "softmax/", "attention/", "/f16", "decoder/w4g32"];
    let expectations = plain.iter().fold(Expectations::new(), |expectations, pattern| expectations.only(pattern));
    check(&VulkanOptions { knobs: Knobs::plain(), ..VulkanOptions::default() }, &expectations);
}

/// Limits so low that matrices with some hundred rows come in several pieces, and embeddings too.
#[test]
fn weights_in_pieces_give_the_same_results() {
    let mut expectations = Expectations::new();
    for case in ["in257-out257", "in96-out257", "in60-out128", "embed/f32/u32-f32-300x64"] {
        expectations = expectations.only(case);
    }
    check(&VulkanOptions { max_piece_bytes: Some(40_000), ..VulkanOptions::default() }, &expectations);
}

/// Rows as 8-bit integers, which are used when they are asked for. The self-test has compared them with the plain loops
/// on the same integers: where they had failed it, strict backends would not support them.
#[test]
fn with_products_of_integers() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_vector", Variant::IntegerDot);
    knobs.ask_for("linear_tiled", Variant::IntegerDot);
    // Rounding to 1/127 of a group's largest value is an error of about 0.5 % of a value, in a sum as in one term; a
    // segment of several operators adds some of them up.
    let mut expectations = Expectations::new();
    for format in [WeightFormat::W8G32, WeightFormat::W4G32] {
        expectations = expectations.requires(&format!("linear/{format}"));
        for (op, factor) in [("linear", 1.0), ("shared_input", 1.0), ("gate_up", 2.0), ("mlp", 3.0), ("decoder", 6.0)] {
            let tolerance = Tolerance::normalised(1.5e-2 * factor);
            let reason = "activations are 8-bit integers per group of 32";
            expectations = expectations.only(&format!("{op}/{format}")).tolerance(op, Some(format), tolerance, reason);
        }
    }
    check(&VulkanOptions { knobs, is_strict: true, ..VulkanOptions::default() }, &expectations);
}

/// Products in 16-bit floats, which are used when they are asked for and the device has such floats.
#[test]
fn with_products_in_half_precision() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_tiled", Variant::Half);
    let mut expectations = Expectations::new();
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::W8G32, WeightFormat::W4G32] {
        let cases = format!("linear/{format}/f32-f32");
        let reason = "prompts are multiplied in 16-bit floats";
        expectations = expectations.only(&cases).requires(&cases).tolerance(
            "linear",
            Some(format),
            Tolerance::normalised(1e-3),
            reason,
        );
    }
    check(&VulkanOptions { knobs, is_strict: true, ..VulkanOptions::default() }, &expectations);
}

/// As on a GPU whose own memory the host does not reach: weights, tables and what passes between kernels go through a
/// staging buffer.
#[test]
fn with_weights_in_memory_of_its_own() {
    let cases =
        ["contract", "linear/w4g32", "linear/f16", "embed/", "rms_norm/", "rope", "attention/f16", "decoder/w4g32"];
    let expectations = cases.iter().fold(Expectations::new(), |expectations, pattern| expectations.only(pattern));
    let options = VulkanOptions { weight_memory: WeightMemory::Separate, ..VulkanOptions::default() };
    check(&options, &expectations);
    // In several pieces.
    let pieces = Expectations::new().only("in257-out257").only("in96-out257");
    check(&VulkanOptions { max_piece_bytes: Some(40_000), ..options }, &pieces);
}

/// Units for small matrices, where the device has some: software too, which only imitates them, so they are asked for.
#[test]
fn with_matrix_units() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_tiled", Variant::Matrix);
    let cases = ["linear/w4g32/f32-f32", "linear/f32/f32-f32", "linear/bf16/f32-f32", "gate_up/w8g32"];
    let expectations = cases.iter().fold(Expectations::new(), |expectations, pattern| expectations.only(pattern));
    check(&VulkanOptions { knobs, ..VulkanOptions::default() }, &expectations);
}
