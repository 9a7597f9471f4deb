//! `hetero logits`: what the model computes at each position, for comparison with other engines.

use std::io::{self, Write};
use std::path::PathBuf;

use hetero_llama::{CancelToken, LlamaError, Session};
use serde::Serialize;
use serde_json::json;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json::{self, SCHEMA};
use crate::options::ModelArgs;
use crate::output::{OutputFile, note};
use crate::progress;

/// Write the logits of all positions as safetensors
///
/// The file has one tensor, `logits`, f32 `[positions, vocabulary]`. Compare with another engine at
/// `--weights f32 --activations float`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub(crate) struct Args {
    /// Token ids with commas between them; no tokenizer is needed, and none is added
    #[arg(long, value_name = "IDS", value_delimiter = ',', group = "input")]
    tokens: Vec<u32>,
    /// Text in place of token ids, with the special tokens that the tokenizer adds
    #[arg(long, value_name = "TEXT", group = "input")]
    prompt: Option<String>,
    /// File to write; it appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON document with the tokens
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Computes and writes.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let interrupt = Interrupt::install();
    // A path that cannot be written is found out before a large model is loaded.
    drop(OutputFile::create(&args.out)?);
    let needed = args.prompt.is_none().then_some(args.tokens.len());
    let model = args.model.load(needed)?;
    let tokens = match &args.prompt {
        Some(prompt) => model.tokenizer()?.encode(prompt, true)?,
        None => args.tokens.clone(),
    };
    if tokens.is_empty() {
        return Err(LlamaError::EmptyPrompt.into());
    }
    args.model.tell_facts(&model);
    let mut session = Session::for_scoring(&model)?;
    let vocabulary = model.config().vocab;
    let mut file = OutputFile::create(&args.out)?;
    let result = interrupt.during(|cancel| write(&mut file, &mut session, &tokens, cancel));
    result.map_err(|error| match error {
        Failure::Compute(error) => error.into(),
        Failure::Write(source) => file.write_error(source),
    })?;
    file.finish()?;
    note(format_args!("wrote    {}: {} positions of {vocabulary} logits", args.out.display(), tokens.len()));
    if args.json {
        let out = args.out.display().to_string();
        json::print(&Document { schema: SCHEMA, positions: tokens.len(), vocabulary, tokens: &tokens, out })?;
    }
    Ok(())
}

enum Failure {
    Compute(LlamaError),
    Write(io::Error),
}

/// Writes header and logits position by position, so that they are never all in memory.
fn write(file: &mut impl Write, session: &mut Session, tokens: &[u32], cancel: &CancelToken) -> Result<(), Failure> {
    let vocabulary = session.model().config().vocab;
    file.write_all(&header(tokens.len(), vocabulary)).map_err(Failure::Write)?;
    let bar = progress::count("computing", tokens.len(), "positions");
    let mut written = Ok(());
    let mut bytes = Vec::with_capacity(vocabulary * size_of::<f32>());
    let computed = session.score(tokens, cancel, |_, logits| {
        bar.inc(1);
        if written.is_err() {
            return;
        }
        bytes.clear();
        bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        written = file.write_all(&bytes);
        if written.is_err() {
            cancel.cancel();
        }
    });
    bar.finish_and_clear();
    // The cause before its effect: a failed write cancels the computation.
    written.map_err(Failure::Write)?;
    computed.map_err(Failure::Compute)
}

/// The head of a safetensors file with one tensor: its length in 8 bytes, then JSON, filled up so that data is aligned.
fn header(positions: usize, vocabulary: usize) -> Vec<u8> {
    let n_bytes = positions * vocabulary * size_of::<f32>();
    let tensor = json!({"dtype": "F32", "shape": [positions, vocabulary], "data_offsets": [0, n_bytes]});
    let mut text = json!({ "logits": tensor }).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    positions: usize,
    vocabulary: usize,
    tokens: &'a [u32],
    out: String,
}
