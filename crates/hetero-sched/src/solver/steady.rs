//! The decoder layer that is repeated: what counts is the time from one layer's end to the next one's.

use std::ops::Range;

use crate::cost::DeviceSet;

use super::Granularity;
use super::candidates::pairs;
use super::problem::Layers;
use super::refine::Trial;
use super::search::{Limits, NO_CHOICE, Search};
use super::state::{Cut, State};

/// So many layers one after the other tell what one of them takes when many run.
const N_COPIES: usize = 2;

/// A simple plan is looked at in full when its layers take less than so many times as long as the best ones.
const CLOSE: f64 = 1.01;

/// How many ways into the layers and out of them are compared.
const N_ENDS: usize = 3;

/// The most choices that are changed by chance at once.
const MOST_KICKED: usize = 4;

/// States that a search for whole operators keeps.
const NARROW: usize = 2;

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
            simple.extend(self.whole_on(device));
        }
        if self.pool.devices.len() > 1 {
            simple.extend(self.solve_as_paper());
        }
        let mut found: Vec<Choices> = Vec::new();
        if let Some(layers) = problem.layers.clone() {
            let (start, n_copies) = (layers.first.start, layers.count.min(N_COPIES));
            let rate = |choices: &Choices| self.layers_value(start, n_copies, &choices[layers.first.clone()]);
            let values: Vec<f64> = simple.iter().map(rate).collect();
            let solved = self.solve_layers(&layers, &fresh, &simple, &values);
            // A few layers tell what is not worth a second look.
            if let Some((value, choices)) = solved {
                let mut values = values.iter();
                simple.retain(|_| values.next().is_some_and(|&other| other < value * CLOSE));
                found.push(choices);
            }
        } else {
            let keep_all = self.is_small();
            let ends = self.beam(0..n_nodes, vec![fresh.clone()], keep_all);
            let kept = if keep_all { ends.len() } else { self.pool.options.effort.refined };
            for mut choices in self.best_of(ends, kept) {
                if !keep_all {
                    self.improve(Trial::new(0..n_nodes, 1, &self.pool.options.effort), &mut choices);
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
    fn whole_on(&mut self, device: usize) -> Option<Choices> {
        let problem = self.pool.problem;
        let templates = 0..problem.templates.len();
        let found: Option<Choices> = templates.map(|idx| self.pool.find(idx, Cut::Whole(device as u8))).collect();
        let found = found?;
        Some(problem.works.iter().map(|work| found[work.template]).collect())
    }

    /// Choices for all nodes with those of a layer the same in all layers, and what a few layers are worth with them.
    /// Simple ones are proposed, with what a few layers are worth by them.
    fn solve_layers(
        &mut self,
        layers: &Layers,
        fresh: &State,
        simple: &[Choices],
        values: &[f64],
    ) -> Option<(f64, Choices)> {
        let first = layers.first.clone();
        let n_nodes = self.pool.problem.works.len();
        let (value, layer) = self.solve_layer(layers, simple, values)?;
        // What comes before and after is chosen by what it takes beside one layer.
        let before = self.beam(0..first.start, vec![fresh.clone()], false);
        let mut prefixes: Vec<Choices> = before.iter().take(N_ENDS).map(|state| self.choices(state)).collect();
        prefixes.extend(simple.iter().map(|choices| choices[..first.start].to_vec()));
        let mut choices = self.best_with(0..first.end, prefixes, |prefix| [prefix, &layer].concat())?;
        let last = layers.copy(layers.count - 1);
        let mut state = fresh.clone();
        self.walk(&mut state, last.clone(), &layer);
        let after = self.beam(last.end..n_nodes, vec![state], false);
        // Behind the layers devices wait for little.
        let (n_ends, simple) = if self.pool.is_hurried() { (1, &[][..]) } else { (N_ENDS, simple) };
        let mut suffixes: Vec<Choices> = after.iter().take(n_ends).map(|state| self.choices(state)).collect();
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
        if all.len() < 2 {
            return all.pop();
        }
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
    fn solve_layer(&mut self, layers: &Layers, simple: &[Choices], values: &[f64]) -> Option<(f64, Choices)> {
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
        let n_copies = layers.count.min(N_COPIES);
        let mut rated: Vec<(f64, Choices)> = Vec::new();
        for choices in found {
            rated.push((self.layers_value(first.start, n_copies, &choices), choices));
        }
        rated.extend(values.iter().zip(simple).map(|(&value, choices)| (value, choices[first.clone()].to_vec())));
        rated.sort_by(|a, b| a.0.total_cmp(&b.0));
        // One position leaves few ways to cut anything, and its plan runs for every token of a reply.
        let at_least = if problem.is_single() { 2 } else { 1 };
        rated.truncate(self.pool.options.effort.refined.max(at_least));
        for (value, choices) in &mut rated {
            *value = self.improve(Trial::new(first.clone(), n_copies, &self.pool.options.effort), choices);
        }
        let best = rated.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(self.wander(first, n_copies, best))
    }

    /// Changes a few neighbouring choices by chance, improves the result, and goes on from it where it is better
    /// (iterated local search). The same numbers each time, so the same plan.
    fn wander(&mut self, nodes: Range<usize>, n_copies: usize, mut best: (f64, Choices)) -> (f64, Choices) {
        let problem = self.pool.problem;
        let effort = &self.pool.options.effort;
        let mut is_quick = false;
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut pick = |n: usize| {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % n
        };
        let n_kicks = effort.kicks + effort.quick_kicks;
        for kick in 0..n_kicks {
            let mut choices = best.1.clone();
            let first = pick(choices.len());
            let last = (first + pick(MOST_KICKED)).min(choices.len() - 1);
            for (offset, choice) in choices.iter_mut().enumerate().take(last + 1).skip(first) {
                let template = problem.works[nodes.start + offset].template;
                *choice = pick(self.pool.n_candidates(template));
            }
            let trial = Trial::new(nodes.clone(), n_copies, effort);
            // Evenly spread.
            let is_thorough = kick * effort.kicks % n_kicks < effort.kicks;
            let trial = if is_thorough { trial } else { trial.quick() };
            let value = self.improve(trial, &mut choices);
            if value < best.0 {
                best = (value, choices);
                is_quick = !is_thorough;
            }
        }
        if is_quick {
            best.0 = self.improve(Trial::new(nodes, n_copies, effort), &mut best.1);
        }
        best
    }

    /// What else is searched: whole operators and, of more than two devices, every two; where there is time for it.
    fn narrower(&self) -> Vec<Limits> {
        let mut all = Vec::new();
        let n_devices = self.pool.devices.len();
        if self.pool.is_hurried() {
            return all;
        }
        if self.pool.options.granularity != Granularity::Layer && n_devices > 1 {
            all.push(Limits { width: NARROW, is_whole: true, ..Limits::default() });
        }
        if n_devices > 2 {
            let two = pairs(&self.pool.devices).map(|(a, b)| DeviceSet::one(a).with(b));
            let width = self.pool.options.effort.width / 2;
            all.extend(two.map(|devices| Limits { width, devices, is_whole: false }));
        }
        all
    }

    /// What some layers are worth that are computed alike.
    pub(super) fn layers_value(&mut self, start: usize, n_copies: usize, choices: &[usize]) -> f64 {
        let value = self.layer_value(start, choices);
        if n_copies > 1 { self.layer_value_again(start, n_copies, choices) } else { value }
    }
}

impl Layers {
    /// The nodes of one of the layers.
    pub(crate) fn copy(&self, idx: usize) -> Range<usize> {
        let start = self.first.start + idx * self.first.len();
        start..start + self.first.len()
    }
}
