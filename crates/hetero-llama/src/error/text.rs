//! Text of files made fit for messages, and the short ways to build the commonest errors.

use std::path::Path;

use super::LlamaError;

impl LlamaError {
    /// A value of `file` at `key` that is wrong whatever this crate supported.
    pub(crate) fn bad_value(
        file: &Path,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::BadValue {
            file: file.to_path_buf(),
            key: key.into(),
            expected: expected.into(),
            found: shorten(&found.to_string()),
        }
    }

    /// A value of `file` at `key` that is right for another engine.
    pub(crate) fn unsupported(
        file: &Path,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Unsupported {
            file: file.to_path_buf(),
            key: key.into(),
            expected: expected.into(),
            found: shorten(&found.to_string()),
        }
    }
}

/// Text of a file cut to a length that fits a message, without control characters: they could rewrite a terminal.
pub(crate) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let mut short: String = text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    short
}

pub(super) fn nearest_text(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |name| format!(" (the nearest is `{name}`)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_text_is_made_printable() {
        let text = format!("a\u{1b}[2J{}", "x".repeat(500));
        let short = shorten(&text);
        assert!(short.starts_with("a [2J"));
        assert!(short.ends_with('…'));
        assert_eq!(short.chars().count(), 201);
    }

    #[test]
    fn errors_stay_small() {
        assert!(size_of::<LlamaError>() <= 128);
    }
}
