//! Tokens to text as they come: whole characters only, and stop texts cut out.
//!
//! A token is not a piece of text. A character may be spread over several tokens, and the space in front of a word
//! depends on what stands before it. [`TextStream`] decodes a short window of tokens again and again and gives out what
//! can no longer change; the pieces put together are what decoding all tokens at once gives.
//! [`StopStrings`] then watches the text for the places where the user wants it to end.

use crate::error::LlamaError;
use crate::tokenizer::Tokenizer;

/// Tokens that stay in the window as context: enough for the space in front of a word and for a character in bytes.
const CONTEXT_TOKENS: usize = 6;
/// The window is cut back to its context when it has grown to this.
const MAX_WINDOW_TOKENS: usize = 24;
/// The longest run of byte tokens that is held back; 16 emoji of 4 bytes.
const MAX_HELD_TOKENS: usize = 64;

/// What a decoder puts for bytes that are no character, and for the start of one that is not complete.
const REPLACEMENT: char = '\u{fffd}';

/// Turns a stream of token ids into text. Special tokens have no text.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// The last tokens that have text: context first, then those that are not given out yet.
    window: Vec<u32>,
    /// How much of the window's text is given out or belongs to the prompt, in bytes.
    given: usize,
    /// Byte tokens at the end of the window, whose text depends on how their run goes on.
    held: usize,
}

impl TextStream {
    /// A stream that goes on after `prompt`, whose own text is not given out.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Result<TextStream, LlamaError> {
        let mut stream = TextStream {
            tokenizer: tokenizer.clone(),
            window: Vec::with_capacity(MAX_WINDOW_TOKENS + MAX_HELD_TOKENS),
            given: 0,
            held: 0,
        };
        let with_text = prompt.iter().rev().copied().filter(|&id| stream.tokenizer.has_text(id));
        let mut context: Vec<u32> = with_text.take(MAX_WINDOW_TOKENS).collect();
        context.reverse();
        stream.window = context;
        stream.given = certain(&stream.decode()?).len();
        Ok(stream)
    }

    /// Takes a token and gives the text that became certain with it: whole characters, often one word, or nothing.
    pub fn push(&mut self, id: u32) -> Result<String, LlamaError> {
        if !self.tokenizer.has_text(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        // A run of byte tokens is decoded as one: a later byte can still make all of it invalid. So it waits, for as
        // long as a run of any use lasts.
        if self.tokenizer.is_byte(id) && self.held < MAX_HELD_TOKENS {
            self.held += 1;
            return Ok(String::new());
        }
        self.held = 0;
        let text = self.decode()?;
        let certain = certain(&text);
        let new = self.new_text(certain);
        self.given = self.given.max(certain.len());
        if self.window.len() > MAX_WINDOW_TOKENS {
            self.window.drain(..self.window.len() - CONTEXT_TOKENS);
            self.given = self::certain(&self.decode()?).len();
        }
        Ok(new)
    }

    /// The text that was still held back, with replacement characters for what never became complete. The stream can
    /// go on afterwards.
    pub fn finish(&mut self) -> Result<String, LlamaError> {
        self.held = 0;
        let text = self.decode()?;
        let new = self.new_text(&text);
        self.given = self.given.max(text.len());
        Ok(new)
    }

    fn decode(&self) -> Result<String, LlamaError> {
        self.tokenizer.decode(&self.window, true)
    }

    /// What `text` has behind the text that is given out. A decoder that changes earlier text when tokens follow
    /// cannot take back what is on the screen; its text is continued at the next whole character.
    fn new_text(&self, text: &str) -> String {
        let mut start = self.given.min(text.len());
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text[start..].to_owned()
    }
}

/// `text` without a last replacement character, which may be the start of a character. An incomplete character is one
/// replacement character, however many of its bytes are there, so everything before it is certain.
fn certain(text: &str) -> &str {
    text.strip_suffix(REPLACEMENT).unwrap_or(text)
}

/// Finds the first of several texts in a stream, across the borders of its pieces.
///
/// Text that could be the start of a stop text is held back until it is known. Of several stop texts the one that is
/// complete first counts, and of those that are complete together the one that begins first, so that the borders of
/// the pieces make no difference.
///
/// ```
/// use hetero_llama::text_stream::StopStrings;
///
/// let mut stop = StopStrings::new(&["User:".into()]);
/// assert_eq!(stop.push("Yes. Us"), "Yes. ");
/// assert_eq!(stop.push("er: and"), "");
/// assert!(stop.is_stopped());
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that is not given out yet; a proper prefix of a stop text.
    held: String,
    is_stopped: bool,
}

impl StopStrings {
    /// Watches for `stops`. An empty text is no stop text.
    pub fn new(stops: &[String]) -> StopStrings {
        StopStrings {
            stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            held: String::new(),
            is_stopped: false,
        }
    }

    /// Takes a piece of text and gives what can be shown. After the stop text nothing more is shown.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = found.min() {
            self.is_stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let keep = self.stops.iter().map(|stop| partial_match(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop text has come.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// The text that was held back, once it is known that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length in bytes of the longest end of `text` that is a beginning of `stop`.
fn partial_match(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .filter(|&length| stop.is_char_boundary(length))
        .find(|&length| text.as_bytes().ends_with(&stop.as_bytes()[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "text_stream_tests.rs"]
mod tests;
