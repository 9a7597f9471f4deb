//! Generation as the commands show it: text as it comes, figures at the end.

use hetero_llama::memory::peak_resident_bytes;
use hetero_llama::{CancelToken, FinishReason, GenerateOptions, Generation, GenerationStats, Session};
use hetero_sched::Replan;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json::{DeviceShare, Speed};
use crate::output::{bytes_text, note, seconds_text, write_stdout};

/// A generation that has ended.
pub(crate) struct Reply {
    /// What was generated, without a stop text.
    pub(crate) text: String,
    /// The tokens that were generated, those of a stop text included.
    pub(crate) tokens: Vec<u32>,
    /// How long it took.
    pub(crate) stats: GenerationStats,
    /// Why it ended.
    pub(crate) finish_reason: FinishReason,
}

/// Continues `prompt` and prints `echo` and each piece of text on standard output, with a line feed at the end. Ctrl-C
/// ends it after the current token.
pub(crate) fn print(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
    echo: &str,
    interrupt: &Interrupt,
) -> Result<Reply, CliError> {
    let mut is_line_open = false;
    let mut show = |text: &str| {
        is_line_open = !text.ends_with('\n');
        write_stdout(text)
    };
    let result = generate(session, prompt, options, echo, interrupt, &mut show);
    if is_line_open {
        write_stdout("\n")?;
    }
    result
}

/// Continues `prompt` and gives each piece of text to `show`, after `echo`. Ctrl-C ends it after the current token.
pub(crate) fn generate(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
    echo: &str,
    interrupt: &Interrupt,
    show: &mut dyn FnMut(&str) -> Result<(), CliError>,
) -> Result<Reply, CliError> {
    interrupt.during(|cancel| generate_until(session, prompt, options, echo, cancel, show))
}

fn generate_until(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
    echo: &str,
    cancel: &CancelToken,
    show: &mut dyn FnMut(&str) -> Result<(), CliError>,
) -> Result<Reply, CliError> {
    let mut generation = Generation::new(session, prompt, options, cancel)?;
    // Not before it is known that the prompt can be continued.
    if !echo.is_empty() {
        show(echo)?;
    }
    let mut text = String::new();
    let mut tokens = Vec::new();
    for piece in &mut generation {
        let piece = piece?;
        tokens.extend(piece.token);
        if !piece.text.is_empty() {
            show(&piece.text)?;
            text.push_str(&piece.text);
        }
    }
    Ok(Reply {
        text,
        tokens,
        stats: *generation.stats(),
        finish_reason: generation.finish_reason().unwrap_or(FinishReason::MaxTokens),
    })
}

/// The name of a reason in JSON documents.
pub(crate) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfSequence => "end_of_sequence",
        FinishReason::MaxTokens => "max_tokens",
        FinishReason::StopText => "stop_text",
        FinishReason::ContextFull => "context_full",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Failed => "failed",
    }
}

/// Tells on standard error what was predicted and what was measured.
pub(crate) fn tell_reports(session: &Session) {
    for (phase, report) in session.reports() {
        note(format_args!("{phase:8} {}", report.to_string().trim_end()));
    }
    for margin in session.model().team().margins() {
        note(format_args!("alone    {margin}"));
    }
    for replan in session.model().team().replans() {
        note(format_args!("replan   {}", replan_text(&replan)));
    }
}

/// In words, why a plan was reconsidered and what came of it.
pub(crate) fn replan_text(replan: &Replan) -> String {
    let Replan { device, rows, factors: [before, now], seconds: [old, new], is_new } = replan;
    let what = match is_new {
        true => format!("a new plan takes {} instead of {}", seconds_text(*new), seconds_text(*old)),
        false => "the plan stays".to_owned(),
    };
    format!("{device} takes {now:.2} times as long as its profile says, not {before:.2}, at {rows} rows: {what}")
}

/// Tells on standard error how fast a generation was.
pub(crate) fn tell_figures(stats: &GenerationStats, session: &Session) {
    for loss in session.model().team().losses() {
        note(format_args!("lost     {}: {}; the other devices went on", loss.device, loss.reason));
    }
    for fallback in session.model().team().fallbacks() {
        note(format_args!("alone    {fallback}"));
    }
    let speed =
        |name: &str, speed: Speed| format!("{name} {} tokens, {:.1} tokens/s", speed.tokens, speed.tokens_per_second);
    let mut parts = vec![
        speed("prefill", Speed::prefill(stats)),
        speed("decode", Speed::decode(stats)),
        format!("first token {:.3} s", stats.time_to_first_token.as_secs_f64()),
    ];
    parts.extend(peak_resident_bytes().map(|bytes| format!("peak {}", bytes_text(bytes))));
    parts.push(DeviceShare::text(&DeviceShare::of(session)));
    note(parts.join(" | "));
}
