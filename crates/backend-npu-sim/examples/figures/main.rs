//! Draws the figures of docs/simulator.md from the simulator, with the paper's points where it gives them.
//! `cargo xtask figures` runs it.

mod bandwidth;
mod chart;
#[allow(dead_code, reason = "the figures show values alone")]
#[path = "../fit-soc/facts.rs"]
mod facts;
mod operand_order;
#[path = "../paper/mod.rs"]
mod paper;
mod shapes;
mod staircase;
mod streams;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use backend_npu_sim::soc::Soc;
use clap::Parser;

use facts::{Fact, facts};
use paper::Phone;

/// Draws the figures.
#[derive(Parser)]
struct Args {
    /// Where to put them
    folder: PathBuf,
}

/// What a figure is drawn from.
struct Source {
    phone: Phone,
    facts: Vec<Fact>,
}

impl Source {
    /// The value of a fact, or its least and greatest.
    fn fact(&self, name: &str) -> Result<(f64, f64)> {
        let fact = self.facts.iter().find(|fact| fact.name == name);
        Ok(fact.with_context(|| format!("there is no fact {name:?}"))?.value)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse().folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let soc = Soc::load("snapdragon-8-gen-3")?;
    // The time that measuring adds on the GPU is no part of the system; figures show table 3, which contains it.
    let source =
        Source { phone: Phone { soc, gpu_measurement_seconds: paper::GPU_MEASUREMENT_SECONDS }, facts: facts() };
    staircase::draw(&source, &folder.join("npu-staircase.svg"))?;
    operand_order::draw(&source, &folder.join("npu-operand-order.svg"))?;
    shapes::draw(&source, &folder.join("npu-gpu-shapes.svg"))?;
    bandwidth::draw(&source, &folder.join("bandwidth.svg"))
}
