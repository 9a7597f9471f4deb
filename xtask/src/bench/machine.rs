//! Facts that a measurement means nothing without.

use crate::workspace;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// CPU features that kernels choose by.
const FEATURES: &[&str] = &[
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "asimdhp",
    "avx",
    "avx2",
    "avx512_bf16",
    "avx512_vnni",
    "avx512bw",
    "avx512f",
    "avx_vnni",
    "bf16",
    "f16c",
    "fma",
    "i8mm",
    "sse4_1",
    "ssse3",
    "sve",
    "sve2",
];

/// CPU, memory, kernel, compiler, commit; what cannot be read is null.
pub(super) fn facts() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| {
        let value = field(&meminfo, name)?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    let flags = field(&cpuinfo, "flags").or_else(|| field(&cpuinfo, "Features"));
    let flags = flags.unwrap_or_default();
    let features: Vec<&str> = flags.split_whitespace().filter(|flag| FEATURES.contains(flag)).collect();
    let load = fs::read_to_string("/proc/loadavg").ok();
    json!({
        "cpu": field(&cpuinfo, "model name"),
        "arch": std::env::consts::ARCH,
        "cores": thread::available_parallelism().map_or(1, usize::from),
        "features": features,
        "last_cache": last_cache(),
        "memory_bytes": kilobytes("MemTotal").map(|n| n * 1024),
        "memory_available_bytes": kilobytes("MemAvailable").map(|n| n * 1024),
        // Of one, five and fifteen minutes: a busy machine measures something else.
        "load": load.map(|text| text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")),
        "governor": first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": stdout_of("uname", &["-srm"]),
        "rustc": stdout_of("rustc", &["--version"]),
        "commit": stdout_of("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
    })
}

/// The facts that a reader asks for first.
pub(super) fn one_line(facts: &Value) -> String {
    let text = |name: &str| facts[name].as_str().unwrap_or("unknown").to_owned();
    let features = facts["features"]
        .as_array()
        .map_or_else(String::new, |features| features.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    format!(
        "{}, {} cores, {:.1} GB, load {}, {}\n           {features}",
        text("cpu"),
        facts["cores"],
        facts["memory_bytes"].as_f64().unwrap_or(0.0) / 1e9,
        text("load"),
        text("rustc"),
    )
}

/// Now, in UTC: `2026-01-31T23:59:59Z`.
pub(super) fn timestamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_seconds(since.as_secs())
}

fn format_seconds(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_of(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a count of days since 1970-01-01, in years that begin in March.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The value after `name :` in a file of such lines.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn last_cache() -> Option<String> {
    let folder = "/sys/devices/system/cpu/cpu0/cache";
    (0..5).rev().find_map(|index| first_line(&format!("{folder}/index{index}/size")))
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(str::to_owned)
}

fn stdout_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).current_dir(workspace::root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_across_leap_years() {
        assert_eq!(format_seconds(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_seconds(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(format_seconds(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
