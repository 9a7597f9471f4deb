//! What was measured of the devices, how it is kept, and what is predicted from it.
//!
//! - [`bus`]: how much of the memory bus operators take.
//! - [`mod@measure`]: runs the operators of a model on every device through the `Backend` trait.
//! - [`store`]: keeps a [`Profile`] as JSON and refuses one that does not fit the devices at hand; [`folder`]: which file
//!   is whose.
//! - [`predict`]: seconds of what was not measured, with the error on points that were held out.
//! - [`online`]: corrects predictions by what runs measure, and says when they drift.
//!
//! All times are in seconds. [`crate::cost::ProfiledCosts`] answers the solver from a profile.

pub mod bus;
pub mod folder;
pub mod measure;
pub mod online;
pub mod predict;
pub mod store;

mod overheads;
mod points;
mod probe;
mod repeat;
mod together;

pub use bus::{Bus, Traffic};
pub use folder::ProfileFolder;
pub use measure::{BlankWeight, Failure, MeasureOptions, Measured, Progress, measure, measure_all};
pub use store::ProfileError;

use hetero_core::{DeviceInfo, DeviceKind, Op, OpSpec};
use serde::{Deserialize, Serialize};

use measure::NOISE;

/// The version of the file format; a profile in another one is not read.
pub const FORMAT: u32 = 5;

/// The measurements of devices that work together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// [`FORMAT`].
    pub format: u32,
    /// The devices, in the order in which they were given.
    pub devices: Vec<DeviceProfile>,
    /// How devices slow each other down at the same operator: what counts where there is no bus.
    pub together: Vec<Together>,
    /// The memory bus that they share; `None` until it was measured.
    pub bus: Option<Bus>,
}

/// The measurements of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// Which device; measurements of another one are void.
    pub identity: Identity,
    /// What starting work and waiting for it cost.
    pub overheads: MeasuredOverheads,
    /// The operators.
    pub operators: Vec<OperatorProfile>,
}

/// What must be the same for measurements to count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The device's name.
    pub name: String,
    /// `cpu`, `gpu` or `npu`.
    pub kind: String,
    /// Product, instruction set, threads.
    pub description: String,
    /// Version of backend and driver.
    pub version: String,
    /// Version of the computing kernels and of the system's kernel, as the caller gives it.
    pub kernel_version: String,
}

/// What starting work on a device and waiting for it cost, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredOverheads {
    /// Of the host, for one submission.
    pub submit_seconds: f64,
    /// By which a submission takes longer when the queue has run empty, or its work starts later.
    pub submit_idle_seconds: f64,
    /// Of the device, between a submission and the next one that is queued behind it.
    pub start_seconds: f64,
    /// From completion until the host knows it, when it polls.
    pub poll_sync_seconds: f64,
    /// From completion until the host knows it, when it blocks.
    pub block_sync_seconds: f64,
    /// Of the host, to copy out of the device's memory or into it, however little.
    pub copy_seconds: f64,
    /// The same for each byte, besides.
    pub copy_seconds_per_byte: f64,
    /// By which the fastest runs of a submission differ: how far the others can be trusted.
    pub error_seconds: f64,
}

/// The measurements of one operator on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorProfile {
    /// What [`operator_key`] says.
    pub operator: String,
    /// Bytes that the device holds of its own for each weight row.
    pub own_bytes_per_column: f64,
    /// The measurements.
    pub samples: Vec<Sample>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Positions.
    pub rows: usize,
    /// Positions before them.
    pub past: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Whether the weights stayed in the array.
    pub is_weight_stationary: bool,
    /// How long the device was occupied.
    pub seconds: f64,
    /// How long compiling took.
    pub compile_seconds: f64,
    /// The part of `seconds` by which the fastest runs differ: how far it can be trusted. Zero where time is simulated.
    pub error: f64,
    /// By which part half of the runs took longer than the fastest: how much else the machine had to do.
    pub spread: f64,
}

/// How much the machine did besides while devices were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Noise {
    /// By which part runs took longer than the fastest, or the fastest differ, in the median over all measurements.
    pub spread: f64,
    /// The part of the measurements that are worth being made again.
    pub noisy_share: f64,
}

impl Noise {
    /// Whether so many measurements are doubtful that plans are.
    pub fn is_busy(&self) -> bool {
        self.spread > NOISE || self.noisy_share > MOST_NOISY
    }
}

/// Of measurements that are noisy, no more than this part is usual on a machine that does little else.
const MOST_NOISY: f64 = 0.25;

/// How much slower devices are when they run together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Together {
    /// Indices of the devices.
    pub devices: Vec<usize>,
    /// Positions of the operators that ran.
    pub rows: usize,
    /// For each of the devices, its time together over its time alone, at least 1.
    pub slowdowns: Vec<f64>,
}

