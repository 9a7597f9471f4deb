//! The GPU passes the suite that every backend passes, in each variant of the kernels that the device has.

use backend_gpu_vulkano::{Ahead, VulkanBackend, VulkanOptions, WeightMemory};
use hetero_conformance::{Expectations, gpu, run};
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
    check(&VulkanOptions::default(), &gpu::everything());
}

#[test]
fn with_plain_kernels() {
    check(&VulkanOptions { knobs: Knobs::plain(), ..VulkanOptions::default() }, &gpu::of_plain_kernels());
}

#[test]
fn weights_in_pieces_give_the_same_results() {
    check(&VulkanOptions { max_piece_bytes: Some(40_000), ..VulkanOptions::default() }, &gpu::of_pieces());
}

/// Rows as 8-bit integers, which are used when they are asked for. The self-test has compared them with the plain loops
/// on the same integers: where they had failed it, strict backends would not support them.
#[test]
fn with_products_of_integers() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_vector", Variant::IntegerDot);
    knobs.ask_for("linear_tiled", Variant::IntegerDot);
    check(&VulkanOptions { knobs, is_strict: true, ..VulkanOptions::default() }, &gpu::of_integers());
}

/// Products in 16-bit floats, which are used when they are asked for and the device has such floats.
#[test]
fn with_products_in_half_precision() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_tiled", Variant::Half);
    check(&VulkanOptions { knobs, is_strict: true, ..VulkanOptions::default() }, &gpu::of_half_precision());
}

/// As on a GPU whose own memory the host does not reach: weights, tables and what passes between kernels go through a
/// staging buffer.
#[test]
fn with_weights_in_memory_of_its_own() {
    let cases =
        ["contract", "linear/w4g32", "linear/f16", "embed/", "rms_norm/", "rope", "attention/f16", "decoder/w4g32"];
    let options = VulkanOptions { weight_memory: WeightMemory::Separate, ..VulkanOptions::default() };
    check(&options, &gpu::only(&cases));
    check(&VulkanOptions { max_piece_bytes: Some(40_000), ..options }, &gpu::only(&["in257-out257", "in96-out257"]));
}

/// Units for small matrices, where the device has some: software too, which only imitates them, so they are asked for.
#[test]
fn with_matrix_units() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_tiled", Variant::Matrix);
    check(&VulkanOptions { knobs, ..VulkanOptions::default() }, &gpu::of_matrix_units());
}
