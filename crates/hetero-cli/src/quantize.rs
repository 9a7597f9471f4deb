//! `hetero quantize`: a model with narrower weights, stored as it is used.

use std::path::PathBuf;

use hetero_core::WeightFormat;
use hetero_llama::DeviceOptions;
use hetero_llama::packed;
use serde::Serialize;

use crate::error::CliError;
use crate::json::{self, SCHEMA};
use crate::options;
use crate::output::{bytes_text, note};
use crate::progress;

/// Write a model with quantised weights
///
/// The new folder loads without conversion, and its weights need no `--weights`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder of the model [default: the demo model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// What linear weights become: f32, f16, bf16, w8g32, w4g32
    #[arg(long, value_name = "FMT", value_parser = options::weight_format)]
    weights: WeightFormat,
    /// Folder to write, empty or not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// CPU threads [default: one for each performance core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Converts and writes.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let source = options::source(args.model.as_deref())?;
    let threads = DeviceOptions { threads: args.threads.map(usize::from), ..DeviceOptions::default() };
    let bar = progress::bytes("writing");
    let result = packed::quantize(&source, args.weights, &args.out, threads.n_threads().max(1), &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let facts = result?;
    note(format_args!(
        "wrote    {}: {} weights, {} from {}",
        args.out.display(),
        args.weights,
        bytes_text(facts.written_bytes),
        bytes_text(facts.stored_bytes),
    ));
    if args.json {
        json::print(&Document {
            schema: SCHEMA,
            out: args.out.display().to_string(),
            weights: args.weights.to_string(),
            stored_bytes: facts.stored_bytes,
            written_bytes: facts.written_bytes,
        })?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    out: String,
    weights: String,
    stored_bytes: u64,
    written_bytes: u64,
}
