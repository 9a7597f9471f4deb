//! Writes a checkpoint in panels.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use hetero_core::{DType, RowSelection, WeightFormat, WeightLayout};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::stored_shape;
use crate::LlamaError;
use crate::config::{PACKED_METHOD, PACKED_VERSION};
use crate::graph::{self, GraphOptions};
use crate::loader::{LoadProgress, LoadStage, Source, StoredWeights, fill_panels, format_of};
use crate::source::ModelSource;
use crate::weights::ModelTensors;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeFacts {
    /// Bytes of all tensors before.
    pub stored_bytes: u64,
    /// Bytes of all tensors after.
    pub written_bytes: u64,
}

/// Files that a model has besides weights and configuration; each is copied if it is there.
const COPIED: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// Writes the model into the folder `out`, which must be empty or not exist, with linear weights held in `format`.
///
/// One tensor is in memory at a time. The configuration is written last, so a folder that was not finished is not
/// taken for a model.
pub fn quantize(
    source: &ModelSource,
    format: WeightFormat,
    out: &Path,
    n_threads: usize,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<QuantizeFacts, LlamaError> {
    let config = source.config()?;
    if let Some(stored) = config.packed_weights {
        return Err(LlamaError::AlreadyPacked { model: source.name(), format: stored });
    }
    let checkpoint = source.checkpoint()?;
    let stored_bytes = checkpoint.stored_bytes();
    let stored = StoredWeights::Tensors(Box::new(ModelTensors::resolve(&checkpoint, &config)?));
    let options = GraphOptions {
        capacity: 1,
        context: 1,
        weights: format,
        embedding: format_of(stored.embedding_dtype(&config)?),
        cache: DType::F16,
        logits: RowSelection::Last,
    };
    let graph = graph::build(&config, &options);
    prepare_folder(out)?;

    let total_bytes = graph.graph.weights().iter().map(|weight| weight.layout.bytes() as u64).sum();
    let written = RefCell::new(Written { done_bytes: 0, total_bytes, progress });
    let mut views = Vec::with_capacity(graph.weights.len());
    for (&key, desc) in graph.weights.iter().zip(graph.graph.weights()) {
        let source = stored.source(key, desc)?;
        views.push((
            desc.name.clone(),
            WeightView {
                name: &desc.name,
                layout: desc.layout,
                shape: stored_shape(&desc.layout),
                source,
                n_threads,
                written: &written,
            },
        ));
    }
    let metadata = [("format", "hetero".to_owned()), ("weights", format.to_string())];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
    write_atomically(&out.join("model.safetensors"), |temporary| {
        safetensors::serialize_to_file(views, Some(metadata), temporary).map_err(|error| match error {
            safetensors::SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other.to_string()),
        })
    })?;

    for name in COPIED {
        if let Some(bytes) = source.read_optional(name, "a file to copy")? {
            write_atomically(&out.join(name), |temporary| fs::write(temporary, &bytes))?;
        }
    }
    let name = "config.json";
    let mut text: Value =
        serde_json::from_slice(&source.read(name, "the model's configuration")?).map_err(|error| LlamaError::Json {
            file: PathBuf::from(source.name()).join(name),
            expected: "the model's configuration",
            found: error.to_string(),
        })?;
    text["quantization_config"] =
        json!({"quant_method": PACKED_METHOD, "version": PACKED_VERSION, "weights": format.to_string()});
    write_atomically(&out.join(name), |temporary| fs::write(temporary, format!("{text:#}\n")))?;
    Ok(QuantizeFacts { stored_bytes, written_bytes: total_bytes })
}

struct Written<'a> {
    done_bytes: u64,
    total_bytes: u64,
    progress: &'a mut dyn FnMut(LoadProgress<'_>),
}

/// A weight whose bytes are made when they are written.
struct WeightView<'a, 'p> {
    name: &'a str,
    layout: WeightLayout,
    shape: Vec<usize>,
    source: Source,
    n_threads: usize,
    written: &'a RefCell<Written<'p>>,
}

impl View for WeightView<'_, '_> {
    fn dtype(&self) -> Dtype {
        match (self.layout.arrangement, self.layout.format) {
            (hetero_core::Arrangement::Panels, _) => Dtype::U8,
            (_, WeightFormat::F16) => Dtype::F16,
            (_, WeightFormat::Bf16) => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = match &self.source {
            Source::Table(table) => Cow::Borrowed(table.bytes()),
            Source::Vector(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Source::Packed(panels) => Cow::Borrowed(panels.bytes()),
            Source::Matrix(matrix) => {
                let mut bytes = vec![0; self.layout.bytes()];
                fill_panels(&self.layout, matrix, self.n_threads, &mut bytes);
                matrix.source.release();
                Cow::Owned(bytes)
            }
        };
        let mut written = self.written.borrow_mut();
        written.done_bytes += bytes.len() as u64;
        let Written { done_bytes, total_bytes, ref mut progress } = *written;
        progress(LoadProgress { stage: LoadStage::Weights, name: self.name, done: done_bytes, total: total_bytes });
        bytes
    }

    fn data_len(&self) -> usize {
        self.layout.bytes()
    }
}

fn prepare_folder(out: &Path) -> Result<(), LlamaError> {
    fs::create_dir_all(out).map_err(|source| LlamaError::Write { file: out.to_path_buf(), source })?;
    let mut entries = fs::read_dir(out).map_err(|source| LlamaError::Read { file: out.to_path_buf(), source })?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(LlamaError::FolderNotEmpty { folder: out.to_path_buf() }),
    }
}

/// Writes a file under another name and renames it, so that it is either whole or not there.
fn write_atomically(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), LlamaError> {
    let temporary = path.with_extension("part");
    let result = write(&temporary).and_then(|()| fs::rename(&temporary, path));
    result.map_err(|source| {
        // What is left of it is of no use to anybody.
        let _ = fs::remove_file(&temporary);
        LlamaError::Write { file: path.to_path_buf(), source }
    })
}
