//! `cargo xtask paper`: the paper's evaluation on the simulated phone, written to docs/paper-results.md.

use crate::{fit_soc, workspace};
use anyhow::Result;
use std::ffi::OsStr;

/// Arguments of `paper`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing, and fail when the page or a figure is not what the code writes
    #[arg(long)]
    check: bool,
}

/// Simulates everything and writes the page and its figures.
pub(crate) fn run(args: &Args) -> Result<()> {
    let docs = workspace::root().join("docs");
    let mut passed: Vec<&OsStr> = vec![docs.as_os_str()];
    if args.check {
        passed.push("--check".as_ref());
    }
    fit_soc::run_example("benches", "paper", &passed)
}
