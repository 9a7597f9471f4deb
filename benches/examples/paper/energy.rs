//! Energy of a prompt and its answer.

use anyhow::Result;

use crate::decode::short_name;
use crate::facts;
use crate::lab::{Case, GPU_ONLY, LAYER, LLAMA_8B, Lab, TENSOR, WAYS, Way};
use crate::page::{Page, percent};
use crate::plot::{self, Bar, Frame, Group, color_of};

const PROMPT: usize = 256;

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let cases = WAYS.map(|way| Case::new(LLAMA_8B, way, PROMPT));
    let simulations = lab.run_all(&cases)?;
    let joules: Vec<f64> = simulations.iter().map(|run| run.prefill.joules + run.decode.joules).collect();
    let idx_of = |way: Way| WAYS.iter().position(|known| *known == way).expect("one of the ways");
    let of = |way: Way| joules[idx_of(way)];

    page.heading("Energy");
    page.sentences([
        format!("Llama-8B, {PROMPT} tokens and {} behind them.", cases[0].decode),
        "The powers of GPU and NPU are fitted to two facts of the paper, and energy for each byte and operation is a \
         guess, so read these as rough."
            .to_owned(),
    ]);
    let rows: Vec<(String, Vec<String>)> = WAYS
        .iter()
        .zip(&simulations)
        .zip(&joules)
        .map(|((way, run), joules)| {
            let cells = vec![
                format!("{:.2}", run.prefill.joules),
                format!("{:.2}", run.prefill.joules / run.prefill.seconds),
                format!("{:.2}", run.decode.joules),
                format!("{:.2}", run.decode.joules / run.decode.seconds),
                format!("{:.0} %", 100.0 * joules / of(GPU_ONLY)),
            ];
            (way.name.to_owned(), cells)
        })
        .collect();
    page.table(&["", "prefill J", "prefill W", "decode J", "decode W", "of GPU only"], &rows);
    let layer = &simulations[idx_of(LAYER)].prefill;
    page.sentences([
        format!(
            "The paper gives {:.2} W for Hetero-layer's prefill: {:.2} here.",
            facts::LAYER_WATTS,
            layer.joules / layer.seconds
        ),
        format!(
            "Hetero-tensor's energy is {} against the GPU's and {} against Hetero-layer's in the paper; {} and {} here.",
            percent(facts::TENSOR_ENERGY_OVER_GPU),
            percent(facts::TENSOR_ENERGY_OVER_LAYER),
            percent(of(TENSOR) / of(GPU_ONLY)),
            percent(of(TENSOR) / of(LAYER)),
        ),
    ]);
    page.figure("energy", "Energy of a prompt and its answer, by way", |path| {
        let groups: Vec<Group> = WAYS
            .iter()
            .zip(&joules)
            .map(|(&way, &joules)| {
                let bar = Bar::new(100.0 * joules / of(GPU_ONLY), color_of(way), 0);
                let bar = match way {
                    TENSOR => bar.beside(100.0 * facts::TENSOR_ENERGY_OVER_GPU),
                    LAYER => bar.beside(100.0 * facts::TENSOR_ENERGY_OVER_GPU / facts::TENSOR_ENERGY_OVER_LAYER),
                    _ => bar,
                };
                Group { name: short_name(way), bars: vec![bar] }
            })
            .collect();
        let frame = Frame {
            title: "What speed costs in energy",
            subtitle: "Llama-8B, 256 tokens and 32 behind them, simulated Snapdragon 8 Gen 3; percent of the GPU alone",
            y_desc: "percent of GPU only",
            most: 125.0,
            legend: (625, 92),
        };
        plot::bars(path, &frame, &groups, &[])
    })
}
