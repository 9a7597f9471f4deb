//! Choices that are there already are changed one by one, or a few together, as long as the step gets shorter.

use std::ops::Range;

use crate::cost::MAX_DEVICES;

use super::Effort;
use super::candidates::pairs;
use super::cuts::{FEW_CUTS, ROW_STEP};
use super::search::{Search, mix};
use super::state::Cut;
use super::steady::Choices;
use super::weighting::Outlay;

/// A cut that makes some device take so many times as long for an operator is not tried: the others do not make up for it.
const LONGER: f64 = 1.25;

/// The same for the cut of an operator beside it, which may save a join.
const LONGER_BESIDE: f64 = 1.5;

/// One copy of the layers that is worth so many times as much says that several are; where a step waits for its plan, and
/// where there is time.
const CLEARLY: [f64; 2] = [1.0003, 1.002];

impl Search<'_> {
    /// Changes choices one by one, or those of a chain together, as long as the value falls; returns the value.
    pub(super) fn improve(&mut self, mut trial: Trial, choices: &mut Choices) -> f64 {
        trial.alone = self.layer_value(trial.nodes.start, choices);
        trial.least = self.layers_value(trial.nodes.start, trial.n_copies, choices);
        for _ in 0..trial.rounds {
            let before = trial.least;
            self.regroup(choices, &mut trial);
            self.replace_cuts(choices, &mut trial);
            self.shift_cuts(choices, &mut trial);
            if trial.least >= before {
                break;
            }
        }
        trial.least
    }

    /// Moves each cut of columns or rows to both sides, together with those of all nodes that are cut alike.
    fn shift_cuts(&mut self, choices: &mut Choices, trial: &mut Trial) {
        let problem = self.pool.problem;
        let start = trial.nodes.start;
        for offset in 0..choices.len() {
            let template = problem.works[start + offset].template;
            let mut cut = self.pool.candidate(template, choices[offset]).cut;
            let is_first = |search: &Self| {
                !(0..offset).any(|other| {
                    search.pool.candidate(problem.works[start + other].template, choices[other]).cut == cut
                })
            };
            let step = problem.templates[template].column_step.max(1) as i64;
            if matches!(cut, Cut::Whole(_) | Cut::Chunks(_)) || !is_first(self) {
                continue;
            }
            // Cuts are close to where they balance; the last step or two are what counts.
            let mut stride = match (self.pool.is_hurried(), self.pool.is_pressed() && !problem.is_single()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, _) => self.pool.options.effort.first_shift,
            };
            while stride >= 1 {
                let mut is_better = false;
                for shifted in shifts(cut, stride as i64, step) {
                    if self.try_change(choices, trial, |_, known| known == cut, shifted) {
                        cut = shifted;
                        is_better = true;
                        break;
                    }
                }
                if !is_better {
                    stride /= 2;
                }
            }
        }
    }

    /// Tries other cuts for operators that are not linear, for each alone and for those together of which one reads the
    /// other; for linear ones too, if the effort says so.
    fn replace_cuts(&mut self, choices: &mut Choices, trial: &mut Trial) {
        let problem = self.pool.problem;
        let start = trial.nodes.start;
        let mut cuts: Vec<Cut> = Vec::new();
        for offset in 0..choices.len() {
            let template_idx = problem.works[start + offset].template;
            let template = &problem.templates[template_idx];
            let mut run = vec![offset];
            if template.is_linear {
                if !trial.replaces_all {
                    continue;
                }
                let first_template = problem.works[start].template;
                run.extend(template.chain.iter().skip(1).map(|&member| member - first_template));
            } else if !template.mixes_rows {
                run = self.run_of(offset, choices.len(), trial);
            }
            cuts.clear();
            self.list_neighbours(&run, choices, trial, &mut cuts);
            if !trial.replaces_all {
                cuts.retain(|&cut| self.is_promising(template_idx, choices[offset], cut, LONGER_BESIDE));
            }
            for (cut, _) in self.pool.fixed_cuts(template_idx).to_vec() {
                if trial.replaces_all || self.is_promising(template_idx, choices[offset], cut, LONGER) {
                    cuts.push(cut);
                }
            }
            if template.is_linear {
                self.list_balanced(template_idx, &mut cuts);
            }
            cuts.sort_unstable();
            cuts.dedup();
            let (has_run, is_pressed) = (run.len() > 1, self.pool.is_pressed());
            for &cut in &cuts {
                self.try_change(choices, trial, |node, _| node == offset, cut);
                if has_run && !is_pressed {
                    self.try_change(choices, trial, |node, _| run.contains(&node), cut);
                }
            }
            if has_run && is_pressed {
                // Several together seldom get rows cut as none of them and none beside them has. They come last, because
                // they may begin anew in the layer's first nodes, and what is laid out there stays until it changes.
                let known = self.cuts_around(&run, choices, trial);
                for &cut in cuts.iter().filter(|cut| !matches!(cut, Cut::Rows(..)) || known.contains(cut)) {
                    self.try_change(choices, trial, |node, _| run.contains(&node), cut);
                }
            }
        }
    }

    /// Whether a cut is worth trying in the place of a candidate of an operator that is not linear, when it may take some
    /// device so many times as long.
    fn is_promising(&mut self, template: usize, now: usize, cut: Cut, longer: f64) -> bool {
        let known = self.pool.candidate(template, now);
        let (longest, is_whole) = (known.longest(), known.cut.devices().len() == 1);
        // Columns of what takes so little time are cut where what it reads is cut, or not at all.
        if matches!(cut, Cut::Columns(..)) && (is_whole || cut.devices().len() > 2) {
            return false;
        }
        let candidate = self.pool.find(template, cut);
        candidate.is_some_and(|candidate| self.pool.candidate(template, candidate).longest() <= longer * longest)
    }

    /// A node with those behind it, into the next copy, of which each reads the one before and each row and column needs
    /// only the same one, or a few.
    fn run_of(&self, offset: usize, length: usize, trial: &Trial) -> Vec<usize> {
        let problem = self.pool.problem;
        let start = trial.nodes.start;
        let mut run = vec![offset];
        let n_nodes = if trial.n_copies > 1 { 2 * length } else { length };
        for next in offset + 1..n_nodes.min(offset + length) {
            let (before, work) = (&problem.works[start + next - 1], &problem.works[start + next]);
            let template = &problem.templates[work.template];
            let reads = problem.inputs(work).iter().any(|input| input.slot == Some(before.output));
            if template.is_linear || template.mixes_rows || !reads {
                break;
            }
            run.push(next % length);
        }
        run
    }

    /// Cuts of columns where devices balance.
    fn list_balanced(&mut self, template: usize, cuts: &mut Vec<Cut>) {
        let columns = &self.pool.problem.templates[template];
        if columns.column_step > 0 && (columns.columns - 1) / columns.column_step > FEW_CUTS {
            for (a, b) in pairs(&self.pool.devices.clone()) {
                let balanced = self.pool.balanced_columns(template, [a, b], true, 0.0);
                cuts.extend(balanced.into_iter().flatten().take(1).map(|at| Cut::columns([a, b], at)));
            }
        }
    }

    /// The cuts of what stands before and behind some nodes, and cuts of rows in the same places on any two devices: what
    /// needs only some of the rows can then begin with them.
    fn list_neighbours(&mut self, run: &[usize], choices: &[usize], trial: &Trial, cuts: &mut Vec<Cut>) {
        let problem = self.pool.problem;
        let little_time = [self.pool.is_pressed(), self.pool.is_hurried()];
        // Where parts of neighbours end, and on which devices what lies before and behind.
        let mut ends: Vec<(u32, u8, u8)> = Vec::new();
        for neighbour in neighbours(run, choices.len()) {
            let template = problem.works[trial.nodes.start + neighbour].template;
            let candidate = self.pool.candidate(template, choices[neighbour]);
            cuts.push(candidate.cut);
            let tensor_rows = problem.templates[template].tensor_rows;
            for piece in candidate.pieces.iter().filter(|piece| (piece.rows[1] as usize) < tensor_rows) {
                let row = piece.rows[1];
                let behind = candidate.pieces.iter().find(|other| other.rows[0] <= row && row < other.rows[1]);
                let behind = behind.map_or(piece.device, |behind| behind.device);
                ends.push((row, piece.device as u8, behind as u8));
            }
        }
        ends.sort_unstable();
        ends.dedup();
        for (a, b) in pairs(&self.pool.devices) {
            for [a, b] in [[a as u8, b as u8], [b as u8, a as u8]] {
                // Where there is little time, one of the two goes on with what it has, or both do.
                let fits = |&&(_, before, behind): &&(u32, u8, u8)| match little_time {
                    [false, _] => true,
                    [true, false] => before == a || behind == b,
                    [true, true] => before == a && behind == b,
                };
                cuts.extend(ends.iter().filter(fits).map(|&(row, ..)| Cut::Rows([a, b], row)));
            }
        }
    }

    /// The cuts of some nodes, and of what stands before and behind them.
    fn cuts_around(&self, run: &[usize], choices: &[usize], trial: &Trial) -> Vec<Cut> {
        let all = neighbours(run, choices.len()).into_iter().chain(run.iter().copied());
        let template = |node: usize| self.pool.problem.works[trial.nodes.start + node].template;
        all.map(|node| self.pool.candidate(template(node), choices[node]).cut).collect()
    }

    /// What changed choices are worth at most: no device is faster than its work alone.
    pub(super) fn least_value(&self, trial: &Trial) -> f64 {
        let works = &self.pool.problem.works[trial.nodes.clone()];
        let mut busy = [0.0; MAX_DEVICES];
        let mut outlay = Outlay::default();
        for (work, &choice) in works.iter().zip(&trial.changed) {
            let candidate = self.pool.candidate(work.template, choice);
            candidate.pieces.iter().for_each(|piece| busy[piece.device] += piece.load.seconds);
            outlay += candidate.outlay;
        }
        let n = trial.n_copies as f64;
        let seconds = n * busy.into_iter().fold(0.0, f64::max);
        self.weighting.value(seconds, n * outlay)
    }

    /// Gives a cut to the nodes that are meant, where they can have it, and keeps the change if it lowers the value.
    pub(super) fn try_change(
        &mut self,
        choices: &mut Choices,
        trial: &mut Trial,
        is_meant: impl Fn(usize, Cut) -> bool,
        cut: Cut,
    ) -> bool {
        let problem = self.pool.problem;
        trial.changed.clone_from(choices);
        let mut is_changed = false;
        for (offset, changed) in trial.changed.iter_mut().enumerate() {
            let template = problem.works[trial.nodes.start + offset].template;
            let known = self.pool.candidate(template, *changed).cut;
            if known != cut
                && is_meant(offset, known)
                && let Some(candidate) = self.pool.find(template, cut)
            {
                *changed = candidate;
                is_changed = true;
            }
        }
        is_changed && self.keep_if_better(choices, trial)
    }

    /// Keeps changed choices if they lower the value.
    pub(super) fn keep_if_better(&mut self, choices: &mut Choices, trial: &mut Trial) -> bool {
        if self.least_value(trial) >= trial.least {
            return false;
        }
        let key = key(&trial.changed);
        let known = self.rated.get(&key).copied().unwrap_or_default();
        // A gain that rounding may have made is none.
        let is_less = |value: f64| value < trial.least * (1.0 - 1e-9);
        if known.all.is_some_and(|all| !is_less(all)) {
            return false;
        }
        // What makes one copy clearly slower makes many slower, and takes half the time to find out.
        let at_most = trial.alone * CLEARLY[usize::from(self.pool.options.effort.replaces_all)];
        if known.alone.is_some_and(|alone| alone > at_most) {
            return false;
        }
        let alone = self.layer_value(trial.nodes.start, &trial.changed);
        if alone > at_most {
            self.rated.insert(key, Rating { alone: Some(alone), all: known.all });
            return false;
        }
        let value = match trial.n_copies {
            1 => alone,
            n => self.layer_value_again(trial.nodes.start, n, &trial.changed),
        };
        self.rated.insert(key, Rating { alone: Some(alone), all: Some(value) });
        let is_better = is_less(value);
        if is_better {
            (trial.least, trial.alone) = (value, alone);
            choices.clone_from(&trial.changed);
        }
        is_better
    }
}

