//! `cargo xtask synth`: a Hugging Face model directory with seeded random weights.
//!
//! Such a model generates nonsense at the speed, and in the memory, of the real one: benches and memory tests need no
//! download. The same shape and seed give the same bytes on every machine.

mod config;
mod noise;
mod safetensors;
pub(crate) mod shape;
mod tokenizer;

use anyhow::{Context, Result, bail, ensure};
use safetensors::Shards;
use shape::Shape;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Arguments of `synth`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shape of the model
    #[arg(long, value_parser = shape::names())]
    shape: String,
    /// Folder to write; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of decoder layers, instead of the shape's own
    #[arg(long)]
    layers: Option<usize>,
    /// Write into a folder that is not empty; model files in it are replaced
    #[arg(long)]
    force: bool,
}

/// Writes the directory that the arguments describe.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut shape = Shape::named(&args.shape)?;
    if let Some(layers) = args.layers {
        ensure!(layers > 0, "--layers must be at least 1");
        shape.layers = layers;
    }
    let out = &args.out;
    if has_entries(out)? && !args.force {
        bail!("{} is not empty; --force replaces the model in it", out.display());
    }
    let began = Instant::now();
    let terminal = io::stderr().is_terminal();
    let bytes = write(&shape, args.seed, out, &|done, total| {
        show_progress(done, total, terminal);
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let (gigabytes, out) = (to_gigabytes(bytes), out.display());
    eprintln!("{out}: {gigabytes:.2} GB in {seconds:.1} s ({:.2} GB/s)", gigabytes / seconds);
    Ok(())
}

/// Writes a named shape with seed 0 and says nothing.
pub(crate) fn write_quietly(shape: &str, out: &Path) -> Result<()> {
    write(&Shape::named(shape)?, 0, out, &|_, _| {}).map(drop)
}

/// Writes a model into `out` and returns the bytes of its weights; `progress` is told bytes done and in all.
///
/// `config.json` comes last, so a folder that has it is complete.
pub(crate) fn write(shape: &Shape, seed: u64, out: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<u64> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    remove_old_model(out)?;
    let shards = Shards::plan(shape.tensors());
    check_free_space(out, shards.total_bytes())?;
    shards.write(out, seed, progress)?;
    write_json(out, "tokenizer.json", &tokenizer::tokenizer(shape))?;
    write_json(out, "tokenizer_config.json", &tokenizer::tokenizer_config(shape))?;
    write_json(out, "generation_config.json", &config::generation(shape))?;
    write_json(out, "config.json", &config::model(shape))?;
    Ok(shards.total_bytes())
}

fn write_json(out: &Path, name: &str, value: &serde_json::Value) -> Result<()> {
    let path = out.join(name);
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn has_entries(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", folder.display())),
    }
}

/// Removes weights and configuration of an earlier model, so that no mixture is left.
fn remove_old_model(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_weights = name.starts_with("model") && name.contains(".safetensors");
        if is_weights || name == "config.json" {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Refuses before the first byte where the disk is too small; a `df` that cannot be read refuses nothing.
fn check_free_space(folder: &Path, needed: u64) -> Result<()> {
    let output = Command::new("df").arg("-Pk").arg(folder).output();
    let Ok(output) = output else { return Ok(()) };
    let text = String::from_utf8_lossy(&output.stdout);
    let kilobytes: Option<u64> =
        text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).and_then(|number| number.parse().ok());
    if let Some(free) = kilobytes.map(|n| n * 1024) {
        // The tokenizer, and a little air.
        let wanted = needed + 64 * 1024 * 1024;
        ensure!(
            free >= wanted,
            "{} has {:.2} GB free, the model needs {:.2} GB",
            folder.display(),
            to_gigabytes(free),
            to_gigabytes(wanted)
        );
    }
    Ok(())
}

/// One line that is written over on a terminal, a line a tenth elsewhere.
fn show_progress(done: u64, total: u64, terminal: bool) {
    if terminal {
        let end = if done == total { "\n" } else { "" };
        eprint!("\r{:6.2} of {:.2} GB{end}", to_gigabytes(done), to_gigabytes(total));
    } else if done == total {
        eprintln!("{:6.2} of {:.2} GB", to_gigabytes(done), to_gigabytes(total));
    }
}

fn to_gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process;

    #[test]
    fn the_same_seed_writes_the_same_bytes() -> Result<()> {
        let base = workspace_scratch("synth-seed");
        let shape = Shape::named("tiny")?;
        let read = |name: &str, seed| -> Result<Vec<u8>> {
            let out = base.join(name);
            write(&shape, seed, &out, &|_, _| {})?;
            Ok(fs::read(out.join("model.safetensors"))?)
        };
        let (a, b, c) = (read("a", 7)?, read("b", 7)?, read("c", 8)?);
        assert!(a == b, "same seed, different bytes");
        assert!(a != c, "different seed, same bytes");
        fs::remove_dir_all(base)?;
        Ok(())
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() -> Result<()> {
        let out = workspace_scratch("synth-refuse");
        fs::create_dir_all(&out)?;
        fs::write(out.join("notes.txt"), "mine")?;
        let args = |force| Args { shape: "tiny".to_owned(), out: out.clone(), seed: 0, layers: Some(1), force };
        assert!(run(&args(false)).is_err());
        run(&args(true))?;
        assert_eq!(fs::read_to_string(out.join("notes.txt"))?, "mine");
        fs::remove_dir_all(out)?;
        Ok(())
    }

    fn workspace_scratch(name: &str) -> PathBuf {
        crate::workspace::target_dir().join(format!("{name}-{}", process::id()))
    }
}
