//! `hetero bench`: how fast a model is.
//!
//! Two kinds of test: `pp` feeds a number of tokens at once (prefill), `tg` feeds as many one by one (decode). Both
//! start behind `depth` tokens that are in the cache already. The tokens are random: their values do not change the
//! work.

mod report;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use hetero_llama::memory::peak_resident_bytes;
use hetero_llama::{CancelToken, LlamaError, Session};
use indicatif::ProgressBar;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use self::report::{Measured, Rate, Report};
use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json::DeviceShare;
use crate::options::ModelArgs;
use crate::output::{bytes_text, note, write_stdout};
use crate::progress;

/// Decode needs no longer warm-up: each of its steps is the same.
const WARM_UP_DECODES: usize = 16;

/// Measure the speed of prefill (pp) and decode (tg)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Numbers of tokens to prefill, with commas between; 0 for none
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512")]
    pp: Vec<usize>,
    /// Numbers of tokens to decode, with commas between; 0 for none
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128")]
    tg: Vec<usize>,
    /// Numbers of tokens that are in the cache before, with commas between
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Measurements of each test, after a warm-up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Form of the results
    #[arg(long, value_name = "FORM", default_value = "md")]
    output: OutputForm,
    /// The same as `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Forms of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputForm {
    /// A Markdown table.
    Md,
    /// One JSON document.
    Json,
    /// A JSON document a line for each test.
    Jsonl,
    /// Comma-separated values with a line of names.
    Csv,
}

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let interrupt = Interrupt::install();
    let longest = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
    let needed = longest(&args.depth).saturating_add(longest(&args.pp).max(longest(&args.tg)));
    let model = args.model.load(Some(needed))?;
    let tests = tests(args, model.context())?;
    args.model.tell_facts(&model);
    let start = Instant::now();
    let mut session = Session::new(&model)?;
    let compile = start.elapsed();

    let tokens = random_tokens(model.context(), model.config().vocab);
    let bar = progress::count("measuring", tests.len() * (args.reps as usize + 1), "runs");
    let mut measure = |test: Test, cancel: &CancelToken| {
        let times = measure(test, args.reps, &mut session, &tokens, cancel, &bar)?;
        Ok(Measured {
            test: test.name(),
            depth: test.depth,
            tokens: test.tokens,
            tokens_per_second: Rate::of(test.tokens, &times),
            devices: DeviceShare::of(&session),
        })
    };
    let results: Result<Vec<Measured>, LlamaError> =
        interrupt.during(|cancel| tests.into_iter().map(|test| measure(test, cancel)).collect());
    bar.finish_and_clear();
    let report = Report {
        model: args.model.name(),
        weights: model.facts().weights.to_string(),
        threads: args.model.n_threads(),
        load_seconds: model.facts().load.as_secs_f64(),
        compile_seconds: compile.as_secs_f64(),
        peak_resident_bytes: peak_resident_bytes(),
        results: results?,
    };
    note(format_args!(
        "load {:.3} s | compile {:.3} s{} | {} threads",
        report.load_seconds,
        report.compile_seconds,
        report.peak_resident_bytes.map_or_else(String::new, |bytes| format!(" | peak {}", bytes_text(bytes))),
        report.threads,
    ));
    write_stdout(&match if args.json { OutputForm::Json } else { args.output } {
        OutputForm::Md => report.markdown(),
        OutputForm::Json => report.json(),
        OutputForm::Jsonl => report.json_lines(),
        OutputForm::Csv => report.csv(),
    })
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    kind: Kind,
    /// Tokens that the time is taken of; at least 1.
    tokens: usize,
    /// Tokens that are in the cache before.
    depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Prefill,
    Decode,
}

impl Test {
    fn name(&self) -> String {
        match self.kind {
            Kind::Prefill => format!("pp{}", self.tokens),
            Kind::Decode => format!("tg{}", self.tokens),
        }
    }
}

/// The tests that the options ask for, cut to what the context has room for.
fn tests(args: &Args, context: usize) -> Result<Vec<Test>, CliError> {
    let mut tests: Vec<Test> = Vec::new();
    for &depth in &args.depth {
        if depth >= context {
            return Err(LlamaError::ContextFull { needed: depth.saturating_add(1), context }.into());
        }
        let lists = [(Kind::Prefill, &args.pp), (Kind::Decode, &args.tg)];
        for (kind, asked) in lists.into_iter().flat_map(|(kind, list)| list.iter().map(move |&n| (kind, n))) {
            let test = Test { kind, tokens: asked.min(context - depth), depth };
            if test.tokens < asked {
                note(format_args!(
                    "cut      {} at depth {depth} to {} tokens: the context has {context}",
                    Test { tokens: asked, ..test }.name(),
                    test.tokens
                ));
            }
            if test.tokens > 0 && !tests.contains(&test) {
                tests.push(test);
            }
        }
    }
    if tests.is_empty() {
        return Err(CliError::Usage {
            message: "tests: expected at least one, found none".into(),
            fix: "give `--pp` or `--tg` a number of tokens".into(),
        });
    }
    Ok(tests)
}

/// The times of all repetitions of a test.
fn measure(
    test: Test,
    reps: u32,
    session: &mut Session,
    tokens: &[u32],
    cancel: &CancelToken,
    bar: &ProgressBar,
) -> Result<Vec<Duration>, LlamaError> {
    let (before, behind) = tokens.split_at(test.depth);
    session.truncate(0);
    if !before.is_empty() {
        session.feed(before, cancel)?;
    }
    let warm_up = match test.kind {
        Kind::Prefill => test.tokens,
        Kind::Decode => test.tokens.min(WARM_UP_DECODES),
    };
    run_once(test, session, &behind[..warm_up], cancel)?;
    bar.inc(1);
    let mut times = Vec::with_capacity(reps as usize);
    for _ in 0..reps {
        times.push(run_once(test, session, &behind[..test.tokens], cancel)?);
        bar.inc(1);
    }
    Ok(times)
}

/// Feeds `tokens` behind the test's depth and takes the time.
fn run_once(test: Test, session: &mut Session, tokens: &[u32], cancel: &CancelToken) -> Result<Duration, LlamaError> {
    session.truncate(test.depth);
    let start = Instant::now();
    match test.kind {
        Kind::Prefill => session.feed(tokens, cancel)?,
        Kind::Decode => tokens.chunks(1).try_for_each(|token| session.feed(token, cancel))?,
    }
    Ok(start.elapsed())
}

/// The same tokens each time.
fn random_tokens(n_tokens: usize, vocabulary: usize) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    (0..n_tokens).map(|_| (random.next_u64() % vocabulary as u64) as u32).collect()
}
