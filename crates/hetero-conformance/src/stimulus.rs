//! What tensors and weights hold before a run. Everything follows from the case, so that a failure comes back.

use std::convert::Infallible;
use std::sync::Arc;

use half::{bf16, f16};
use hetero_core::{
    Arrangement, Backend, BackendError, Op, Rows, StepParams, StoredBytes, ValueId, ValueKind, WeightFormat, WeightId,
    WeightLayout, WeightMatrix, quantize,
};

use crate::case::{Case, Cut, Fill, WeightPlace};
use crate::sentinel::{self, Image};

/// What each value of a case's graph holds before step `step_idx`, in the order of the values. State comes as for a
/// first step.
pub(crate) fn images(case: &Case, step_idx: usize) -> Vec<Image> {
    (0..case.graph.values().len()).map(|idx| image(case, step_idx, ValueId(idx))).collect()
}

/// The weights of a case's graph, in order, in memory of `backend`.
pub(crate) fn weights(case: &Case, backend: &dyn Backend) -> Result<Vec<Arc<WeightMatrix>>, BackendError> {
    (0..case.graph.weights().len()).map(|idx| weight(case, backend, WeightId(idx))).collect()
}

fn image(case: &Case, step_idx: usize, id: ValueId) -> Image {
    let graph = &case.graph;
    let value = graph.value(id);
    let desc = graph.tensor_desc(id);
    let step = case.steps[step_idx];
    let mut numbers = Numbers::new(&format!("{} value {} step {step_idx}", case.name(Cut::Whole), id.0));
    match value.kind {
        ValueKind::Input => {
            let vocabulary = vocabulary(case, id);
            let rows = match value.rows {
                Rows::Positions => step.rows,
                Rows::Fixed(rows) => rows,
            };
            Image::from_fn(desc, |row, _| match (row < rows, vocabulary) {
                (false, _) => sentinel::unused(desc.dtype),
                // The first and the last id are always asked for.
                (true, Some(vocabulary)) => match row {
                    0 => vocabulary as u32 - 1,
                    1 => 0,
                    _ => numbers.below(vocabulary),
                },
                (true, None) => sentinel::number(desc.dtype, numbers.next(case.inputs)),
            })
        }
        ValueKind::State => state(case, id, step, &mut numbers),
        _ => Image::sentinel(desc),
    }
}

/// A cache: known positions hold numbers, all others numbers so large that nobody can use them unnoticed. They are
/// finite, because a kernel may multiply what it masks with zero.
fn state(case: &Case, id: ValueId, step: StepParams, numbers: &mut Numbers) -> Image {
    let graph = &case.graph;
    let desc = graph.tensor_desc(id);
    let context = graph.nodes().iter().find_map(|node| match node.op {
        Op::CacheWrite { context, .. } if node.output == id => Some(context),
        Op::Attention { context, .. } if node.inputs.contains(&id) => Some(context),
        _ => None,
    });
    let context = context.expect("state is a cache that some node uses");
    let is_written = graph.nodes().iter().any(|node| node.output == id);
    let known = step.past + if is_written { 0 } else { step.rows };
    // Large scores are made by large queries alone; large values would drown the result.
    let fill = match case.inputs {
        Fill::Large => Fill::Random,
        other => other,
    };
    Image::from_fn(desc, |row, _| {
        let x =
            if row % context < known { numbers.next(fill) } else { 20_000.0 + 10_000.0 * numbers.next(Fill::Random) };
        sentinel::number(desc.dtype, x)
    })
}

fn vocabulary(case: &Case, id: ValueId) -> Option<usize> {
    let nodes = case.graph.nodes().iter();
    nodes.filter(|node| node.inputs.contains(&id)).find_map(|node| match node.op {
        Op::Embed { vocabulary, .. } => Some(vocabulary),
        _ => None,
    })
}

