//! The paper's four models, and how well plans foresee what they take.

use anyhow::Result;
use hetero_llama::simulate::Simulation;

use crate::facts;
use crate::lab::{Case, LAYER, LENGTHS, LLAMA_8B, Lab, MODELS, TENSOR, WAYS, WHOLE, WHOLE_3, Way};
use crate::page::{Page, median};
use crate::plot::{self, Bar, Frame, Group, color_of};

/// The ways whose predictions are looked at.
const PLANNED: [Way; 3] = [TENSOR, WHOLE, WHOLE_3];

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let grid = lab.grid(&MODELS, &WAYS, |(shape, _), way| Case::new(shape, way, 256))?;

    page.heading("All models");
    page.sentences([
        "A prompt of 256 tokens and 32 behind it: prefill, decode.",
        "The paper shows these as bars without values, except for Llama-8B.",
    ]);
    let columns: Vec<&str> = std::iter::once("").chain(WAYS.iter().map(|way| way.name)).collect();
    let rows: Vec<(String, Vec<String>)> = MODELS
        .iter()
        .zip(&grid)
        .map(|((_, name), runs)| {
            let cell = |run: &std::rc::Rc<Simulation>| {
                format!("{:.1}, {:.2}", run.prefill.tokens_per_second(), run.decode.tokens_per_second())
            };
            ((*name).to_owned(), runs.iter().map(cell).collect())
        })
        .collect();
    page.table(&columns, &rows);
    page.figure("decode", "Decoding by model and way", |path| {
        let groups: Vec<Group> = MODELS
            .iter()
            .zip(&grid)
            .map(|((shape, name), runs)| {
                let bars = WAYS.iter().zip(runs).map(|(&way, run)| {
                    let bar = Bar::new(run.decode.tokens_per_second(), color_of(way), 1);
                    match (*shape, way) {
                        (LLAMA_8B, TENSOR) => bar.beside(facts::DECODE_TENSOR),
                        (LLAMA_8B, LAYER) => bar.beside(facts::DECODE_TENSOR / facts::DECODE_TENSOR_OVER_LAYER),
                        _ => bar,
                    }
                });
                Group { name: (*name).to_owned(), bars: bars.collect() }
            })
            .collect();
        let most = grid.iter().flatten().map(|run| run.decode.tokens_per_second()).fold(0.0, f64::max);
        let frame = Frame {
            title: "Decoding, by model and way",
            subtitle: "32 tokens behind a prompt of 256 on the simulated Snapdragon 8 Gen 3",
            y_desc: "tokens/s",
            most: plot::nice(1.1 * most),
            legend: (110, 92),
        };
        let legend: Vec<_> = WAYS.iter().map(|&way| (color_of(way), way.name)).collect();
        plot::bars(path, &frame, &groups, &legend)
    })?;
    predictions(lab, page)
}

/// How far predictions are from what is simulated.
fn predictions(lab: &Lab, page: &mut Page) -> Result<()> {
    let all: Vec<(&'static str, &'static str, Way)> =
        MODELS.iter().flat_map(|&(shape, name)| PLANNED.map(|way| (shape, name, way))).collect();
    // Behind the lengths stands decoding, of which the prediction is for the first token.
    let prefill = lab.grid(&all, &LENGTHS, |(shape, _, way), prompt| Case::prefill(shape, way, prompt))?;
    let decode = lab.grid(&all, &[256], |(shape, _, way), prompt| Case::new(shape, way, prompt))?;
    let mut errors = Vec::new();
    let mut rows = Vec::new();
    for ((&(_, name, way), prefill), decode) in all.iter().zip(&prefill).zip(&decode) {
        let of_prompt = prefill.iter().filter_map(|run| Some((run.predicted.as_ref()?.seconds, run.prefill.seconds)));
        let of_token = decode.iter().filter_map(|run| {
            let seconds = run.decode.seconds / run.decode.tokens as f64;
            Some((run.predicted_decode.as_ref()?.seconds, seconds))
        });
        let pairs: Vec<(f64, f64)> = of_prompt.chain(of_token).collect();
        errors.extend(pairs.iter().map(|(predicted, simulated)| (predicted / simulated - 1.0).abs()));
        let cells = pairs.iter().map(|(predicted, simulated)| {
            let error = 100.0 * (predicted / simulated - 1.0);
            // Milliseconds: predicted, simulated, error.
            format!("{:.0} / {:.0} ({error:+.1} %)", 1e3 * predicted, 1e3 * simulated)
        });
        rows.push((format!("{name}, {}", way.name), cells.collect()));
    }
    page.heading("Predicted against simulated");
    page.sentences([
        "Milliseconds that a plan is predicted to take, what they are in simulation, and the error: prefill by tokens \
         of the prompt, and one token behind 256.",
    ]);
    let lengths = LENGTHS.map(|length| length.to_string());
    let columns: Vec<&str> =
        std::iter::once("").chain(lengths.iter().map(String::as_str)).chain(["one token"]).collect();
    page.table(&columns, &rows);
    let worst = errors.iter().copied().fold(0.0, f64::max);
    let within = errors.iter().filter(|&&error| error <= 0.03).count();
    page.sentences([format!(
        "The median of the absolute errors is {:.1} %, the largest {:.1} %; {within} of {} are within 3 %.",
        100.0 * median(&errors),
        100.0 * worst,
        errors.len(),
    )]);
    Ok(())
}
