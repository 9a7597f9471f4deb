//! What plans promise on the simulated Snapdragon 8 Gen 3, and what they keep: predictions, and never to be slower than
//! a simpler plan. The scheduler knows the phone by measuring it alone.

#![cfg(feature = "npu-sim")]

use std::sync::Arc;

use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, TimeMode, blank_weight};
use hetero_core::{DType, DeviceKind, RowSelection, WeightFormat};
use hetero_llama::config::ModelConfig;
use hetero_llama::graph::{self, GraphOptions};
use hetero_llama::simulate::{Method, PhoneClock, SimulateMode, SimulateOptions, Simulation, Soc, plan, simulate};
use hetero_sched::profile::{MeasureOptions, measure_all};

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
                println!("{what}: prefill {:+.1} %, decoding {:+.1} %", prefill * 100.0, decode * 100.0);
                assert!(prefill.abs() < 0.03, "{what}: prefill is off by {:.1} %", prefill * 100.0);
                // Processors that read weights all the time meet hundreds of times in a token.
                let allowed = if mode == SimulateMode::Tensor3 { 0.06 } else { 0.04 };
                assert!(decode.abs() < allowed, "{what}: decoding is off by {:.1} %", decode * 100.0);
            }
        }
    }
}

/// Whatever operators a model has to measure them with: of one the smallest linear operator is too large for it.
#[test]
fn starting_work_is_measured_to_cost_what_it_costs() {
    let soc = Soc::builtin("snapdragon-8-gen-3").expect("it is built in");
    for model in MODELS {
        let config = ModelConfig::shape(model).expect("it is built in");
        let graph_options = GraphOptions {
            capacity: 32,
            context: 64,
            weights: WeightFormat::W4G32,
            embedding: WeightFormat::Bf16,
            cache: DType::F16,
            logits: RowSelection::Last,
        };
        let graph = graph::build(&config, &graph_options).graph;
        let sim_options = SimOptions { numerics: Numerics::None, time: TimeMode::Virtual, ..SimOptions::default() };
        let phone = SimulatedSoc::new(soc.clone(), sim_options);
        let kinds = [(DeviceKind::Gpu, &soc.gpu.overheads), (DeviceKind::Npu, &soc.npu.overheads)];
        let devices = kinds.map(|(kind, _)| phone.backend(kind));
        let measuring = MeasureOptions {
            budget_seconds: f64::INFINITY,
            rows: vec![1],
            past: Vec::new(),
            n_repeats: 1,
            fills_operands: false,
            measures_bus: false,
            blank_weight: Some(blank_weight),
            ..MeasureOptions::default()
        };
        let profile = measure_all(&devices, &graph, &PhoneClock(Arc::clone(&phone)), &measuring).expect("a profile");
        for (device, (kind, truth)) in profile.devices.iter().zip(kinds) {
            let measured = &device.overheads;
            for (what, measured, truth) in [
                ("submit", measured.submit_seconds, truth.submit_seconds),
                ("submit when idle", measured.submit_idle_seconds, truth.submit_idle_seconds),
                ("start", measured.start_seconds, truth.start_seconds),
            ] {
                let error = measured - truth;
                assert!(error.abs() < 2e-6, "{model}, {kind}, {what}: {measured} s instead of {truth} s");
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
