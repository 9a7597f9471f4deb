//! A system on a chip as data: what its processors and their common memory can do, read from a TOML file.
//!
//! In the file every parameter is an inline table with its value under the name of its unit, a source and a
//! confidence, such as `combined = { gb_per_s = 61.9, source = "...", confidence = "paper" }`. In this module all
//! numbers are in SI units: seconds, bytes, operations, watts, joules, and per second where it says so.
//! `docs/simulator.md` explains how to write a file for one's own device.

mod check;
mod error;
mod quantity;

use std::fs;
use std::path::Path;

use hetero_core::DeviceKind;
use serde::Deserialize;

pub use error::SocError;
use quantity as q;

/// A system on a chip: three processors on one memory bus, and the host program's own costs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Soc {
    /// The name by which users choose it.
    pub name: String,
    /// For people: what it stands for and how its numbers came about.
    pub description: String,
    /// What the host program costs.
    pub host: Host,
    /// The memory that all processors share.
    pub bus: Bus,
    /// Central processor.
    pub cpu: Processor<CpuKernels>,
    /// Graphics processor.
    pub gpu: Processor<GpuKernels>,
    /// Neural processor.
    pub npu: Processor<NpuKernels>,
    /// What graphs the neural processor takes.
    pub npu_limits: NpuLimits,
}

/// What the program that drives the processors costs, apart from submitting and waiting.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The shortest sleep that the operating system grants, in seconds.
    #[serde(rename = "sleep", deserialize_with = "q::read::<q::Us, _>")]
    pub sleep_seconds: f64,
}

/// The memory bus.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// What the memory chips could deliver in theory, in bytes per second.
    #[serde(rename = "peak", deserialize_with = "q::read::<q::GbPerS, _>")]
    pub peak_bytes_per_second: f64,
    /// What all processors together reach, in bytes per second.
    #[serde(rename = "combined", deserialize_with = "q::read::<q::GbPerS, _>")]
    pub combined_bytes_per_second: f64,
}

/// One processor; `Kernels` holds how it multiplies matrices.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor<Kernels> {
    /// For people: the product's name.
    pub description: String,
    /// What it reads and writes when it is alone, in bytes per second.
    #[serde(rename = "bandwidth", deserialize_with = "q::read::<q::GbPerS, _>")]
    pub bytes_per_second: f64,
    /// Arithmetic operations per second of all operators but the linear one.
    #[serde(rename = "vector", deserialize_with = "q::read::<q::Gflops, _>")]
    pub vector_operations_per_second: f64,
    /// What each operator costs beside its work, in seconds: starting a kernel, a barrier between threads.
    #[serde(rename = "node", deserialize_with = "q::read::<q::Us, _>")]
    pub node_seconds: f64,
    /// How it multiplies matrices.
    pub kernels: Kernels,
    /// What driving it costs.
    pub overheads: Overheads,
    /// What making a segment ready for it costs.
    pub compile: Compile,
    /// What it draws.
    pub power: Power,
}

/// Linear operators on the CPU: the larger of the arithmetic and of reading the weights once.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuKernels {
    /// Operations per second, a multiplication and an addition counted as two.
    #[serde(rename = "rate", deserialize_with = "q::read::<q::Gflops, _>")]
    pub operations_per_second: f64,
}

/// Linear operators on the GPU. Few rows read the quantised weights once a row; many rows first expand the weights and
/// then run at the plateau, whichever is faster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuKernels {
    /// Operations per second where memory is not what it waits for.
    #[serde(rename = "plateau", deserialize_with = "q::read::<q::Tflops, _>")]
    pub operations_per_second: f64,
    /// Quantised weights expanded to floats per second, before a product of many rows.
    #[serde(rename = "expand", deserialize_with = "q::read::<q::GweightsPerS, _>")]
    pub expanded_weights_per_second: f64,
}

