//! Who computes: which of the processors take part, and what may be divided between them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hetero_core::{Backend, DeviceKind};
use hetero_sched::solver::Granularity;

use crate::error::{LlamaError, TeamError};

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One processor does everything.
    Only(DeviceKind),
    /// GPU and NPU, each operator on one of them: the paper's Hetero-layer.
    Layer,
    /// GPU and NPU, operators cut between them: the paper's Hetero-tensor.
    Tensor,
    /// GPU, NPU and CPU, operators cut between them.
    Tensor3,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 6] = [
        Mode::Only(DeviceKind::Cpu),
        Mode::Only(DeviceKind::Gpu),
        Mode::Only(DeviceKind::Npu),
        Mode::Layer,
        Mode::Tensor,
        Mode::Tensor3,
    ];

    /// What may be divided.
    pub fn granularity(self) -> Granularity {
        match self {
            Mode::Layer => Granularity::Layer,
            Mode::Only(_) | Mode::Tensor | Mode::Tensor3 => Granularity::Tensor,
        }
    }

    /// Those of the processors that take part, in their order: the CPU stands in where there is no GPU or no NPU.
    pub(crate) fn select(self, devices: Vec<Arc<dyn Backend>>) -> Result<Vec<Arc<dyn Backend>>, LlamaError> {
        let names: Vec<String> = devices.iter().map(|device| device.info().name.clone()).collect();
        let is_of = |kind: DeviceKind| move |device: &Arc<dyn Backend>| device.info().kind == kind;
        let selected: Vec<Arc<dyn Backend>> = match self {
            Mode::Only(kind) => devices.into_iter().find(is_of(kind)).into_iter().collect(),
            Mode::Layer | Mode::Tensor => {
                let n_others = devices.iter().filter(|device| device.info().kind != DeviceKind::Cpu).count();
                let is_in_place = |device: &Arc<dyn Backend>| n_others < 2 || device.info().kind != DeviceKind::Cpu;
                devices.into_iter().filter(is_in_place).collect()
            }
            Mode::Tensor3 => devices,
        };
        let (n_least, expected) = match self {
            Mode::Only(DeviceKind::Cpu) => (1, "a CPU"),
            Mode::Only(DeviceKind::Gpu) => (1, "a GPU"),
            Mode::Only(DeviceKind::Npu) => (1, "an NPU"),
            Mode::Layer | Mode::Tensor => (2, "two processors"),
            Mode::Tensor3 => (3, "three processors"),
        };
        if selected.len() < n_least {
            return Err(TeamError::Mode { mode: self, expected, found: names.join(", ") }.into());
        }
        Ok(selected)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Only(kind) => write!(f, "{kind}-only"),
            Mode::Layer => f.write_str("layer"),
            Mode::Tensor => f.write_str("tensor"),
            Mode::Tensor3 => f.write_str("tensor-3"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.to_string() == name);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(|mode| mode.to_string()).join(", ")))
    }
}
