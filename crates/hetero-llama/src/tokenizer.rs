//! Text to token ids and back, by the model's `tokenizer.json`.

use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{LlamaError, shorten};
use crate::files;

/// The longest text that is tokenised at once, in bytes. No context is so long, and some pre-tokenizers take time
/// that grows faster than the text.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// A model's tokenizer. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    file: PathBuf,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` for a model of `vocab` tokens.
    pub fn open(path: &Path, vocab: usize) -> Result<Tokenizer, LlamaError> {
        let bytes = files::read(path, "a tokenizer.json of the tokenizers library")?;
        Self::from_bytes(&bytes, path, vocab)
    }

    /// Reads the bytes of a `tokenizer.json` for a model of `vocab` tokens; `file` is the name for messages.
    pub fn from_bytes(bytes: &[u8], file: &Path, vocab: usize) -> Result<Tokenizer, LlamaError> {
        // Looked at on its own first, because the library panics where its decoder or its normalizer is cut short.
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
            return Err(LlamaError::Tokenizer { file: file.to_path_buf(), found: shorten(&error.to_string()) });
        }
        let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|found| LlamaError::Tokenizer { file: file.to_path_buf(), found })?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        match largest {
            Some(largest) if (largest as usize) < vocab => {}
            Some(found) => {
                return Err(LlamaError::TokenizerVocabulary { file: file.to_path_buf(), expected: vocab, found });
            }
            None => {
                return Err(LlamaError::Tokenizer { file: file.to_path_buf(), found: "no tokens".into() });
            }
        }
        // Files saved after a training run often carry its limits; a prompt must come through whole and unpadded.
        tokenizer.with_padding(None);
        if tokenizer.with_truncation(None).is_err() {
            unreachable!("taking truncation away cannot fail");
        }
        Ok(Tokenizer { inner: Arc::new(Inner { tokenizer, file: file.to_path_buf() }) })
    }

    /// The ids of a text. `add_special_tokens` puts those around it that the tokenizer's post-processor adds, such as
    /// the one that opens a sequence; a rendered chat template has them already. Special tokens that the text itself
    /// spells out become their ids either way.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, LlamaError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(self.error("encode", format!("a text of {} bytes", text.len())));
        }
        let encoding = guarded(|| self.inner.tokenizer.encode_fast(text, add_special_tokens))
            .map_err(|found| self.error("encode", found))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. Ids that the tokenizer does not know have no text.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, LlamaError> {
        guarded(|| self.inner.tokenizer.decode(ids, skip_special_tokens)).map_err(|found| self.error("decode", found))
    }

    /// The piece of vocabulary behind an id, as it stands in the file: `Ġthe`, `▁the`, `<0x0A>`.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.tokenizer.id_to_token(id)
    }

    /// The id of a piece of vocabulary, such as `<|eot_id|>`.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(piece)
    }

    /// Whether decoding without special tokens gives this id any text.
    pub(crate) fn has_text(&self, id: u32) -> bool {
        let added = self.inner.tokenizer.get_added_vocabulary();
        self.piece(id).is_some_and(|piece| !piece.is_empty() && !added.is_special_token(&piece))
    }

    /// Whether an id is one byte of a text that the vocabulary has no piece for: `<0x0A>`.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.piece(id).is_some_and(|piece| {
            let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
        })
    }

    /// Number of tokens, added ones included. The ids may have holes.
    pub fn n_tokens(&self) -> usize {
        self.inner.tokenizer.get_vocab_size(true)
    }

    fn error(&self, action: &'static str, found: String) -> LlamaError {
        LlamaError::Tokenize { file: self.inner.file.clone(), action, found: shorten(&found) }
    }
}

/// Runs a step of the tokenizers library and turns its panics into messages as well: it unwraps what a damaged
/// `tokenizer.json` can make fail. (A program built with `panic = "abort"` still ends there.)
fn guarded<T>(step: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // What a panic may leave half done inside of the tokenizer is its cache of words, behind locks that it tries and
    // does without.
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(shorten(&error.to_string())),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(shorten(&format!("a panic of the tokenizers library: {message}")))
        }
    }
}

impl Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} tokens)", self.inner.file.display(), self.n_tokens())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_panic_of_the_library_becomes_an_error() {
        let file = json!({
            "version": "1.0", "added_tokens": [],
            "decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 3},
            "model": {"type": "BPE", "vocab": {" ": 0, "b": 1}, "merges": []},
        });
        let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("tokenizer.json"), 2);
        // Stripping three spaces off the end of a text of one.
        let error = tokenizer.expect("valid").decode(&[0], true).expect_err("the library panics");
        assert!(matches!(error, LlamaError::Tokenize { action: "decode", .. }), "{error}");
        assert!(error.to_string().contains("panic"), "{error}");
    }
}
