//! The project's own chores: `cargo xtask help` lists them.
//!
//! One file a command. Everything that CI does is a command here, so that it can be done on any machine.
#![allow(clippy::print_stdout, reason = "a command line tool: its results go to stdout")]

mod bench;
mod ci;
mod figures;
mod fit_soc;
mod paper;
mod python;
mod synth;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the full set of checks, as CI does
    Ci(ci::Args),
    /// Run the full set of checks (the same as `ci`)
    Test(ci::Args),
    /// Check what compilers do not: file headers, crate edges, knobs, changelog
    Tidy,
    /// Measure the engine and the machine's limits beside it
    Bench(bench::Args),
    /// Fit the simulated phone to what was measured, and print each fact beside its simulated value
    FitSoc(fit_soc::Args),
    /// Draw docs/figures again from the simulator
    Figures,
    /// Write docs/paper-results.md and its figures again: the paper's evaluation on the simulated phone
    Paper(paper::Args),
    /// Write a Hugging Face model directory with random weights
    Synth(synth::Args),
    /// Make the test fixtures again with Python's transformers
    Fixtures(python::Args),
    /// Train the demo model again
    DemoModel(python::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Ci(args) | Chore::Test(args) => ci::run(&args),
        Chore::Tidy => tidy::run(),
        Chore::Bench(args) => bench::run(&args),
        Chore::FitSoc(args) => fit_soc::run(&args),
        Chore::Figures => figures::run(),
        Chore::Paper(args) => paper::run(&args),
        Chore::Synth(args) => synth::run(&args),
        Chore::Fixtures(args) => python::fixtures(&args),
        Chore::DemoModel(args) => python::demo_model(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
