//! What each of the paper's techniques adds, one after the other.

use anyhow::Result;
use hetero_core::{DeviceKind, OperandOrder};
use hetero_llama::simulate::{DynamicLength, Granularity, Method, SimulateMode};

use crate::chart::{INK, NPU};
use crate::lab::{Case, LLAMA_8B, Lab, Way};
use crate::page::{Page, percent};
use crate::plot::{self, Bar, Frame, Group};

/// A length for which there is an NPU graph, and one for which there is none.
const LENGTHS: [usize; 2] = [256, 300];

/// A step: its name, a short one, and the case with all techniques so far.
struct Step {
    name: &'static str,
    short: &'static str,
    case: Case,
}

fn steps() -> Vec<Step> {
    let way = |mode, method| Way { name: "step", mode, method };
    // A planned NPU, because the order of operands is a matter of the plan.
    let naive = Case {
        dynamic_length: DynamicLength::Padding,
        operand_order: Some(OperandOrder::WeightStationary),
        fast_sync: false,
        ..Case::prefill(LLAMA_8B, way(SimulateMode::Only(DeviceKind::Npu), Method::WholeLayer), LENGTHS[0])
    };
    let ordered = Case { operand_order: Some(OperandOrder::ActivationStationary), ..naive };
    let layer = Case { operand_order: None, way: way(SimulateMode::Layer, Method::Paper), ..ordered };
    let positions = Case {
        way: way(SimulateMode::Tensor, Method::Paper),
        dynamic_length: DynamicLength::Tensor,
        cuts: Granularity::Positions,
        ..layer
    };
    let columns = Case { cuts: Granularity::Tensor, ..positions };
    let fast = Case { fast_sync: true, ..columns };
    let whole = Case { way: way(SimulateMode::Tensor, Method::WholeLayer), ..fast };
    let three = Case { way: way(SimulateMode::Tensor3, Method::WholeLayer), ..fast };
    let step = |name, short, case| Step { name, short, case };
    vec![
        step("NPU alone, weights stay in its array", "naive NPU", naive),
        step("+ activations stay (operand order)", "+ order", ordered),
        step("+ GPU for what it does better (Hetero-layer)", "+ GPU", layer),
        step("+ cut by positions (activation-centric)", "+ positions", positions),
        step("+ cut by weight rows (weight-centric, hybrid)", "+ weights", columns),
        step("+ fast synchronisation (Hetero-tensor)", "+ fast sync", fast),
        step("+ planned as a whole (hetero)", "+ whole", whole),
        step("+ CPU (hetero, tensor-3)", "+ CPU", three),
    ]
}

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let steps = steps();
    let cases: Vec<Case> = steps.iter().map(|step| step.case).collect();
    let grid = lab.grid(&cases, &LENGTHS, |case, prompt| Case { prompt, ..case })?;
    let speeds: Vec<Vec<f64>> =
        grid.iter().map(|row| row.iter().map(|run| run.prefill.tokens_per_second()).collect()).collect();

    page.heading("Step by step");
    page.sentences([format!(
        "Prefill of Llama-8B with one technique after the other, each row with all of those above it; {} is a standard \
         length of the NPU, {} is not and is padded until the NPU's part can be cut.",
        LENGTHS[0], LENGTHS[1],
    )]);
    let columns: Vec<String> = std::iter::once(String::new())
        .chain(LENGTHS.into_iter().flat_map(|length| [format!("{length} tokens"), "gain".to_owned()]))
        .collect();
    let rows: Vec<(String, Vec<String>)> = steps
        .iter()
        .enumerate()
        .map(|(idx, step)| {
            let cells = (0..LENGTHS.len()).flat_map(|length| {
                let speed = speeds[idx][length];
                let gain = if idx == 0 { String::new() } else { percent(speed / speeds[idx - 1][length]) };
                [format!("{speed:.1}"), gain]
            });
            (step.name.to_owned(), cells.collect())
        })
        .collect();
    page.table(&columns, &rows);
    page.figure("steps", "Prefill of Llama-8B with one technique after the other", |path| {
        let groups: Vec<Group> = steps
            .iter()
            .zip(&speeds)
            .map(|(step, speeds)| Group {
                name: step.short.to_owned(),
                bars: vec![Bar::new(speeds[0], NPU, 0), Bar::new(speeds[1], INK, 0)],
            })
            .collect();
        let most = speeds.iter().flatten().copied().fold(0.0, f64::max);
        let frame = Frame {
            title: "From an NPU used naively to three processors",
            subtitle: "Prefill of Llama-8B on the simulated Snapdragon 8 Gen 3",
            y_desc: "tokens/s",
            most: plot::nice(1.05 * most),
            legend: (110, 92),
        };
        plot::bars(path, &frame, &groups, &[(NPU, "256 tokens"), (INK, "300 tokens")])
    })
}
