//! Writes bf16 safetensors files block by block, several blocks at a time, in memory of a few blocks.

use super::noise::{Noise, ONE, tensor_seed};
use super::shape::{Fill, TensorSpec};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// Largest shard, as transformers cuts them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Bytes that one thread makes and writes at a time.
const BLOCK_BYTES: u64 = 8 << 20;

/// The tensors of a model, cut into files.
pub(super) struct Shards {
    shards: Vec<Vec<TensorSpec>>,
}

/// A piece of one tensor.
struct Block<'a> {
    tensor: &'a TensorSpec,
    /// Index of the first value in the tensor.
    first: u64,
    /// Place in the file, in bytes.
    at: u64,
    /// Length in bytes.
    len: u64,
}

impl Shards {
    /// Cuts the list where a file would grow too long.
    pub(super) fn plan(tensors: Vec<TensorSpec>) -> Self {
        let mut shards: Vec<Vec<TensorSpec>> = vec![Vec::new()];
        let mut size = 0;
        for tensor in tensors {
            if size > 0 && size + bytes_of(&tensor) > SHARD_BYTES {
                shards.push(Vec::new());
                size = 0;
            }
            size += bytes_of(&tensor);
            if let Some(last) = shards.last_mut() {
                last.push(tensor);
            }
        }
        Self { shards }
    }

    /// Bytes of all tensors.
    pub(super) fn total_bytes(&self) -> u64 {
        self.shards.iter().flatten().map(bytes_of).sum()
    }

    /// Writes all files into `out`, and the index if there are several.
    pub(super) fn write(&self, out: &Path, seed: u64, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let noise = Noise::new();
        let (done, total) = (AtomicU64::new(0), self.total_bytes());
        let step = |bytes| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        let n_shards = self.shards.len();
        let mut weight_map = Map::new();
        for (index, tensors) in self.shards.iter().enumerate() {
            let name = if n_shards == 1 {
                "model.safetensors".to_owned()
            } else {
                format!("model-{:05}-of-{n_shards:05}.safetensors", index + 1)
            };
            for tensor in tensors {
                weight_map.insert(tensor.name.clone(), json!(name));
            }
            // The final name appears only on a whole file.
            let partial = out.join(format!("{name}.partial"));
            write_shard(&partial, tensors, seed, &noise, &step)
                .with_context(|| format!("cannot write {}", partial.display()))?;
            fs::rename(&partial, out.join(&name))?;
        }
        if n_shards > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            super::write_json(out, "model.safetensors.index.json", &index)?;
        }
        Ok(())
    }
}

fn bytes_of(tensor: &TensorSpec) -> u64 {
    2 * tensor.dims.iter().map(|&dim| dim as u64).product::<u64>()
}

/// The length word and the JSON header, padded so that the data begins on a multiple of 8.
fn header(tensors: &[TensorSpec]) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += bytes_of(tensor);
        let entry = json!({"dtype": "BF16", "shape": tensor.dims, "data_offsets": [begin, end]});
        entries.insert(tensor.name.clone(), entry);
    }
    let mut text = serde_json::to_vec(&Value::Object(entries))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

fn write_shard(
    path: &Path,
    tensors: &[TensorSpec],
    seed: u64,
    noise: &Noise,
    step: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let header = header(tensors)?;
    let blocks = blocks(tensors, header.len() as u64);
    let mut file = File::create(path)?;
    file.write_all(&header)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        // A handle of its own, because a position belongs to a handle.
        let mut file = OpenOptions::new().write(true).open(path)?;
        let mut bytes = Vec::new();
        while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            bytes.resize(usize::try_from(block.len)?, 0);
            match block.tensor.fill {
                Fill::Noise => {
                    let seed = tensor_seed(seed, &block.tensor.name);
                    noise.fill(seed, block.first, &mut bytes);
                }
                Fill::Ones => {
                    for pair in bytes.chunks_exact_mut(2) {
                        pair.copy_from_slice(&ONE.to_le_bytes());
                    }
                }
            }
            file.seek(SeekFrom::Start(block.at))?;
            file.write_all(&bytes)?;
            step(block.len);
        }
        Ok(())
    };
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn blocks(tensors: &[TensorSpec], data_begin: u64) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut at = data_begin;
    for tensor in tensors {
        let total = bytes_of(tensor);
        let mut offset = 0;
        while offset < total {
            let len = BLOCK_BYTES.min(total - offset);
            blocks.push(Block { tensor, first: offset / 2, at: at + offset, len });
            offset += len;
        }
        at += total;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::shape::Shape;

    #[test]
    fn a_large_model_is_cut_into_shards() {
        let shape = Shape::named("llama-3-8b").expect("a known shape");
        let shards = Shards::plan(shape.tensors());
        assert_eq!(shards.shards.len(), 4);
        assert_eq!(shards.total_bytes(), 2 * 8_030_261_248);
        for shard in &shards.shards {
            assert!(shard.iter().map(bytes_of).sum::<u64>() <= SHARD_BYTES);
        }
    }

    #[test]
    fn the_header_says_where_the_data_is() -> Result<()> {
        let shape = Shape::named("tiny")?;
        let tensors = shape.tensors();
        let header = header(&tensors)?;
        assert_eq!(header.len() % 8, 0);
        let value: Value = serde_json::from_slice(&header[8..])?;
        let embedding = &value["model.embed_tokens.weight"];
        assert_eq!(embedding["shape"], json!([512, 128]));
        assert_eq!(embedding["data_offsets"], json!([0, 512 * 128 * 2]));
        Ok(())
    }
}
