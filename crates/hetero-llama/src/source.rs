//! Where a model's files come from: a folder, or the program itself.

use std::path::{Path, PathBuf};

use crate::LlamaError;
use crate::chat_template::ChatTemplate;
use crate::config::ModelConfig;
use crate::files;
use crate::generation_config::GenerationConfig;
use crate::tokenizer::Tokenizer;
use crate::weights::{Checkpoint, MappedFile, check_folder};

/// A model's files.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A Hugging Face folder: config.json, one or several safetensors files, tokenizer.json.
    Folder(PathBuf),
    /// Files that are part of the program.
    Embedded(&'static EmbeddedModel),
}

/// A model whose files are part of the program.
#[derive(Debug)]
pub struct EmbeddedModel {
    /// What the model is called, for messages.
    pub name: &'static str,
    /// Names and contents of the files that a folder would have.
    pub files: &'static [(&'static str, &'static [u8])],
}

impl ModelSource {
    /// What to call it in messages.
    pub fn name(&self) -> String {
        match self {
            ModelSource::Folder(folder) => folder.display().to_string(),
            ModelSource::Embedded(model) => model.name.to_owned(),
        }
    }

    /// What the model is made of.
    pub fn config(&self) -> Result<ModelConfig, LlamaError> {
        if let ModelSource::Folder(folder) = self {
            check_folder(folder)?;
        }
        let name = "config.json";
        ModelConfig::parse(&self.read(name, "the model's configuration")?, &self.path(name))
    }

    /// How its makers want it to be sampled.
    pub fn generation_config(&self, config: &ModelConfig) -> Result<GenerationConfig, LlamaError> {
        let name = "generation_config.json";
        match self.read_optional(name, "generation settings (a JSON object)")? {
            Some(bytes) => GenerationConfig::parse(&bytes, &self.path(name), config),
            None => Ok(GenerationConfig::fallback(config)),
        }
    }

    /// The weights' files; only headers are read.
    pub fn checkpoint(&self) -> Result<Checkpoint, LlamaError> {
        match self {
            ModelSource::Folder(folder) => Checkpoint::open(folder),
            ModelSource::Embedded(model) => {
                let name = "model.safetensors";
                let bytes = model.file(name).ok_or_else(|| LlamaError::MissingFile {
                    file: self.path(name),
                    expected: "model weights in safetensors format",
                })?;
                Checkpoint::from_file(MappedFile::from_static(self.path(name), bytes))
            }
        }
    }

    /// Text to tokens and back, for a model of `vocab` tokens.
    pub fn tokenizer(&self, vocab: usize) -> Result<Tokenizer, LlamaError> {
        let name = "tokenizer.json";
        let bytes = self.read(name, "a tokenizer.json of the tokenizers library")?;
        Tokenizer::from_bytes(&bytes, &self.path(name), vocab)
    }

    /// The template of conversations, from `chat_template.jinja` or else from `tokenizer_config.json`.
    pub fn chat_template(&self) -> Result<ChatTemplate, LlamaError> {
        match self {
            ModelSource::Folder(folder) => ChatTemplate::open(folder),
            ModelSource::Embedded(_) => {
                let name = "tokenizer_config.json";
                let bytes = self.read(name, "settings of the tokenizer (a JSON object)")?;
                ChatTemplate::from_tokenizer_config(&bytes, &self.path(name))
            }
        }
    }

    /// The whole content of a file; an error when there is none of the name.
    pub(crate) fn read(&self, name: &str, expected: &'static str) -> Result<Vec<u8>, LlamaError> {
        match self {
            ModelSource::Folder(folder) => files::read(&folder.join(name), expected),
            ModelSource::Embedded(model) => model
                .file(name)
                .map(<[u8]>::to_vec)
                .ok_or_else(|| LlamaError::MissingFile { file: self.path(name), expected }),
        }
    }

    /// The whole content of a file, if there is one of the name.
    pub(crate) fn read_optional(&self, name: &str, expected: &'static str) -> Result<Option<Vec<u8>>, LlamaError> {
        match self.read(name, expected) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(LlamaError::MissingFile { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf {
        match self {
            ModelSource::Folder(folder) => folder.join(name),
            ModelSource::Embedded(model) => Path::new(model.name).join(name),
        }
    }
}

impl EmbeddedModel {
    fn file(&self, name: &str) -> Option<&'static [u8]> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| *bytes)
    }
}
