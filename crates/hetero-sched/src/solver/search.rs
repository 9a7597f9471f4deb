//! Beam search over the nodes, in their order.
//!
//! A state is everything that the past means for the future: where live values are and in which submissions, when
//! devices and host are free. After each node the best states are kept, at most a few of those that have their values
//! in the same places. A graph that is small enough keeps all of them, so that its solution is the best there is.

use std::ops::Range;

use crate::cost::MAX_DEVICES;
use crate::timing::Overheads;

use super::candidates::{FEW_CUTS, Pool, pairs};
use super::problem::{Template, Work};
use super::state::{Cut, State};
use super::{Granularity, Weighting};

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub(crate) pool: Pool<'a>,
    pub(crate) overheads: [Overheads; MAX_DEVICES],
    pub(crate) weighting: Weighting,
    /// For each choice that was kept: the one before it, and the candidate.
    trace: Vec<(usize, usize)>,
    records: Vec<Record>,
    cuts: Vec<Cut>,
    /// States that are no longer needed; their memory is used again.
    spare: Vec<State>,
}

/// The trace of a state in which nothing has been chosen.
pub(crate) const NO_CHOICE: usize = usize::MAX;

/// A choice that was tried.
#[derive(Clone, Copy, Debug)]
struct Record {
    score: f64,
    state: u32,
    candidate: u32,
    /// States with the same one have their values in the same places.
    places: u64,
}