/// Linear operators on the NPU: an array of matrix units that holds one operand, tile by tile, while the other streams
/// through it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NpuKernels {
    /// The units for float activations: segments of more than one row, and weights that are not quantised.
    pub float: MatrixUnits,
    /// The units for integers: quantised weights and a single row.
    pub integer: MatrixUnits,
    /// Weights per second that are brought from memory into the form of the array, at most.
    #[serde(rename = "unpack", deserialize_with = "q::read::<q::GweightsPerS, _>")]
    pub unpacked_weights_per_second: f64,
    /// Input features up to which the array works at full speed.
    #[serde(rename = "depth", deserialize_with = "q::read::<q::Columns, _>")]
    pub full_speed_columns: f64,
    /// Beyond that, unpacking and multiplying take turns, and both take `(input features / full_speed_columns)` to this power times as long.
    #[serde(rename = "depth_power", deserialize_with = "q::read::<q::Factor, _>")]
    pub depth_power: f64,
}

/// One kind of matrix units.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixUnits {
    /// Operations per second while rows stream through the array.
    #[serde(rename = "rate", deserialize_with = "q::read::<q::Tflops, _>")]
    pub operations_per_second: f64,
    /// Putting another tile into the array takes as long as streaming so many rows.
    #[serde(rename = "stall", deserialize_with = "q::read::<q::RowCount, _>")]
    pub stall_rows: f64,
}

/// What NPU graphs may be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NpuLimits {
    /// Rows and columns of the array; every dimension is filled up to a multiple of it.
    #[serde(deserialize_with = "q::read_count::<q::TileCount, _>")]
    pub tile: usize,
    /// Graphs that may be alive at a time.
    #[serde(deserialize_with = "q::read_count::<q::Graphs, _>")]
    pub max_graphs: usize,
    /// Bytes of one graph with its weights, at most.
    #[serde(deserialize_with = "q::read_bytes::<q::Mib, _>")]
    pub max_graph_bytes: u64,
    /// A graph's attention covers a KV length that is a multiple of this, because its shape is fixed.
    #[serde(rename = "kv_step", deserialize_with = "q::read_count::<q::Positions, _>")]
    pub kv_step_positions: usize,
}

/// What driving one processor costs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overheads {
    /// Host time to put a submission on a queue that has work, in seconds.
    #[serde(rename = "submit", deserialize_with = "q::read::<q::Us, _>")]
    pub submit_seconds: f64,
    /// Host time in addition when the queue has run empty, in seconds.
    #[serde(rename = "submit_idle", deserialize_with = "q::read::<q::Us, _>")]
    pub submit_idle_seconds: f64,
    /// From completion to the host going on, when it waits by blocking, in seconds.
    #[serde(rename = "wait", deserialize_with = "q::read::<q::Us, _>")]
    pub wait_seconds: f64,
    /// Host time for one look at the counter of finished submissions, in seconds.
    #[serde(rename = "poll", deserialize_with = "q::read::<q::Us, _>")]
    pub poll_seconds: f64,
    /// Processor time before each submission, in seconds.
    #[serde(rename = "start", deserialize_with = "q::read::<q::Us, _>")]
    pub start_seconds: f64,
    /// Host time for one copy through the driver, beside the bytes, in seconds.
    #[serde(rename = "copy", deserialize_with = "q::read::<q::Us, _>")]
    pub copy_seconds: f64,
    /// Bytes per second of such a copy.
    #[serde(rename = "copy_rate", deserialize_with = "q::read::<q::GbPerS, _>")]
    pub copy_bytes_per_second: f64,
}

/// What making a segment ready costs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compile {
    /// For each segment, in seconds.
    #[serde(rename = "graph", deserialize_with = "q::read::<q::Ms, _>")]
    pub graph_seconds: f64,
    /// For each tile of work in it (see [`crate::cost::compile_seconds`]), in seconds.
    #[serde(rename = "tile", deserialize_with = "q::read::<q::Ns, _>")]
    pub tile_seconds: f64,
}

/// What a processor draws: the sum of all four.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// Always, in watts.
    #[serde(rename = "idle", deserialize_with = "q::read::<q::Watts, _>")]
    pub idle_watts: f64,
    /// While it works, in addition, in watts.
    #[serde(rename = "active", deserialize_with = "q::read::<q::Watts, _>")]
    pub active_watts: f64,
    /// For each byte that it reads or writes, the memory chips' part included.
    #[serde(rename = "byte", deserialize_with = "q::read::<q::Picojoules, _>")]
    pub joules_per_byte: f64,
    /// For each arithmetic operation.
    #[serde(rename = "operation", deserialize_with = "q::read::<q::Picojoules, _>")]
    pub joules_per_operation: f64,
}

