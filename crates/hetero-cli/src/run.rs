//! `hetero run`: one prompt, one text.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use hetero_llama::chat_template::Message;
use hetero_llama::memory::peak_resident_bytes;
use hetero_llama::{FinishReason, GenerateOptions, LlamaError, Model, Session};
use hetero_sched::report::StepReport;
use serde::Serialize;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json::{self, DeviceShare, SCHEMA, Speed};
use crate::options::ModelArgs;
use crate::output::{OutputFile, note};
use crate::sampling::SamplingArgs;
use crate::stream::{self, Reply};

/// Submissions of prefill and of decode that are recorded at most: the last ones, in some megabytes.
const MOST_TRACED: usize = 100_000;

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
    /// Tell afterwards what was predicted and what was measured: each step, processor and submission
    #[arg(long)]
    explain: bool,
    /// Write when every submission ran, as a trace for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
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
    // Made first, so that a path that cannot be written is known before anything is computed.
    let trace = args.trace.as_deref().map(OutputFile::create).transpose()?;
    let model = args.model.load_with(None, |options| {
        if args.explain || args.trace.is_some() {
            options.together.n_traced = MOST_TRACED;
        }
    })?;
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
        write_trace(trace, &session)?;
        return json::print(&Document::new(&reply, &input, seed, &session, args.explain));
    }
    let echo = if input.is_continued { prompt.as_str() } else { "" };
    let reply = stream::print(&mut session, &input.tokens, &options, echo, &interrupt)?;
    if reply.finish_reason == FinishReason::ContextFull {
        note(format_args!("the context of {} tokens is full", session.context()));
    }
    write_trace(trace, &session)?;
    if args.explain {
        stream::tell_reports(&session);
    }
    stream::tell_figures(&reply.stats, &session);
    Ok(())
}

fn write_trace(file: Option<OutputFile>, session: &Session) -> Result<(), CliError> {
    let Some(mut file) = file else { return Ok(()) };
    session.write_trace(&mut file).map_err(|source| file.write_error(source))?;
    file.finish()
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
    /// With `--explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explain>,
}

/// What was predicted and what was measured.
#[derive(Serialize)]
struct Explain {
    phases: Vec<Phase>,
    /// Plans that were reconsidered because a processor was not as fast as assumed.
    replans: Vec<String>,
    /// Where one processor computes everything because what others would gain is less than what is known of them, or
    /// because measured steps have shown it to be faster.
    alone: Vec<String>,
}

#[derive(Serialize)]
struct Phase {
    /// `prefill` or `decode`.
    phase: &'static str,
    #[serde(flatten)]
    report: StepReport,
}

impl Explain {
    fn of(session: &Session) -> Explain {
        let phases = session.reports().into_iter().map(|(phase, report)| Phase { phase, report });
        let team = session.model().team();
        let margins = team.margins().into_iter().map(|margin| margin.to_string());
        let alone = margins.chain(team.fallbacks().into_iter().map(|fallback| fallback.to_string())).collect();
        Explain { phases: phases.collect(), replans: team.replans().iter().map(stream::replan_text).collect(), alone }
    }
}

impl<'a> Document<'a> {
    fn new(reply: &'a Reply, input: &Input, seed: u64, session: &Session, is_explained: bool) -> Document<'a> {
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
            explain: is_explained.then(|| Explain::of(session)),
        }
    }
}
