//! Text generation as an iterator.

use std::time::{Duration, Instant};

use crate::LlamaError;
use crate::sampler::{Sampler, SamplerConfig};
use crate::session::{CancelToken, Session};
use crate::text_stream::{StopStrings, TextStream};

/// When generation ends and how tokens are chosen.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How a token is chosen from logits.
    pub sampler: SamplerConfig,
    /// Texts that end the generation; they are not part of what is given out.
    pub stop: Vec<String>,
}

/// A token and the text that became certain with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The token; `None` for the text that was held back until the end.
    pub token: Option<u32>,
    /// Whole characters; may be empty while a character or a stop text is incomplete.
    pub text: String,
}

/// Why a generation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said so.
    EndOfSequence,
    /// As many tokens as asked for.
    MaxTokens,
    /// A stop text appeared.
    StopText,
    /// The KV cache is full.
    ContextFull,
    /// Somebody cancelled.
    Cancelled,
    /// An error was given out.
    Failed,
}

/// How long the parts of a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationStats {
    /// Tokens of the prompt that were computed; those still in the cache from before are not counted.
    pub prefill_tokens: usize,
    /// Time to compute them.
    pub prefill: Duration,
    /// Tokens that were generated.
    pub generated_tokens: usize,
    /// Steps of one token that followed the prefill; the first token comes out of the prefill.
    pub decode_tokens: usize,
    /// Time of these steps, the choice of tokens included.
    pub decode: Duration,
    /// From the start to the first token.
    pub time_to_first_token: Duration,
}

/// A running generation: yields pieces until it ends. Dropping it ends it; the session can go on from there.
#[derive(Debug)]
pub struct Generation<'a> {
    session: &'a mut Session,
    prompt: Vec<u32>,
    sampler: Sampler,
    text: TextStream,
    stop: StopStrings,
    max_tokens: usize,
    cancel: CancelToken,
    eos_tokens: Vec<u32>,
    /// The token that was chosen last and is not in the cache yet.
    next_token: u32,
    stats: GenerationStats,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prefill,
    Decode,
    Finished(FinishReason),
}

impl<'a> Generation<'a> {
    /// Prepares to continue `prompt`. What the session's cache shares with the prompt is not computed again.
    pub fn new(
        session: &'a mut Session,
        prompt: &[u32],
        options: &GenerateOptions,
        cancel: &CancelToken,
    ) -> Result<Generation<'a>, LlamaError> {
        if prompt.is_empty() {
            return Err(LlamaError::EmptyPrompt);
        }
        if prompt.len() >= session.context() {
            return Err(LlamaError::PromptTooLong { tokens: prompt.len(), context: session.context() });
        }
        let model = session.model();
        let text = TextStream::new(model.tokenizer()?, prompt)?;
        let eos_tokens = model.eos_tokens().to_vec();
        Ok(Generation {
            prompt: prompt.to_vec(),
            sampler: Sampler::new(options.sampler.clone(), prompt),
            text,
            stop: StopStrings::new(&options.stop),
            max_tokens: options.max_tokens,
            cancel: cancel.clone(),
            eos_tokens,
            next_token: 0,
            stats: GenerationStats::default(),
            state: State::Prefill,
            session,
        })
    }

    /// Why it has ended; `None` while it has not.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        match self.state {
            State::Finished(reason) => Some(reason),
            _ => None,
        }
    }

    /// How long its parts have taken so far.
    pub fn stats(&self) -> &GenerationStats {
        &self.stats
    }
}

impl Generation<'_> {
    /// One step: a token, or the end.
    fn advance(&mut self) -> Result<Option<Piece>, LlamaError> {
        let start = Instant::now();
        match self.state {
            State::Finished(_) => return Ok(None),
            State::Prefill => {
                let keep = shared_prefix(self.session.tokens(), &self.prompt);
                self.session.truncate(keep);
                self.session.feed(&self.prompt[keep..], &self.cancel)?;
                self.stats.prefill_tokens = self.prompt.len() - keep;
                self.stats.prefill = start.elapsed();
                self.state = State::Decode;
            }
            State::Decode => {
                if self.session.tokens().len() == self.session.context() {
                    return self.finish(FinishReason::ContextFull);
                }
                self.session.feed(&[self.next_token], &self.cancel)?;
                self.stats.decode_tokens += 1;
            }
        }
        if self.stats.generated_tokens == self.max_tokens {
            return self.finish(FinishReason::MaxTokens);
        }
        let token = self.sampler.sample(self.session.logits())?;
        if self.stats.generated_tokens == 0 {
            self.stats.time_to_first_token = start.elapsed();
        } else {
            self.stats.decode += start.elapsed();
        }
        if self.eos_tokens.contains(&token) {
            return self.finish(FinishReason::EndOfSequence);
        }
        self.next_token = token;
        self.stats.generated_tokens += 1;
        let text = self.stop.push(&self.text.push(token)?);
        if self.stop.is_stopped() {
            // What was held back belongs to the stop text or comes after it.
            self.state = State::Finished(FinishReason::StopText);
        } else if self.stats.generated_tokens == self.max_tokens {
            let mut piece = self.finish(FinishReason::MaxTokens)?.unwrap_or_default();
            piece.token = Some(token);
            piece.text.insert_str(0, &text);
            return Ok(Some(piece));
        }
        Ok(Some(Piece { token: Some(token), text }))
    }

    /// Ends with the text that was held back.
    fn finish(&mut self, reason: FinishReason) -> Result<Option<Piece>, LlamaError> {
        self.state = State::Finished(reason);
        let mut text = self.stop.push(&self.text.finish()?);
        if self.stop.is_stopped() {
            self.state = State::Finished(FinishReason::StopText);
        } else {
            text.push_str(&self.stop.finish());
        }
        Ok((!text.is_empty()).then_some(Piece { token: None, text }))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece, LlamaError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.advance() {
            Err(LlamaError::Cancelled) => self.finish(FinishReason::Cancelled),
            result => result,
        };
        if result.is_err() {
            self.state = State::Finished(FinishReason::Failed);
        }
        result.transpose()
    }
}

/// Number of tokens of the cache that a prompt can go on from. At least one token is left to compute, because its
/// logits are needed.
fn shared_prefix(cached: &[u32], prompt: &[u32]) -> usize {
    let same = cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    same.min(prompt.len() - 1)
}
