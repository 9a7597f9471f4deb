//! The results of `hetero bench` in their forms.

use std::time::Duration;

use serde::Serialize;

use crate::json::{self, DeviceShare, SCHEMA};

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) threads: usize,
    pub(super) load_seconds: f64,
    pub(super) compile_seconds: f64,
    /// `None` where the system does not say.
    pub(super) peak_resident_bytes: Option<u64>,
    pub(super) results: Vec<Measured>,
}

/// The result of one test.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    pub(super) test: String,
    pub(super) depth: usize,
    pub(super) tokens: usize,
    pub(super) tokens_per_second: Rate,
    pub(super) devices: Vec<DeviceShare>,
}

/// Tokens per second over all repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Rate {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Rate {
    /// The speeds of `tokens` tokens in each of these times, of which there is at least one.
    pub(super) fn of(tokens: usize, times: &[Duration]) -> Rate {
        // A clock may stand still for a test that takes no time.
        let speed = |time: &Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        let mut speeds: Vec<f64> = times.iter().map(speed).collect();
        speeds.sort_by(f64::total_cmp);
        let n = speeds.len();
        Rate { median: (speeds[(n - 1) / 2] + speeds[n / 2]) / 2.0, min: speeds[0], max: speeds[n - 1] }
    }
}

/// What all tests of a run have in common.
#[derive(Serialize)]
struct Head<'a> {
    schema: u32,
    version: &'static str,
    model: &'a str,
    weights: &'a str,
    threads: usize,
    load_seconds: f64,
    compile_seconds: f64,
    peak_resident_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    results: &'a [Measured],
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(flatten)]
    result: &'a Measured,
}

impl Report {
    /// A table for people and for documents.
    pub(super) fn markdown(&self) -> String {
        let mut text = "| model | weights | threads | test | depth | tokens/s | min | max | devices |\n\
            |---|---|--:|---|--:|--:|--:|--:|---|\n"
            .to_owned();
        for result in &self.results {
            let Rate { median, min, max } = result.tokens_per_second;
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} | {median:.2} | {min:.2} | {max:.2} | {} |\n",
                self.model.replace('|', "\\|"),
                self.weights,
                self.threads,
                result.test,
                result.depth,
                DeviceShare::text(&result.devices),
            ));
        }
        text
    }

    /// One document.
    pub(super) fn json(&self) -> String {
        json::line(&Document { head: self.head(), results: &self.results })
    }

    /// A document for each test.
    pub(super) fn json_lines(&self) -> String {
        self.results.iter().map(|result| json::line(&Line { head: self.head(), result })).collect()
    }

    /// A line for each test, under a line with the names of the fields.
    pub(super) fn csv(&self) -> String {
        let mut text = "schema,version,model,weights,threads,load_seconds,compile_seconds,peak_resident_bytes,\
            test,depth,tokens,tokens_per_second_median,tokens_per_second_min,tokens_per_second_max,devices\n"
            .to_owned();
        let head = self.head();
        for result in &self.results {
            let Rate { median, min, max } = result.tokens_per_second;
            let shares: Vec<String> =
                result.devices.iter().map(|device| format!("{}={}", device.name, device.share)).collect();
            let fields = [
                head.schema.to_string(),
                head.version.to_owned(),
                quoted(&self.model),
                self.weights.clone(),
                self.threads.to_string(),
                self.load_seconds.to_string(),
                self.compile_seconds.to_string(),
                self.peak_resident_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
                result.test.clone(),
                result.depth.to_string(),
                result.tokens.to_string(),
                median.to_string(),
                min.to_string(),
                max.to_string(),
                quoted(&shares.join(" ")),
            ];
            text.push_str(&fields.join(","));
            text.push('\n');
        }
        text
    }

    fn head(&self) -> Head<'_> {
        Head {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: &self.model,
            weights: &self.weights,
            threads: self.threads,
            load_seconds: self.load_seconds,
            compile_seconds: self.compile_seconds,
            peak_resident_bytes: self.peak_resident_bytes,
        }
    }
}

/// A field of comma-separated values, in quotes where it has to be.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let times = [4, 1, 2, 8].map(Duration::from_secs);
        assert_eq!(Rate::of(8, &times), Rate { median: 3.0, min: 1.0, max: 8.0 });
        assert_eq!(Rate::of(8, &times[..1]), Rate { median: 2.0, min: 2.0, max: 2.0 });
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
