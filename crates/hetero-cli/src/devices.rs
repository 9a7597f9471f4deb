//! `hetero devices`: every processor that hetero can drive, and why one of them is not usable.

use hetero_llama::DeviceOptions;
use hetero_llama::backends::{self, Availability, DeviceStatus};
use serde::Serialize;

use crate::error::CliError;
use crate::json::{self, SCHEMA};
use crate::output::write_stdout;

/// List the processors: usable, present but unusable, absent
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List the processors of a simulated SoC too: a built-in one such as `snapdragon-8-gen-3`, or a SoC file
    #[cfg(feature = "npu-sim")]
    #[arg(long, value_name = "NAME")]
    soc: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    #[cfg(feature = "npu-sim")]
    let soc = args.soc.clone();
    #[cfg(not(feature = "npu-sim"))]
    let soc = None;
    let is_simulated_too = soc.is_some();
    let mut devices = backends::list(&DeviceOptions { soc, ..DeviceOptions::default() })?;
    devices.retain(|device| is_simulated_too || !device.is_simulated);
    if args.json {
        return json::print(&Document { schema: SCHEMA, devices: devices.iter().map(Device::from).collect() });
    }
    let width = devices.iter().map(|device| device.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for device in devices.iter().map(Device::from) {
        let about = device.description.or(device.reason).unwrap_or_default();
        text.push_str(&format!("{:width$}  {:8}  {about}\n", device.name, device.status));
        if let Some(fix) = device.fix {
            text.push_str(&format!("{:width$}  {:8}  fix: {fix}\n", "", ""));
        }
    }
    write_stdout(&text)
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    devices: Vec<Device<'a>>,
}

#[derive(Serialize)]
struct Device<'a> {
    name: &'a str,
    kind: String,
    status: &'static str,
    /// Product, instruction set, threads; null unless it is usable.
    description: Option<&'a str>,
    /// Why it is not usable; null if it is.
    reason: Option<&'a str>,
    /// What to do about it; null if it is usable.
    fix: Option<&'a str>,
}

impl<'a> From<&'a DeviceStatus> for Device<'a> {
    fn from(device: &'a DeviceStatus) -> Self {
        let (status, description, reason, fix) = match &device.availability {
            Availability::Usable { description } => ("usable", Some(description), None, None),
            Availability::Unusable { reason, fix } => ("unusable", None, Some(reason), Some(fix)),
            Availability::Absent { reason, fix } => ("absent", None, Some(reason), Some(fix)),
        };
        Device {
            name: &device.name,
            kind: device.kind.to_string(),
            status,
            description: description.map(String::as_str),
            reason: reason.map(String::as_str),
            fix: fix.map(String::as_str),
        }
    }
}
