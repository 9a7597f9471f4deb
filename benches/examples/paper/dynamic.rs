//! Prompts of lengths for which an NPU has no graph, by what is done about it.

use anyhow::Result;
use hetero_llama::simulate::{DynamicLength, Simulation};

use crate::chart::{CPU, GPU, INK, NPU, PALE, THIRD};
use crate::facts;
use crate::lab::{Case, LAYER, LLAMA_8B, Lab, TENSOR, WHOLE, WHOLE_3, Way};
use crate::page::{Page, mean, percent};
use crate::plot::{self, Frame, Line};

/// Around the standard lengths, and between them.
const LENGTHS: [usize; 18] = [33, 48, 64, 65, 96, 128, 129, 135, 200, 256, 257, 300, 400, 512, 513, 700, 850, 1024];
/// Those just above a standard length.
const JUST_ABOVE: [usize; 5] = [33, 65, 129, 257, 513];

/// What is done about a length, and what it is called.
type Strategy = (&'static str, Way, DynamicLength);

const PADDING: Strategy = ("Padding", LAYER, DynamicLength::Padding);
const ONLINE: Strategy = ("Online-prepare", LAYER, DynamicLength::Online);
const PIPE: Strategy = ("NPU-pipe", LAYER, DynamicLength::Pipe);
const CUT: Strategy = (TENSOR.name, TENSOR, DynamicLength::Tensor);
const STRATEGIES: [Strategy; 6] = [
    PADDING,
    ONLINE,
    PIPE,
    CUT,
    (WHOLE.name, WHOLE, DynamicLength::Tensor),
    (WHOLE_3.name, WHOLE_3, DynamicLength::Tensor),
];

pub(crate) fn write(lab: &Lab, page: &mut Page) -> Result<()> {
    let grid = lab.grid(&LENGTHS, &STRATEGIES, case)?;
    let seconds: Vec<Vec<f64>> = grid
        .iter()
        .map(|row| row.iter().zip(STRATEGIES).map(|(run, strategy)| total_seconds(run, strategy)).collect())
        .collect();
    let column = |strategy: Strategy| STRATEGIES.iter().position(|known| *known == strategy).expect("one of them");
    let of = |length: usize, strategy: Strategy| {
        seconds[LENGTHS.iter().position(|&known| known == length).expect("one of them")][column(strategy)]
    };

    page.heading("Dynamic lengths");
    page.sentences([
        "Milliseconds of prefill of Llama-8B, by tokens of the prompt.",
        "Padding, Online-prepare and NPU-pipe compute whole operators on the processor that is faster for each; \
         Online-prepare includes compiling a graph for each shape, as all layers of the paper's engine share them.",
    ]);
    let columns: Vec<&str> = std::iter::once("tokens").chain(STRATEGIES.iter().map(|(name, ..)| *name)).collect();
    let rows: Vec<(String, Vec<String>)> = LENGTHS
        .iter()
        .zip(&seconds)
        .map(|(length, row)| (length.to_string(), row.iter().map(|seconds| format!("{:.0}", 1e3 * seconds)).collect()))
        .collect();
    page.table(&columns, &rows);

    let above = |strategy: Strategy| JUST_ABOVE.map(|length| of(length, PADDING) / of(length, strategy));
    let shorter: Vec<f64> = LENGTHS
        .iter()
        .filter(|&&length| !length.is_power_of_two())
        .map(|&length| 1.0 - of(length, CUT) / of(length, PIPE))
        .collect();
    let [least, most] = [shorter.iter().copied().fold(1.0, f64::min), shorter.iter().copied().fold(-1.0, f64::max)];
    let compile = online_compile_seconds(&grid, facts::ONLINE_LENGTH);
    let online = of(facts::ONLINE_LENGTH, ONLINE);
    let n_better = LENGTHS.iter().filter(|&&length| of(length, PIPE) < 0.99 * of(length, PADDING)).count();
    page.sentences([
        format!(
            "Just above a standard length ({} tokens), Padding takes {:.2} times as long as Hetero-tensor on average \
             here, and {:.2} times as long as hetero's own plans; the paper says {} times.",
            JUST_ABOVE.map(|length| length.to_string()).join(", "),
            mean(&above(CUT)),
            mean(&above((WHOLE.name, WHOLE, DynamicLength::Tensor))),
            facts::PADDING,
        ),
        format!(
            "Hetero-tensor's prefill is shorter than NPU-pipe's by {:.1} to {:.1} %, {:.1} % on average; the paper says \
             {:.1} to {:.1} %.",
            100.0 * least,
            100.0 * most,
            100.0 * mean(&shorter),
            100.0 * facts::OVER_PIPE[0],
            100.0 * facts::OVER_PIPE[1],
        ),
        format!(
            "NPU-pipe is faster than Padding at {n_better} of {} lengths here; at the others, standard lengths in \
             sequence would be as long as one, or padding takes less than a quarter of the graph, and it pads.",
            LENGTHS.len(),
        ),
        format!(
            "With {} tokens Online-prepare takes {:.0} ms, of them {:.0} for compiling ({:.1} %); the paper has {:.0} ms \
             for compiling, {:.1} % of about {:.0} ms.",
            facts::ONLINE_LENGTH,
            1e3 * online,
            1e3 * compile,
            100.0 * compile / online,
            1e3 * facts::ONLINE_PREPARE_SECONDS,
            100.0 * facts::ONLINE_PREPARE_SHARE,
            1e3 * facts::ONLINE_PREPARE_SECONDS / facts::ONLINE_PREPARE_SHARE,
        ),
        fastest(&seconds),
    ]);
    page.figure("dynamic-lengths", "Prefill time of Llama-8B by length and strategy", |path| {
        let colors = [NPU, PALE, GPU, THIRD, INK, CPU];
        let lines: Vec<Line> = STRATEGIES
            .iter()
            .zip(colors)
            .enumerate()
            .map(|(idx, (&(name, ..), color))| Line {
                name,
                color,
                points: LENGTHS.into_iter().zip(seconds.iter().map(|row| 1e3 * row[idx])).collect(),
            })
            .collect();
        let most = 1e3 * seconds.iter().flatten().copied().fold(0.0, f64::max);
        let frame = Frame {
            title: "What a length without an NPU graph costs",
            subtitle: "Prefill of Llama-8B on the simulated Snapdragon 8 Gen 3, compiling included",
            y_desc: "ms",
            most: plot::nice(most),
            legend: (110, 92),
        };
        let stated = 1e3 * facts::ONLINE_PREPARE_SECONDS / facts::ONLINE_PREPARE_SHARE;
        let ticks = [0, 64, 128, 256, 384, 512, 640, 768, 896, 1024];
        plot::lines(path, &frame, &ticks, false, &lines, &[(facts::ONLINE_LENGTH, stated, PALE)])
    })
}

fn case(length: usize, (_, way, dynamic_length): Strategy) -> Case {
    Case { dynamic_length, ..Case::prefill(LLAMA_8B, way, length) }
}

fn total_seconds(run: &Simulation, (.., dynamic_length): Strategy) -> f64 {
    run.prefill.seconds + if dynamic_length == DynamicLength::Online { compile_seconds(run) } else { 0.0 }
}

fn compile_seconds(run: &Simulation) -> f64 {
    run.predicted.as_ref().map_or(0.0, |predicted| predicted.compile_seconds)
}

fn online_compile_seconds(grid: &[Vec<std::rc::Rc<Simulation>>], length: usize) -> f64 {
    let row = LENGTHS.iter().position(|&known| known == length).expect("one of them");
    compile_seconds(&grid[row][STRATEGIES.iter().position(|known| *known == ONLINE).expect("one of them")])
}

/// For how many lengths which strategy is the fastest, and how far hetero's own is behind where it is not.
fn fastest(seconds: &[Vec<f64>]) -> String {
    let paper = |row: &Vec<f64>| row[..4].iter().copied().fold(f64::INFINITY, f64::min);
    let own = |row: &Vec<f64>| row[4..].iter().copied().fold(f64::INFINITY, f64::min);
    let gains: Vec<f64> = seconds.iter().map(|row| paper(row) / own(row)).collect();
    let n_ahead = gains.iter().filter(|&&gain| gain > 1.0).count();
    let worst = gains.iter().copied().fold(f64::INFINITY, f64::min);
    format!(
        "The better of hetero's own plans is faster than all of the paper's strategies at {n_ahead} of {} lengths, {} on \
         average and {} where it does worst.",
        gains.len(),
        percent(mean(&gains)),
        percent(worst),
    )
}