impl<'a> Search<'a> {
    pub(crate) fn new(pool: Pool<'a>, weighting: Weighting) -> Search<'a> {
        let overheads = Overheads::of(pool.costs.devices());
        let (trace, records, cuts, spare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Search { pool, overheads, weighting, trace, records, cuts, spare }
    }

    /// Whether there are so few combinations that all can be tried.
    pub(crate) fn is_small(&mut self) -> bool {
        let mut combinations = 1usize;
        for template in 0..self.pool.problem.templates.len() {
            // What follows from the state comes on top.
            let n = self.pool.fixed_cuts(template).len();
            combinations = combinations.saturating_mul(n.max(1));
        }
        self.pool.problem.layers.is_none() && combinations <= self.pool.options.effort.all_combinations
    }

    /// Continues states over some nodes and returns the best ones, best first. Empty when a node has no candidate.
    pub(crate) fn beam(&mut self, nodes: Range<usize>, starts: Vec<State>, keep_all: bool) -> Vec<State> {
        let problem = self.pool.problem;
        let mut front = starts;
        let mut next: Vec<State> = Vec::new();
        for idx in nodes {
            let work = &problem.works[idx];
            self.try_all(idx, work, &front);
            self.select(keep_all);
            self.spare.append(&mut next);
            for record in &self.records {
                let before = &front[record.state as usize];
                let candidate = self.pool.candidate(work.template, record.candidate as usize);
                let outcome = before.try_candidate(problem, work, candidate, &self.overheads);
                let mut state = self.spare.pop().unwrap_or_else(|| State::new(0));
                state.advance_from(before, work, candidate, &outcome);
                self.trace.push((before.trace, record.candidate as usize));
                state.trace = self.trace.len() - 1;
                next.push(state);
            }
            std::mem::swap(&mut front, &mut next);
        }
        front
    }

    /// The choices that led to a state since its trace began.
    pub(crate) fn choices(&self, state: &State) -> Vec<usize> {
        let mut choices = Vec::new();
        let mut at = state.trace;
        while at != NO_CHOICE {
            let (before, candidate) = self.trace[at];
            choices.push(candidate);
            at = before;
        }
        choices.reverse();
        choices
    }

    /// Walks over some nodes with choices that are made.
    pub(crate) fn walk(&self, state: &mut State, nodes: Range<usize>, choices: &[usize]) {
        let problem = self.pool.problem;
        for (idx, &choice) in nodes.zip(choices) {
            let work = &problem.works[idx];
            state.advance(problem, work, self.pool.candidate(work.template, choice), &self.overheads);
        }
    }

    /// What is minimised, if the step ended with what is queued.
    pub(crate) fn value(&self, state: &State) -> f64 {
        let end = state.progress.clock.end();
        self.weighting.value(end, state.progress.joules, state.progress.own_bytes)
    }

    /// What is minimised, at the end of a step.
    pub(crate) fn final_value(&self, state: &State) -> f64 {
        let end = state.progress.clock.end_known(&self.overheads);
        self.weighting.value(end, state.progress.joules, state.progress.own_bytes)
    }

    /// Fills `records` with the candidates of a node in all states.
    fn try_all(&mut self, idx: usize, work: &Work, front: &[State]) {
        let problem = self.pool.problem;
        let template = &problem.templates[work.template];
        self.records.clear();
        for (state_idx, state) in front.iter().enumerate() {
            self.list_cuts(idx, work, template, state);
            let live = problem.live(work);
            let mut places = 0xcbf2_9ce4_8422_2325u64;
            for &slot in live.iter().filter(|&&slot| slot != work.output) {
                places = mix(places, state.values[slot].map(|located| located.cut));
            }
            let mut known_at = [0.0; MAX_DEVICES];
            for &device in &self.pool.devices {
                known_at[device] = state.known_at(live, work.output, device, &self.overheads);
            }
            for cut_idx in 0..self.cuts.len() {
                let cut = self.cuts[cut_idx];
                let Some(candidate_idx) = self.pool.find(work.template, cut) else { continue };
                let candidate = self.pool.candidate(work.template, candidate_idx);
                let (progress, _) = state.try_candidate(problem, work, candidate, &self.overheads);
                // When the first device could go on that needs everything that is alive.
                let mut joined = f64::INFINITY;
                for &device in &self.pool.devices {
                    let mut at = known_at[device];
                    for other in candidate.cut.devices().without(device).iter() {
                        at = at.max(progress.clock.free[other] + self.overheads[other].sync);
                    }
                    let submit = if at > 0.0 { self.overheads[device].submit } else { 0.0 };
                    joined = joined.min(progress.clock.free[device].max(at + submit));
                }
                let busy: f64 = progress.clock.free.iter().sum();
                let seconds = joined + 1e-3 * busy;
                let score = self.weighting.value(seconds, progress.joules, progress.own_bytes);
                let record = Record {
                    score,
                    state: state_idx as u32,
                    candidate: candidate_idx as u32,
                    places: mix(places, Some(cut)),
                };
                self.records.push(record);
            }
        }
    }

    /// Keeps the best records.
    fn select(&mut self, keep_all: bool) {
        let order = |a: &Record, b: &Record| {
            a.score.total_cmp(&b.score).then(a.state.cmp(&b.state)).then(a.candidate.cmp(&b.candidate))
        };
        if keep_all {
            return;
        }
        let effort = &self.pool.options.effort;
        let considered = effort.width * 4;
        if self.records.len() > considered {
            self.records.select_nth_unstable_by(considered, order);
            self.records.truncate(considered);
        }
        self.records.sort_unstable_by(order);
        let mut kept = 0;
        for idx in 0..self.records.len() {
            let record = self.records[idx];
            let same = self.records[..kept].iter().filter(|other| other.places == record.places).count();
            if kept < effort.width && same < effort.width_per_place {
                self.records[kept] = record;
                kept += 1;
            }
        }
        self.records.truncate(kept);
    }

    /// Fills `cuts` with those that are worth trying for a node in a state.
    fn list_cuts(&mut self, idx: usize, work: &Work, template: &Template, state: &State) {
        let Search { pool, cuts, overheads, .. } = self;
        let problem = pool.problem;
        debug_assert_eq!(template.node, idx, "the search decides at the first node of a kind");
        cuts.clear();
        cuts.extend_from_slice(pool.fixed_cuts(work.template));
        if pool.options.granularity == Granularity::Layer || pool.devices.len() < 2 {
            return;
        }
        for &slot in &template.follows {
            let Some(located) = &state.values[slot] else { continue };
            let fits = match located.cut {
                Cut::Columns(..) | Cut::Corner(..) => located.columns == template.columns,
                Cut::Whole(_) | Cut::Chunks(_) | Cut::Rows(..) => true,
            };
            if fits && !cuts.contains(&located.cut) {
                cuts.push(located.cut);
            }
        }
        let has_many = template.column_step > 0 && (template.columns - 1) / template.column_step > FEW_CUTS;
        if !template.is_linear || !has_many || template.has_sibling {
            return;
        }
        let inputs = || problem.inputs(work).iter().filter_map(|input| input.slot);
        let mut starts = [0.0; MAX_DEVICES];
        for &device in &pool.devices {
            starts[device] = state.could_start(inputs(), device, overheads);
        }
        let devices = pool.devices.clone();
        for (a, b) in pairs(&devices) {
            for is_chain in [true, false] {
                let balanced = pool.balanced_columns(work.template, [a, b], is_chain, starts[a] - starts[b]);
                for at in balanced.into_iter().flatten() {
                    let cut = Cut::columns([a, b], at);
                    if !cuts.contains(&cut) {
                        cuts.push(cut);
                    }
                }
            }
        }
        if devices.len() >= 3 {
            for cut in pool.balanced_three(work.template, &starts) {
                if !cuts.contains(&cut) {
                    cuts.push(cut);
                }
            }
        }
    }
}

/// Mixes where a value is into a number that stands for the places of all.
fn mix(places: u64, cut: Option<Cut>) -> u64 {
    let [kind, a, b, c] = match cut {
        None => [0; 4],
        Some(Cut::Whole(device)) => [1, device.into(), 0, 0],
        Some(Cut::Chunks(device)) => [2, device.into(), 0, 0],
        Some(Cut::Columns(devices, at)) => {
            [3, u64::from(u32::from_le_bytes([devices[0], devices[1], devices[2], 0])), at[0].into(), at[1].into()]
        }
        Some(Cut::Rows([a, b], at)) => [4, a.into(), b.into(), at.into()],
        Some(Cut::Corner([a, b], row, column)) => [5, (u64::from(a) << 8) | u64::from(b), row.into(), column.into()],
    };
    let word = kind ^ (a << 4) ^ (b << 20) ^ (c << 44);
    (places ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}
