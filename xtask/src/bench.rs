//! `cargo xtask bench`: the engine's speed beside what the machine could do at best, measured in the same run.
//!
//! Decoding reads every weight once a token, so memory bandwidth bounds it: tokens/s can be at most bytes/s over the
//! bytes of a token. The report states that bound and the part of it that was reached.

mod bandwidth;
mod bound;
mod machine;

use crate::synth::{self, shape::Shape};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use bandwidth::Bandwidth;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model to measure: a Hugging Face folder or a GGUF file [default: a synthesised one, see --shape]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["shape", "seed", "layers"])]
    model: Option<PathBuf>,
    /// Shape of the synthesised model, kept in target/bench-models
    #[arg(long, default_value = "llama-3.2-1b", value_parser = synth::shape::names())]
    shape: String,
    /// Seed of the synthesised model
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of decoder layers of the synthesised model, instead of the shape's own
    #[arg(long)]
    layers: Option<usize>,
    /// Measure the machine's limits only
    #[arg(long)]
    limits_only: bool,
    /// Run the Criterion benches (`cargo bench -p benches`) as well
    #[arg(long)]
    criterion: bool,
    /// Mebibytes that the bandwidth measurement reads; several times the last cache
    #[arg(long, default_value_t = 1024)]
    array_mib: usize,
    /// Arguments for `hetero bench`, after `--` [default: --pp 128,512 --tg 64 --reps 3]
    #[arg(last = true)]
    bench_args: Vec<String>,
}

/// Measures, prints a table and keeps everything as JSON.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.array_mib > 0, "--array-mib must be at least 1");
    let machine = machine::facts();
    println!("machine    {}", machine::one_line(&machine));
    let mut report = json!({"schema": 1, "date": machine::timestamp(), "machine": machine});

    let model = if args.limits_only {
        None
    } else {
        build()?;
        Some(model(args)?)
    };
    // Before and after the engine: on a machine with neighbours the limit itself moves.
    let before = bandwidth::measure(args.array_mib);
    bandwidth::print(&before);
    report["bandwidth"] = bandwidth::to_json(&before);
    if let Some(model) = model {
        let result = hetero_bench(&model, &args.bench_args)?;
        let after = bandwidth::measure(args.array_mib);
        report["bandwidth_after"] = bandwidth::to_json(&after);
        let limits = [before, after].concat();
        report["comparison"] = compare(&model, &result, &limits);
        report["hetero"] = result;
    }
    if args.criterion {
        let mut cargo = Command::new("cargo");
        cargo.args(["bench", "-p", "benches"]).current_dir(workspace::root());
        run_visibly(&mut cargo)?;
    }

    let folder = workspace::target_dir().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.json", machine::timestamp().replace(':', "-")));
    fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("kept in {}", file.display());
    Ok(())
}

fn build() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "-p", "hetero-cli"]);
    run_visibly(cargo.current_dir(workspace::root()))
}

fn run_visibly(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// The model of the arguments; a synthesised one is written once and kept.
fn model(args: &Args) -> Result<PathBuf> {
    if let Some(path) = &args.model {
        ensure!(path.exists(), "there is no model at {}", path.display());
        return Ok(path.clone());
    }
    let mut shape = Shape::named(&args.shape)?;
    let mut name = format!("{}-{}", shape.name, args.seed);
    if let Some(layers) = args.layers {
        shape.layers = layers;
        name = format!("{name}-{layers}-layers");
    }
    let folder = workspace::target_dir().join("bench-models").join(name);
    // Written last, so a folder that has it is complete.
    if !folder.join("config.json").exists() {
        eprintln!("writing {}", folder.display());
        synth::write(&shape, args.seed, &folder, &|_, _| {})?;
    }
    Ok(folder)
}

fn hetero_bench(model: &Path, extra: &[String]) -> Result<Value> {
    let binary = workspace::target_dir().join("release/hetero");
    let mut command = Command::new(&binary);
    command.args(["bench", "--output", "json", "--model"]).arg(model);
    if extra.is_empty() {
        command.args(["--pp", "128,512", "--tg", "64", "--reps", "3"]);
    }
    command.args(extra).stdin(Stdio::null()).stderr(Stdio::inherit());
    eprintln!("$ {}", format!("{command:?}").replace('"', ""));
    let output = command.output().with_context(|| format!("cannot start {}", binary.display()))?;
    ensure!(output.status.success(), "hetero bench: {}", output.status);
    serde_json::from_slice(&output.stdout).context("hetero bench printed no JSON document")
}

/// Prints each result beside its bound, and returns the rows.
fn compare(model: &Path, result: &Value, limits: &[Bandwidth]) -> Value {
    let threads = result["threads"].as_u64().unwrap_or(0);
    let weights = result["weights"].as_str().unwrap_or("unknown");
    println!(
        "model      {}, weights {weights}, {threads} threads, peak {:.2} GB",
        result["model"].as_str().unwrap_or("unknown"),
        result["peak_resident_bytes"].as_f64().unwrap_or(0.0) / 1e9
    );
    let bandwidth = bandwidth::best(limits, threads);
    // A bound from a busy machine would flatter the engine: none is stated then.
    let busy = bandwidth::contention(limits).is_some();
    println!("test         depth    tokens/s       bound   reached");
    let mut rows = Vec::new();
    for row in result["results"].as_array().into_iter().flatten() {
        let test = row["test"].as_str().unwrap_or("?");
        let depth = row["depth"].as_u64().unwrap_or(0);
        let median = row["tokens_per_second"]["median"].as_f64().unwrap_or(0.0);
        // A decode at depth d of n tokens sees d + n/2 positions on average.
        let tokens = row["tokens"].as_u64().unwrap_or(0);
        let bytes =
            test.starts_with("tg").then(|| bound::bytes_per_token(model, weights, depth + tokens / 2)).flatten();
        let bound = bytes.filter(|_| !busy).map(|bytes| bandwidth / bytes);
        let (shown, ratio) = match bound {
            Some(bound) => (format!("{bound:.1}"), format!("{:.0} %", 100.0 * median / bound)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        println!("{test:<12} {depth:>5} {median:>11.1} {shown:>11} {ratio:>9}");
        rows.push(json!({
            "test": test, "depth": depth, "tokens_per_second": median,
            "bytes_per_token": bytes, "bound_tokens_per_second": bound,
            "ratio": bound.map(|bound| median / bound),
        }));
    }
    Value::Array(rows)
}