fn weight(case: &Case, backend: &dyn Backend, id: WeightId) -> Result<Arc<WeightMatrix>, BackendError> {
    let desc = &case.graph.weights()[id.0];
    let layout = desc.layout;
    let values = weight_values(case, id, &layout);
    let fill = |bytes: &mut [u8]| match layout.arrangement {
        Arrangement::Panels => {
            let rows = values.chunks(WeightLayout::PANEL_ROWS * layout.columns);
            for (rows, panel) in rows.zip(bytes.chunks_exact_mut(layout.panel_bytes())) {
                quantize::pack_panel(&layout, rows, panel);
            }
        }
        Arrangement::Rows => write_table(layout.format, &values, bytes),
    };
    Ok(match case.weight_memory {
        WeightPlace::Backend => {
            let tensor = WeightMatrix::allocate(&layout, backend)?;
            let built = WeightMatrix::build(&desc.name, layout, tensor, |bytes| {
                fill(bytes);
                Ok::<(), Infallible>(())
            });
            match built {
                Ok(matrix) => matrix,
                Err(never) => match never {},
            }
        }
        WeightPlace::UnalignedBytes => {
            let mut bytes = vec![0; layout.bytes() + 2];
            let start = 1 - bytes.as_ptr() as usize % 2;
            fill(&mut bytes[start..start + layout.bytes()]);
            WeightMatrix::from_bytes(&desc.name, layout, Arc::new(OddBytes { bytes, start }))
        }
    })
}

/// Bytes that begin on an odd address.
struct OddBytes {
    bytes: Vec<u8>,
    start: usize,
}

impl StoredBytes for OddBytes {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

fn weight_values(case: &Case, id: WeightId, layout: &WeightLayout) -> Vec<f32> {
    let graph = &case.graph;
    let mut numbers = Numbers::new(&format!("{} weight {}", case.name(Cut::Whole), id.0));
    let mut nodes = graph.nodes().iter();
    let node = nodes.find(|node| node.weights.contains(&id));
    let node = node.expect("every weight of a case is used");
    let is_first = node.weights[0] == id;
    // A matrix that keeps the magnitude of what it is applied to, so that deep graphs stay in the range of f16.
    let matrix_scale = (3.0 / layout.columns as f32).sqrt();
    (0..layout.rows * layout.columns)
        .map(|_| match node.op {
            Op::Linear { .. } if is_first => matrix_scale * numbers.next(case.weights),
            Op::Embed { .. } => numbers.next(case.inputs),
            Op::RmsNorm { .. } => 1.0 + 0.5 * numbers.next(Fill::Random),
            _ => numbers.next(Fill::Random),
        })
        .collect()
}

fn write_table(format: WeightFormat, values: &[f32], bytes: &mut [u8]) {
    let size = format.element_bits() / 8;
    for (x, element) in values.iter().zip(bytes.chunks_exact_mut(size)) {
        match format {
            WeightFormat::F16 => element.copy_from_slice(&f16::from_f32(*x).to_le_bytes()),
            WeightFormat::Bf16 => element.copy_from_slice(&bf16::from_f32(*x).to_le_bytes()),
            _ => element.copy_from_slice(&x.to_le_bytes()),
        }
    }
}

/// Numbers that look random and follow from a name.
struct Numbers {
    state: u64,
}

impl Numbers {
    fn new(name: &str) -> Numbers {
        // FNV-1a.
        let state = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        Numbers { state }
    }

    fn next(&mut self, fill: Fill) -> f32 {
        match fill {
            Fill::Equal => 0.75,
            Fill::Large => 10_000.0 * self.uniform(),
            Fill::NegativeZero => -0.0,
            Fill::Random => self.uniform(),
            Fill::Tiny => self.uniform() / 8192.0,
            Fill::Zeros => 0.0,
        }
    }

    fn below(&mut self, n: usize) -> u32 {
        (self.bits() % n as u64) as u32
    }

    /// Between -1 and 1, 24 bits of it.
    fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// splitmix64.
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
