//! The command line of hetero.
//!
//! Results go to standard output and everything else to standard error. A command is a file: its options, what it does
//! with [`hetero_llama`], and what it prints.

#![forbid(unsafe_code)]

mod bench;
mod chat;
mod demo;
mod devices;
mod doctor;
mod error;
mod interrupt;
mod json;
mod logits;
mod options;
mod output;
mod perplexity;
#[cfg(feature = "npu-sim")]
mod plan;
mod profile;
mod progress;
mod quantize;
mod run;
mod sampling;
#[cfg(feature = "npu-sim")]
mod simulate;
#[cfg(feature = "npu-sim")]
mod simulated;
mod stream;
mod together;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::error::CliError;

/// Llama-family language models on every processor of a device.
#[derive(Parser)]
#[command(name = "hetero", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed while running, 2 bad arguments or bad input file, \
    3 refused because of --strict, 130 ended by Ctrl-C.";

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Chat(chat::Args),
    Logits(logits::Args),
    Perplexity(perplexity::Args),
    Bench(bench::Args),
    Devices(devices::Args),
    Doctor(doctor::Args),
    Profile(profile::Args),
    Quantize(quantize::Args),
    #[cfg(feature = "npu-sim")]
    Plan(plan::Args),
    #[cfg(feature = "npu-sim")]
    Simulate(simulate::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit_code(cli.command.is_strict()))
        }
    }
}

impl Command {
    fn run(&self) -> Result<(), CliError> {
        match self {
            Command::Run(args) => run::run(args),
            Command::Chat(args) => chat::run(args),
            Command::Logits(args) => logits::run(args),
            Command::Perplexity(args) => perplexity::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Devices(args) => devices::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Profile(args) => profile::run(args),
            Command::Quantize(args) => quantize::run(args),
            #[cfg(feature = "npu-sim")]
            Command::Plan(args) => plan::run(args),
            #[cfg(feature = "npu-sim")]
            Command::Simulate(args) => simulate::run(args),
        }
    }

    /// Whether a processor that cannot do its part is a refusal and not a failure.
    fn is_strict(&self) -> bool {
        match self {
            Command::Run(args) => args.model.strict,
            Command::Chat(args) => args.model.strict,
            Command::Logits(args) => args.model.strict,
            Command::Perplexity(args) => args.model.strict,
            Command::Bench(args) => args.model.strict,
            Command::Profile(args) => args.model.strict,
            Command::Devices(_) | Command::Doctor(_) | Command::Quantize(_) => false,
            #[cfg(feature = "npu-sim")]
            Command::Plan(_) => false,
            #[cfg(feature = "npu-sim")]
            Command::Simulate(args) => args.strict,
        }
    }
}

/// What the log tells when `RUST_LOG` does not say: that a GPU's driver computes a kernel wrong and a slower one is taken,
/// or that what is kept for a driver cannot be used. Nothing else says so where a model runs.
const UNASKED: &str = "off,hetero_shaders=warn";

fn start_log() {
    let asked = std::env::var_os("RUST_LOG").map(|_| EnvFilter::try_from_default_env());
    let filter = asked.unwrap_or_else(|| Ok(EnvFilter::new(UNASKED))).unwrap_or_else(|error| {
        output::note(format_args!("RUST_LOG is ignored: {error}"));
        EnvFilter::new(UNASKED)
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_options_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
