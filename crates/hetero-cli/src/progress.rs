//! Progress bars on standard error. Nothing is shown where standard error is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over bytes.
pub(crate) fn bytes(label: &'static str) -> ProgressBar {
    bar(label, None, "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes}")
}

/// A bar over `total` things called `unit`.
pub(crate) fn count(label: &'static str, total: usize, unit: &str) -> ProgressBar {
    bar(label, Some(total as u64), &format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit}, {{eta}} left"))
}

fn bar(label: &'static str, total: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    bar.set_style(style);
    bar.set_prefix(label);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
