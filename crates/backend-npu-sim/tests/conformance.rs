//! The simulated processors against the suite that all backends pass, in virtual and in real time.

use backend_npu_sim::{SimOptions, SimulatedSoc, Soc, TimeMode};
use hetero_conformance::{Expectations, Tolerance, run};
use hetero_core::{DeviceKind, WeightFormat};

/// A whole model, with weights of 4 bits, a cache in f16 and activations in f32.
const DECODER: &str = "decoder/w4g32/rows7,7+3,10+1,11+1,12+1-cache-f16-f32";

#[test]
fn the_npu_in_virtual_time() {
    check(DeviceKind::Npu, TimeMode::Virtual);
}

#[test]
fn the_npu_in_real_time() {
    check(DeviceKind::Npu, TimeMode::Real { scale: 0.0 });
}

#[test]
fn the_gpu_in_virtual_time() {
    check(DeviceKind::Gpu, TimeMode::Virtual);
}

#[test]
fn the_gpu_in_real_time() {
    check(DeviceKind::Gpu, TimeMode::Real { scale: 0.0 });
}

#[test]
fn the_cpu_in_virtual_time() {
    check(DeviceKind::Cpu, TimeMode::Virtual);
}

#[test]
fn the_cpu_in_real_time() {
    check(DeviceKind::Cpu, TimeMode::Real { scale: 0.0 });
}

#[test]
fn the_npu_without_time() {
    check(DeviceKind::Npu, TimeMode::Free);
}

fn check(kind: DeviceKind, time: TimeMode) {
    let soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    let phone = SimulatedSoc::new(soc, SimOptions { time, ..SimOptions::default() });
    let mut expectations = Expectations::new().requires("linear/w4g32/f32-f32").requires(DECODER);
    if kind == DeviceKind::Npu {
        expectations = npu_tolerances(expectations);
    }
    run(&*phone.backend(kind), &expectations).assert_passed();
}

/// Rounding to f16 is off by half a unit in the last place, up to 2^-11, on both sides of a product; where all weights
/// are equal the errors of one side do not average out. `shared_input` has an output of a single value, which may be small
/// where the products that it is the sum of are not.
fn npu_tolerances(mut expectations: Expectations) -> Expectations {
    for format in [WeightFormat::F16, WeightFormat::W8G32, WeightFormat::W4G32] {
        for (op, times) in [
            ("linear", 2.0),
            ("gate_up", 2.0),
            ("shared_input", 8.0),
            ("mlp", 4.0),
            ("attention_block", 4.0),
            ("decoder", 8.0),
        ] {
            let tolerance = Tolerance::normalised(5e-4 * times);
            expectations = expectations.tolerance(op, Some(format), tolerance, "the NPU's float units take f16");
        }
    }
    expectations
}
