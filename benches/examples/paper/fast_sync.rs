//! What waiting by prediction and polling gains.

use anyhow::Result;
use hetero_llama::simulate::Simulation;
use plotters::style::RGBColor;

use crate::chart::{PALE, THIRD};
use crate::facts;
use crate::lab::{Case, LAYER, LLAMA_8B, Lab, TENSOR, WHOLE, Way};
use crate::page::{Page, mean, percent};
use crate::plot::{self, Bar, Frame, Group, color_of};

/// The colour of bars without it.
const WITHOUT: RGBColor = RGBColor(198, 203, 209);
const LENGTHS: [usize; 3] = [64, 256, 1024];
const COMPARED: [Way; 3] = [LAYER, TENSOR, WHOLE];

/// Tokens per second with and without.
#[derive(Clone, Copy)]
struct Pair {
    with: f64,
    without: f64,
}

impl Pair {
    fn gain(self) -> f64 {
        self.with / self.without
    }

    fn cells(self, digits: usize) -> [String; 3] {
        let Pair { with, without } = self;
        [format!("{with:.digits$}"), format!("{without:.digits$}"), percent(self.gain())]
    }
}

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let all: Vec<(Way, usize)> = COMPARED.iter().flat_map(|&way| LENGTHS.map(|prompt| (way, prompt))).collect();
    let grid = lab.grid(&all, &[true, false], |(way, prompt), fast_sync| Case {
        fast_sync,
        ..Case::new(LLAMA_8B, way, prompt)
    })?;
    let pair = |runs: &[std::rc::Rc<Simulation>], speed: fn(&Simulation) -> f64| Pair {
        with: speed(&runs[0]),
        without: speed(&runs[1]),
    };
    let prefill: Vec<Pair> = grid.iter().map(|runs| pair(runs, |run| run.prefill.tokens_per_second())).collect();
    let decode: Vec<Pair> = grid.iter().map(|runs| pair(runs, |run| run.decode.tokens_per_second())).collect();

    page.heading("Fast synchronisation");
    page.sentences([
        "Llama-8B with fast synchronisation and without it, by the same plans.",
        "Without it both of its parts are missing: processors share no memory, so what one writes for another is copied \
         by the driver, and the host waits for the driver at every crossing.",
    ]);
    let rows: Vec<(String, Vec<String>)> = all
        .iter()
        .zip(prefill.iter().zip(&decode))
        .map(|((way, prompt), (prefill, decode))| {
            (format!("{}, {prompt} tokens", way.name), [prefill.cells(1), decode.cells(2)].concat())
        })
        .collect();
    page.table(&["", "prefill with", "without", "gain", "decode with", "without", "gain"], &rows);
    let of = |pairs: &[Pair], way: Way| -> Vec<Pair> {
        all.iter().zip(pairs).filter(|((known, _), _)| *known == way).map(|(_, &pair)| pair).collect()
    };
    let average = |pairs: Vec<Pair>| mean(&pairs.into_iter().map(Pair::gain).collect::<Vec<f64>>());
    let at_256 = of(&prefill, TENSOR)[1];
    page.sentences([
        format!(
            "At 256 tokens the paper's Hetero-tensor has {} with it and {} without; {:.1} ({}) and {:.1} ({}) here.",
            facts::PREFILL_TENSOR,
            facts::PREFILL_TENSOR_WITHOUT_FAST_SYNC,
            at_256.with,
            percent(at_256.with / facts::PREFILL_TENSOR),
            at_256.without,
            percent(at_256.without / facts::PREFILL_TENSOR_WITHOUT_FAST_SYNC),
        ),
        format!(
            "Its average gains in prefill are {} (layer) and {} (tensor); {} and {} here.",
            percent(facts::FAST_SYNC_LAYER),
            percent(facts::FAST_SYNC_TENSOR),
            percent(average(of(&prefill, LAYER))),
            percent(average(of(&prefill, TENSOR))),
        ),
        format!(
            "In decoding Hetero-tensor is {} times as fast with it in the paper, and {:.2} times here.",
            facts::FAST_SYNC_DECODE,
            average(of(&decode, TENSOR)),
        ),
    ]);
    page.figure("fast-sync", "Prefill of Llama-8B with and without fast synchronisation", |path| {
        let groups: Vec<Group> = all
            .iter()
            .zip(&prefill)
            .filter(|((way, _), _)| *way != WHOLE)
            .map(|(&(way, prompt), pair)| {
                let with = Bar::new(pair.with, color_of(way), 1);
                let without = Bar::new(pair.without, WITHOUT, 1);
                let mut bars = [without, with];
                if (way, prompt) == (TENSOR, 256) {
                    bars[0].paper = Some(facts::PREFILL_TENSOR_WITHOUT_FAST_SYNC);
                    bars[1].paper = Some(facts::PREFILL_TENSOR);
                }
                let kind = if way == LAYER { "layer" } else { "tensor" };
                Group { name: format!("{kind}, {prompt}"), bars: bars.into() }
            })
            .collect();
        let most = prefill.iter().map(|pair| pair.with.max(pair.without)).fold(0.0, f64::max);
        let frame = Frame {
            title: "What waiting well is worth",
            subtitle: "Prefill of Llama-8B without and with fast synchronisation, simulated Snapdragon 8 Gen 3",
            y_desc: "tokens/s",
            most: plot::room_above(most, 4),
            legend: (110, 92),
        };
        plot::bars(path, &frame, &groups, &[(WITHOUT, "without"), (PALE, "with, layer"), (THIRD, "with, tensor")])
    })
}
