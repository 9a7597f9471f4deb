//! Fits SoC files: the Snapdragon 8 Gen 3 to the HeteroLLM paper, and, as a check of the NPU model's form, other NPUs
//! to the estimates of Qualcomm's compiler. `cargo xtask fit-soc` runs it.
#![allow(clippy::print_stdout, reason = "a command line tool: its results go to stdout")]

mod estimates;
mod facts;
#[path = "../paper/mod.rs"]
mod paper;
mod paper_fit;
mod parameters;
mod solve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Fits the simulator to what was measured, and prints each fact beside its simulated value.
#[derive(Parser)]
#[command(name = "cargo xtask fit-soc", max_term_width = 100)]
struct Args {
    /// Put the values found into soc/snapdragon-8-gen-3.toml
    #[arg(long, conflicts_with = "estimates")]
    write: bool,
    /// Instead fit the NPU model to a table of compiler estimates and report its error on the other half
    #[arg(long, value_name = "CSV")]
    estimates: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.estimates {
        Some(table) => estimates::run(table),
        None => {
            let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("soc/snapdragon-8-gen-3.toml");
            paper_fit::run(&file, args.write)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
