//! A model of eight billion weights on a phone, timed without its weights. How fast that goes is in `benches`.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use hetero_core::DeviceKind::Gpu;
use hetero_core::OperandOrder::WeightStationary;
use support::{LLAMA_8B, Run, llama, timed};

#[test]
fn a_model_of_eight_billion_weights_is_timed_without_them() {
    let phone = timed();
    let gpu = phone.backend(Gpu);
    let prefill = Run::new(&*gpu, llama(1024, LLAMA_8B), WeightStationary, false).expect("no memory is touched");
    let decode = Run::new(&*gpu, llama(1, LLAMA_8B), WeightStationary, false).expect("no memory is touched");
    let prefill_seconds = prefill.seconds(&phone, 1024);
    let start = phone.clock().now();
    for past in 1024..1056 {
        decode.submit(past, 1).expect("a step").wait().expect("nothing fails");
    }
    let tokens_per_second = 32.0 / (phone.clock().now() - start);
    // Far around anything that a phone does.
    assert!((1.0..60.0).contains(&prefill_seconds), "{prefill_seconds} s");
    assert!((3.0..30.0).contains(&tokens_per_second), "{tokens_per_second} tokens/s");
}
