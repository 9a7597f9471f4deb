//! The paper's figures of Llama-8B that the scheduler must meet on the simulated Snapdragon 8 Gen 3: arXiv 2501.14794
//! v2, sections 5.4 and 5.5. None of them is fitted.

#![cfg(feature = "npu-sim")]

use hetero_llama::config::ModelConfig;
use hetero_llama::simulate::{DynamicLength, Method, SimulateMode, SimulateOptions, Simulation, Soc, simulate};

/// 256 tokens and a few behind them, on GPU and NPU.
fn run(method: Method, fast_sync: bool) -> Simulation {
    let soc = Soc::builtin("snapdragon-8-gen-3").expect("it is built in");
    let config = ModelConfig::shape("llama-3-8b").expect("it is built in");
    let options = SimulateOptions {
        mode: SimulateMode::Tensor,
        method,
        fast_sync,
        decode: 8,
        ..SimulateOptions::new(soc, config)
    };
    simulate(&options).expect("nothing fails")
}

#[track_caller]
fn assert_near(what: &str, value: f64, paper: f64, tolerance: f64) {
    let error = value / paper - 1.0;
    assert!(error.abs() <= tolerance, "{what}: {value:.2}, in the paper {paper:.2}: off by {:.1} %", error * 100.0);
}

#[test]
fn prefill_is_that_of_the_paper_with_and_without_fast_synchronisation() {
    let [fast, slow] = [true, false].map(|fast_sync| run(Method::Paper, fast_sync));
    assert_near("prefill", fast.prefill.tokens_per_second(), 236.92, 0.1);
    assert_near("prefill without fast synchronisation", slow.prefill.tokens_per_second(), 196.44, 0.1);
    assert_eq!(fast.predicted, slow.predicted, "the plans are the same: it is the mechanism that is taken away");
    let best = run(Method::WholeLayer, true);
    let (best, paper) = (best.prefill.tokens_per_second(), fast.prefill.tokens_per_second());
    assert!(best > paper, "the whole layer in view: {best}, each operator alone: {paper}");
}

#[test]
fn decoding_is_that_of_the_paper_with_and_without_fast_synchronisation() {
    let [fast, slow] = [true, false].map(|fast_sync| run(Method::WholeLayer, fast_sync).decode);
    assert_near("decoding", fast.tokens_per_second(), 14.01, 0.1);
    assert_near("bandwidth of GPU and NPU", fast.bytes_per_second() / 1e9, 59.5, 0.1);
    let factor = fast.tokens_per_second() / slow.tokens_per_second();
    assert_near("gain of fast synchronisation in decoding", factor, 4.01, 0.25);
}

#[test]
fn an_npu_with_standard_lengths_in_sequence_computes_less_than_a_padded_one() {
    let seconds = |dynamic_length, mode, prompt| {
        let soc = Soc::builtin("snapdragon-8-gen-3").expect("it is built in");
        let config = ModelConfig::shape("llama-3-8b").expect("it is built in");
        let options = SimulateOptions {
            mode,
            method: Method::Paper,
            dynamic_length,
            prompt,
            decode: 0,
            ..SimulateOptions::new(soc, config)
        };
        simulate(&options).expect("nothing fails").prefill.seconds
    };
    for (prompt, is_shorter) in [(135, true), (300, true), (850, false), (1024, false)] {
        let padded = seconds(DynamicLength::Padding, SimulateMode::Layer, prompt);
        let piped = seconds(DynamicLength::Pipe, SimulateMode::Layer, prompt);
        assert!(if is_shorter { piped < 0.8 * padded } else { piped == padded }, "{prompt}: {piped} s, {padded} s");
        let cut = seconds(DynamicLength::Tensor, SimulateMode::Tensor, prompt);
        assert!(cut < piped, "{prompt}: cut between GPU and NPU {cut} s, in sequence {piped} s");
    }
}
