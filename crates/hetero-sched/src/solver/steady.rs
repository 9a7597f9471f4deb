//! The decoder layer that is repeated: what counts is the time from one layer's end to the next one's.

use std::ops::Range;

use crate::cost::{DeviceSet, MAX_DEVICES};

use super::Granularity;
use super::candidates::pairs;
use super::cuts::{FEW_CUTS, ROW_STEP};
use super::problem::Layers;
use super::search::{Limits, NO_CHOICE, Search};
use super::state::{Cut, State};
use super::weighting::Outlay;

/// A change that makes an operator this many times as long is not tried.
const LONGER: f64 = 1.5;

/// So many layers one after the other tell what one of them takes when many run.
const N_COPIES: usize = 2;

/// A simple plan is looked at in full when its layers take less than so many times as long as the best ones.
const CLOSE: f64 = 1.01;

/// How many ways into the layers and out of them are compared.
const N_ENDS: usize = 3;

/// States that a search for whole operators keeps.
const NARROW: usize = 4;

/// For each node of a graph, the number of the candidate that was chosen for it.
pub(crate) type Choices = Vec<usize>;

impl Search<'_> {
    /// Choices for all nodes, or `None` when some node has no candidate.
    ///
    /// The search proposes some, and so do every device alone, whole operators and the method of the paper; the one that
    /// is worth most by what the whole step takes is taken.
    pub(crate) fn solve_all(&mut self) -> Option<Choices> {
        let problem = self.pool.problem;
        let n_nodes = problem.works.len();
        let mut fresh = State::new(problem.n_slots);
        fresh.trace = NO_CHOICE;
        let mut simple: Vec<Choices> = Vec::new();
        for device in self.pool.devices.clone() {
            simple.extend(self.whole_on(device, 0..n_nodes));
        }
        if self.pool.devices.len() > 1 {
            simple.extend(self.solve_as_paper());
        }
        let mut found: Vec<Choices> = Vec::new();
        if let Some(layers) = problem.layers.clone() {
            let solved = self.solve_layers(&layers, &fresh, &simple);
            // A few layers tell what is not worth a second look.
            if let Some((value, choices)) = solved {
                let (start, n_copies) = (layers.first.start, layers.count.min(N_COPIES));
                simple.retain(|other| self.layers_value(start, n_copies, &other[layers.first.clone()]) < value * CLOSE);
                found.push(choices);
            }
        } else {
            let keep_all = self.is_small();
            let ends = self.beam(0..n_nodes, vec![fresh.clone()], keep_all);
            let kept = if keep_all { ends.len() } else { self.pool.options.effort.refined };
            for mut choices in self.best_of(ends, kept) {
                if !keep_all {
                    self.improve(Trial::new(0..n_nodes, 1), &mut choices);
                }
                found.push(choices);
            }
        }
        found.extend(simple);
        if found.len() < 2 {
            return found.pop();
        }
        let mut best: Option<(f64, Choices)> = None;
        for choices in found {
            let value = self.exact_value(0..n_nodes, &choices);
            if best.as_ref().is_none_or(|(least, _)| value < *least) {
                best = Some((value, choices));
            }
        }
        best.map(|(_, choices)| choices)
    }

    /// The choices of the states that end best.
    fn best_of(&self, mut ends: Vec<State>, n: usize) -> Vec<Choices> {
        ends.sort_by(|a, b| self.final_value(a).total_cmp(&self.final_value(b)));
        ends.iter().take(n).map(|state| self.choices(state)).collect()
    }

    /// Everything on one device, or `None` when it cannot compute something.
    fn whole_on(&mut self, device: usize, nodes: Range<usize>) -> Option<Choices> {
        let problem = self.pool.problem;
        nodes.map(|idx| self.pool.find(problem.works[idx].template, Cut::Whole(device as u8))).collect()
    }

    /// Choices for all nodes with those of a layer the same in all layers, and what a few layers are worth with them.
    fn solve_layers(&mut self, layers: &Layers, fresh: &State, simple: &[Choices]) -> Option<(f64, Choices)> {
        let first = layers.first.clone();
        let n_nodes = self.pool.problem.works.len();
        let (value, layer) = self.solve_layer(layers, simple)?;
        // What comes before and after is chosen by what it takes beside one layer.
        let before = self.beam(0..first.start, vec![fresh.clone()], false);
        let mut prefixes: Vec<Choices> = before.iter().take(N_ENDS).map(|state| self.choices(state)).collect();
        prefixes.extend(simple.iter().map(|choices| choices[..first.start].to_vec()));
        let mut choices = self.best_with(0..first.end, prefixes, |prefix| [prefix, &layer].concat())?;
        let last = layers.copy(layers.count - 1);
        let mut state = fresh.clone();
        self.walk(&mut state, last.clone(), &layer);
        let after = self.beam(last.end..n_nodes, vec![state], false);
        let mut suffixes: Vec<Choices> = after.iter().take(N_ENDS).map(|state| self.choices(state)).collect();
        suffixes.extend(simple.iter().map(|choices| choices[last.end..].to_vec()));
        let suffix = self.best_with(last.start..n_nodes, suffixes, |suffix| [&layer, suffix].concat())?;
        for _ in 0..layers.count {
            choices.extend_from_slice(&layer);
        }
        choices.extend(suffix);
        Some((value, choices))
    }

    /// Of some choices those that are worth most within others.
    fn best_with(
        &mut self,
        nodes: Range<usize>,
        mut all: Vec<Choices>,
        within: impl Fn(&[usize]) -> Choices,
    ) -> Option<Choices> {
        all.sort_unstable();
        all.dedup();
        let mut best: Option<(f64, Choices)> = None;
        for choices in all {
            let value = self.exact_value(nodes.clone(), &within(&choices));
            if best.as_ref().is_none_or(|(least, _)| value < *least) {
                best = Some((value, choices));
            }
        }
        best.map(|(_, choices)| choices)
    }

    /// Choices for the nodes of one layer that make many of them fast, and what a few layers are worth with them.
    fn solve_layer(&mut self, layers: &Layers, simple: &[Choices]) -> Option<(f64, Choices)> {
        let problem = self.pool.problem;
        let first = layers.first.clone();
        // Where the layer before may have left its output: on any of the devices.
        let entries: Vec<State> = (self.pool.devices.iter())
            .map(|&device| {
                let mut entry = State::new(problem.n_slots);
                entry.trace = NO_CHOICE;
                if let Some(before) = first.start.checked_sub(1) {
                    for &slot in problem.live(&problem.works[before]) {
                        entry.place_in_open(slot, device);
                    }
                }
                entry
            })
            .collect();
        let mut found: Vec<Choices> = Vec::new();
        let mut add = |search: &Self, ends: Vec<State>| {
            for state in ends {
                let choices = search.choices(&state);
                if !found.contains(&choices) {
                    found.push(choices);
                }
            }
        };
        let ends = self.beam(first.clone(), entries.clone(), false);
        add(self, ends);
        for limits in self.narrower() {
            self.limits = limits;
            let ends = self.beam(first.clone(), entries.clone(), false);
            add(self, ends);
        }
        self.limits = Limits::default();
        found.extend(simple.iter().map(|choices| choices[first.clone()].to_vec()));
        let n_copies = layers.count.min(N_COPIES);
        let mut rated: Vec<(f64, Choices)> = Vec::new();
        for choices in found {
            rated.push((self.layers_value(first.start, n_copies, &choices), choices));
        }
        rated.sort_by(|a, b| a.0.total_cmp(&b.0));
        rated.truncate(self.pool.options.effort.refined);
        for (value, choices) in &mut rated {
            *value = self.improve(Trial::new(first.clone(), n_copies), choices);
        }
        rated.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// What else is searched: whole operators, and of more than two devices every two.
    fn narrower(&self) -> Vec<Limits> {
        let mut all = Vec::new();
        if self.pool.options.granularity != Granularity::Layer && self.pool.devices.len() > 1 {
            all.push(Limits { width: NARROW, is_whole: true, ..Limits::default() });
        }
        if self.pool.devices.len() > 2 {
            let two = pairs(&self.pool.devices).map(|(a, b)| DeviceSet::one(a).with(b));
            let width = self.pool.options.effort.width / 2;
            all.extend(two.map(|devices| Limits { width, devices, is_whole: false }));
        }
        all
    }

    /// What some layers are worth that are computed alike.
    fn layers_value(&mut self, start: usize, n_copies: usize, choices: &[usize]) -> f64 {
        self.exact_value(start..start + n_copies * choices.len(), choices)
    }

    /// Changes choices one by one, or those of a chain together, as long as the value falls; returns the value.
    fn improve(&mut self, mut trial: Trial, choices: &mut Choices) -> f64 {
        trial.least = self.layers_value(trial.nodes.start, trial.n_copies, choices);
        self.shift_cuts(choices, &mut trial);
        for _ in 0..self.pool.options.effort.rounds {
            let before = trial.least;
            self.replace_cuts(choices, &mut trial);
            if trial.least >= before {
                break;
            }
            self.shift_cuts(choices, &mut trial);
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
            let mut stride = self.pool.options.effort.first_shift;
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

    /// Tries every other cut for each linear operator (for each node, if the effort says so), for it alone and for the
    /// chain that begins with it.
    fn replace_cuts(&mut self, choices: &mut Choices, trial: &mut Trial) {
        let problem = self.pool.problem;
        let start = trial.nodes.start;
        for offset in 0..choices.len() {
            let template = problem.works[start + offset].template;
            if !problem.templates[template].is_linear && !self.pool.options.effort.replaces_all {
                continue;
            }
            let chain = problem.templates[template].chain.clone();
            let first_template = problem.works[start].template;
            let mut cuts: Vec<Cut> = self.pool.fixed_cuts(template).iter().map(|&(cut, _)| cut).collect();
            for neighbour in [offset.wrapping_sub(1), offset + 1] {
                if let Some(&choice) = choices.get(neighbour) {
                    cuts.push(self.pool.candidate(problem.works[start + neighbour].template, choice).cut);
                }
            }
            let columns = &problem.templates[template];
            if columns.is_linear && columns.column_step > 0 && (columns.columns - 1) / columns.column_step > FEW_CUTS {
                for (a, b) in pairs(&self.pool.devices.clone()) {
                    let balanced = self.pool.balanced_columns(template, [a, b], true, 0.0);
                    cuts.extend(balanced.into_iter().flatten().take(1).map(|at| Cut::columns([a, b], at)));
                }
            }
            for cut in cuts {
                if !self.pool.options.effort.replaces_all {
                    let now = self.pool.candidate(template, choices[offset]).longest();
                    // What takes some device so much longer is not made up for by the others.
                    let known = self.pool.find(template, cut);
                    if known.is_none_or(|candidate| self.pool.candidate(template, candidate).longest() > LONGER * now) {
                        continue;
                    }
                }
                self.try_change(choices, trial, |node, _| node == offset, cut);
                if chain.len() > 1 {
                    self.try_change(choices, trial, |node, _| chain.contains(&(node + first_template)), cut);
                }
            }
        }
    }

    /// What changed choices are worth at most: no device is faster than its work alone.
    fn least_value(&self, trial: &Trial) -> f64 {
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
    fn try_change(
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
        if !is_changed {
            return false;
        }
        if self.least_value(trial) >= trial.least {
            return false;
        }
        let value = self.layers_value(trial.nodes.start, trial.n_copies, &trial.changed);
        // A gain that rounding may have made is none.
        let is_better = value < trial.least * (1.0 - 1e-9);
        if is_better {
            trial.least = value;
            choices.clone_from(&trial.changed);
        }
        is_better
    }
}

/// Choices that are being improved.
struct Trial {
    nodes: Range<usize>,
    /// How often they run one after the other.
    n_copies: usize,
    least: f64,
    changed: Choices,
}

impl Trial {
    fn new(nodes: Range<usize>, n_copies: usize) -> Trial {
        Trial { nodes, n_copies, least: f64::INFINITY, changed: Vec::new() }
    }
}

impl Layers {
    /// The nodes of one of the layers.
    pub(crate) fn copy(&self, idx: usize) -> Range<usize> {
        let start = self.first.start + idx * self.first.len();
        start..start + self.first.len()
    }
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
