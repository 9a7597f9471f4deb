//! The paper's evaluation on the simulated Snapdragon 8 Gen 3: `cargo xtask paper` runs this and writes
//! docs/paper-results.md.
//!
//! Everything is a prediction but Llama-8B's operators, which the simulated phone was fitted to: the scheduler, the
//! executor and the waiting are those of a real run, and no parameter belongs to a model or a length. It takes about a
//! minute.

use std::fmt::Write as _;
use std::path::PathBuf;

use hetero_core::DeviceKind;
use hetero_llama::LlamaError;
use hetero_llama::config::ModelConfig;
use hetero_llama::simulate::{DynamicLength, Method, SimulateMode, SimulateOptions, Simulation, Soc, simulate};

const SOC: &str = "snapdragon-8-gen-3";
const LLAMA_8B: &str = "llama-3-8b";
/// Tokens that are generated behind each prompt.
const DECODE: usize = 32;

/// A way to run a model, and what it is called in the tables.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    mode: SimulateMode,
    method: Method,
}

const GPU_ONLY: Way = Way { name: "GPU only", mode: SimulateMode::Only(DeviceKind::Gpu), method: Method::Paper };
const NPU_ONLY: Way = Way { name: "NPU only", mode: SimulateMode::Only(DeviceKind::Npu), method: Method::Paper };
const LAYER: Way = Way { name: "Hetero-layer, as the paper", mode: SimulateMode::Layer, method: Method::Paper };
const TENSOR: Way = Way { name: "Hetero-tensor, as the paper", mode: SimulateMode::Tensor, method: Method::Paper };
const WHOLE: Way = Way { name: "tensor, whole layer", mode: SimulateMode::Tensor, method: Method::WholeLayer };
const WHOLE_3: Way = Way { name: "tensor-3, whole layer", mode: SimulateMode::Tensor3, method: Method::WholeLayer };
const WAYS: [Way; 6] = [GPU_ONLY, NPU_ONLY, LAYER, TENSOR, WHOLE, WHOLE_3];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::args_os().nth(1).ok_or("give the file to write")?);
    let mut text = String::from(INTRODUCTION);
    prefill(&mut text)?;
    decode(&mut text)?;
    dynamic_lengths(&mut text)?;
    fast_sync(&mut text)?;
    energy(&mut text)?;
    other_models(&mut text)?;
    std::fs::write(&out, text)?;
    Ok(())
}

const INTRODUCTION: &str = "# The paper's evaluation on a simulated phone

Written by `cargo xtask paper`; do not edit.
The scheduler, the executor and the waiting are those of a real run; the Snapdragon 8 Gen 3 is simulated ([simulator.md](simulator.md)).
Its parameters were fitted on operators of Llama-8B alone, so whole models, other models, lengths and strategies are predictions.
The paper is HeteroLLM / HeteroInfer, arXiv 2501.14794; what it gives only as bars of a figure is not repeated here.
\"As the paper\" plans each operator alone by the paper's formula; \"whole layer\" is hetero's own solver.
All figures are tokens per second in virtual time unless a column says otherwise.
";

fn options(shape: &str, way: Way, prompt: usize) -> SimulateOptions {
    let soc = Soc::builtin(SOC).expect("a built-in system");
    let config = ModelConfig::shape(shape).expect("a built-in shape");
    SimulateOptions {
        prompt,
        decode: DECODE,
        mode: way.mode,
        method: way.method,
        is_strict: true,
        ..SimulateOptions::new(soc, config)
    }
}

fn run(shape: &str, way: Way, prompt: usize) -> Result<Simulation, LlamaError> {
    simulate(&options(shape, way, prompt))
}

/// A heading and the first two lines of a table.
fn table(text: &mut String, heading: &str, about: &str, columns: &[&str]) {
    let rule = vec!["--:"; columns.len() - 1].join(" | ");
    let _ = write!(text, "\n## {heading}\n\n{about}\n\n| {} |\n| --- | {rule} |\n", columns.join(" | "));
}

fn row(text: &mut String, name: &str, cells: &[String]) {
    let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
}

fn prefill(text: &mut String) -> Result<(), LlamaError> {
    const LENGTHS: [usize; 6] = [32, 64, 128, 256, 512, 1024];
    let about = "Llama-8B. The paper gives 236.92 for Hetero-tensor at 256 tokens; about 182 for Hetero-layer follows \
        from its average gain of 30.2 %.";
    table(text, "Prefill", about, &["", "32", "64", "128", "256", "512", "1024"]);
    for way in WAYS {
        let speeds: Result<Vec<String>, LlamaError> = LENGTHS
            .iter()
            .map(|&prompt| Ok(format!("{:.1}", run(LLAMA_8B, way, prompt)?.prefill.tokens_per_second())))
            .collect();
        row(text, way.name, &speeds?);
    }
    Ok(())
}

fn decode(text: &mut String) -> Result<(), LlamaError> {
    let about = "Llama-8B behind a prompt of 256 tokens. The paper gives 14.01 tokens per second and 59.5 GB/s for \
        Hetero-tensor, 11.48 for Hetero-layer (which is the GPU alone in decoding) and 43.3 GB/s for the GPU.";
    table(text, "Decode", about, &["", "tokens/s", "GB/s", "GPU busy", "NPU busy", "CPU busy"]);
    for way in WAYS {
        let simulation = run(LLAMA_8B, way, 256)?;
        let busy = |kind: DeviceKind| {
            let device = simulation.devices.iter().find(|device| device.kind == kind);
            format!("{:.0} %", 100.0 * device.map_or(0.0, |device| device.busy_share))
        };
        let speeds = [
            format!("{:.2}", simulation.decode.tokens_per_second()),
            format!("{:.1}", simulation.decode.bytes_per_second() / 1e9),
            busy(DeviceKind::Gpu),
            busy(DeviceKind::Npu),
            busy(DeviceKind::Cpu),
        ];
        row(text, way.name, &speeds);
    }
    text.push_str("\nBusy shares are of prefill and decode together.\n");
    Ok(())
}

