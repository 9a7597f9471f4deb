//! Typed access to a JSON object of a file, so that each wrong value is reported by file, key, expected and found.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{LlamaError, shorten};

/// One object of a JSON file. A key whose value is `null` counts as absent, as transformers has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    file: &'a Path,
    /// Dotted path to this object, ending in a dot; empty at the top.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

/// Parses `bytes` as a JSON file whose top level is an object.
pub(crate) fn parse_object(
    bytes: &[u8],
    file: &Path,
    expected: &'static str,
) -> Result<Map<String, Value>, LlamaError> {
    let error = |found: String| LlamaError::Json { file: file.to_path_buf(), expected, found: shorten(&found) };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(error(format!("{} at the top level", kind(&other)))),
        Err(source) => Err(error(source.to_string())),
    }
}

impl<'a> Object<'a> {
    pub(crate) fn new(file: &'a Path, map: &'a Map<String, Value>) -> Self {
        Object { file, prefix: "", map }
    }

    /// The object under `key`; `path` is that key with a dot behind it.
    pub(crate) fn object(&self, key: &str, path: &'a str) -> Result<Option<Object<'a>>, LlamaError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object { file: self.file, prefix: path, map })),
            Some(other) => Err(self.bad(key, "an object", other)),
        }
    }

    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// The full name of `key` in messages.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn bad(&self, key: &str, expected: &str, found: &Value) -> LlamaError {
        LlamaError::bad_value(self.file, self.path(key), expected, found)
    }

    pub(crate) fn absent(&self, key: &str, expected: &str) -> LlamaError {
        LlamaError::bad_value(self.file, self.path(key), expected, "no such key")
    }

    pub(crate) fn unsupported(&self, key: &str, expected: &str, found: &Value) -> LlamaError {
        LlamaError::unsupported(self.file, self.path(key), expected, found)
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn size(&self, key: &str, max: usize) -> Result<usize, LlamaError> {
        let expected = format!("a whole number from 1 to {max}");
        self.optional_size(key, max)?.ok_or_else(|| self.absent(key, &expected))
    }

    pub(crate) fn optional_size(&self, key: &str, max: usize) -> Result<Option<usize>, LlamaError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|size| (1..=max).contains(size))
            .map(Some)
            .ok_or_else(|| self.bad(key, &format!("a whole number from 1 to {max}"), value))
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<f32, LlamaError> {
        self.optional_positive(key)?.ok_or_else(|| self.absent(key, "a finite number above 0"))
    }

    pub(crate) fn optional_positive(&self, key: &str) -> Result<Option<f32>, LlamaError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        // The narrowing is checked after it, because 1e300 is finite only as f64 and 1e-300 positive only as f64.
        value
            .as_f64()
            .map(|number| number as f32)
            .filter(|number| number.is_finite() && *number > 0.0)
            .map(Some)
            .ok_or_else(|| self.bad(key, "a finite number above 0", value))
    }

    pub(crate) fn boolean(&self, key: &str, default: bool) -> Result<bool, LlamaError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.bad(key, "true or false", other)),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, LlamaError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, "a string", other)),
        }
    }

    /// One token id below `vocab`.
    pub(crate) fn token(&self, key: &str, vocab: usize) -> Result<Option<u32>, LlamaError> {
        self.value(key).map(|value| self.token_of(key, value, vocab)).transpose()
    }

    /// One token id or a list of them, each below `vocab`.
    pub(crate) fn tokens(&self, key: &str, vocab: usize) -> Result<Option<Vec<u32>>, LlamaError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                values.iter().map(|value| self.token_of(key, value, vocab)).collect::<Result<Vec<u32>, _>>().map(Some)
            }
            Some(value) => Ok(Some(vec![self.token_of(key, value, vocab)?])),
        }
    }

    fn token_of(&self, key: &str, value: &Value, vocab: usize) -> Result<u32, LlamaError> {
        value
            .as_u64()
            .filter(|&id| id < vocab as u64)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| self.bad(key, &format!("a token id below {vocab}"), value))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
