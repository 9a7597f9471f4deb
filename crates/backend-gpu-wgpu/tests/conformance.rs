//! The GPU passes the suite that every backend passes, in each variant of the kernels that the device has.

use std::sync::Mutex;

use backend_gpu_wgpu::{WgpuBackend, WgpuOptions};
use hetero_conformance::{Expectations, run};
use hetero_core::WeightFormat;
use hetero_shaders::Features;

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

fn check(without: Features) {
    // Two tests in one process share the listener.
    let _ = log::set_logger(&Listener);
    log::set_max_level(log::LevelFilter::Warn);
    let backend = WgpuBackend::new(&WgpuOptions { without, ..WgpuOptions::default() });
    let backend = backend.unwrap_or_else(|error| panic!("{error}; {}", error.fix()));
    let mut expectations = Expectations::new().requires("attention/f16+f16+f16-f16").requires("decoder/w4g32");
    for format in WeightFormat::ALL {
        expectations = expectations.requires(&format!("linear/{format}"));
    }
    run(&backend, &expectations).assert_passed();
    let complaints = COMPLAINTS.lock().unwrap();
    assert!(complaints.is_empty(), "wgpu or the validation layers complained: {:#?}", *complaints);
}

#[test]
fn with_all_that_the_device_has() {
    check(Features::default());
}

#[test]
fn with_plain_kernels() {
    check(Features { f16: true, subgroups: true });
}