impl Identity {
    /// The identity of a device under kernels of a version.
    pub fn of(info: &DeviceInfo, kernel_version: &str) -> Identity {
        Identity {
            name: info.name.clone(),
            kind: info.kind.to_string(),
            description: info.description.clone(),
            version: info.version.clone(),
            kernel_version: kernel_version.to_owned(),
        }
    }

    /// The device's kind.
    pub fn device_kind(&self) -> Option<DeviceKind> {
        [DeviceKind::Cpu, DeviceKind::Gpu, DeviceKind::Npu].into_iter().find(|kind| kind.to_string() == self.kind)
    }
}

impl MeasuredOverheads {
    /// What a submission that nothing else overlaps takes besides the work itself.
    fn seconds(&self) -> f64 {
        self.submit_seconds + self.submit_idle_seconds + self.start_seconds + self.poll_sync_seconds
    }
}

impl Sample {
    /// How much is doubtful about it: its error, and that of a machine that was busy all the time, as a part of it.
    fn noise(&self) -> f64 {
        self.error.max(self.spread)
    }

    /// Whether it was made while the machine was busy, so that it is worth being made again.
    pub fn is_noisy(&self) -> bool {
        self.noise() > NOISE
    }
}

impl Profile {
    /// How much else the machine did while devices were measured: by which part half of the runs took longer than the
    /// fastest, in the median over all measurements; and the part of the measurements that are noisy.
    pub fn noise(&self) -> Noise {
        let samples =
            || self.devices.iter().flat_map(|device| &device.operators).flat_map(|operator| &operator.samples);
        let mut spreads: Vec<f64> = samples().map(Sample::noise).collect();
        spreads.sort_by(f64::total_cmp);
        let n_noisy = samples().filter(|sample| sample.is_noisy()).count();
        Noise {
            spread: spreads.get(spreads.len() / 2).copied().unwrap_or(0.0),
            noisy_share: n_noisy as f64 / spreads.len().max(1) as f64,
        }
    }

    /// Measurements of single operators, of all devices.
    pub fn n_samples(&self) -> usize {
        self.devices.iter().flat_map(|device| &device.operators).map(|operator| operator.samples.len()).sum()
    }
}

impl DeviceProfile {
    /// The measurements of an operator.
    pub fn operator(&self, key: &str) -> Option<&OperatorProfile> {
        self.operators.iter().find(|operator| operator.operator == key)
    }

    /// Puts a measurement that was made again in the place of the one before, if it is less doubtful.
    fn improve(&mut self, key: &str, again: Sample) {
        let is_same = |known: &&mut Sample| {
            (known.rows, known.past, known.columns, known.is_weight_stationary)
                == (again.rows, again.past, again.columns, again.is_weight_stationary)
        };
        let operator = self.operators.iter_mut().find(|operator| operator.operator == key);
        let known = operator.and_then(|operator| operator.samples.iter_mut().find(is_same));
        if let Some(known) = known.filter(|known| again.noise() < known.noise()) {
            // What compiling takes is not what was disturbed, and a second time it may come from a cache.
            *known = Sample { compile_seconds: known.compile_seconds, ..again };
        }
    }

    /// Adds a measurement of an operator.
    fn add(&mut self, key: &str, sample: Sample, own_bytes_per_column: f64) {
        match self.operators.iter_mut().find(|operator| operator.operator == key) {
            Some(operator) => operator.samples.push(sample),
            None => {
                let samples = vec![sample];
                self.operators.push(OperatorProfile { operator: key.to_owned(), own_bytes_per_column, samples });
            }
        }
    }
}

/// A text that is the same for operators that cost the same: kind, sizes and element types, but not the number of
/// columns of a linear operator's output, which measurements vary, and not the room in a cache, of which a step uses
/// what it has.
pub fn operator_key(spec: &OpSpec) -> String {
    let sizes = match &spec.op {
        Op::Linear { in_features, format, bias, .. } => {
            format!("{format} {in_features}{}", if *bias { " bias" } else { "" })
        }
        Op::Embed { features, .. } => format!("{features}"),
        Op::Rope { heads, head_dim, .. } => format!("{heads}x{head_dim}"),
        Op::CacheWrite { kv_heads, head_dim, .. } => format!("{kv_heads}x{head_dim}"),
        Op::Attention { heads, kv_heads, head_dim, .. } => format!("{heads}/{kv_heads}x{head_dim}"),
        op => op.output_columns().to_string(),
    };
    let inputs: Vec<String> = spec.inputs.iter().map(ToString::to_string).collect();
    format!("{} {sizes} ({}) -> {}", spec.op.name(), inputs.join(", "), spec.output)
}
