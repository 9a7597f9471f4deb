//! `hetero profile`: measures the processors for a model and keeps what was measured.

mod report;

use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Duration;

use hetero_llama::profiling::{self, Thoroughness};
use indicatif::ProgressBar;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::json;
use crate::options::{self, ModelArgs};
use crate::output::{note, write_stdout};
use crate::progress;

/// Measure the processors for a model, and keep what was measured for later runs
///
/// What is kept from before is not measured again. Neither an end of the budget nor Ctrl-C loses what was measured until
/// then: the next call goes on from there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time after which no further measurement is begun: `90s`, `5m`
    #[arg(long, value_name = "TIME", default_value = "60s")]
    budget: Budget,
    /// Measure everything again, whatever is kept
    #[arg(long)]
    fresh: bool,
    /// Measure for a built-in shape instead of a model's files, such as `llama-3.2-1b`
    #[arg(long, value_name = "NAME", conflicts_with = "path")]
    shape: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Measures, keeps and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let interrupt = Interrupt::install();
    let mut options = args.model.options(None);
    options.together.budget_seconds = args.budget.0.as_secs_f64();
    options.together.measures_anew = args.fresh;
    let config = args.model.config(args.shape.as_deref())?;
    let mut bar: Option<ProgressBar> = None;
    let profiling = interrupt.during(|cancel| {
        profiling::profile(&config, &options, Thoroughness::Thorough, &mut |progress| {
            let bar = bar.get_or_insert_with(|| progress::count("measuring", progress.n_all, "measurements"));
            bar.set_position(progress.n_done as u64);
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    bar.into_iter().for_each(|bar| bar.finish_and_clear());
    let profiling = profiling?;
    for failure in &profiling.failures {
        let device = &profiling.devices[failure.device_idx].info().name;
        note(format_args!("lost     {device}: {}; the others were measured without it", failure.error));
    }
    options::tell_profiling(&profiling.facts);
    if !profiling.facts.is_complete {
        note("the profile is not complete: the same command goes on from here, --budget gives it more time");
    }
    if args.json { json::print(&report::Document::of(&profiling)) } else { write_stdout(&report::text(&profiling)) }
}

/// A time with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Budget(Duration);

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        // A number alone is in seconds.
        let (number, unit) =
            units.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?, unit))).unwrap_or((text, 1.0));
        let seconds = number.trim().parse::<f64>().ok().map(|number| number * unit).filter(|seconds| *seconds > 0.0);
        let budget = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        budget.map(Budget).ok_or_else(|| "expected a time above 0 with its unit, such as 60s or 5m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_have_units() {
        let seconds = |text: &str| text.parse::<Budget>().map(|budget| budget.0.as_secs_f64());
        assert_eq!(seconds("60s"), Ok(60.0));
        assert_eq!(seconds("500ms"), Ok(0.5));
        assert_eq!(seconds("2m"), Ok(120.0));
        assert_eq!(seconds("1h"), Ok(3600.0));
        assert_eq!(seconds("7"), Ok(7.0));
        for wrong in ["", "s", "0s", "-1s", "1e300h", "NaN", "ten"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
