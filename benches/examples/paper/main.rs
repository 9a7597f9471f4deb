//! The paper's evaluation on the simulated Snapdragon 8 Gen 3: `cargo xtask paper` runs this and writes
//! docs/paper-results.md with its figures.
//!
//! Everything is a prediction but what the simulated phone was fitted to: the scheduler, the executor and the waiting
//! are those of a real run, and no parameter belongs to a model or a length. Time is virtual, so the same code writes the
//! same bytes on every run.

mod better;
#[expect(dead_code, reason = "the figures of the simulator use more of it")]
#[path = "../../../crates/backend-npu-sim/examples/figures/chart.rs"]
mod chart;
mod decode;
mod dynamic;
mod energy;
mod facts;
mod fast_sync;
mod lab;
mod models;
mod page;
mod plot;
mod prefill;
mod steps;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use lab::Lab;
use page::Page;

/// Runs the paper's evaluation and writes the page and its figures.
#[derive(Parser)]
struct Args {
    /// The folder of the page, with a folder `figures`
    docs: PathBuf,
    /// Change nothing, and fail when the page or a figure is not what would be written
    #[arg(long)]
    check: bool,
}

const PAGE: &str = "paper-results.md";

const INTRODUCTION: &str = "# The paper's evaluation on a simulated phone

Written by `cargo xtask paper`; do not edit.
The scheduler, the executor and the waiting are those of a real run; the Snapdragon 8 Gen 3 is simulated ([simulator.md](simulator.md)).
Its parameters were fitted on facts of Llama-8B alone, so other models, lengths and strategies are predictions.
The paper is HeteroLLM / HeteroInfer, arXiv 2501.14794; what it gives only as bars of a figure is not repeated here, and points in figures are numbers of its text.
\"As the paper\" plans each operator alone by the paper's formula; \"whole layer\" is hetero's own solver, which minimises the time of the step.
All figures are tokens per second in virtual time unless something else is said.
";

type Section = fn(&Lab, &mut Page) -> Result<()>;

const SECTIONS: [Section; 8] = [
    prefill::write,
    decode::write,
    dynamic::write,
    fast_sync::write,
    steps::write,
    energy::write,
    models::write,
    better::write,
];

fn main() -> Result<()> {
    let args = Args::parse();
    if args.check { check(&args.docs) } else { write(&Lab::default(), &SECTIONS, &args.docs) }
}

/// Writes the page and the figures of these sections.
fn write(lab: &Lab, sections: &[Section], docs: &Path) -> Result<()> {
    let figures = docs.join("figures");
    std::fs::create_dir_all(&figures).with_context(|| format!("cannot make {}", figures.display()))?;
    let mut page = Page::new(INTRODUCTION, figures);
    for section in sections {
        section(lab, &mut page)?;
    }
    let path = docs.join(PAGE);
    std::fs::write(&path, page.finish()).with_context(|| format!("cannot write {}", path.display()))
}

/// Fails when a file in `docs` is not the one that would be written.
fn check(docs: &Path) -> Result<()> {
    let fresh = tempfile::tempdir().context("no temporary folder")?;
    write(&Lab::default(), &SECTIONS, fresh.path())?;
    let figures = std::fs::read_dir(fresh.path().join("figures"))?;
    let figures: Result<Vec<PathBuf>, std::io::Error> =
        figures.map(|entry| Ok(Path::new("figures").join(entry?.file_name()))).collect();
    let mut old: Vec<String> = Vec::new();
    for file in figures?.into_iter().chain([PathBuf::from(PAGE)]) {
        // A file that is missing is as old as one that differs.
        if std::fs::read(docs.join(&file)).ok() != std::fs::read(fresh.path().join(&file)).ok() {
            old.push(file.display().to_string());
        }
    }
    old.sort();
    ensure!(old.is_empty(), "not what the code writes: {}; run `cargo xtask paper`", old.join(", "));
    Ok(())
}