/// The files that are part of the program.
const BUILTIN: [(&str, &str); 3] = [
    ("snapdragon-8-gen-3", include_str!("../../soc/snapdragon-8-gen-3.toml")),
    ("snapdragon-8-elite", include_str!("../../soc/snapdragon-8-elite.toml")),
    ("laptop-generic", include_str!("../../soc/laptop-generic.toml")),
];

impl Soc {
    /// A system that is part of the program; `None` when there is none of that name.
    pub fn builtin(name: &str) -> Option<Soc> {
        let text = Self::builtin_text(name)?;
        let soc = Self::parse(text, Path::new(&format!("{name}.toml")));
        Some(soc.unwrap_or_else(|error| panic!("{error}")))
    }

    /// The names of the systems that are part of the program.
    pub fn builtin_names() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// The file of a system that is part of the program: a start for one's own.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// Reads a system from the text of a file; the path is for messages only.
    pub fn parse(text: &str, file: &Path) -> Result<Soc, SocError> {
        let invalid = |key: &str, span: Option<std::ops::Range<usize>>, problem: String| {
            let line = span.map(|span| check::line_of_offset(text, span.start));
            SocError::Invalid { file: file.to_owned(), line, key: key.to_owned(), problem }
        };
        let syntax = |error: toml::de::Error| invalid("", error.span(), error.message().to_owned());
        let deserializer = toml::Deserializer::parse(text).map_err(syntax)?;
        let soc: Soc = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let key = check::shown_key(&error.path().to_string());
            let error = error.into_inner();
            invalid(&key, error.span(), error.message().to_owned())
        })?;
        match check::contradiction(&soc) {
            Some((key, problem)) => Err(invalid(key, check::span_of(text, key), problem)),
            None => Ok(soc),
        }
    }

    /// A built-in system by its name, or else a file by its path.
    pub fn load(name_or_path: &str) -> Result<Soc, SocError> {
        if let Some(soc) = Self::builtin(name_or_path) {
            return Ok(soc);
        }
        let path = Path::new(name_or_path);
        let looks_like_a_file = path.extension().is_some() || path.components().count() > 1 || path.exists();
        if !looks_like_a_file {
            return Err(SocError::Unknown { name: name_or_path.to_owned() });
        }
        let text = fs::read_to_string(path).map_err(|error| SocError::Unreadable { file: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// What driving a processor costs.
    pub fn overheads(&self, kind: DeviceKind) -> &Overheads {
        match kind {
            DeviceKind::Cpu => &self.cpu.overheads,
            DeviceKind::Gpu => &self.gpu.overheads,
            DeviceKind::Npu => &self.npu.overheads,
        }
    }

    /// What a processor draws.
    pub fn power(&self, kind: DeviceKind) -> &Power {
        match kind {
            DeviceKind::Cpu => &self.cpu.power,
            DeviceKind::Gpu => &self.gpu.power,
            DeviceKind::Npu => &self.npu.power,
        }
    }

    /// What making a segment ready for a processor costs.
    pub fn compile(&self, kind: DeviceKind) -> &Compile {
        match kind {
            DeviceKind::Cpu => &self.cpu.compile,
            DeviceKind::Gpu => &self.gpu.compile,
            DeviceKind::Npu => &self.npu.compile,
        }
    }

    /// Bytes per second that a processor reads and writes when it is alone.
    pub fn bytes_per_second(&self, kind: DeviceKind) -> f64 {
        match kind {
            DeviceKind::Cpu => self.cpu.bytes_per_second,
            DeviceKind::Gpu => self.gpu.bytes_per_second,
            DeviceKind::Npu => self.npu.bytes_per_second,
        }
    }

    /// The name of a processor's product, for people.
    pub fn processor_description(&self, kind: DeviceKind) -> &str {
        match kind {
            DeviceKind::Cpu => &self.cpu.description,
            DeviceKind::Gpu => &self.gpu.description,
            DeviceKind::Npu => &self.npu.description,
        }
    }
}
