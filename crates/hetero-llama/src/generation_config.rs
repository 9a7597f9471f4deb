//! `generation_config.json`: how a model's makers want it to be sampled, and which tokens end a text.

use std::path::Path;

use crate::config::{ModelConfig, Object, parse_object};
use crate::error::LlamaError;
use crate::files;
use crate::sampler::SamplerOptions;

const DESCRIPTION: &str = "generation settings (a JSON object)";

/// The makers' settings. What they do not say is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Whether to draw at all; otherwise the best token is taken.
    pub do_sample: bool,
    /// See [`SamplerOptions::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplerOptions::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplerOptions::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplerOptions::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplerOptions::repeat_penalty`]; the window is the whole text.
    pub repetition_penalty: Option<f32>,
    /// The most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// The tokens that end a text, by this file or else by config.json. May be empty.
    pub eos_tokens: Vec<u32>,
}

impl GenerationConfig {
    /// What holds for a model without a `generation_config.json`.
    pub fn fallback(config: &ModelConfig) -> GenerationConfig {
        GenerationConfig {
            do_sample: false,
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            max_new_tokens: None,
            eos_tokens: config.eos_tokens.clone(),
        }
    }

    /// Reads the file of a model folder; a folder without one has the fallback.
    pub fn open(folder: &Path, config: &ModelConfig) -> Result<GenerationConfig, LlamaError> {
        let path = folder.join("generation_config.json");
        match files::read_optional(&path, DESCRIPTION)? {
            Some(bytes) => Self::parse(&bytes, &path, config),
            None => Ok(Self::fallback(config)),
        }
    }

    /// Parses the bytes of a `generation_config.json`; `file` is the name for messages.
    pub fn parse(bytes: &[u8], file: &Path, config: &ModelConfig) -> Result<GenerationConfig, LlamaError> {
        let map = parse_object(bytes, file, DESCRIPTION)?;
        let object = Object::new(file, &map);
        let eos_tokens = object.tokens("eos_token_id", config.vocab)?.unwrap_or_default();
        Ok(GenerationConfig {
            do_sample: object.boolean("do_sample", false)?,
            temperature: number(&object, "temperature", 0.0..=100.0)?,
            top_k: top_k(&object)?,
            top_p: number(&object, "top_p", f32::MIN_POSITIVE..=1.0)?,
            min_p: number(&object, "min_p", 0.0..=1.0)?,
            repetition_penalty: number(&object, "repetition_penalty", 0.01..=100.0)?,
            max_new_tokens: object.optional_size("max_new_tokens", u32::MAX as usize)?,
            eos_tokens: if eos_tokens.is_empty() { config.eos_tokens.clone() } else { eos_tokens },
        })
    }

    /// The makers' wish as options of the sampler, all in their ranges. Without `do_sample` the best token is taken.
    pub fn sampler_options(&self) -> SamplerOptions {
        let default = SamplerOptions::default();
        SamplerOptions {
            temperature: if self.do_sample { self.temperature.unwrap_or(1.0) } else { 0.0 },
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repetition_penalty.unwrap_or(default.repeat_penalty),
            ..default
        }
    }
}

fn number(object: &Object<'_>, key: &str, range: std::ops::RangeInclusive<f32>) -> Result<Option<f32>, LlamaError> {
    let Some(value) = object.value(key) else {
        return Ok(None);
    };
    value
        .as_f64()
        .map(|number| number as f32)
        .filter(|number| range.contains(number))
        .map(Some)
        .ok_or_else(|| object.bad(key, &format!("a number from {} to {}", range.start(), range.end()), value))
}

/// Files have 0, and sometimes -1, for no limit.
fn top_k(object: &Object<'_>) -> Result<Option<usize>, LlamaError> {
    match object.value("top_k") {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(0)),
        Some(value) => value
            .as_u64()
            .and_then(|top_k| usize::try_from(top_k).ok())
            .map(Some)
            .ok_or_else(|| object.bad("top_k", "a whole number, 0 for no limit", value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sampler::SamplerConfig;

    fn parse(value: &Value) -> Result<GenerationConfig, LlamaError> {
        let config = ModelConfig::shape("llama-3-8b").expect("a known shape");
        GenerationConfig::parse(value.to_string().as_bytes(), Path::new("generation_config.json"), &config)
    }

    #[test]
    fn the_makers_settings_become_options() {
        let parsed = parse(&json!({
            "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05,
            "eos_token_id": [128001, 128009], "bos_token_id": 128000, "transformers_version": "4.40.0",
        }))
        .expect("valid");
        assert_eq!(parsed.eos_tokens, [128_001, 128_009]);
        let options = parsed.sampler_options();
        assert_eq!((options.temperature, options.top_p, options.top_k), (0.6, 0.9, 20));
        assert_eq!(options.repeat_penalty, 1.05);
        SamplerConfig::new(options).expect("in range");
    }

    #[test]
    fn silence_means_greedy_and_the_end_token_of_the_configuration() {
        let parsed = parse(&json!({"temperature": 0.7, "top_k": -1})).expect("valid");
        assert_eq!(parsed.sampler_options().temperature, 0.0);
        assert_eq!(parsed.top_k, Some(0));
        assert_eq!(parsed.eos_tokens, [128_001]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = ModelConfig::shape("llama-3-8b").expect("a known shape");
        let absent = GenerationConfig::open(folder.path(), &config).expect("no file is fine");
        assert_eq!(absent, GenerationConfig::fallback(&config));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (key, value) in [
            ("temperature", json!(-1)),
            ("temperature", json!(1e300)),
            ("top_p", json!(0)),
            ("top_p", json!(1.5)),
            ("top_k", json!(2.5)),
            ("repetition_penalty", json!(0)),
            ("do_sample", json!(1)),
            ("eos_token_id", json!(128_256)),
            ("max_new_tokens", json!(0)),
        ] {
            let error = parse(&json!({key: value})).expect_err("out of range");
            assert!(matches!(&error, LlamaError::BadValue { key: k, .. } if k == key), "{error}");
        }
    }
}
