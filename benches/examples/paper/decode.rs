//! Decoding of Llama-8B: speed, and who uses how much of the memory bus.

use anyhow::Result;
use hetero_core::DeviceKind;

use crate::chart::{CPU, GPU, NPU};
use crate::facts;
use crate::lab::{CPU_ONLY, Case, GPU_ONLY, LAYER, LLAMA_8B, Lab, TENSOR, WAYS, Way};
use crate::page::{Page, percent};
use crate::plot::{self, Bar, Frame, Group};

const PROMPT: usize = 256;
const KINDS: [DeviceKind; 3] = [DeviceKind::Gpu, DeviceKind::Npu, DeviceKind::Cpu];

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let ways: Vec<Way> = std::iter::once(CPU_ONLY).chain(WAYS).collect();
    let cases: Vec<Case> = ways.iter().map(|&way| Case::new(LLAMA_8B, way, PROMPT)).collect();
    let simulations = lab.run_all(&cases)?;
    let of = |way: Way| &simulations[ways.iter().position(|known| *known == way).expect("one of the ways")].decode;

    page.heading("Decode");
    page.sentences([
        format!("Llama-8B behind a prompt of {PROMPT} tokens."),
        "Bandwidth is what crosses the memory bus on average over the whole step; busy is the share of time in which a \
         processor has work."
            .to_owned(),
    ]);
    let columns =
        ["", "tokens/s", "GB/s", "by the GPU", "by the NPU", "by the CPU", "GPU busy", "NPU busy", "CPU busy"];
    let rows: Vec<(String, Vec<String>)> = ways
        .iter()
        .zip(&simulations)
        .map(|(way, simulation)| {
            let decode = &simulation.decode;
            let mut cells =
                vec![format!("{:.2}", decode.tokens_per_second()), format!("{:.1}", decode.bytes_per_second() / 1e9)];
            cells.extend(KINDS.map(|kind| format!("{:.1}", decode.bytes_per_second_of(kind) / 1e9)));
            cells.extend(KINDS.map(|kind| format!("{:.0} %", 100.0 * decode.busy_share_of(kind))));
            (way.name.to_owned(), cells)
        })
        .collect();
    page.table(&columns, &rows);
    let (tensor, layer, gpu) = (of(TENSOR), of(LAYER), of(GPU_ONLY));
    let share = tensor.bytes_per_second_of(DeviceKind::Npu) / tensor.bytes_per_second();
    let gain = tensor.tokens_per_second() / layer.tokens_per_second();
    page.sentences([
        format!(
            "The paper gives {} tokens per second for Hetero-tensor: {:.2} here ({}).",
            facts::DECODE_TENSOR,
            tensor.tokens_per_second(),
            percent(tensor.tokens_per_second() / facts::DECODE_TENSOR),
        ),
        format!(
            "That is {} over Hetero-layer, which decodes on the GPU alone, in the paper, and {} here.",
            percent(facts::DECODE_TENSOR_OVER_LAYER),
            percent(gain),
        ),
        format!(
            "The GPU alone uses {:.1} GB/s in the paper and {:.1} here, GPU and NPU together {:.1} and {:.1}, of which \
             the NPU has {:.0} % and {:.0} %.",
            facts::GPU_BYTES_PER_SECOND / 1e9,
            gpu.bytes_per_second() / 1e9,
            facts::TOGETHER_BYTES_PER_SECOND / 1e9,
            tensor.bytes_per_second() / 1e9,
            100.0 * facts::NPU_SHARE,
            100.0 * share,
        ),
    ]);
    page.sentences([
        "The weights of w4g32 have 4.5 bits, a scale for each group of 32; what the paper says about decoding is \
         consistent with 4.125, a scale for each 128 ([simulator.md](simulator.md)), which is 8 % fewer bytes a token.",
    ]);
    page.figure("bandwidth", "Bandwidth that decoding uses, by way", |path| {
        let groups: Vec<Group> = ways
            .iter()
            .zip(&simulations)
            .map(|(&way, simulation)| {
                let decode = &simulation.decode;
                let pieces = KINDS.iter().zip([GPU, NPU, CPU]);
                let bar = Bar {
                    pieces: pieces.map(|(&kind, color)| (decode.bytes_per_second_of(kind) / 1e9, color)).collect(),
                    label: format!("{:.1}", decode.bytes_per_second() / 1e9),
                    paper: match way {
                        GPU_ONLY => Some(facts::GPU_BYTES_PER_SECOND / 1e9),
                        TENSOR => Some(facts::TOGETHER_BYTES_PER_SECOND / 1e9),
                        _ => None,
                    },
                };
                Group { name: short_name(way), bars: vec![bar] }
            })
            .collect();
        let frame = Frame {
            title: "Two processors use more of the memory bus than one",
            subtitle: "Average over a decode step of Llama-8B on the simulated Snapdragon 8 Gen 3",
            y_desc: "GB/s",
            most: 80.0,
            legend: (110, 92),
        };
        plot::bars(path, &frame, &groups, &[(GPU, "by the GPU"), (NPU, "by the NPU"), (CPU, "by the CPU")])
    })
}

/// A name that fits under a bar.
pub(crate) fn short_name(way: Way) -> String {
    let name = way.name.strip_suffix(", as the paper").unwrap_or(way.name);
    name.replace(", whole layer", ", whole")
}
