//! `hetero perplexity`: how well a model predicts a text.

use std::fs;
use std::path::PathBuf;

use hetero_llama::perplexity::{Windows, perplexity};
use serde::Serialize;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json::{self, SCHEMA};
use crate::options::ModelArgs;
use crate::output::write_stdout;
use crate::progress;

/// Tokens of a window unless the context is shorter.
const DEFAULT_WINDOW: usize = 512;

/// Compute the perplexity of a text
///
/// The text is scored in overlapping windows; each token counts once, in the first window that has it. A text that the
/// demo model has not seen is crates/hetero-cli/demo-model/held-out.txt.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// UTF-8 text to score
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window [default: 512, or what the context has room for]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens from one window to the next [default: half a window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Computes and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let text = fs::read_to_string(&args.text).map_err(|source| CliError::Read { file: args.text.clone(), source })?;
    let interrupt = Interrupt::install();
    // One more for the token that opens a sequence.
    let model = args.model.load(Some(args.window.unwrap_or(DEFAULT_WINDOW).saturating_add(1)))?;
    let tokens = model.tokenizer()?.encode(&text, false)?;
    let length = args.window.unwrap_or(DEFAULT_WINDOW.min(model.context().saturating_sub(1)));
    let windows = Windows { length, stride: args.stride.unwrap_or(length.div_ceil(2)) };
    args.model.tell_facts(&model);

    let bar = progress::count("scoring", tokens.len(), "tokens");
    let mut progress = |n_tokens| bar.set_position(n_tokens as u64);
    let result = interrupt.during(|cancel| perplexity(&model, &tokens, windows, cancel, &mut progress));
    bar.finish_and_clear();
    let result = result?;
    if args.json {
        return json::print(&Document {
            schema: SCHEMA,
            tokens: result.tokens,
            perplexity: result.perplexity,
            window: windows.length,
            stride: windows.stride,
            weights: model.facts().weights.to_string(),
        });
    }
    write_stdout(&format!(
        "perplexity {:.4} over {} tokens (windows of {}, stride {})\n",
        result.perplexity, result.tokens, windows.length, windows.stride
    ))
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    tokens: usize,
    perplexity: f64,
    window: usize,
    stride: usize,
    weights: String,
}