fn dynamic_lengths(text: &mut String) -> Result<(), LlamaError> {
    const LENGTHS: [usize; 10] = [33, 100, 135, 200, 257, 300, 400, 513, 700, 1000];
    let about = "Milliseconds of prefill, Llama-8B, of lengths for which there is no NPU graph. Online-prepare includes \
        compiling: the paper gives about 1180 ms at 135 tokens, 408 of them for that.";
    let lengths = LENGTHS.map(|length| length.to_string());
    let columns: Vec<&str> = std::iter::once("").chain(lengths.iter().map(String::as_str)).collect();
    table(text, "Dynamic lengths", about, &columns);
    for (name, way, dynamic_length) in [
        ("Padding", TENSOR, DynamicLength::Padding),
        ("Online-prepare", TENSOR, DynamicLength::Online),
        ("NPU-pipe", TENSOR, DynamicLength::Pipe),
        ("Hetero-tensor, as the paper", TENSOR, DynamicLength::Tensor),
        ("tensor, whole layer", WHOLE, DynamicLength::Tensor),
        ("tensor-3, whole layer", WHOLE_3, DynamicLength::Tensor),
    ] {
        let milliseconds: Result<Vec<String>, LlamaError> = LENGTHS
            .iter()
            .map(|&prompt| {
                let options = SimulateOptions { dynamic_length, decode: 1, ..options(LLAMA_8B, way, prompt) };
                let simulation = simulate(&options)?;
                // One graph for each shape, as all layers of the paper's engine share them.
                let compile = match (dynamic_length, &simulation.predicted) {
                    (DynamicLength::Online, Some(predicted)) => predicted.compile_seconds,
                    _ => 0.0,
                };
                Ok(format!("{:.0}", 1e3 * (simulation.prefill.seconds + compile)))
            })
            .collect();
        row(text, name, &milliseconds?);
    }
    Ok(())
}

fn fast_sync(text: &mut String) -> Result<(), LlamaError> {
    let about = "Llama-8B with and without waiting by prediction and polling. The paper gives 236.92 and 196.44 for \
        Hetero-tensor's prefill of 256 tokens, gains of 15.8 % (layer) and 24.3 % (tensor) in prefill on average, and \
        a factor of 4.01 in decoding.";
    let columns = ["", "prefill with", "without", "gain", "decode with", "without", "gain"];
    table(text, "Fast synchronisation", about, &columns);
    for way in [LAYER, TENSOR, WHOLE] {
        for prompt in [64, 256, 1024] {
            let with = run(LLAMA_8B, way, prompt)?;
            let without = simulate(&SimulateOptions { fast_sync: false, ..options(LLAMA_8B, way, prompt) })?;
            let compared = |phase: fn(&Simulation) -> f64, digits: usize| {
                let (with, without) = (phase(&with), phase(&without));
                let gain = 100.0 * (with / without - 1.0);
                [format!("{with:.digits$}"), format!("{without:.digits$}"), format!("{gain:+.1} %")]
            };
            let prefill = compared(|simulation| simulation.prefill.tokens_per_second(), 1);
            let decode = compared(|simulation| simulation.decode.tokens_per_second(), 2);
            row(text, &format!("{}, {prompt} tokens", way.name), &[prefill, decode].concat());
        }
    }
    Ok(())
}

fn energy(text: &mut String) -> Result<(), LlamaError> {
    let about = "Llama-8B, 256 tokens and 32 behind them. The paper gives 2.23 W for Hetero-layer's prefill, and for \
        Hetero-tensor 55 % less energy than the GPU alone and 12.8 % less than Hetero-layer. Powers rest on guesses.";
    table(text, "Energy", about, &["", "prefill J", "prefill W", "decode J", "decode W", "of GPU only"]);
    let mut of_gpu = 0.0;
    for way in WAYS {
        let Simulation { prefill, decode, .. } = run(LLAMA_8B, way, 256)?;
        let joules = prefill.joules + decode.joules;
        if way.name == GPU_ONLY.name {
            of_gpu = joules;
        }
        let cells = [
            format!("{:.2}", prefill.joules),
            format!("{:.2}", prefill.joules / prefill.seconds),
            format!("{:.2}", decode.joules),
            format!("{:.2}", decode.joules / decode.seconds),
            format!("{:.0} %", 100.0 * joules / of_gpu),
        ];
        row(text, way.name, &cells);
    }
    Ok(())
}

fn other_models(text: &mut String) -> Result<(), LlamaError> {
    let about = "A prompt of 256 tokens and 32 behind it. The paper shows these as bars without values.";
    let columns = ["prefill, decode", "GPU only", "as the paper", "whole layer", "tensor-3", "predicted, whole layer"];
    table(text, "Other models", about, &columns);
    for shape in [LLAMA_8B, "llama-2-7b", "llama-3.2-3b", "internlm2-1.8b"] {
        let mut cells = Vec::new();
        for way in [GPU_ONLY, TENSOR, WHOLE, WHOLE_3] {
            let simulation = run(shape, way, 256)?;
            let (prefill, decode) = (simulation.prefill.tokens_per_second(), simulation.decode.tokens_per_second());
            cells.push(format!("{prefill:.1}, {decode:.2}"));
        }
        let whole = run(shape, WHOLE, 256)?;
        let predicted = whole.predicted.as_ref().map(|predicted| format!("{:.1}", 256.0 / predicted.seconds));
        cells.push(predicted.unwrap_or_default());
        row(text, shape, &cells);
    }
    Ok(())
}
