//! A profile for people and for scripts.

use hetero_llama::profiling::Profiling;
use hetero_sched::profile::predict::Errors;
use hetero_sched::profile::{DeviceProfile, MeasuredOverheads, Noise, OperatorProfile, Profile, Sample};
use serde::Serialize;

use crate::json::SCHEMA;
use crate::output::seconds_text;

/// What was measured, as scripts read it.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    /// Where it is kept; null when it is not.
    file: Option<String>,
    /// Why a kept profile was not used or this one is not kept; null when all is well.
    trouble: Option<&'a str>,
    complete: bool,
    /// Measurements that were known before, and those that were made now.
    known: usize,
    measured: usize,
    /// Those that were made again because the machine was busy when they were made.
    again: usize,
    /// Time that measuring took.
    seconds: f64,
    /// How much else the machine did while everything was measured that is known.
    noise: Noise,
    devices: Vec<Device<'a>>,
    prediction_error: Error,
    profile: &'a Profile,
}

#[derive(Serialize)]
struct Device<'a> {
    name: &'a str,
    description: &'a str,
    /// Why it could not be measured; null if it could.
    failure: Option<String>,
    operators: Vec<Operator<'a>>,
}

#[derive(Serialize)]
struct Operator<'a> {
    operator: &'a str,
    measurements: usize,
    prediction_error: Error,
}

/// Relative errors of predictions, on measurements that were held out.
#[derive(Clone, Copy, Serialize)]
struct Error {
    held_out: usize,
    median: f64,
    worst: f64,
}

impl<'a> Document<'a> {
    pub(super) fn of(profiling: &'a Profiling) -> Document<'a> {
        let facts = &profiling.facts;
        let device = |(idx, device): (usize, &'a DeviceProfile)| Device {
            name: &device.identity.name,
            description: &device.identity.description,
            failure: profiling.failures.iter().find(|failure| failure.device_idx == idx).map(|f| f.error.to_string()),
            operators: device
                .operators
                .iter()
                .zip(&profiling.errors[idx])
                .map(|(operator, errors)| Operator {
                    operator: &operator.operator,
                    measurements: operator.samples.len(),
                    prediction_error: Error::of(errors),
                })
                .collect(),
        };
        Document {
            schema: SCHEMA,
            file: facts.file.as_ref().map(|file| file.display().to_string()),
            trouble: facts.trouble.as_deref(),
            complete: facts.is_complete,
            known: facts.n_known,
            measured: facts.n_new,
            again: facts.n_again,
            seconds: facts.seconds,
            noise: facts.noise,
            devices: profiling.profile.devices.iter().enumerate().map(device).collect(),
            prediction_error: Error::overall(profiling),
            profile: &profiling.profile,
        }
    }
}

impl Error {
    fn of(errors: &Errors) -> Error {
        Error { held_out: errors.n, median: errors.median, worst: errors.worst }
    }

    /// Of all operators: the median of their medians, and the worst of all.
    fn overall(profiling: &Profiling) -> Error {
        let all = || profiling.errors.iter().flatten().filter(|errors| errors.n > 0);
        let mut medians: Vec<f64> = all().map(|errors| errors.median).collect();
        medians.sort_by(f64::total_cmp);
        Error {
            held_out: all().map(|errors| errors.n).sum(),
            median: medians.get(medians.len() / 2).copied().unwrap_or(0.0),
            worst: all().map(|errors| errors.worst).fold(0.0, f64::max),
        }
    }
}

/// What was measured, for people.
pub(super) fn text(profiling: &Profiling) -> String {
    let mut text = String::new();
    for (device, errors) in profiling.profile.devices.iter().zip(&profiling.errors) {
        text.push_str(&format!("{}: {}\n", device.identity.name, device.identity.description));
        text.push_str(&overheads_text(&device.overheads));
        if !device.operators.is_empty() {
            text.push_str(&format!(
                "  {:48} {:>12} {:>11} {:>11}  predictions off by\n",
                "operator", "columns", "fewest rows", "most rows"
            ));
        }
        for (operator, errors) in device.operators.iter().zip(errors) {
            text.push_str(&operator_text(operator, errors));
        }
    }
    for together in &profiling.profile.together {
        let slowed = together.devices.iter().zip(&together.slowdowns).map(|(&idx, slowdown)| {
            format!("{} takes {slowdown:.2} times as long", profiling.profile.devices[idx].identity.name)
        });
        let slowed: Vec<String> = slowed.collect();
        text.push_str(&format!("together, {} rows: {}\n", together.rows, slowed.join(", ")));
    }
    let overall = Error::overall(profiling);
    if overall.held_out > 0 {
        text.push_str(&format!(
            "predictions of {} measurements that were held out are off by {:.1} % (median), {:.1} % (worst)\n",
            overall.held_out,
            100.0 * overall.median,
            100.0 * overall.worst,
        ));
    }
    text
}

fn overheads_text(overheads: &MeasuredOverheads) -> String {
    let copy = match overheads.copy_seconds_per_byte {
        seconds if seconds > 0.0 => format!(", copying {:.1} GB/s", 1e-9 / seconds),
        _ => String::new(),
    };
    format!(
        "  submitting {}, starting when idle {}, seeing the end {} by polling and {} by blocking{copy}\n",
        seconds_text(overheads.submit_seconds),
        seconds_text(overheads.submit_idle_seconds),
        seconds_text(overheads.poll_sync_seconds),
        seconds_text(overheads.block_sync_seconds),
    )
}

fn operator_text(operator: &OperatorProfile, errors: &Errors) -> String {
    let samples = || operator.samples.iter().filter(|sample| sample.past == 0);
    let Some(most_columns) = samples().map(|sample| sample.columns).max() else { return String::new() };
    let least_columns = samples().map(|sample| sample.columns).min().unwrap_or(most_columns);
    let columns = match least_columns == most_columns {
        true => most_columns.to_string(),
        false => format!("{least_columns}..{most_columns}"),
    };
    // The widest of those that were measured with the most rows: an output head has one.
    let most_rows = samples().map(|sample| sample.rows).max().unwrap_or(1);
    let shown = samples().filter(|sample| sample.rows == most_rows).map(|sample| sample.columns).max();
    let widest = || samples().filter(|sample| Some(sample.columns) == shown && !sample.is_weight_stationary);
    let seconds = |sample: Option<&Sample>| sample.map_or_else(String::new, |sample| seconds_text(sample.seconds));
    let off = match errors.n {
        0 => "unknown".to_owned(),
        n => format!("{:.1} %, at most {:.1} % ({n} held out)", 100.0 * errors.median, 100.0 * errors.worst),
    };
    format!(
        "  {:48} {:>12} {:>11} {:>11}  {off}\n",
        operator.operator,
        columns,
        seconds(widest().min_by_key(|sample| sample.rows)),
        seconds(widest().max_by_key(|sample| sample.rows)),
    )
}
