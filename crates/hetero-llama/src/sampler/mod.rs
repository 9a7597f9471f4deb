//! Logits to a token.
//!
//! The steps stand in the order of transformers, whose results they reproduce: repetition penalty, temperature, top-k,
//! top-p, min-p, then one random number. (llama.cpp applies the temperature last, so that its top-p and min-p see the
//! probabilities at temperature 1.) Of equal logits the smaller token id counts as the better one.

mod config;

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::error::LlamaError;

pub use self::config::{SamplerConfig, SamplerOptions};

/// Chooses tokens from logits. It remembers the tokens of the text for the repetition penalty and allocates nothing
/// after the first token, apart from that memory.
///
/// ```
/// use hetero_llama::sampler::{Sampler, SamplerConfig, SamplerOptions};
///
/// let config = SamplerConfig::new(SamplerOptions { temperature: 0.7, top_k: 2, seed: 1, ..Default::default() })?;
/// let mut sampler = Sampler::new(config, &[]);
/// let token = sampler.sample(&[0.1, 5.0, -3.0, 4.0])?;
/// assert!(token == 1 || token == 3);
/// # Ok::<(), hetero_llama::LlamaError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    /// ChaCha with 8 rounds: the same numbers on every machine and in every version.
    random: ChaCha8Rng,
    /// All tokens of the text so far.
    history: Vec<u32>,
    /// Logits after the penalty, `[vocabulary]`.
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    /// For each token id the last step in which it was penalised, `[vocabulary]`.
    penalised_in: Vec<u64>,
    step: u64,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    /// Logit over temperature; later the probability without its normalisation, so that the best has 1.
    value: f32,
}

impl Sampler {
    /// A sampler for the text that begins with `prompt`.
    pub fn new(config: SamplerConfig, prompt: &[u32]) -> Sampler {
        Sampler {
            random: ChaCha8Rng::seed_from_u64(config.options().seed),
            config,
            history: prompt.to_vec(),
            logits: Vec::new(),
            candidates: Vec::new(),
            penalised_in: Vec::new(),
            step: 0,
        }
    }

    /// How tokens are chosen.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Chooses a token from `logits`, `[vocabulary]`, and remembers it. Minus infinity rules a token out.
    ///
    /// # Panics
    /// When there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, LlamaError> {
        assert!(!logits.is_empty(), "a vocabulary has tokens");
        check_logits(logits)?;
        let options = self.config.options();
        let token = if options.temperature == 0.0 && options.repeat_penalty == 1.0 {
            best_token(logits)
        } else {
            self.penalise(logits);
            if self.config.options().temperature == 0.0 { best_token(&self.logits) } else { self.draw() }
        };
        self.history.push(token);
        Ok(token)
    }

    /// Remembers a token that somebody else chose.
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
    }

    /// Copies the logits and lowers those of tokens that have come before, each once: positive ones are divided by the
    /// penalty, negative ones multiplied with it.
    fn penalise(&mut self, logits: &[f32]) {
        let options = self.config.options();
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        if options.repeat_penalty == 1.0 {
            return;
        }
        self.penalised_in.resize(logits.len(), 0);
        self.step += 1;
        let first = match options.repeat_window {
            0 => 0,
            window => self.history.len().saturating_sub(window),
        };
        for &token in &self.history[first..] {
            let token = token as usize;
            // A token past the logits cannot be chosen either.
            let Some(logit) = self.logits.get_mut(token) else {
                continue;
            };
            if self.penalised_in[token] == self.step {
                continue;
            }
            self.penalised_in[token] = self.step;
            *logit = if *logit == f32::NEG_INFINITY {
                continue;
            } else if *logit < 0.0 {
                // Kept finite: minus infinity would rule the token out.
                (*logit * options.repeat_penalty).max(f32::MIN)
            } else {
                *logit / options.repeat_penalty
            };
        }
    }

    fn draw(&mut self) -> u32 {
        let options = self.config.options();
        let inverse = 1.0 / options.temperature;
        self.candidates.clear();
        self.candidates.reserve(self.logits.len());
        // A token that is ruled out is no candidate, whatever else is: top-k would count it otherwise.
        let allowed = self.logits.iter().enumerate().filter(|&(_, &logit)| logit != f32::NEG_INFINITY);
        self.candidates.extend(allowed.map(|(token, &logit)| Candidate { token: token as u32, value: logit }));

        if options.top_k > 0 && options.top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(options.top_k - 1, better_first);
            self.candidates.truncate(options.top_k);
            // The order of a partial selection is an accident; the draw below walks the candidates in order.
            self.candidates.sort_unstable_by_key(|candidate| candidate.token);
        }
        let best = self.candidates.iter().fold(f32::MIN, |best, candidate| best.max(candidate.value));
        for candidate in &mut self.candidates {
            // The difference is taken before the division, so that a small temperature overflows to 0 and never to
            // infinity; the inverse of a tiny temperature may be infinite, and 0 times that is no number.
            let difference = candidate.value - best;
            candidate.value = if difference == 0.0 { 1.0 } else { (difference * inverse).exp() };
        }
        if options.top_p < 1.0 {
            keep_top_p(&mut self.candidates, options.top_p);
        }
        if options.min_p > 0.0 {
            self.candidates.retain(|candidate| candidate.value >= options.min_p);
        }

        let total = mass(&self.candidates);
        let mut left = uniform(&mut self.random) * total;
        for candidate in &self.candidates {
            left -= f64::from(candidate.value);
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding has eaten the rest: the best one is always there.
        self.candidates.iter().max_by(|a, b| better_first(b, a)).map_or(0, |candidate| candidate.token)
    }
}

/// Keeps the smallest set of best candidates whose probability is at least `top_p`; their order is then best first.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    let wanted = f64::from(top_p) * mass(candidates);
    // Most of the mass is in few tokens, so only as many are sorted as turn out to be needed.
    let mut n_sorted = 256;
    loop {
        n_sorted = n_sorted.min(candidates.len());
        if n_sorted < candidates.len() {
            candidates.select_nth_unstable_by(n_sorted - 1, better_first);
        }
        candidates[..n_sorted].sort_unstable_by(better_first);
        let mut above = 0.0;
        for (i, candidate) in candidates[..n_sorted].iter().enumerate() {
            above += f64::from(candidate.value);
            if above >= wanted {
                candidates.truncate(i + 1);
                return;
            }
        }
        if n_sorted == candidates.len() {
            return;
        }
        n_sorted *= 4;
    }
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.value)).sum()
}

fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

/// A number from 0 up to, not including, 1, with all 53 bits of an f64.
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn best_token(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Refuses what is not a number or positive infinity, and logits that rule every token out.
fn check_logits(logits: &[f32]) -> Result<(), LlamaError> {
    if let Some(token) = logits.iter().position(|&logit| logit.is_nan() || logit == f32::INFINITY) {
        return Err(LlamaError::BadLogits { token, found: logits[token] });
    }
    if logits.iter().all(|&logit| logit == f32::NEG_INFINITY) {
        return Err(LlamaError::BadLogits { token: 0, found: f32::NEG_INFINITY });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
