//! Runs the README's commands, so that a newcomer's first minutes are tested.
//!
//! Commands are the lines of fenced blocks marked `sh` that begin with `cargo run --release -- ` or `hetero `. Each
//! must return 0 and print something, or write the file that it names with `--out`. They run in a scratch folder that
//! holds a copy of the README and, as `model`, a tiny model with random weights. A block marked `console` is only shown.

use super::Run;
use super::command::Invocation;
use crate::{synth, workspace};
use anyhow::{Context, Result};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

const BY_CARGO: &str = "cargo run --release -- ";

/// Builds the release binary and runs every command with it.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let root = workspace::root();
    let readme = fs::read_to_string(root.join("README.md")).context("cannot read README.md")?;
    let commands = commands(&readme);
    if commands.is_empty() {
        run.fail("README.md has no command to run".to_owned());
        return Ok(());
    }
    let built = run.check(Invocation::cargo("build --release -p hetero-cli"))?;
    if !built.success {
        return Ok(());
    }

    let scratch = workspace::target_dir().join("ci/readme");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    fs::write(scratch.join("README.md"), &readme)?;
    synth::write_quietly("tiny", &scratch.join("model"))?;
    for command in &commands {
        println!("    $ {command}");
        match try_command(command, &scratch) {
            Ok(()) => run.tally.passed += 1,
            Err(error) => {
                run.tally.failed += 1;
                run.fail(format!("`{command}`: {error:#}"));
            }
        }
    }
    Ok(())
}

/// The commands of a README, without prompt and line continuations.
fn commands(readme: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut in_block = false;
    let mut continued = String::new();
    for line in readme.lines() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            in_block = !in_block && language == "sh";
        } else if in_block {
            if let Some(start) = line.strip_suffix('\\') {
                continued.push_str(start);
                continue;
            }
            let command = std::mem::take(&mut continued) + line;
            let command = match command.strip_prefix(BY_CARGO) {
                Some(arguments) => format!("hetero {arguments}"),
                None => command,
            };
            if command.starts_with("hetero ") {
                commands.push(command);
            }
        }
    }
    commands
}

fn try_command(command: &str, scratch: &Path) -> Result<()> {
    let binaries = workspace::target_dir().join("release");
    let mut path = vec![binaries];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let output = Command::new("timeout")
        .args(["600", "bash", "-euo", "pipefail", "-c", command])
        .current_dir(scratch)
        .env("PATH", env::join_paths(path)?)
        // Measurements of a check are not the user's.
        .env("HETERO_PROFILES", scratch.join("profiles"))
        .stdin(std::process::Stdio::null())
        .output()
        .context("cannot start bash")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}\n{}", output.status, stderr.trim_end());
    match written_file(command) {
        Some(file) => anyhow::ensure!(scratch.join(file).exists(), "wrote no {file}"),
        None => anyhow::ensure!(
            !output.stdout.trim_ascii().is_empty(),
            "printed nothing on standard output\n{}",
            stderr.trim_end()
        ),
    }
    Ok(())
}

fn written_file(command: &str) -> Option<&str> {
    let mut words = command.split_whitespace();
    words.find(|word| *word == "--out")?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_sh_blocks_only() {
        let readme = "```sh\ncargo run --release -- run \"Hi\" \\\n  -n 3 # short\ncargo xtask test\n```\n\
            hetero in prose\n```console\nhetero chat\n```\n```sh\nhetero devices\n```\n";
        let expected = ["hetero run \"Hi\" -n 3 # short", "hetero devices"];
        assert_eq!(commands(readme), expected);
    }

    #[test]
    fn the_file_after_out_is_expected() {
        assert_eq!(written_file("hetero logits --out x.safetensors"), Some("x.safetensors"));
        assert_eq!(written_file("hetero devices"), None);
    }
}
