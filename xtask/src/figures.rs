//! `cargo xtask figures`: draws docs/figures again from the simulator.

use crate::{fit_soc, workspace};
use anyhow::Result;

/// Draws all figures.
pub(crate) fn run() -> Result<()> {
    let folder = workspace::root().join("docs/figures");
    fit_soc::run_example("backend-npu-sim", "figures", &[folder.as_os_str()])
}
