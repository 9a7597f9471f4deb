//! The processors that this build knows, each behind its cargo feature. The one file that names concrete backends.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hetero_core::{Backend, DeviceKind};

use crate::LlamaError;

/// Which processors may be used, and how.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Which.
    pub devices: DeviceSelection,
    /// CPU worker threads; `None` means one for each performance core.
    pub threads: Option<usize>,
    /// How exactly activations are kept.
    pub activations: Activations,
}

impl DeviceOptions {
    /// CPU worker threads that these options lead to; 0 in a build without the CPU.
    pub fn n_threads(&self) -> usize {
        #[cfg(feature = "cpu-simd")]
        return self.threads.unwrap_or_else(backend_cpu_simd::performance_cores);
        #[cfg(not(feature = "cpu-simd"))]
        return 0;
    }
}

/// Which processors may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceSelection {
    /// Every usable real one.
    #[default]
    Auto,
    /// Those with these names, such as `cpu`.
    Named(Vec<String>),
}

/// How exactly activations are kept where weights are narrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// The fastest way whose effect on perplexity was measured as harmless: 8-bit integers per group of 32 beside
    /// quantised weights, bf16 beside bf16 weights.
    #[default]
    Auto,
    /// 32-bit floats throughout.
    Float,
}

/// A processor as users see it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The name that chooses it.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// Whether it can be used.
    pub availability: Availability,
}

/// Whether a processor can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Usable {
        /// Product, instruction set, threads.
        description: String,
    },
    /// It is there and cannot be used.
    Unusable {
        /// Why.
        reason: String,
        /// What the user can do.
        fix: String,
    },
    /// It is not there, or not in this build.
    Absent {
        /// Why.
        reason: String,
        /// What the user can do.
        fix: String,
    },
}

/// Every processor that this version of hetero can drive, those of other builds included.
const KNOWN: [(&str, DeviceKind); 1] = [("cpu", DeviceKind::Cpu)];

/// Opens the chosen processors, in the order of the choice.
pub fn open(options: &DeviceOptions) -> Result<Vec<Arc<dyn Backend>>, LlamaError> {
    let names = match &options.devices {
        DeviceSelection::Auto => compiled_in().iter().map(|name| (*name).to_owned()).collect(),
        DeviceSelection::Named(names) => names.clone(),
    };
    let mut backends = Vec::with_capacity(names.len());
    for name in &names {
        if !KNOWN.iter().any(|(known, _)| known == name) {
            let known = KNOWN.map(|(known, _)| known).join(", ");
            return Err(LlamaError::UnknownDevice { name: name.clone(), known });
        }
        backends.push(open_one(name, options)?);
    }
    if backends.is_empty() {
        return Err(LlamaError::NoDevice);
    }
    Ok(backends)
}

/// The state of every processor that hetero knows.
pub fn list() -> Vec<DeviceStatus> {
    let status = |&(name, kind): &(&str, DeviceKind)| {
        let availability = if !compiled_in().contains(&name) {
            Availability::Absent {
                reason: "this build was made without it".into(),
                fix: format!("build with the cargo feature for {name}"),
            }
        } else {
            match open_one(name, &DeviceOptions::default()) {
                Ok(backend) => Availability::Usable { description: backend.info().description.clone() },
                Err(error) => Availability::Unusable { reason: error.to_string(), fix: error.fix() },
            }
        };
        DeviceStatus { name: name.to_owned(), kind, availability }
    };
    KNOWN.iter().map(status).collect()
}

/// The processors of this build, the one that allocates shared memory first.
fn compiled_in() -> &'static [&'static str] {
    &[
        #[cfg(feature = "cpu-simd")]
        "cpu",
    ]
}

fn open_one(name: &str, options: &DeviceOptions) -> Result<Arc<dyn Backend>, LlamaError> {
    match name {
        #[cfg(feature = "cpu-simd")]
        "cpu" => {
            use backend_cpu_simd::{ActivationMode, CpuBackend, CpuOptions};
            let activations = match options.activations {
                Activations::Auto => ActivationMode::Fast,
                Activations::Float => ActivationMode::Float,
            };
            let backend = CpuBackend::new(&CpuOptions { threads: options.threads, activations });
            match backend {
                Ok(backend) => Ok(Arc::new(backend)),
                Err(error) => {
                    Err(LlamaError::DeviceUnusable { name: name.into(), reason: error.to_string(), fix: error.fix() })
                }
            }
        }
        _ => {
            let _ = options;
            Err(LlamaError::DeviceNotBuilt { name: name.to_owned() })
        }
    }
}

impl FromStr for DeviceSelection {
    type Err = std::convert::Infallible;

    /// `auto`, or names with commas between them, of which repetitions count once. Whether they exist is seen when
    /// they are opened.
    fn from_str(list: &str) -> Result<Self, Self::Err> {
        if list == "auto" {
            return Ok(DeviceSelection::Auto);
        }
        let mut names: Vec<String> = Vec::new();
        for name in list.split(',').map(str::trim) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Ok(DeviceSelection::Named(names))
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activations::Auto => "auto",
            Activations::Float => "float",
        })
    }
}
