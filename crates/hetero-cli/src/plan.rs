//! `hetero plan`: which processor would compute what, and why.

use std::path::PathBuf;

use hetero_llama::simulate::{SimulateMode, SimulatedPlan, plan};
use hetero_llama::{DeviceOptions, DeviceSelection, ModelOptions, team};
use hetero_sched::explain::{ExplainedOperator, Explanation};
use serde::Serialize;

use crate::error::CliError;
use crate::json::{self, SCHEMA};
use crate::options;
use crate::output::write_stdout;
use crate::progress;
use crate::simulated::SimulatedArgs;

/// Plan a model on a simulated SoC, or on this machine: which processor computes which part, and why; nothing is run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    what: SimulatedArgs,
    /// Plan for these processors of this machine, which are measured as for a run, such as `cpu,npu-sim`
    #[arg(long, value_name = "LIST")]
    devices: Option<DeviceSelection>,
    /// Folder in which measurements of them are kept [default: $HETERO_PROFILES, or the user's folder for caches]
    #[arg(long, value_name = "FOLDER", requires = "devices")]
    profiles: Option<PathBuf>,
    /// Plan a single token behind the prompt instead of the prompt
    #[arg(long)]
    decode_step: bool,
    /// Tell for each operator what the next best choices would have cost
    #[arg(long)]
    explain: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Plans and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    if let SimulateMode::Only(kind) = args.what.mode {
        return Err(CliError::Usage {
            message: format!("mode {kind}-only: everything runs on the {kind}, and there is nothing to plan"),
            fix: "give --mode layer, tensor or tensor-3".into(),
        });
    }
    let plan = match &args.devices {
        None => plan(&args.what.options()?, args.decode_step)?,
        Some(devices) => plan_here(args, devices)?,
    };
    if args.json {
        return json::print(&Document::of(&plan));
    }
    let mut explanation = plan.explanation;
    if !args.explain {
        explanation.operators.iter_mut().for_each(|operator| operator.alternatives.clear());
    }
    write_stdout(&explanation.to_string())
}

/// A plan for processors of this machine.
fn plan_here(args: &Args, devices: &DeviceSelection) -> Result<SimulatedPlan, CliError> {
    let simulated = args.what.options()?;
    let devices = DeviceOptions { devices: devices.clone(), soc: Some(args.what.soc.clone()), ..Default::default() };
    let options = ModelOptions {
        devices,
        together: args.what.together(args.profiles.as_deref()),
        weights: Some(simulated.weights),
        context: None,
    };
    let mut bar = None;
    let planned = team::plan(&simulated.config, &options, simulated.prompt, args.decode_step, &mut |measured| {
        let bar = bar.get_or_insert_with(|| progress::count("measuring", measured.n_all, "measurements"));
        bar.set_position(measured.n_done as u64);
    });
    bar.into_iter().for_each(|bar| bar.finish_and_clear());
    let planned = planned?;
    let Some((solution, explanation, facts)) = planned else {
        return Err(CliError::Usage {
            message: "devices: one processor computes everything, and there is nothing to plan".into(),
            fix: "give several with commas between: `--devices cpu,npu-sim`".into(),
        });
    };
    options::tell_profiling(&facts);
    Ok(SimulatedPlan { solution, explanation })
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    /// In the order in which they are computed.
    ops: Vec<PlannedOp<'a>>,
    predicted_seconds: f64,
}

#[derive(Serialize)]
struct PlannedOp<'a> {
    /// The decoder layer; null outside of layers.
    layer: Option<usize>,
    op: &'a str,
    parts: Vec<PlannedPart<'a>>,
    /// Of the slowest part, in microseconds.
    predicted_us: f64,
    reason: String,
}

#[derive(Serialize)]
struct PlannedPart<'a> {
    device: &'a str,
    /// Columns of the output, which for a linear operator are rows of its weight: the first and one past the last.
    rows: [usize; 2],
    /// Positions: the first and one past the last.
    positions: [usize; 2],
    predicted_us: f64,
}

impl<'a> Document<'a> {
    fn of(plan: &'a SimulatedPlan) -> Document<'a> {
        let SimulatedPlan { solution, explanation } = plan;
        let graph = solution.plan.graph();
        let mut seconds = solution.part_seconds.iter();
        let planned = graph.nodes().iter().zip(solution.plan.placements()).map(|(node, placed)| {
            let part = |placed: &hetero_sched::PlacedPart| PlannedPart {
                device: &explanation.devices[placed.device_idx],
                rows: [placed.part.columns.start, placed.part.columns.end],
                positions: [placed.part.rows.start, placed.part.rows.end],
                predicted_us: 1e6 * seconds.next().expect("seconds of each part"),
            };
            let parts: Vec<PlannedPart<'_>> = placed.iter().map(part).collect();
            let explained = explanation.operators.iter().find(|operator| operator.name == node.name);
            PlannedOp {
                layer: node.layer,
                op: node.name,
                predicted_us: parts.iter().map(|part| part.predicted_us).fold(0.0, f64::max),
                parts,
                reason: explained.map_or_else(String::new, |operator| reason(operator, explanation)),
            }
        });
        let ops = planned.collect();
        Document { schema: SCHEMA, ops, predicted_seconds: explanation.seconds }
    }
}

/// What the best other choice would have cost.
fn reason(operator: &ExplainedOperator, explanation: &Explanation) -> String {
    let Some(other) = operator.alternatives.first() else {
        return "there is no other choice".to_owned();
    };
    let devices: Vec<&str> = other.parts.iter().map(|part| part.device.as_str()).collect();
    let more = 1e6 * (other.step_seconds - explanation.seconds);
    format!("the next best choice, {}, changes the step by {more:+.1} us", devices.join(" and "))
}
