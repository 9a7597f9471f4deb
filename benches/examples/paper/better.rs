//! How much hetero's own plans gain over the paper's method, and what they do differently.

use anyhow::Result;
use hetero_core::DeviceKind;
use hetero_llama::simulate::{Granularity, SimulatedPhase, SimulatedPlan};
use hetero_sched::PlacedPart;

use crate::lab::{Case, LENGTHS, LLAMA_8B, Lab, MODELS, TENSOR, WHOLE, WHOLE_3, Way};
use crate::page::{Page, mean, percent};

const PROMPT: usize = 256;
const KINDS: [DeviceKind; 3] = [DeviceKind::Gpu, DeviceKind::Npu, DeviceKind::Cpu];
/// Shares of an operator that differ by less are the same.
const SAME_SHARE: f64 = 0.02;

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    page.heading("Over the paper's method, and why");
    gains(lab, page)?;
    same_cuts(lab, page)?;
    for is_decode in [false, true] {
        differences(lab, page, is_decode)?;
    }
    Ok(())
}

/// Gains for every model and length.
fn gains(lab: &Lab, page: &mut Page) -> Result<()> {
    let all: Vec<(&'static str, &'static str, Way)> =
        MODELS.iter().flat_map(|&(shape, name)| [WHOLE, WHOLE_3].map(|way| (shape, name, way))).collect();
    let mut rows = Vec::new();
    let (mut prefill_gains, mut decode_gains) = (Vec::new(), Vec::new());
    for &(shape, name, way) in &all {
        let prefill = lab.grid(&LENGTHS, &[way, TENSOR], |prompt, way| Case::prefill(shape, way, prompt))?;
        let decode = lab.run_all(&[way, TENSOR].map(|way| Case::new(shape, way, PROMPT)))?;
        let of_prompts = prefill.iter().map(|pair| pair[1].prefill.seconds / pair[0].prefill.seconds);
        let of_prompts: Vec<f64> = of_prompts.collect();
        let of_tokens = decode[1].decode.seconds / decode[0].decode.seconds;
        let cells = of_prompts.iter().chain([&of_tokens]).map(|&gain| percent(gain)).collect();
        rows.push((format!("{name}, {}", way.name), cells));
        prefill_gains.extend(of_prompts);
        decode_gains.push(of_tokens);
    }
    page.sentences([
        "What hetero's own plans gain over Hetero-tensor by the paper's method on the same phone: prefill by tokens of \
         the prompt, and decoding behind 256.",
    ]);
    let lengths = LENGTHS.map(|length| length.to_string());
    let columns: Vec<&str> = std::iter::once("").chain(lengths.iter().map(String::as_str)).chain(["decode"]).collect();
    page.table(&columns, &rows);
    let least = |gains: &[f64]| percent(gains.iter().copied().fold(f64::INFINITY, f64::min));
    page.sentences([format!(
        "On average that is {} in prefill and {} in decoding, and where it is least {} and {}.",
        percent(mean(&prefill_gains)),
        percent(mean(&decode_gains)),
        least(&prefill_gains),
        least(&decode_gains),
    )]);
    Ok(())
}

/// Both methods with the same freedom to cut.
fn same_cuts(lab: &Lab, page: &mut Page) -> Result<()> {
    let kinds = [
        ("whole operators", Granularity::Layer),
        ("cuts by positions", Granularity::Positions),
        ("cuts by weight rows", Granularity::Columns),
        ("both", Granularity::Tensor),
    ];
    let grid =
        lab.grid(&kinds, &[TENSOR, WHOLE], |(_, cuts), way| Case { cuts, ..Case::new(LLAMA_8B, way, PROMPT) })?;
    let rows: Vec<(String, Vec<String>)> = kinds
        .iter()
        .zip(&grid)
        .map(|((name, _), runs)| {
            let cells = |alone: &SimulatedPhase, together: &SimulatedPhase, digits: usize| {
                let (alone, together) = (alone.tokens_per_second(), together.tokens_per_second());
                [format!("{alone:.digits$}"), format!("{together:.digits$}"), percent(together / alone)]
            };
            let prefill = cells(&runs[0].prefill, &runs[1].prefill, 1);
            let decode = cells(&runs[0].decode, &runs[1].decode, 2);
            ((*name).to_owned(), [prefill, decode].concat())
        })
        .collect();
    page.sentences([format!(
        "The same freedom to cut, planned operator by operator as the paper does (alone) and as a step (together): \
         Llama-8B, prefill of {PROMPT} tokens and decoding behind them.",
    )]);
    page.table(&["", "prefill alone", "together", "gain", "decode alone", "together", "gain"], &rows);
    Ok(())
}

