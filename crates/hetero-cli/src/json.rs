//! What the JSON documents of several commands have in common. Scripts rely on every name in here.

use std::time::Duration;

use hetero_llama::{GenerationStats, Session};
use serde::Serialize;

use crate::error::CliError;
use crate::output::write_stdout;

/// The version of all documents. It rises when a field changes its meaning or goes away, not when one is added.
pub(crate) const SCHEMA: u32 = 1;

/// Prints one document and a line feed.
pub(crate) fn print(document: &impl Serialize) -> Result<(), CliError> {
    write_stdout(&line(document))
}

/// A document on a line of its own.
pub(crate) fn line(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string(document).expect("plain structs with names as keys");
    text.push('\n');
    text
}

/// How fast tokens were computed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Speed {
    /// How many.
    pub(crate) tokens: usize,
    /// In which time.
    pub(crate) seconds: f64,
    /// The one over the other; 0 when there were none.
    pub(crate) tokens_per_second: f64,
}

impl Speed {
    /// The speed of so many tokens in this time.
    pub(crate) fn new(tokens: usize, time: Duration) -> Speed {
        let seconds = time.as_secs_f64();
        let tokens_per_second = if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        Speed { tokens, seconds, tokens_per_second }
    }

    /// The speed of a generation's prefill.
    pub(crate) fn prefill(stats: &GenerationStats) -> Speed {
        Speed::new(stats.prefill_tokens, stats.prefill)
    }

    /// The speed of a generation's decode.
    pub(crate) fn decode(stats: &GenerationStats) -> Speed {
        Speed::new(stats.decode_tokens, stats.decode)
    }
}

/// What part of the arithmetic a processor does.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceShare {
    /// The processor's name.
    pub(crate) name: String,
    /// From 0 to 1.
    pub(crate) share: f64,
}

impl DeviceShare {
    /// The shares of all processors of a session.
    pub(crate) fn of(session: &Session) -> Vec<DeviceShare> {
        let names = session.model().devices().iter().map(|device| device.info().name.clone());
        names.zip(session.device_shares()).map(|(name, share)| DeviceShare { name, share }).collect()
    }

    /// All shares in words.
    pub(crate) fn text(shares: &[DeviceShare]) -> String {
        let texts = shares.iter().map(|device| format!("{} {:.0} %", device.name, device.share * 100.0));
        texts.collect::<Vec<_>>().join(", ")
    }
}
