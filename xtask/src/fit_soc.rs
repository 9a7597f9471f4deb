//! `cargo xtask fit-soc`: fits the simulated phone to what was measured, see docs/simulator.md.
//!
//! The fit is an example of `backend-npu-sim`, so that it computes with the simulator's own cost model.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// Arguments of `fit-soc`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Put the values found into crates/backend-npu-sim/soc/snapdragon-8-gen-3.toml
    #[arg(long, conflicts_with = "estimates")]
    write: bool,
    /// Instead fit the NPU model to a table of compiler estimates and report its error on the rows not used
    #[arg(long, value_name = "CSV")]
    estimates: Option<PathBuf>,
}

/// Runs the fit.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut passed: Vec<&OsStr> = Vec::new();
    if args.write {
        passed.push("--write".as_ref());
    }
    if let Some(table) = &args.estimates {
        passed.extend(["--estimates".as_ref(), table.as_os_str()]);
    }
    run_example("backend-npu-sim", "fit-soc", &passed)
}

/// Builds and runs an example of the simulator with these arguments.
pub(crate) fn run_example(package: &str, name: &str, args: &[&OsStr]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(&cargo)
        .args(["run", "--release", "--quiet", "--package", package, "--example", name, "--manifest-path"])
        .arg(workspace::root().join("Cargo.toml"))
        .arg("--")
        .args(args)
        .status()
        .with_context(|| format!("cannot start {}", cargo.display()))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}
