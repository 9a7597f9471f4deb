//! `cargo xtask paper`: the paper's evaluation on the simulated phone, written to docs/paper-results.md.

use crate::{fit_soc, workspace};
use anyhow::Result;

/// Simulates everything and writes the page.
pub(crate) fn run() -> Result<()> {
    let page = workspace::root().join("docs/paper-results.md");
    fit_soc::run_example("benches", "paper", &[page.as_os_str()])
}