/// What choices were found to be worth for a layer, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rating {
    /// One copy, and all.
    alone: Option<f64>,
    all: Option<f64>,
}

/// Choices as a number that others have with a probability of 1 to 2^128, which would only leave them untried.
fn key(choices: &[usize]) -> [u64; 2] {
    let begin = [0xcbf2_9ce4_8422_2325u64, 0x9ddf_ea08_eb38_2d69u64];
    choices.iter().fold(begin, |[a, b], &choice| [mix(a, choice as u64), mix(b, !(choice as u64))])
}

/// Choices that are being improved.
pub(super) struct Trial {
    pub(super) nodes: Range<usize>,
    /// How often they run one after the other.
    pub(super) n_copies: usize,
    pub(super) least: f64,
    /// What one copy is worth.
    alone: f64,
    pub(super) changed: Choices,
    /// See [`Effort::rounds`] and [`Effort::replaces_all`].
    rounds: usize,
    replaces_all: bool,
}

impl Trial {
    pub(super) fn new(nodes: Range<usize>, n_copies: usize, effort: &Effort) -> Trial {
        Trial {
            nodes,
            n_copies,
            least: f64::INFINITY,
            alone: f64::INFINITY,
            changed: Vec::new(),
            rounds: effort.rounds,
            replaces_all: effort.replaces_all,
        }
    }

