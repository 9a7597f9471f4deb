//! How well a model predicts a text.

use std::sync::Arc;

use crate::LlamaError;
use crate::model::Model;
use crate::session::{CancelToken, Session};

/// How a text is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window.
    pub length: usize,
    /// Tokens from the start of a window to the start of the next; a later window scores only what no earlier one has.
    pub stride: usize,
}

/// The perplexity of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Tokens that were scored.
    pub tokens: usize,
    /// `exp` of the mean negative log-likelihood of a token.
    pub perplexity: f64,
}

/// Scores `tokens` in overlapping windows, each of which begins anew with `bos` in front if the model has such a
/// token. The first window scores all its tokens but those that nothing comes before; each later one scores those that
/// no window before it has.
///
/// `progress` is called with the number of tokens scored so far.
pub fn perplexity(
    model: &Arc<Model>,
    tokens: &[u32],
    windows: Windows,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(usize),
) -> Result<Perplexity, LlamaError> {
    let bos = model.config().bos_token;
    let room = model.context() - usize::from(bos.is_some());
    let Windows { length, stride } = windows;
    if length > room || stride == 0 || stride > length {
        return Err(LlamaError::BadWindows { length, stride, room });
    }
    let mut session = Session::for_scoring(model)?;
    let mut input = Vec::with_capacity(length + 1);
    let mut scored = 0;
    let mut total = 0.0;
    let mut counted = 0;
    let mut start = 0;
    while scored < tokens.len() {
        let end = (start + length).min(tokens.len());
        session.truncate(0);
        input.clear();
        input.extend(bos);
        input.extend_from_slice(&tokens[start..end]);
        let n_bos = input.len() - (end - start);
        // The logits of a position are about the token behind it.
        session.score(&input, cancel, |position, logits| {
            let Some(target) = (position + 1).checked_sub(n_bos).map(|target| start + target) else { return };
            if target >= scored && target < end {
                total -= log_probability(logits, tokens[target]);
                counted += 1;
            }
        })?;
        scored = end;
        progress(scored);
        start += stride;
    }
    if counted == 0 {
        return Err(LlamaError::TextTooShort { tokens: tokens.len() });
    }
    Ok(Perplexity { tokens: counted, perplexity: (total / counted as f64).exp() })
}

/// Natural logarithm of a token's probability.
fn log_probability(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, x| largest.max(*x));
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    f64::from(logits[token as usize] - largest) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_all_tokens_add_up_to_one() {
        let logits = [1.0, -2.0, 300.0, 299.0];
        let sum: f64 = (0..4).map(|token| log_probability(&logits, token).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((log_probability(&logits, 2).exp() - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-9);
    }
}
