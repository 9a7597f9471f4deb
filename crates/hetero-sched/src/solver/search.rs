//! Beam search over the nodes, in their order.
//!
//! A state is everything that the past means for the future: where live values are and in which submissions, when
//! devices and host are free. After each node the best states are kept, at most a few of those that have their values
//! in the same places. A graph that is small enough keeps all of them, so that its solution is the best there is.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::cost::{DeviceSet, MAX_DEVICES};
use crate::timing::{Overheads, Timeline};

use super::Granularity;
use super::candidates::{Pool, pairs};
use super::cuts::FEW_CUTS;
use super::exact::Exact;
use super::groups::Ways;
use super::problem::{Template, Work};
use super::refine::Rating;
use super::state::{Candidate, Cut, Outcome, State};
use super::weighting::{Outlay, Weighting};

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub(crate) pool: Pool<'a>,
    pub(crate) overheads: [Overheads; MAX_DEVICES],
    pub(crate) weighting: Weighting,
    /// For each choice that was kept: the one before it, and the candidate.
    trace: Vec<(usize, usize)>,
    records: Vec<Record>,
    /// What is tried for a node in a state: fixed cuts first.
    cuts: Vec<(Cut, usize)>,
    /// States that are no longer needed; their memory is used again.
    spare: Vec<State>,
    outcome: Outcome,
    pub(super) exact: Exact,
    /// What the beam may do.
    pub(crate) limits: Limits,
    /// For each template, how its work may be divided.
    pub(super) ways: Vec<Option<Ways>>,
    /// For choices of the layer that is improved, what they were found to be worth.
    pub(super) rated: FxHashMap<[u64; 2], Rating>,
}

/// What a beam may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// States that are kept at most.
    pub(crate) width: usize,
    /// Devices that are used.
    pub(crate) devices: DeviceSet,
    /// Whether operators stay whole.
    pub(crate) is_whole: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { width: usize::MAX, devices: DeviceSet::first(MAX_DEVICES), is_whole: false }
    }
}

/// States that are kept at most where there is no time; of a step of one position, which has fewer ways to cut anything.
const HURRIED: [usize; 2] = [2, 4];

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
    /// States with the same one have their values on the same devices, cut in the same ways at any positions.
    ways: u64,
    /// In which way the node is cut, and on which devices.
    way: u64,
}

