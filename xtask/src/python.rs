//! `cargo xtask fixtures` and `cargo xtask demo-model`: run the Python scripts that make the checked-in data.
//!
//! Nothing of the build or the tests needs Python; these make again what is already in the repository.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Arguments of `fixtures` and `demo-model`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Python interpreter, for example of a virtual environment
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Arguments for the script, after `--`
    #[arg(last = true)]
    script_args: Vec<String>,
}

/// Makes the test fixtures.
pub(crate) fn fixtures(args: &Args) -> Result<()> {
    let modules = ["numpy", "torch", "transformers", "safetensors"];
    run_script(args, "make_fixtures.py", &modules)
}

/// Trains the demo model.
pub(crate) fn demo_model(args: &Args) -> Result<()> {
    let modules = ["numpy", "torch", "transformers", "tokenizers", "lxml"];
    run_script(args, "train_demo_model.py", &modules)
}

fn run_script(args: &Args, script: &str, modules: &[&str]) -> Result<()> {
    let folder = workspace::root().join("xtask/python");
    let path = folder.join(script);
    ensure!(path.exists(), "there is no {}", path.display());
    let python = &args.python;
    let missing: Vec<&str> = modules.iter().copied().filter(|module| !can_import(args, module)).collect();
    if !missing.is_empty() {
        let requirements = folder.join("requirements.txt");
        let what = if requirements.exists() { format!("-r {}", requirements.display()) } else { modules.join(" ") };
        bail!(
            "{} cannot import {}\n  fix: python3 -m venv .venv && .venv/bin/pip install {what}\n  \
             then pass --python .venv/bin/python",
            python.display(),
            missing.join(", ")
        );
    }
    eprintln!("$ {} {}", python.display(), path.display());
    let status = Command::new(python)
        .arg(&path)
        .args(&args.script_args)
        .status()
        .with_context(|| format!("cannot start {}", python.display()))?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

fn can_import(args: &Args, module: &str) -> bool {
    let finder = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
    let mut command = Command::new(&args.python);
    command.arg("-c").arg(finder).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
