//! Checks between parameters of a SoC file, and finding their lines.

use std::ops::Range;

use hetero_core::DeviceKind;
use toml::de::{DeTable, DeValue};

use super::Soc;

/// Two parameters that cannot both be true: the key of the one to change, and what is wrong with it.
pub(super) fn contradiction(soc: &Soc) -> Option<(&'static str, String)> {
    if soc.name.trim().is_empty() {
        return Some(("name", "must not be empty: users choose the system by it".to_owned()));
    }
    let gb = |bytes_per_second: f64| bytes_per_second / 1e9;
    let combined = soc.bus.combined_bytes_per_second;
    if combined > soc.bus.peak_bytes_per_second {
        let peak = gb(soc.bus.peak_bytes_per_second);
        return Some((
            "bus.combined",
            format!(
                "found {} GB/s, allowed is at most bus.peak, {peak} GB/s: lower it or raise the peak",
                gb(combined)
            ),
        ));
    }
    let processors =
        [(DeviceKind::Cpu, "cpu.bandwidth"), (DeviceKind::Gpu, "gpu.bandwidth"), (DeviceKind::Npu, "npu.bandwidth")];
    for (kind, key) in processors {
        let alone = soc.bytes_per_second(kind);
        if alone > combined {
            return Some((
                "bus.combined",
                format!(
                    "found {} GB/s, must be at least {key}, {} GB/s: together processors reach no less than one alone",
                    gb(combined),
                    gb(alone)
                ),
            ));
        }
    }
    None
}

/// The line, counted from one, in which a byte stands.
pub(super) fn line_of_offset(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

/// Where the value of a key such as `bus.combined` stands.
pub(super) fn span_of(text: &str, key: &str) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut span = None;
    for name in key.split('.') {
        let value = table.get(name)?;
        span = Some(value.span());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    span
}

/// A key as the error shows it: the reader of quantities calls the whole file `.`.
pub(super) fn shown_key(path: &str) -> String {
    if path == "." { String::new() } else { path.to_owned() }
}
