//! What plans promise on the simulated Snapdragon 8 Gen 3, and what they keep: predictions, and never to be slower than
//! a simpler plan. The scheduler knows the phone by measuring it alone.

#![cfg(feature = "npu-sim")]

use hetero_core::DeviceKind;
use hetero_llama::config::ModelConfig;
use hetero_llama::simulate::{Method, SimulateMode, SimulateOptions, Simulation, Soc, plan, simulate};

const MODELS: [&str; 4] = ["llama-3-8b", "llama-2-7b", "llama-3.2-3b", "internlm2-1.8b"];

fn options(model: &str, prompt: usize, mode: SimulateMode, method: Method) -> SimulateOptions {
    let soc = Soc::builtin("snapdragon-8-gen-3").expect("it is built in");
    let config = ModelConfig::shape(model).expect("it is built in");
    SimulateOptions { prompt, decode: 4, mode, method, ..SimulateOptions::new(soc, config) }
}

fn run(options: &SimulateOptions) -> Simulation {
    simulate(options).expect("nothing fails")
}

/// Predicted over simulated, less one.
fn errors(options: &SimulateOptions) -> [f64; 2] {
    let simulation = run(options);
    let prefill = simulation.predicted.as_ref().expect("several processors have a plan").seconds;
    let decode = plan(options, true).expect("there is a plan").solution.prediction.seconds;
    [
        prefill / simulation.prefill.seconds - 1.0,
        decode / (simulation.decode.seconds / simulation.decode.tokens as f64) - 1.0,
    ]
}

#[test]
fn steps_take_as_long_as_predicted() {
    for model in MODELS {
        for prompt in [32, 700] {
            for mode in [SimulateMode::Tensor, SimulateMode::Tensor3] {
                let [prefill, decode] = errors(&options(model, prompt, mode, Method::WholeLayer));
                let what = format!("{model}, {mode}, {prompt} tokens");
                assert!(prefill.abs() < 0.03, "{what}: prefill is off by {:.1} %", prefill * 100.0);
                // Two processors that read weights all the time meet hundreds of times in a token.
                let allowed = if mode == SimulateMode::Tensor3 { 0.1 } else { 0.06 };
                assert!(decode.abs() < allowed, "{what}: decoding is off by {:.1} %", decode * 100.0);
            }
        }
    }
}

#[test]
fn no_plan_is_slower_than_a_simpler_one() {
    for prompt in [33, 128, 300] {
        let seconds =
            |mode: SimulateMode, method: Method| run(&options("llama-3-8b", prompt, mode, method)).prefill.seconds;
        let best = seconds(SimulateMode::Tensor, Method::WholeLayer);
        for (name, simple) in [
            ("the paper's method", seconds(SimulateMode::Tensor, Method::Paper)),
            ("whole operators", seconds(SimulateMode::Layer, Method::WholeLayer)),
            ("the GPU alone", seconds(SimulateMode::Only(DeviceKind::Gpu), Method::WholeLayer)),
            ("the NPU alone", seconds(SimulateMode::Only(DeviceKind::Npu), Method::WholeLayer)),
        ] {
            assert!(best < simple, "{prompt} tokens: {best} s, and {simple} s by {name}");
        }
        // The third processor may be of no use; what predictions are off by is the margin.
        let three = seconds(SimulateMode::Tensor3, Method::WholeLayer);
        assert!(three < best * 1.01, "{prompt} tokens: {three} s on three processors, {best} s on two");
    }
}