/// What the plans of a phase do differently, from their parts and from what the processors did.
fn differences(lab: &Lab, page: &mut Page, is_decode: bool) -> Result<()> {
    let ways = [TENSOR, WHOLE, WHOLE_3];
    let cases = ways.map(|way| Case::new(LLAMA_8B, way, PROMPT));
    let runs = lab.run_all(&cases)?;
    let plans: Vec<SimulatedPlan> = cases.iter().map(|&case| lab.plan(case, is_decode)).collect::<Result<_>>()?;
    let shares: Vec<Vec<(&'static str, [f64; 3])>> = plans.iter().map(shares).collect();
    let n_layers = layers(&plans[0]);

    let step = if is_decode { "one token".to_owned() } else { format!("a prompt of {PROMPT}") };
    page.sentences([format!(
        "Who computes what for {step}, in percent of each operator of a middle layer (GPU / NPU / CPU), where the plans \
         differ:",
    )]);
    let cell = |shares: [f64; 3]| shares.map(|share| format!("{:.0}", 100.0 * share)).join(" / ");
    let is_other = |idx: usize| {
        let differs = |other: &[(&str, [f64; 3])]| {
            other[idx].1.iter().zip(shares[0][idx].1).any(|(a, b)| (a - b).abs() > SAME_SHARE)
        };
        differs(&shares[1]) || differs(&shares[2])
    };
    let rows: Vec<(String, Vec<String>)> = (0..shares[0].len())
        .filter(|&idx| is_other(idx))
        .map(|idx| (shares[0][idx].0.to_owned(), shares.iter().map(|shares| cell(shares[idx].1)).collect()))
        .collect();
    page.table(&std::iter::once("").chain(ways.map(|way| way.name)).collect::<Vec<_>>(), &rows);

    let phase = |idx: usize| if is_decode { &runs[idx].decode } else { &runs[idx].prefill };
    let mut sentences = Vec::new();
    for (idx, way) in ways.iter().enumerate().skip(1) {
        let gain = phase(0).seconds / phase(idx).seconds;
        let mut reasons = Vec::new();
        for kind in [DeviceKind::Npu, DeviceKind::Gpu, DeviceKind::Cpu] {
            let [before, after] = [0, idx].map(|idx| 100.0 * phase(idx).busy_share_of(kind));
            if (before - after).abs() >= 1.0 {
                let kind = kind.to_string().to_uppercase();
                reasons.push(format!("the {kind} works {after:.0} % of the time instead of {before:.0} %"));
            }
        }
        let [before, after] = [0, idx].map(|idx| plans[idx].solution.prediction.n_submissions as f64 / n_layers);
        if (before - after).abs() >= 0.5 {
            reasons.push(format!("a layer is {after:.0} submissions instead of {before:.0}"));
        }
        let [before, after] = [0, idx].map(|idx| phase(idx).bytes_per_second() / 1e9);
        if is_decode && (before - after).abs() >= 0.5 {
            reasons.push(format!("{after:.1} GB/s cross the bus instead of {before:.1}"));
        }
        if reasons.is_empty() {
            reasons.push("the processors are about as busy".to_owned());
        }
        sentences.push(format!("{}, {}: {}.", capitalised(way.name), percent(gain), reasons.join(", ")));
    }
    page.sentences(sentences);
    Ok(())
}

/// For each operator of a middle layer, the shares of [`KINDS`] in its output.
fn shares(plan: &SimulatedPlan) -> Vec<(&'static str, [f64; 3])> {
    let placed = &plan.solution.plan;
    let name = |part: &PlacedPart| &plan.explanation.devices[part.device_idx];
    let middle = Some(layers(plan) as usize / 2);
    let nodes = placed.graph().nodes().iter().zip(placed.placements()).filter(|(node, _)| node.layer == middle);
    nodes
        .map(|(node, parts)| {
            let area = |kind: Option<DeviceKind>| -> f64 {
                let chosen = parts.iter().filter(|part| kind.is_none_or(|kind| *name(part) == format!("{kind}-sim")));
                chosen.map(|part| part.part.rows.len() * part.part.columns.len()).sum::<usize>() as f64
            };
            (node.name, KINDS.map(|kind| area(Some(kind)) / area(None)))
        })
        .collect()
}

fn layers(plan: &SimulatedPlan) -> f64 {
    let layers = plan.solution.plan.graph().nodes().iter().filter_map(|node| node.layer);
    layers.max().map_or(1.0, |last| last as f64 + 1.0)
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
