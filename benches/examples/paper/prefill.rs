//! Prefill of Llama-8B by length and way.

use anyhow::Result;

use crate::facts;
use crate::lab::{Case, LAYER, LENGTHS, LLAMA_8B, Lab, TENSOR, WAYS};
use crate::page::{Page, mean, percent};
use crate::plot::{self, Frame, Line, color_of};

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let grid = lab.grid(&WAYS, &LENGTHS, |way, prompt| Case::prefill(LLAMA_8B, way, prompt))?;
    let speeds: Vec<Vec<f64>> =
        grid.iter().map(|row| row.iter().map(|simulation| simulation.prefill.tokens_per_second()).collect()).collect();
    let row_of = |name: &str| &speeds[WAYS.iter().position(|way| way.name == name).expect("one of the ways")];
    let gains: Vec<f64> =
        row_of(TENSOR.name).iter().zip(row_of(LAYER.name)).map(|(tensor, layer)| tensor / layer).collect();
    let at_256 = LENGTHS.iter().position(|&length| length == 256).expect("a length");

    page.heading("Prefill");
    let columns: Vec<String> = std::iter::once(String::new()).chain(LENGTHS.map(|length| length.to_string())).collect();
    let rows: Vec<(String, Vec<String>)> = WAYS
        .iter()
        .zip(&speeds)
        .map(|(way, speeds)| (way.name.to_owned(), speeds.iter().map(|speed| format!("{speed:.1}")).collect()))
        .chain([("tensor over layer".to_owned(), gains.iter().map(|&gain| percent(gain)).collect())])
        .collect();
    page.sentences(["Llama-8B, by tokens of the prompt."]);
    page.table(&columns, &rows);
    let tensor = row_of(TENSOR.name)[at_256];
    let layer = row_of(LAYER.name)[at_256];
    page.sentences([
        format!(
            "The paper gives {} for Hetero-tensor at 256 tokens: {} here ({}).",
            facts::PREFILL_TENSOR,
            format_args!("{tensor:.1}"),
            percent(tensor / facts::PREFILL_TENSOR),
        ),
        format!(
            "About {:.0} for Hetero-layer follows from its average gain: {layer:.1} here ({}).",
            facts::PREFILL_LAYER,
            percent(layer / facts::PREFILL_LAYER),
        ),
        format!(
            "Hetero-tensor is {} over Hetero-layer on average and {} at 32 tokens in the paper; {} and {} here.",
            percent(facts::TENSOR_OVER_LAYER),
            percent(facts::TENSOR_OVER_LAYER_AT_32),
            percent(mean(&gains)),
            percent(gains[0]),
        ),
    ]);
    page.figure("prefill", "Prefill of Llama-8B by length and way", |path| {
        let most = speeds.iter().flatten().copied().fold(0.0, f64::max);
        let lines: Vec<Line> = WAYS
            .iter()
            .zip(&speeds)
            .map(|(&way, speeds)| Line {
                name: way.name,
                color: color_of(way),
                points: LENGTHS.into_iter().zip(speeds.iter().copied()).collect(),
            })
            .collect();
        let frame = Frame {
            title: "Sharing a prompt beats every processor alone",
            subtitle: "Prefill of Llama-8B on the simulated Snapdragon 8 Gen 3",
            y_desc: "tokens/s",
            most: plot::room_above(most, 4),
            legend: (110, 92),
        };
        let marks = [(256, facts::PREFILL_TENSOR, color_of(TENSOR)), (256, facts::PREFILL_LAYER, color_of(LAYER))];
        plot::lines(path, &frame, &LENGTHS, true, &lines, &marks)
    })
}
