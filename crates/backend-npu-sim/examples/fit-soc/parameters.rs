//! What the fit may change: keys of the SoC file, with start values and bounds in the file's units.

use std::path::Path;

use anyhow::{Context, Result};
use backend_npu_sim::soc::Soc;
use toml_edit::{DocumentMut, Item, Value};

use crate::paper::Phone;

/// A number that the fit may change.
pub(crate) struct Parameter {
    /// Tables and key in the file, or `None` for the one number that belongs to the measurement.
    pub(crate) key: Option<&'static str>,
    /// The key of the value, which is its unit.
    pub(crate) unit: &'static str,
    /// Where the search begins.
    pub(crate) start: f64,
    /// The least and the greatest value allowed.
    pub(crate) bounds: (f64, f64),
}

impl Parameter {
    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        self.key.unwrap_or("(measurement on the GPU)")
    }
}

const fn parameter(key: &'static str, unit: &'static str, start: f64, bounds: (f64, f64)) -> Parameter {
    Parameter { key: Some(key), unit, start, bounds }
}

/// The parameters in groups that hardly touch each other's facts: each group is searched by itself, in turn.
pub(crate) const GROUPS: &[&[Parameter]] = &[
    &[
        // v2 section 3.3 gives 40 to 45 GB/s for each processor alone.
        parameter("gpu.bandwidth", "gb_per_s", 43.3, (40.0, 45.0)),
        Parameter { key: None, unit: "us", start: 150.0, bounds: (0.0, 400.0) },
        // The chip's peak is 2.8.
        parameter("gpu.kernels.plateau", "tflops", 1.0, (0.3, 2.8)),
        parameter("gpu.kernels.expand", "gweights_per_s", 5.0, (1.0, 50.0)),
    ],
    &[
        parameter("npu.kernels.unpack", "gweights_per_s", 30.0, (5.0, 80.0)),
        parameter("npu.kernels.depth_power", "factor", 1.0, (0.0, 2.0)),
        parameter("npu.kernels.float.rate", "tflops", 5.0, (1.0, 17.0)),
        parameter("npu.kernels.float.stall", "rows", 1000.0, (0.0, 8192.0)),
        parameter("npu.overheads.start", "us", 50.0, (10.0, 150.0)),
    ],
    &[parameter("cpu.kernels.rate", "gflops", 100.0, (20.0, 400.0))],
    &[
        parameter("npu.compile.graph", "ms", 20.0, (0.0, 100.0)),
        parameter("npu.compile.tile", "ns", 200.0, (0.0, 5000.0)),
    ],
    &[parameter("npu.power.active", "w", 1.0, (0.0, 4.0)), parameter("gpu.power.active", "w", 1.0, (0.0, 4.0))],
];

/// A SoC file whose values the fit sets, comments and all.
#[derive(Clone)]
pub(crate) struct SocFile {
    document: DocumentMut,
    gpu_measurement_us: f64,
}

impl SocFile {
    /// Reads a file's text.
    pub(crate) fn new(text: &str) -> Result<SocFile> {
        Ok(SocFile { document: text.parse().context("the SoC file is not TOML")?, gpu_measurement_us: 0.0 })
    }

    /// Sets one parameter, in its unit.
    pub(crate) fn set(&mut self, parameter: &Parameter, number: f64) -> Result<()> {
        let Some(key) = parameter.key else {
            self.gpu_measurement_us = number;
            return Ok(());
        };
        let item = key.split('.').chain([parameter.unit]).try_fold(self.document.as_item_mut(), Item::get_mut);
        let item = item.and_then(Item::as_value_mut);
        let old = item.with_context(|| format!("the SoC file has no {key}.{}", parameter.unit))?;
        let decor = old.decor().clone();
        *old = Value::from(number);
        *old.decor_mut() = decor;
        Ok(())
    }

    /// One parameter, in its unit.
    #[cfg(test)]
    pub(crate) fn get(&self, parameter: &Parameter) -> Option<f64> {
        let Some(key) = parameter.key else {
            return Some(self.gpu_measurement_us);
        };
        let item = key.split('.').chain([parameter.unit]).try_fold(self.document.as_item(), Item::get);
        item.and_then(|item| item.as_float())
    }

    /// The file's text with the values set so far.
    pub(crate) fn text(&self) -> String {
        self.document.to_string()
    }

    /// The system that it describes.
    pub(crate) fn phone(&self) -> Result<Phone> {
        let soc = Soc::parse(&self.text(), Path::new("the fitted SoC file"))?;
        Ok(Phone { soc, gpu_measurement_seconds: self.gpu_measurement_us * 1e-6 })
    }
}

/// Four significant digits: more would claim too much, and the printed table is computed from what is written.
pub(crate) fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}
