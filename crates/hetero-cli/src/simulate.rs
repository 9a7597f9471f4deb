//! `hetero simulate`: a model's prompt and decode steps on a simulated SoC, in virtual time.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use hetero_core::WeightFormat;
use hetero_llama::config::{ModelConfig, SHAPE_NAMES};
use hetero_llama::simulate::{
    DynamicLength, FaultPlan, Method, SimulateMode, SimulateOptions, SimulatedPhase, Simulation, Soc, simulate,
};
use serde::Serialize;

use crate::error::CliError;
use crate::json::{self, SCHEMA};
use crate::options;
use crate::output::{OutputFile, note, write_stdout};

/// Time a model on a simulated SoC; neither weights nor the processors are needed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// SoC: a built-in one, or a SoC file (docs/simulator.md says how to write one)
    #[arg(long, value_name = "NAME", default_value = "snapdragon-8-gen-3")]
    soc: String,
    /// Model: a built-in shape, or a Hugging Face folder or its config.json
    #[arg(long, value_name = "NAME", default_value = "llama-3-8b")]
    shape: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate behind it
    #[arg(long, value_name = "N", default_value_t = 32)]
    decode: u32,
    /// Who computes: cpu-only, gpu-only, npu-only, layer (whole operators on GPU or NPU), tensor (operators cut between
    /// both), tensor-3 (the CPU computes too)
    #[arg(long, value_name = "MODE", default_value = "tensor")]
    mode: SimulateMode,
    /// How a mode of several processors plans: `whole-layer`, or `paper` for each operator alone as HeteroLLM does
    #[arg(long, value_name = "METHOD", default_value = "whole-layer")]
    method: MethodName,
    /// What an NPU does with a prompt for whose length it has no graph: `tensor` for whatever is fastest, `padding`,
    /// `online` to compile one, `pipe` for standard lengths in sequence
    #[arg(long, value_name = "STRATEGY", default_value = "tensor")]
    dynamic: DynamicName,
    /// Wait through the drivers instead of by prediction and polling
    #[arg(long)]
    no_fast_sync: bool,
    /// What linear weights are held in: f32, f16, bf16, w8g32, w4g32
    #[arg(long, value_name = "FMT", default_value = "w4g32", value_parser = options::weight_format)]
    weights: WeightFormat,
    /// What goes wrong, such as `npu:late=10x@3` or `gpu:lost@5` (docs/simulator.md has the forms)
    #[arg(long, value_name = "LIST", value_parser = FaultPlan::parse)]
    fault: Option<FaultPlan>,
    /// End with exit code 3 when a processor fails, instead of going on without it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Write every submission as a trace for Perfetto or chrome://tracing, in virtual time
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodName {
    WholeLayer,
    Paper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DynamicName {
    Tensor,
    Padding,
    Online,
    Pipe,
}

/// Simulates and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let soc = Soc::load(&args.soc).map_err(hetero_llama::LlamaError::from)?;
    let options = SimulateOptions {
        config: shape(&args.shape)?,
        weights: args.weights,
        prompt: args.prompt as usize,
        decode: args.decode as usize,
        mode: args.mode,
        method: match args.method {
            MethodName::WholeLayer => Method::WholeLayer,
            MethodName::Paper => Method::Paper,
        },
        dynamic_length: match args.dynamic {
            DynamicName::Tensor => DynamicLength::Tensor,
            DynamicName::Padding => DynamicLength::Padding,
            DynamicName::Online => DynamicLength::Online,
            DynamicName::Pipe => DynamicLength::Pipe,
        },
        fast_sync: !args.no_fast_sync,
        is_strict: args.strict,
        faults: args.fault.clone().unwrap_or_default(),
        trace: args.trace.is_some(),
        soc,
    };
    // Made first, so that a path that cannot be written is known before anything is computed.
    let trace = args.trace.as_deref().map(OutputFile::create).transpose()?;
    let simulation = simulate(&options)?;
    if let Some(mut file) = trace {
        simulation.trace.write_json(&mut file).map_err(|source| file.write_error(source))?;
        file.finish()?;
    }
    note(format_args!("compile  {:.3} s before the prompt", simulation.compile_seconds));
    if let Some(predicted) = simulation.predicted_seconds {
        note(format_args!("plan     predicted {predicted:.3} s for the prompt"));
    }
    for loss in &simulation.losses {
        note(format_args!("lost     {}: {}; the others went on without it", loss.device, loss.reason));
    }
    let document = Document {
        schema: SCHEMA,
        soc: &options.soc.name,
        shape: &args.shape,
        mode: args.mode.to_string(),
        compile_seconds: simulation.compile_seconds,
        prefill: Phase::from(&simulation.prefill),
        decode: Phase::from(&simulation.decode),
        devices: devices(&simulation),
    };
    if args.json { json::print(&document) } else { write_stdout(&document.text()) }
}

/// A model by the name of its shape, or by its files.
fn shape(name: &str) -> Result<ModelConfig, CliError> {
    if let Some(config) = ModelConfig::shape(name) {
        return Ok(config);
    }
    let path = Path::new(name);
    let folder = match path.file_name() {
        Some(file) if file == "config.json" => path.parent().unwrap_or(Path::new("")),
        _ => path,
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !folder.exists() {
        return Err(CliError::Usage {
            message: format!("{name}: neither a shape ({}) nor a path", SHAPE_NAMES.join(", ")),
            fix: "give the name of a shape, a Hugging Face folder, or the path of its config.json".into(),
        });
    }
    Ok(options::source(Some(folder))?.config()?)
}

fn devices(simulation: &Simulation) -> Vec<Device> {
    let device = |device: &hetero_llama::simulate::SimulatedDevice| Device {
        name: device.kind.to_string(),
        busy_share: device.busy_share,
        work_share: device.work_share,
    };
    simulation.devices.iter().map(device).collect()
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    soc: &'a str,
    shape: &'a str,
    mode: String,
    /// Seconds that graphs were compiled for before the prompt.
    compile_seconds: f64,
    prefill: Phase,
    decode: Phase,
    devices: Vec<Device>,
}

/// Seconds are virtual.
#[derive(Serialize)]
struct Phase {
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    bandwidth_gb_per_s: f64,
    energy_joules: f64,
}

#[derive(Serialize)]
struct Device {
    name: String,
    /// Share of the time in which it was busy, 0 to 1.
    busy_share: f64,
    /// Share of the arithmetic, 0 to 1.
    work_share: f64,
}

impl From<&SimulatedPhase> for Phase {
    fn from(phase: &SimulatedPhase) -> Phase {
        Phase {
            tokens: phase.tokens,
            seconds: phase.seconds,
            tokens_per_second: phase.tokens_per_second(),
            bandwidth_gb_per_s: phase.bytes_per_second() / 1e9,
            energy_joules: phase.joules,
        }
    }
}

impl Document<'_> {
    fn text(&self) -> String {
        let mut text = format!("{} on {}, {} (virtual time)\n", self.shape, self.soc, self.mode);
        for (name, phase) in [("prefill", &self.prefill), ("decode", &self.decode)] {
            text.push_str(&format!(
                "{name:8} {:5} tokens in {:8.3} s  {:8.2} tokens/s  {:6.1} GB/s  {:8.3} J\n",
                phase.tokens, phase.seconds, phase.tokens_per_second, phase.bandwidth_gb_per_s, phase.energy_joules,
            ));
        }
        for device in &self.devices {
            text.push_str(&format!(
                "{:8} busy {:.1} %, {:.1} % of the arithmetic\n",
                device.name,
                device.busy_share * 100.0,
                device.work_share * 100.0,
            ));
        }
        text
    }
}
