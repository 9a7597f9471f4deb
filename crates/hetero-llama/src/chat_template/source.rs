//! Where a model keeps its template and its special tokens.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::ChatTemplate;
use crate::config::{Object, parse_object};
use crate::error::LlamaError;
use crate::files;

const CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";
const DESCRIPTION: &str = "settings of the tokenizer (a JSON object)";
/// The template that is used unless another one is asked for.
const DEFAULT: &str = "default";

/// The tokens that templates write out, as text. One that a model lacks is undefined in its template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Opens a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// Ends a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Stands for what the vocabulary lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
    /// Fills a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
}

impl SpecialTokens {
    fn parse(object: &Object<'_>) -> Result<SpecialTokens, LlamaError> {
        Ok(SpecialTokens {
            bos_token: token_text(object, "bos_token")?,
            eos_token: token_text(object, "eos_token")?,
            unk_token: token_text(object, "unk_token")?,
            pad_token: token_text(object, "pad_token")?,
        })
    }
}

impl ChatTemplate {
    /// Reads the template of a model folder.
    pub fn open(folder: &Path) -> Result<ChatTemplate, LlamaError> {
        let [config_file, template_file] = [CONFIG_FILE, TEMPLATE_FILE].map(|name| folder.join(name));
        let config = files::read_optional(&config_file, DESCRIPTION)?;
        let template = files::read_optional(&template_file, "a chat template in Jinja")?;
        Self::from_files((config.as_deref(), &config_file), (template.as_deref(), &template_file))
    }

    /// Compiles the template out of the bytes of `tokenizer_config.json` and `chat_template.jinja`, of which either may
    /// be absent; each comes with its name for messages. The latter file is preferred, as in transformers.
    pub fn from_files(
        (config, config_file): (Option<&[u8]>, &Path),
        (template, template_file): (Option<&[u8]>, &Path),
    ) -> Result<ChatTemplate, LlamaError> {
        let Some(template) = template else {
            let config = config.ok_or_else(|| LlamaError::MissingTemplate { file: config_file.to_path_buf() })?;
            return Self::from_tokenizer_config(config, config_file);
        };
        let tokens = match config {
            Some(bytes) => {
                let map = parse_object(bytes, config_file, DESCRIPTION)?;
                SpecialTokens::parse(&Object::new(config_file, &map))?
            }
            None => SpecialTokens::default(),
        };
        let source = std::str::from_utf8(template).map_err(|error| LlamaError::TemplateSyntax {
            file: template_file.to_path_buf(),
            template: DEFAULT.into(),
            line: 0,
            found: error.to_string(),
        })?;
        ChatTemplate::new(source, DEFAULT, template_file, tokens)
    }

    /// Compiles the template of a `tokenizer_config.json`; `file` is the name for messages.
    pub fn from_tokenizer_config(bytes: &[u8], file: &Path) -> Result<ChatTemplate, LlamaError> {
        let map = parse_object(bytes, file, DESCRIPTION)?;
        let object = Object::new(file, &map);
        let (name, source) = find_template(&object)?;
        ChatTemplate::new(source, name, file, SpecialTokens::parse(&object)?)
    }
}

/// The name and the source of the template to use: the only one, or the one called `default` of a list.
fn find_template<'a>(object: &Object<'a>) -> Result<(&'a str, &'a str), LlamaError> {
    let key = "chat_template";
    let expected = "a template, or a list of {name, template} with one called default";
    match object.value(key) {
        None => Err(LlamaError::MissingTemplate { file: object.file().to_path_buf() }),
        Some(Value::String(source)) => Ok((DEFAULT, source)),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_object)
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some(DEFAULT))
            .and_then(|entry| Some((DEFAULT, entry.get("template")?.as_str()?)))
            .ok_or_else(|| {
                let names: Vec<Option<&Value>> = list.iter().map(|entry| entry.get("name")).collect();
                LlamaError::bad_value(object.file(), key, expected, format!("{names:?}"))
            }),
        Some(other) => Err(object.bad(key, expected, other)),
    }
}

/// A special token is a text, or an object with the text as `content`.
fn token_text(object: &Object<'_>, key: &str) -> Result<Option<String>, LlamaError> {
    let content = |map: &Map<String, Value>| map.get("content")?.as_str().map(str::to_owned);
    match object.value(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(value) => match value.as_object().and_then(content) {
            Some(text) => Ok(Some(text)),
            None => Err(object.bad(key, "a text, or an object with a text as `content`", value)),
        },
    }
}
