//! The weights of a model as they lie in its files.
//!
//! A [`Checkpoint`] is one safetensors file or several with an index; a [`TensorRef`] is one tensor of it, whose bytes
//! are read from the mapped file when somebody looks; [`ModelTensors`] gives each tensor its role in the model.

mod mapped_file;
mod names;
mod safetensors;
mod tensor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::config::{Object, parse_object};
use crate::error::{LlamaError, shorten};
use crate::files;

pub use self::mapped_file::MappedFile;
pub use self::names::{LayerTensors, Linear, Matrix, ModelTensors, SourceRows, Vector};
pub use self::safetensors::{TensorEntry, read_entries};
pub use self::tensor::{RawTensor, TensorRef};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const FOLDER: &str = "a Hugging Face model folder (config.json, *.safetensors, tokenizer.json)";
const WEIGHT_FILE: &str = "model weights in safetensors format";

/// All tensors of a model, by name.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder or file for messages about the checkpoint as a whole.
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    file: Arc<MappedFile>,
    entry: TensorEntry,
}

impl Checkpoint {
    /// Opens the weights of a Hugging Face model folder. Only headers are read.
    pub fn open(folder: &Path) -> Result<Checkpoint, LlamaError> {
        check_folder(folder)?;
        let single = folder.join(SINGLE_FILE);
        if single.exists() {
            return Self::from_file(MappedFile::open(&single, WEIGHT_FILE)?);
        }
        let index = folder.join(INDEX_FILE);
        match files::read_optional(&index, "an index of weight files")? {
            Some(bytes) => Self::open_shards(folder, &index, &bytes),
            None => Err(no_weights(folder, single)),
        }
    }

    /// Reads a checkpoint of one file, which may be in memory.
    pub fn from_file(file: MappedFile) -> Result<Checkpoint, LlamaError> {
        let path = file.path().to_path_buf();
        let mut tensors = BTreeMap::new();
        for (name, stored) in stored_tensors(file)? {
            tensors.insert(name, stored);
        }
        Ok(Checkpoint { path, tensors })
    }

    fn open_shards(folder: &Path, index: &Path, bytes: &[u8]) -> Result<Checkpoint, LlamaError> {
        let by_shard = parse_index(bytes, index)?;
        let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
        for (shard, names) in by_shard {
            let path = folder.join(&shard);
            if !path.exists() {
                return Err(LlamaError::MissingShard {
                    file: index.to_path_buf(),
                    shard: path,
                    tensor: shorten(&names[0]),
                });
            }
            let mut in_shard: BTreeMap<String, Stored> =
                stored_tensors(MappedFile::open(&path, WEIGHT_FILE)?)?.collect();
            for name in names {
                // A shard may hold more than the index takes from it; the index decides, as it does in transformers.
                let stored = in_shard.remove(&name).ok_or_else(|| LlamaError::MissingTensor {
                    file: path.clone(),
                    tensor: shorten(&name),
                    expected: format!("a tensor that {INDEX_FILE} places here"),
                    nearest: None,
                })?;
                tensors.insert(name, stored);
            }
        }
        Ok(Checkpoint { path: index.to_path_buf(), tensors })
    }

    /// The folder's index or the one file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors together, as stored.
    pub fn stored_bytes(&self) -> u64 {
        let sizes = self.tensors.values().map(|stored| stored.entry.bytes.len() as u64);
        sizes.sum()
    }

    /// The bytes of the tensor of this name, whatever its dtype, if there is one.
    pub(crate) fn raw_tensor(&self, name: &str) -> Option<RawTensor> {
        let Stored { file, entry } = self.tensors.get(name)?;
        Some(RawTensor::new(file.clone(), entry))
    }

    /// The tensor of this name, if there is one; an error when its dtype is none that weights may have.
    pub fn tensor(&self, name: &str) -> Result<Option<TensorRef>, LlamaError> {
        let Some(Stored { file, entry }) = self.tensors.get(name) else {
            return Ok(None);
        };
        match &entry.dtype {
            Ok(dtype) => Ok(Some(TensorRef::new(file.clone(), entry, *dtype))),
            Err(found) => Err(LlamaError::TensorDtype {
                file: file.path().to_path_buf(),
                tensor: shorten(name),
                expected: "F32, F16 or BF16",
                found: found.clone(),
            }),
        }
    }
}

fn stored_tensors(file: MappedFile) -> Result<impl Iterator<Item = (String, Stored)>, LlamaError> {
    let entries = read_entries(file.bytes(), file.path())?;
    let file = Arc::new(file);
    Ok(entries.into_iter().map(move |entry| {
        let file = file.clone();
        (entry.name.clone(), Stored { file, entry })
    }))
}

/// The names of tensors by the shard that holds them. Each list has at least one.
fn parse_index(bytes: &[u8], index: &Path) -> Result<BTreeMap<String, Vec<String>>, LlamaError> {
    let map = parse_object(bytes, index, "an index of weight files (a JSON object)")?;
    let object = Object::new(index, &map);
    let expected = "an object from tensor names to file names";
    let weight_map = match object.value("weight_map") {
        Some(Value::Object(weight_map)) if !weight_map.is_empty() => weight_map,
        Some(other) => return Err(object.bad("weight_map", expected, other)),
        None => return Err(object.absent("weight_map", expected)),
    };
    let mut by_shard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let name = shard.as_str().unwrap_or_default();
        if !is_plain_file_name(name) {
            return Err(LlamaError::ShardName {
                file: index.to_path_buf(),
                tensor: shorten(tensor),
                found: shorten(&shard.to_string()),
            });
        }
        by_shard.entry(name.to_owned()).or_default().push(tensor.clone());
    }
    Ok(by_shard)
}

/// Whether a name stays in its folder on every system: no separators, no drive, no parent.
fn is_plain_file_name(name: &str) -> bool {
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(forbidden)
}

/// Says what is wrong with the path of a model, before a file in it is missed.
pub(crate) fn check_folder(folder: &Path) -> Result<(), LlamaError> {
    let file = folder.to_path_buf();
    let metadata = match std::fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(LlamaError::MissingFile { file, expected: FOLDER });
        }
        Err(source) => return Err(LlamaError::Read { file, source }),
    };
    if metadata.is_dir() {
        return Ok(());
    }
    let found = match folder.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => "a GGUF file, which is not supported yet",
        Some("safetensors") => "one weight file, without the config.json and tokenizer.json beside it",
        _ => "a file",
    };
    Err(LlamaError::WrongFileKind { file, expected: FOLDER, found: found.into() })
}

/// Says what the folder has in place of safetensors.
fn no_weights(folder: &Path, single: PathBuf) -> LlamaError {
    let mut foreign: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| found_in_place_of_weights(path).is_some())
        .collect();
    foreign.sort();
    match foreign.first().and_then(|path| Some((path, found_in_place_of_weights(path)?))) {
        Some((path, found)) => LlamaError::WrongFileKind {
            file: path.clone(),
            expected: "model.safetensors, or model.safetensors.index.json with its shards, in this folder",
            found: found.into(),
        },
        None => LlamaError::MissingFile { file: single, expected: WEIGHT_FILE },
    }
}

fn found_in_place_of_weights(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "bin" | "pt" | "pth" | "ckpt" => Some("only a pickle file, which is not read because it can run code"),
        "gguf" => Some("only a GGUF file, which is not supported yet"),
        "safetensors" => Some("only a safetensors file of another name and no index"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_stay_in_the_folder_are_plain() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0b"] {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}