    /// Without the changes that take long and seldom help.
    pub(super) fn quick(self) -> Trial {
        Trial { replaces_all: false, ..self }
    }
}

/// The two nodes before some others that follow each other and the two behind them, in copies of a layer of so many nodes.
fn neighbours(run: &[usize], length: usize) -> [usize; 4] {
    let last = run[run.len() - 1];
    [run[0] + length - 1, run[0] + length - 2, last + 1, last + 2].map(|node| node % length)
}

/// A cut moved by so many steps to both sides, each of its positions alone.
fn shifts(cut: Cut, stride: i64, step: i64) -> Vec<Cut> {
    let moved = |at: u32, by: i64| u32::try_from(i64::from(at) + by).ok().filter(|&at| at > 0);
    let both = [stride, -stride];
    match cut {
        Cut::Whole(_) | Cut::Chunks(_) => Vec::new(),
        Cut::Columns(devices, [first, second]) if first == second => {
            let to = |by: i64| moved(first, by * step).map(|at| Cut::Columns(devices, [at; 2]));
            both.into_iter().filter_map(to).collect()
        }
        Cut::Columns(devices, [first, second]) => {
            let first_to = both.into_iter().filter_map(|by| moved(first, by * step)).map(|at| [at, second]);
            let second_to = both.into_iter().filter_map(|by| moved(second, by * step)).map(|at| [first, at]);
            let all = first_to.chain(second_to).filter(|at| at[0] < at[1]);
            all.map(|at| Cut::Columns(devices, at)).collect()
        }
        Cut::Rows(devices, at) => {
            both.into_iter().filter_map(|by| moved(at, by * ROW_STEP as i64)).map(|at| Cut::Rows(devices, at)).collect()
        }
        Cut::Corner(devices, row, column) => {
            let to = |by: i64| moved(column, by * step).map(|column| Cut::Corner(devices, row, column));
            both.into_iter().filter_map(to).collect()
        }
    }
}
