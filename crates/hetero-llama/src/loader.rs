//! Weights from a checkpoint into the layout that processors share.
//!
//! One tensor at a time: its rows are read from the mapped file, put into panels in memory that a backend has
//! allocated, and the file's pages are given back. So the process never holds more than the finished weights and one
//! tensor of the file. The embedding table stays in the mapped file, because a step reads a few of its rows.

use std::collections::HashMap;
use std::sync::Arc;

use hetero_core::quantize::pack_panel;
use hetero_core::{Backend, DType, TensorDesc, WeightFormat, WeightLayout, WeightMatrix};
use hetero_sched::SchedError;

use crate::LlamaError;
use crate::graph::{LayerWeight, ModelGraph, WeightKey};
use crate::weights::{Linear, Matrix, ModelTensors, Vector};

/// How far loading has come.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress<'a> {
    /// The weight that has just been loaded.
    pub name: &'a str,
    /// Bytes of the checkpoint that have been read.
    pub done_bytes: u64,
    /// Bytes of the checkpoint that have to be read.
    pub total_bytes: u64,
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

/// Loads what `graph` needs into memory of `allocator`, on `n_threads` threads.
pub fn load(
    tensors: &ModelTensors,
    graph: &ModelGraph,
    allocator: &dyn Backend,
    n_threads: usize,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<LoadedWeights, LlamaError> {
    let sources: Vec<Source<'_>> = graph.weights.iter().map(|&key| source(tensors, key)).collect();
    let total_bytes = sources.iter().map(Source::read_bytes).sum();
    let mut done_bytes = 0;
    let mut matrices = HashMap::with_capacity(graph.weights.len());
    for ((&key, desc), source) in graph.weights.iter().zip(graph.graph.weights()).zip(&sources) {
        let matrix = match source {
            Source::Table(table) => {
                WeightMatrix::from_bytes(&desc.name, desc.layout, Arc::new(table.source.clone()))
            }
            Source::Vector(vector) => {
                let values = vector.read_f32();
                WeightMatrix::from_bytes(&desc.name, desc.layout, Arc::new(FloatTable(values)))
            }
            Source::Matrix(matrix) => packed(&desc.name, desc.layout, matrix, allocator, n_threads)?,
        };
        matrices.insert(key, matrix);
        done_bytes += source.read_bytes();
        progress(LoadProgress { name: &desc.name, done_bytes, total_bytes });
    }
    Ok(LoadedWeights { matrices })
}

/// The format in which a stored tensor of this type is held without loss.
pub fn format_of(dtype: DType) -> WeightFormat {
    match dtype {
        DType::F16 => WeightFormat::F16,
        DType::BF16 => WeightFormat::Bf16,
        _ => WeightFormat::F32,
    }
}

/// Where a weight comes from and what becomes of it.
enum Source<'a> {
    /// A table that stays in the file.
    Table(&'a Matrix),
    /// A matrix that is put into panels.
    Matrix(&'a Matrix),
    /// One row of numbers: a norm or a bias.
    Vector(&'a Vector),
}

impl Source<'_> {
    /// Bytes of the checkpoint that are read while loading.
    fn read_bytes(&self) -> u64 {
        match self {
            Source::Table(_) => 0,
            Source::Matrix(matrix) => (matrix.rows * matrix.columns * matrix.source.dtype().size()) as u64,
            Source::Vector(vector) => (vector.len * vector.source.dtype().size()) as u64,
        }
    }
}

fn source(tensors: &ModelTensors, key: WeightKey) -> Source<'_> {
    let (layer, weight) = match key {
        WeightKey::Embedding => return Source::Table(&tensors.embedding),
        WeightKey::OutputNorm => return Source::Vector(&tensors.final_norm),
        WeightKey::OutputHead => return Source::Matrix(&tensors.head),
        WeightKey::Layer { layer, weight } => (&tensors.layers[layer], weight),
    };
    match weight {
        LayerWeight::AttentionNorm => Source::Vector(&layer.attention_norm),
        LayerWeight::Query => matrix(&layer.query),
        LayerWeight::QueryBias => bias(&layer.query),
        LayerWeight::Key => matrix(&layer.key),
        LayerWeight::KeyBias => bias(&layer.key),
        LayerWeight::Value => matrix(&layer.value),
        LayerWeight::ValueBias => bias(&layer.value),
        LayerWeight::AttentionOutput => matrix(&layer.attention_output),
        LayerWeight::AttentionOutputBias => bias(&layer.attention_output),
        LayerWeight::FeedForwardNorm => Source::Vector(&layer.feed_forward_norm),
        LayerWeight::Gate => matrix(&layer.gate),
        LayerWeight::GateBias => bias(&layer.gate),
        LayerWeight::Up => matrix(&layer.up),
        LayerWeight::UpBias => bias(&layer.up),
        LayerWeight::Down => matrix(&layer.down),
        LayerWeight::DownBias => bias(&layer.down),
    }
}

fn matrix(linear: &Linear) -> Source<'_> {
    Source::Matrix(&linear.matrix)
}

fn bias(linear: &Linear) -> Source<'_> {
    let bias = linear.bias.as_ref();
    Source::Vector(bias.expect("the graph and the tensors follow the same configuration"))
}

/// Puts a stored matrix into panels, each thread a run of them, and gives the file's pages back.
fn packed(
    name: &str,
    layout: WeightLayout,
    matrix: &Matrix,
    allocator: &dyn Backend,
    n_threads: usize,
) -> Result<Arc<WeightMatrix>, LlamaError> {
    matrix.source.check()?;
    let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let tensor = allocator.allocate(&desc).map_err(SchedError::from)?;
    let panels_per_thread = layout.n_panels().div_ceil(n_threads.max(1));
    let fill = |bytes: &mut [u8]| {
        std::thread::scope(|scope| {
            for (run, bytes) in bytes.chunks_mut(panels_per_thread * layout.panel_bytes()).enumerate() {
                scope.spawn(move || pack_panels(&layout, matrix, run * panels_per_thread, bytes));
            }
        });
        Ok(())
    };
    let packed = WeightMatrix::build(name, layout, tensor, fill);
    matrix.source.release();
    packed
}

/// Fills whole panels, of which `first_panel` is the first.
fn pack_panels(layout: &WeightLayout, matrix: &Matrix, first_panel: usize, bytes: &mut [u8]) {
    let mut rows = vec![0.0; WeightLayout::PANEL_ROWS * layout.columns];
    for (i, panel) in bytes.chunks_exact_mut(layout.panel_bytes()).enumerate() {
        let first_row = (first_panel + i) * WeightLayout::PANEL_ROWS;
        let n_rows = WeightLayout::PANEL_ROWS.min(layout.rows - first_row);
        for (r, row) in rows.chunks_exact_mut(layout.columns).take(n_rows).enumerate() {
            matrix.read_row_f32(first_row + r, row);
        }
        pack_panel(layout, &rows[..n_rows * layout.columns], panel);
    }
}

/// A small table of floats as bytes.
struct FloatTable(Vec<f32>);

impl AsRef<[u8]> for FloatTable {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