impl<'a> Search<'a> {
    pub(crate) fn new(pool: Pool<'a>, weighting: Weighting) -> Search<'a> {
        let overheads = Overheads::of(pool.costs.devices());
        let (trace, records, cuts, spare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let exact = Exact::new(pool.costs);
        Search {
            pool,
            overheads,
            weighting,
            trace,
            records,
            cuts,
            spare,
            outcome: Outcome::new(),
            exact,
            limits: Limits::default(),
            ways: Vec::new(),
            rated: FxHashMap::default(),
        }
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
                before.try_candidate(problem, work, candidate, &self.overheads, &mut self.outcome);
                let mut state = self.spare.pop().unwrap_or_else(|| State::new(0));
                state.advance_from(before, problem, work, candidate, &self.outcome);
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
        let mut outcome = Outcome::new();
        for (idx, &choice) in nodes.zip(choices) {
            let work = &problem.works[idx];
            let candidate = self.pool.candidate(work.template, choice);
            state.advance(problem, work, candidate, &self.overheads, &mut outcome);
        }
    }

    /// What one layer alone is worth with choices that are made.
    pub(super) fn layer_value(&mut self, start: usize, choices: &[usize]) -> f64 {
        let Search { pool, exact, weighting, .. } = self;
        let problem = pool.problem;
        let pieces_of = |node: usize, choice: usize| &pool.candidate(problem.works[node].template, choice).pieces[..];
        exact.lay_out_first(problem, start, choices, pieces_of);
        let seconds = exact.run();
        weighting.value(seconds, outlay_of(pool, start, choices))
    }

    /// What the layer of the last call of [`Search::layer_value`] is worth so many times.
    pub(super) fn layer_value_again(&mut self, start: usize, n_copies: usize, choices: &[usize]) -> f64 {
        let Search { pool, exact, weighting, .. } = self;
        let problem = pool.problem;
        let pieces_of = |node: usize, choice: usize| &pool.candidate(problem.works[node].template, choice).pieces[..];
        for _ in 1..n_copies {
            exact.lay_out_again(problem, pieces_of);
        }
        let seconds = exact.run();
        weighting.value(seconds, n_copies as f64 * outlay_of(pool, start, choices))
    }

    /// What some nodes alone are worth with choices that are made, by what they take beside each other. Choices begin
    /// anew when there are fewer of them.
    pub(crate) fn exact_value(&mut self, nodes: Range<usize>, choices: &[usize]) -> f64 {
        let Search { pool, exact, weighting, .. } = self;
        let problem = pool.problem;
        let chosen = || {
            let works = problem.works[nodes.clone()].iter().zip(choices.iter().cycle());
            works.map(|(work, &choice)| pool.candidate(work.template, choice))
        };
        let pieces = nodes.clone().zip(chosen().map(|candidate| &candidate.pieces[..]));
        let seconds = exact.seconds(problem, pieces);
        weighting.value(seconds, chosen().map(|candidate| candidate.outlay).sum())
    }

    /// When everything runs with choices that are made.
    pub(crate) fn timeline(&mut self, choices: &[usize]) -> Timeline {
        let Search { pool, exact, .. } = self;
        let works = pool.problem.works.iter().zip(choices).enumerate();
        let pieces = works.map(|(idx, (work, &choice))| (idx, &pool.candidate(work.template, choice).pieces[..]));
        exact.timeline(pool.problem, pieces)
    }

    /// Seconds of a step in which each node is computed in a given way.
    pub(crate) fn seconds_of<'c>(&mut self, candidates: impl Iterator<Item = &'c Candidate>) -> f64 {
        let pieces = candidates.map(|candidate| &candidate.pieces[..]).enumerate();
        self.exact.seconds(self.pool.problem, pieces)
    }

    /// What is minimised, at the end of a step.
    pub(crate) fn final_value(&self, state: &State) -> f64 {
        let end = state.progress.clock.end_known(&self.overheads);
        self.weighting.value(end, state.progress.outlay)
    }

    /// Fills `records` with the candidates of a node in all states.
    fn try_all(&mut self, idx: usize, work: &Work, front: &[State]) {
        let problem = self.pool.problem;
        let template = &problem.templates[work.template];
        self.records.clear();
        let rest = self.pool.siblings_left(work.template);
        for (state_idx, state) in front.iter().enumerate() {
            self.list_cuts(idx, work, template, state);
            let live = problem.live(work);
            let (mut places, mut ways) = (0xcbf2_9ce4_8422_2325u64, 0x9ddf_ea08_eb38_2d69u64);
            for &slot in live.iter().filter(|&&slot| slot != work.output) {
                let word = state.values[slot].as_ref().map_or([0; 2], |located| words(located.cut));
                ways = mix(ways, word[0]);
                places = mix(mix(places, word[0]), word[1]);
            }
            let mut known_at = [0.0; MAX_DEVICES];
            let mut input_known_at = [0.0; MAX_DEVICES];
            for &device in &self.pool.devices {
                let values = live.iter().copied().filter(|&slot| slot != work.output);
                known_at[device] = state.known_at(values, device, &self.overheads);
                if rest.is_some() {
                    let inputs = problem.inputs(work).iter().filter_map(|input| input.slot);
                    input_known_at[device] = state.known_at(inputs, device, &self.overheads);
                }
            }
            for cut_idx in 0..self.cuts.len() {
                let (cut, candidate_idx) = self.cuts[cut_idx];
                let candidate = self.pool.candidate(work.template, candidate_idx);
                state.try_candidate(problem, work, candidate, &self.overheads, &mut self.outcome);
                let cut_devices = candidate.cut.devices();
                let joined = match rest {
                    Some(rest) => self.finish_together(rest, &input_known_at),
                    None => self.first_to_know(&known_at, cut_devices),
                };
                let progress = &self.outcome.progress;
                let busy: f64 = progress.clock.free.iter().sum();
                let seconds = joined + 1e-3 * busy;
                let score = self.weighting.value(seconds, progress.outlay);
                let [way, positions] = words(cut);
                self.records.push(Record {
                    score,
                    state: state_idx as u32,
                    candidate: candidate_idx as u32,
                    places: mix(mix(places, way), positions),
                    ways: mix(ways, way),
                    way,
                });
            }
        }
    }

    /// After a choice, when the first device could go on that needs everything that is alive.
    fn first_to_know(&self, known_at: &[f64; MAX_DEVICES], cut_devices: DeviceSet) -> f64 {
        let free = &self.outcome.progress.clock.free;
        let starts = self.pool.devices.iter().map(|&device| {
            let mut at = known_at[device];
            for other in cut_devices.without(device).iter() {
                at = at.max(free[other] + self.overheads[other].sync);
            }
            let submit = if at > 0.0 { self.overheads[device].submit } else { 0.0 };
            free[device].max(at + submit)
        });
        starts.fold(f64::INFINITY, f64::min)
    }

    /// After a choice, when all devices finish together with work of which each would take so many seconds alone, and
    /// for which it has what it needs at a time.
    fn finish_together(&self, alone: [f64; MAX_DEVICES], known_at: &[f64; MAX_DEVICES]) -> f64 {
        let free = &self.outcome.progress.clock.free;
        let start = |device: usize| {
            let submit = if known_at[device] > 0.0 { self.overheads[device].submit } else { 0.0 };
            free[device].max(known_at[device] + submit)
        };
        let last = self.pool.devices.iter().map(|&device| free[device]).fold(0.0, f64::max);
        let mut end = f64::INFINITY;
        // Without those that start too late to take a part of it.
        for _ in 0..self.pool.devices.len() {
            let (mut rate, mut begun) = (0.0, 0.0);
            for &device in self.pool.devices.iter().filter(|&&device| start(device) < end) {
                rate += 1.0 / alone[device];
                begun += start(device) / alone[device];
            }
            let next = (1.0 + begun) / rate;
            if next.is_nan() || next == end {
                break;
            }
            end = next;
        }
        last.max(end)
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
        let hurried = HURRIED[usize::from(self.pool.problem.is_single())];
        let width = effort.width.min(if self.pool.is_hurried() { hurried } else { self.limits.width });
        let considered = width * 4;
        if self.records.len() > considered {
            self.records.select_nth_unstable_by(considered, order);
            self.records.truncate(considered);
        }
        self.records.sort_unstable_by(order);
        let mut kept = 0;
        for idx in 0..self.records.len() {
            let record = self.records[idx];
            let (mut same_places, mut same_ways, mut same_way) = (0, 0, 0);
            for other in &self.records[..kept] {
                same_places += usize::from(other.places == record.places);
                same_ways += usize::from(other.ways == record.ways);
                same_way += usize::from(other.way == record.way);
            }
            if same_places < effort.width_per_place && same_ways < effort.width_per_ways && same_way < width.div_ceil(3)
            {
                self.records[kept] = record;
                kept += 1;
                if kept == width {
                    break;
                }
            }
        }
        self.records.truncate(kept);
    }

    /// Fills `cuts` with those that are worth trying for a node in a state.
    fn list_cuts(&mut self, idx: usize, work: &Work, template: &Template, state: &State) {
        let Search { pool, cuts, overheads, limits, .. } = self;
        let problem = pool.problem;
        debug_assert_eq!(template.node, idx, "the search decides at the first node of a kind");
        cuts.clear();
        let limits = *limits;
        let fits = |cut: Cut| {
            let devices = cut.devices();
            devices.iter().all(|device| limits.devices.contains(device)) && (!limits.is_whole || devices.len() == 1)
        };
        cuts.extend(pool.fixed_cuts(work.template).iter().filter(|(cut, _)| fits(*cut)));
        if cuts.is_empty() {
            // What none of them can compute is computed elsewhere.
            cuts.extend_from_slice(pool.fixed_cuts(work.template));
        }
        if limits.is_whole || pool.options.granularity == Granularity::Layer || pool.devices.len() < 2 {
            return;
        }
        let mut add = |pool: &mut Pool<'_>, cut: Cut| {
            if fits(cut) && !cuts.iter().any(|&(known, _)| known == cut) {
                cuts.extend(pool.find(work.template, cut).map(|candidate| (cut, candidate)));
            }
        };
        for &slot in &template.follows {
            let Some(located) = &state.values[slot] else { continue };
            let fits = match located.cut {
                Cut::Columns(..) | Cut::Corner(..) => located.columns == template.columns,
                Cut::Whole(_) | Cut::Chunks(_) | Cut::Rows(..) => true,
            };
            if fits {
                add(pool, located.cut);
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
            let head_start = starts[a] - starts[b];
            // Alone, with the chain that it begins, and beside what one of the two computes of the same input.
            let rest = pool.siblings_left(work.template).map(|rest| [rest[a], -rest[b]]);
            let beside = rest.into_iter().flatten().filter(|rest| rest.is_finite());
            let ways = [(true, 0.0), (false, 0.0)].into_iter().chain(beside.map(|rest| (false, rest)));
            for (is_chain, later) in ways {
                let balanced = pool.balanced_columns(work.template, [a, b], is_chain, head_start + later);
                for at in balanced.into_iter().flatten() {
                    add(pool, Cut::columns([a, b], at));
                }
            }
        }
        if devices.len() >= 3 {
            for cut in pool.balanced_three(work.template, &starts) {
                add(pool, cut);
            }
        }
    }
}

/// What the nodes of a layer ask for.
fn outlay_of(pool: &Pool<'_>, start: usize, choices: &[usize]) -> Outlay {
    let works = &pool.problem.works[start..];
    works.iter().zip(choices).map(|(work, &choice)| pool.candidate(work.template, choice).outlay).sum()
}

/// The way and the devices of a cut as one number, its positions as another.
fn words(cut: Cut) -> [u64; 2] {
    match cut {
        Cut::Whole(device) => [0x100 | u64::from(device), 0],
        Cut::Chunks(device) => [0x200 | u64::from(device), 0],
        Cut::Columns([a, b, c], [first, second]) => {
            [0x3_0000 | u64::from(u32::from_le_bytes([a, b, c, 0])) << 20, u64::from(first) << 32 | u64::from(second)]
        }
        Cut::Rows([a, b], at) => [0x4_0000 | u64::from(a) << 8 | u64::from(b), at.into()],
        Cut::Corner([a, b], row, column) => {
            [0x5_0000 | u64::from(a) << 8 | u64::from(b), u64::from(row) << 32 | u64::from(column)]
        }
    }
}

/// Adds a number to others, so that the result differs where one of them does.
pub(super) fn mix(all: u64, word: u64) -> u64 {
    (all ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}
