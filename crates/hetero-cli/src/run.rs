//! `hetero run`: one prompt, one text.

use std::io::{self, IsTerminal, Read};

use hetero_llama::chat_template::Message;
use hetero_llama::memory::peak_resident_bytes;
use hetero_llama::{FinishReason, GenerateOptions, LlamaError, Model, Session};
use serde::Serialize;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json::{self, DeviceShare, SCHEMA, Speed};
use crate::options::ModelArgs;
use crate::output::note;
use crate::sampling::SamplingArgs;
use crate::stream::{self, Reply};

/// Continue a text, or answer a prompt
///
/// A model with a chat template answers the prompt. One without, or with --raw, continues it, and the prompt is printed
/// in front of the continuation.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to go on from [default: standard input, without its last line feed]
    prompt: Option<String>,
    /// The most tokens to generate
    #[arg(short = 'n', long = "max-tokens", value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Show on standard error what the model is given, after the chat template
    #[arg(long)]
    show_prompt: bool,
    /// Print one JSON document in place of the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Generates and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => prompt_from_stdin()?,
    };
    if prompt.is_empty() {
        return Err(LlamaError::EmptyPrompt.into());
    }
    let interrupt = Interrupt::install();
    let model = args.model.load(None)?;
    let input = Input::new(&model, &prompt, args.raw)?;
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampler: args.sampling.config(&model)?,
        stop: args.sampling.stop.clone(),
    };
    let seed = options.sampler.options().seed;
    let mut session = Session::new(&model)?;
    args.model.tell_facts(&model);
    if options.sampler.options().temperature > 0.0 {
        note(format_args!("seed     {seed}"));
    }
    if args.show_prompt {
        note(format_args!("prompt   {} tokens:\n{}", input.tokens.len(), input.text));
    }

    if args.json {
        let reply = stream::generate(&mut session, &input.tokens, &options, "", &interrupt, &mut |_| Ok(()))?;
        return json::print(&Document::new(&reply, &input, seed, &session));
    }
    let echo = if input.is_continued { prompt.as_str() } else { "" };
    let reply = stream::print(&mut session, &input.tokens, &options, echo, &interrupt)?;
    if reply.finish_reason == FinishReason::ContextFull {
        note(format_args!("the context of {} tokens is full", session.context()));
    }
    stream::tell_figures(&reply.stats, &session);
    Ok(())
}

/// Everything on standard input, which must not be a terminal: a user would not know what is waited for.
fn prompt_from_stdin() -> Result<String, CliError> {
    let mut stdin = io::stdin().lock();
    if stdin.is_terminal() {
        return Err(CliError::Usage {
            message: "prompt: expected one as an argument or on standard input, found none".into(),
            fix: "give it in quotes: `hetero run \"Ownership is\"`".into(),
        });
    }
    let mut prompt = String::new();
    stdin.read_to_string(&mut prompt).map_err(CliError::Stdin)?;
    // It belongs to the line, as in `echo`, and not to the text.
    let end = prompt.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
    prompt.truncate(end.unwrap_or(prompt.len()));
    Ok(prompt)
}

/// What the model is given.
struct Input {
    text: String,
    tokens: Vec<u32>,
    /// Whether it is the prompt as it is, so that the generated text goes on from it.
    is_continued: bool,
}

impl Input {
    fn new(model: &Model, prompt: &str, raw: bool) -> Result<Input, CliError> {
        let tokenizer = model.tokenizer()?;
        let plain = Input { text: prompt.to_owned(), tokens: tokenizer.encode(prompt, true)?, is_continued: true };
        if raw {
            return Ok(plain);
        }
        let template = match model.chat_template() {
            Err(LlamaError::MissingTemplate { .. } | LlamaError::MissingFile { .. }) => {
                return Ok(plain);
            }
            template => template?,
        };
        let text = template.render(&[Message::new("user", prompt)], true)?;
        let tokens = tokenizer.encode(&text, false)?;
        // A template that adds nothing is that of a model that only continues texts.
        let is_continued = tokens == plain.tokens;
        Ok(Input { text, tokens, is_continued })
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    text: &'a str,
    tokens: &'a [u32],
    prompt_tokens: usize,
    finish_reason: &'static str,
    seed: u64,
    prefill: Speed,
    decode: Speed,
    time_to_first_token_seconds: f64,
    /// Null where the system does not say.
    peak_resident_bytes: Option<u64>,
    devices: Vec<DeviceShare>,
}

impl<'a> Document<'a> {
    fn new(reply: &'a Reply, input: &Input, seed: u64, session: &Session) -> Document<'a> {
        Document {
            schema: SCHEMA,
            text: &reply.text,
            tokens: &reply.tokens,
            prompt_tokens: input.tokens.len(),
            finish_reason: stream::reason_name(reply.finish_reason),
            seed,
            prefill: Speed::prefill(&reply.stats),
            decode: Speed::decode(&reply.stats),
            time_to_first_token_seconds: reply.stats.time_to_first_token.as_secs_f64(),
            peak_resident_bytes: peak_resident_bytes(),
            devices: DeviceShare::of(session),
        }
    }
}
