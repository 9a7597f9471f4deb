//! The GPU passes the suite that every backend passes, in each variant of the kernels that the device has.

use std::sync::Mutex;

use backend_gpu_wgpu::{WgpuBackend, WgpuOptions};
use hetero_conformance::{Expectations, gpu, run};
use hetero_shaders::{Knobs, Variant};

/// What the driver's validation layers have complained about, where they are installed.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn && metadata.target().starts_with("wgpu")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            COMPLAINTS.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn check(options: &WgpuOptions, expectations: &Expectations) {
    // The tests of a process share the listener.
    let _ = log::set_logger(&Listener);
    log::set_max_level(log::LevelFilter::Warn);
    let backend = WgpuBackend::new(options);
    let backend = backend.unwrap_or_else(|error| panic!("{error}; {}", error.fix()));
    run(&backend, expectations).assert_passed();
    let complaints = COMPLAINTS.lock().unwrap();
    assert!(complaints.is_empty(), "wgpu or the validation layers complained: {:#?}", *complaints);
}

#[test]
fn with_all_that_the_device_has() {
    check(&WgpuOptions::default(), &gpu::everything());
}

#[test]
fn with_plain_kernels() {
    check(&WgpuOptions { knobs: Knobs::plain(), ..WgpuOptions::default() }, &gpu::of_plain_kernels());
}

/// Rows as 8-bit integers, which are used when they are asked for. The self-test has compared them with the plain loops
/// on the same integers: where they had failed it, strict backends would not support them.
#[test]
fn with_products_of_integers() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_vector", Variant::IntegerDot);
    knobs.ask_for("linear_tiled", Variant::IntegerDot);
    check(&WgpuOptions { knobs, is_strict: true, ..WgpuOptions::default() }, &gpu::of_integers());
}

/// Products in 16-bit floats, which are used when they are asked for and the device has such floats.
#[test]
fn with_products_in_half_precision() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_tiled", Variant::Half);
    check(&WgpuOptions { knobs, is_strict: true, ..WgpuOptions::default() }, &gpu::of_half_precision());
}

/// Units for small matrices, where the device has some: software too, which only imitates them, so they are asked for.
#[test]
fn with_matrix_units() {
    let mut knobs = Knobs::default();
    knobs.ask_for("linear_tiled", Variant::Matrix);
    check(&WgpuOptions { knobs, ..WgpuOptions::default() }, &gpu::of_matrix_units());
}
