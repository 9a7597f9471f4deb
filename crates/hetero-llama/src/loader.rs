//! Weights from a checkpoint into the layout that processors share.
//!
//! One tensor at a time: its rows are read from the mapped file, put into panels in memory that a backend has
//! allocated, and the file's pages are given back. So the process never holds more than the finished weights and one
//! tensor of the file. The embedding table stays in the mapped file, because a step reads a few of its rows.

use std::collections::HashMap;
use std::sync::Arc;

use hetero_core::graph::WeightDesc;
use hetero_core::quantize::pack_panel;
use hetero_core::{Arrangement, Backend, DType, StoredBytes, Tensor, WeightFormat, WeightLayout, WeightMatrix};
use hetero_sched::SchedError;

use crate::LlamaError;
use crate::config::ModelConfig;
use crate::graph::{LayerWeight, ModelGraph, WeightKey};
use crate::packed::PackedCheckpoint;
use crate::weights::{Linear, Matrix, ModelTensors, RawTensor, SourceRows, TensorRef};

/// How far loading has come.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress<'a> {
    /// What is being done.
    pub stage: LoadStage,
    /// The weight that has just been loaded, or the operator that has been measured.
    pub name: &'a str,
    /// Bytes of the checkpoint that have been read, or measurements that have been made.
    pub done: u64,
    /// Bytes of the checkpoint that have to be read, or measurements that have to be made.
    pub total: u64,
}

/// The parts of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStage {
    /// Weights come into memory.
    Weights,
    /// Processors are measured.
    Measuring,
}

/// The weights of a model, by what they are.
#[derive(Clone, Debug)]
pub struct LoadedWeights {
    matrices: HashMap<WeightKey, Arc<WeightMatrix>>,
}

impl LoadedWeights {
    /// The weights of a graph, in its order.
    ///
    /// # Panics
    /// When the graph is of another model.
    pub fn for_graph(&self, graph: &ModelGraph) -> Vec<Arc<WeightMatrix>> {
        graph.weights.iter().map(|key| Arc::clone(&self.matrices[key])).collect()
    }

    /// Bytes held in memory; what stays in the mapped file is not counted.
    pub fn resident_bytes(&self) -> u64 {
        self.matrices.values().filter_map(|matrix| matrix.tensor()).map(|tensor| tensor.desc().bytes() as u64).sum()
    }
}

/// A model's weights as they are stored.
pub(crate) enum StoredWeights {
    /// As numbers, under the names of the model's architecture.
    Tensors(Box<ModelTensors>),
    /// In panels, under hetero's own names.
    Packed(PackedCheckpoint),
}

/// Where one weight comes from.
pub(crate) enum Source {
    /// A table that stays in the file.
    Table(TensorRef),
    /// A matrix that is put into panels.
    Matrix(Matrix),
    /// A matrix that is stored in panels.
    Packed(RawTensor),
    /// One row of numbers: a norm or a bias.
    Vector(Vec<f32>),
}

