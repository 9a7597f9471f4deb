//! `hetero simulate`: a model's prompt and decode steps on a simulated SoC, in virtual time.

use std::path::PathBuf;

use hetero_llama::simulate::{FaultPlan, SimulateOptions, SimulatedPhase, Simulation, simulate};
use serde::Serialize;

use crate::error::CliError;
use crate::json::{self, SCHEMA};
use crate::output::{OutputFile, note, write_stdout};
use crate::simulated::SimulatedArgs;

/// Time a model on a simulated SoC; neither weights nor the processors are needed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    what: SimulatedArgs,
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

/// Simulates and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let options = SimulateOptions {
        is_strict: args.strict,
        faults: args.fault.clone().unwrap_or_default(),
        trace: args.trace.is_some(),
        ..args.what.options()?
    };
    // Made first, so that a path that cannot be written is known before anything is computed.
    let trace = args.trace.as_deref().map(OutputFile::create).transpose()?;
    let simulation = simulate(&options)?;
    if let Some(mut file) = trace {
        simulation.trace.write_json(&mut file).map_err(|source| file.write_error(source))?;
        file.finish()?;
    }
    note(format_args!("compile  {:.3} s before the prompt", simulation.compile_seconds));
    if let Some(predicted) = &simulation.predicted {
        note(format_args!("plan     predicted {:.3} s for the prompt", predicted.seconds));
    }
    for device in simulation.devices.iter().filter(|device| device.own_bytes > 0) {
        let [own, repeated] = [device.own_bytes, device.repeated_bytes].map(|bytes| bytes as f64 / 1e6);
        note(format_args!(
            "memory   {} holds {own:.0} MB of weights of its own, {repeated:.0} MB of them twice",
            device.kind
        ));
    }
    for loss in &simulation.losses {
        note(format_args!("lost     {}: {}; the others went on without it", loss.device, loss.reason));
    }
    let document = Document {
        schema: SCHEMA,
        soc: &options.soc.name,
        shape: &args.what.shape,
        mode: args.what.mode.to_string(),
        compile_seconds: simulation.compile_seconds,
        prefill: Phase::from(&simulation.prefill),
        decode: Phase::from(&simulation.decode),
        devices: devices(&simulation),
    };
    if args.json { json::print(&document) } else { write_stdout(&document.text()) }
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