/// Loads what `graph` needs into memory of `allocator`, on `n_threads` threads.
pub(crate) fn load(
    stored: &StoredWeights,
    graph: &ModelGraph,
    allocator: &dyn Backend,
    n_threads: usize,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<LoadedWeights, LlamaError> {
    let mut sources = Vec::with_capacity(graph.weights.len());
    for (&key, desc) in graph.weights.iter().zip(graph.graph.weights()) {
        sources.push(stored.source(key, desc)?);
    }
    let total_bytes = sources.iter().map(Source::read_bytes).sum();
    let mut done_bytes = 0;
    let mut matrices = HashMap::with_capacity(graph.weights.len());
    for ((&key, desc), source) in graph.weights.iter().zip(graph.graph.weights()).zip(sources) {
        done_bytes += source.read_bytes();
        let (name, layout) = (&desc.name, desc.layout);
        let matrix = match source {
            Source::Table(table) => WeightMatrix::from_bytes(name, layout, Arc::new(table)),
            Source::Vector(values) => WeightMatrix::from_bytes(name, layout, Arc::new(FloatTable(values))),
            Source::Matrix(matrix) => {
                matrix.source.check()?;
                let tensor = allocate(layout, allocator)?;
                let built = WeightMatrix::build(name, layout, tensor, |bytes| {
                    fill_panels(&layout, &matrix, n_threads, bytes);
                    Ok::<(), LlamaError>(())
                });
                matrix.source.release();
                built?
            }
            Source::Packed(panels) => {
                panels.check()?;
                let tensor = allocate(layout, allocator)?;
                WeightMatrix::build(name, layout, tensor, |bytes| {
                    panels.copy_and_release(bytes);
                    Ok::<(), LlamaError>(())
                })?
            }
        };
        matrices.insert(key, matrix);
        progress(LoadProgress { stage: LoadStage::Weights, name, done: done_bytes, total: total_bytes });
    }
    Ok(LoadedWeights { matrices })
}

/// The format in which a stored tensor of this type is held without loss.
pub(crate) fn format_of(dtype: DType) -> WeightFormat {
    match dtype {
        DType::F16 => WeightFormat::F16,
        DType::BF16 => WeightFormat::Bf16,
        _ => WeightFormat::F32,
    }
}

/// Puts a stored matrix into panels, each thread a run of them. `bytes` is `layout.bytes()` long.
pub(crate) fn fill_panels(layout: &WeightLayout, matrix: &Matrix, n_threads: usize, bytes: &mut [u8]) {
    let panels_per_thread = layout.n_panels().div_ceil(n_threads.max(1));
    std::thread::scope(|scope| {
        for (run, bytes) in bytes.chunks_mut(panels_per_thread * layout.panel_bytes()).enumerate() {
            scope.spawn(move || pack_panels(layout, matrix, run * panels_per_thread, bytes));
        }
    });
}

impl StoredWeights {
    /// Element type of the embedding table.
    pub(crate) fn embedding_dtype(&self, config: &ModelConfig) -> Result<DType, LlamaError> {
        match self {
            StoredWeights::Tensors(tensors) => Ok(tensors.embedding.source.dtype()),
            StoredWeights::Packed(packed) => packed.table_dtype(&WeightKey::Embedding.to_string(), config),
        }
    }

    /// Where a weight of a graph comes from.
    pub(crate) fn source(&self, key: WeightKey, desc: &WeightDesc) -> Result<Source, LlamaError> {
        let packed = match self {
            StoredWeights::Tensors(tensors) => return Ok(tensor_source(tensors, key)),
            StoredWeights::Packed(packed) => packed,
        };
        let layout = &desc.layout;
        if layout.arrangement == Arrangement::Panels {
            return Ok(Source::Packed(packed.panels(&desc.name, layout)?));
        }
        let table = packed.table(&desc.name, layout.rows, layout.columns)?;
        if key == WeightKey::Embedding {
            return Ok(Source::Table(table));
        }
        let mut values = vec![0.0; layout.columns];
        table.read_row_f32(0, &mut values);
        Ok(Source::Vector(values))
    }
}

impl Source {
    /// Bytes of the checkpoint that are read while loading.
    fn read_bytes(&self) -> u64 {
        match self {
            Source::Table(_) => 0,
            Source::Matrix(matrix) => (matrix.rows * matrix.columns * matrix.source.dtype().size()) as u64,
            Source::Packed(panels) => panels.bytes().len() as u64,
            Source::Vector(values) => size_of_val(&values[..]) as u64,
        }
    }
}

fn tensor_source(tensors: &ModelTensors, key: WeightKey) -> Source {
    let (layer, weight) = match key {
        WeightKey::Embedding => return Source::Table(tensors.embedding.source.clone()),
        WeightKey::OutputNorm => return Source::Vector(tensors.final_norm.read_f32()),
        WeightKey::OutputHead => return Source::Matrix(tensors.head.clone()),
        WeightKey::Layer { layer, weight } => (&tensors.layers[layer], weight),
    };
    match weight {
        LayerWeight::AttentionNorm => Source::Vector(layer.attention_norm.read_f32()),
        LayerWeight::Query => matrix(&layer.query),
        LayerWeight::QueryBias => bias(&layer.query),
        LayerWeight::Key => matrix(&layer.key),
        LayerWeight::KeyBias => bias(&layer.key),
        LayerWeight::Value => matrix(&layer.value),
        LayerWeight::ValueBias => bias(&layer.value),
        LayerWeight::AttentionOutput => matrix(&layer.attention_output),
        LayerWeight::AttentionOutputBias => bias(&layer.attention_output),
        LayerWeight::FeedForwardNorm => Source::Vector(layer.feed_forward_norm.read_f32()),
        LayerWeight::Gate => matrix(&layer.gate),
        LayerWeight::GateBias => bias(&layer.gate),
        LayerWeight::Up => matrix(&layer.up),
        LayerWeight::UpBias => bias(&layer.up),
        LayerWeight::Down => matrix(&layer.down),
        LayerWeight::DownBias => bias(&layer.down),
    }
}

fn matrix(linear: &Linear) -> Source {
    Source::Matrix(linear.matrix.clone())
}

fn bias(linear: &Linear) -> Source {
    let bias = linear.bias.as_ref();
    Source::Vector(bias.expect("the graph and the tensors follow the same configuration").read_f32())
}

fn allocate(layout: WeightLayout, allocator: &dyn Backend) -> Result<Arc<dyn Tensor>, LlamaError> {
    Ok(WeightMatrix::allocate(&layout, allocator).map_err(SchedError::from)?)
}

/// Fills whole panels, of which `first_panel` is the first, and gives the file's pages back while going on: the largest
/// tensor of a model, its embedding, may be as large as all the rest.
fn pack_panels(layout: &WeightLayout, matrix: &Matrix, first_panel: usize, bytes: &mut [u8]) {
    const RELEASE_BYTES: usize = 4 << 20;
    let row_bytes = matrix.columns * matrix.source.dtype().size();
    let mut rows = vec![0.0; WeightLayout::PANEL_ROWS * layout.columns];
    let mut kept_from = first_panel * WeightLayout::PANEL_ROWS;
    for (i, panel) in bytes.chunks_exact_mut(layout.panel_bytes()).enumerate() {
        let first_row = (first_panel + i) * WeightLayout::PANEL_ROWS;
        let n_rows = WeightLayout::PANEL_ROWS.min(layout.rows - first_row);
        for (r, row) in rows.chunks_exact_mut(layout.columns).take(n_rows).enumerate() {
            matrix.read_row_f32(first_row + r, row);
        }
        pack_panel(layout, &rows[..n_rows * layout.columns], panel);
        let done_to = first_row + n_rows;
        if matrix.selection == SourceRows::All && (done_to - kept_from) * row_bytes >= RELEASE_BYTES {
            matrix.source.release_rows(kept_from..done_to);
            kept_from = done_to;
        }
    }
}

/// A small table of floats as bytes.
struct FloatTable(Vec<f32>);

impl StoredBytes for FloatTable {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
