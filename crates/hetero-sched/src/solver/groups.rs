//! Linear operators that read the same are divided anew, together: queries, keys and values, gate and up.
//!
//! One of them changed alone leaves a device with too much to do that another one would have to give up. So all
//! combinations of ways to divide them are compared by a sum for each device, from when it could begin; where columns may
//! be cut anywhere, they are cut where the devices balance. What looks best is timed.

use std::rc::Rc;

use crate::cost::{DeviceSet, MAX_DEVICES};

use super::Granularity;
use super::candidates::pairs;
use super::cuts::FEW_CUTS;
use super::refine::Trial;
use super::search::Search;
use super::state::Cut;
use super::steady::Choices;

/// So many rounds balance the cuts of a combination.
const N_ROUNDS: usize = 10;

/// The most operators that are divided together, with many ways for the first one and few for the others.
const MOST_MEMBERS: usize = 4;

/// Ways to divide an operator.
pub(super) type Ways = Rc<[Way]>;

/// A way to divide an operator: fixed, or with as many columns as one wants on the first of two devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// The cut, with any number of columns where that is free.
    cut: Cut,
    devices: [usize; 2],
    /// Seconds of each device; without columns on the first of two where that is free.
    busy: [f64; MAX_DEVICES],
    /// Seconds that a column adds to the first of the devices, and takes from the second; zero where the cut is fixed.
    slopes: [f64; 2],
}

impl Way {
    fn is_free(&self) -> bool {
        self.slopes[0] > 0.0
    }

    /// The cut with so many columns on the first device.
    fn cut_at(&self, columns: usize) -> Cut {
        match self.cut {
            Cut::Columns(devices, _) if self.is_free() => Cut::Columns(devices, [columns as u32; 2]),
            Cut::Corner(devices, row, _) if self.is_free() => Cut::Corner(devices, row, columns as u32),
            cut => cut,
        }
    }
}

/// A combination of ways.
#[derive(Clone, Copy, Debug)]
struct Combination {
    score: f64,
    ways: [u8; MOST_MEMBERS],
    columns: [f64; MOST_MEMBERS],
}

impl Search<'_> {
    /// Divides each group of linear operators anew, and keeps what lowers the value.
    pub(super) fn regroup(&mut self, choices: &mut Choices, trial: &mut Trial) {
        let problem = self.pool.problem;
        if self.pool.options.effort.combinations == 0 || self.pool.options.granularity == Granularity::Layer {
            return;
        }
        self.ways.resize(problem.templates.len(), None);
        let start = trial.nodes.start;
        let mut is_done = vec![false; choices.len()];
        for offset in 0..choices.len() {
            let template = &problem.templates[problem.works[start + offset].template];
            if !template.is_linear || is_done[offset] {
                continue;
            }
            let mut members = vec![offset];
            members.extend(
                template.siblings.iter().map(|&sibling| problem.templates[sibling].node - template.node + offset),
            );
            members.truncate(MOST_MEMBERS);
            members.retain(|&member| member < choices.len());
            members.iter().for_each(|&member| is_done[member] = true);
            self.regroup_members(&members, choices, trial);
        }
    }

    fn regroup_members(&mut self, members: &[usize], choices: &mut Choices, trial: &mut Trial) {
        let problem = self.pool.problem;
        let start = trial.nodes.start;
        let templates: Vec<usize> = members.iter().map(|&member| problem.works[start + member].template).collect();
        let mut ways: Vec<Ways> = Vec::with_capacity(members.len());
        for (position, &template) in templates.iter().enumerate() {
            let all = self.ways_of(template);
            // Few for the third and later ones: keys and values are small.
            ways.push(if position > 0 && members.len() > 2 {
                all.iter().copied().filter(is_simple).collect()
            } else {
                all
            });
        }
        // When devices could begin, in the last copy.
        trial.least = self.layers_value(start, trial.n_copies, choices);
        let position = (trial.n_copies - 1) * choices.len() + members[0];
        let starts = self.exact.starts(problem, &problem.works[start + position], position);
        let mut now = starts;
        for &member in members {
            let candidate = self.pool.candidate(problem.works[start + member].template, choices[member]);
            candidate.pieces.iter().for_each(|piece| now[piece.device] += piece.seconds);
        }
        let used: DeviceSet = self.pool.devices.iter().copied().collect();
        let highest =
            used.iter().filter(|&device| now[device] > starts[device]).map(|device| now[device]).fold(0.0, f64::max);
        let first = used.iter().map(|device| starts[device]).fold(f64::INFINITY, f64::min);
        let limit = highest + 0.02 * (highest - first);
        let widths: Vec<f64> = templates.iter().map(|&template| problem.templates[template].columns as f64).collect();
        let combinations = best_combinations(&ways, &widths, &starts, limit, self.pool.options.effort.combinations);
        let before = choices.clone();
        for combination in combinations {
            let mut cuts = Vec::with_capacity(members.len());
            for (position, &template) in templates.iter().enumerate() {
                let step = problem.templates[template].column_step.max(1);
                let way = &ways[position][usize::from(combination.ways[position])];
                let columns = (combination.columns[position] / step as f64).round() as usize * step;
                cuts.push(way.cut_at(columns));
            }
            self.try_cuts(members, &cuts, &before, choices, trial);
        }
    }

    /// Gives each member its cut, and to what took over a member's cut that one's; keeps it if it lowers the value.
    fn try_cuts(
        &mut self,
        members: &[usize],
        cuts: &[Cut],
        before: &[usize],
        choices: &mut Choices,
        trial: &mut Trial,
    ) -> bool {
        let problem = self.pool.problem;
        let start = trial.nodes.start;
        trial.changed.clear();
        trial.changed.extend_from_slice(before);
        for (&member, &cut) in members.iter().zip(cuts) {
            let Some(idx) = self.pool.find(problem.works[start + member].template, cut) else { return false };
            trial.changed[member] = idx;
        }
        let last = *members.last().expect("a group has a member");
        for (&member, &cut) in members.iter().zip(cuts) {
            let old = self.pool.candidate(problem.works[start + member].template, before[member]).cut;
            if old == cut || !matches!(old, Cut::Columns(..) | Cut::Corner(..) | Cut::Rows(..)) {
                continue;
            }
            for (follower, &choice) in before.iter().enumerate().skip(last + 1) {
                let template = problem.works[start + follower].template;
                if trial.changed[follower] == choice
                    && !problem.templates[template].is_linear
                    && self.pool.candidate(template, choice).cut == old
                    && let Some(idx) = self.pool.find(template, cut)
                {
                    trial.changed[follower] = idx;
                }
            }
        }
        self.keep_if_better(choices, trial)
    }

    /// The ways to divide a template.
    fn ways_of(&mut self, template: usize) -> Ways {
        if let Some(ways) = &self.ways[template] {
            return Rc::clone(ways);
        }
        let problem = self.pool.problem;
        let known = &problem.templates[template];
        let is_same = |other: usize| {
            let other = &problem.templates[other];
            other.class == known.class && other.rows == known.rows
        };
        let same = (0..template).find(|&other| is_same(other) && self.ways[other].is_some());
        if let Some(ways) = same.and_then(|other| self.ways[other].clone()) {
            self.ways[template] = Some(Rc::clone(&ways));
            return ways;
        }
        let fixed = self.pool.fixed_cuts(template).to_vec();
        let mut ways: Vec<Way> = Vec::new();
        let is_wide = known.column_step > 0
            && (known.columns - 1) / known.column_step > FEW_CUTS
            && self.pool.options.granularity.cuts_columns();
        for (cut, idx) in fixed {
            let mut busy = [0.0; MAX_DEVICES];
            self.pool.candidate(template, idx).pieces.iter().for_each(|piece| busy[piece.device] += piece.seconds);
            match cut {
                Cut::Corner([a, b], row, _) if is_wide => {
                    let devices = [a, b].map(usize::from);
                    let is_new =
                        !ways.iter().any(|way| matches!(way.cut, Cut::Corner(d, r, _) if d == [a, b] && r == row));
                    if is_new {
                        ways.extend(self.free_way(template, devices, |at| Cut::Corner([a, b], row, at)));
                    }
                }
                _ => ways.push(Way { cut, devices: [0; 2], busy, slopes: [0.0; 2] }),
            }
        }
        if is_wide {
            for (a, b) in pairs(&self.pool.devices.clone()) {
                ways.extend(self.free_way(template, [a, b], |at| Cut::columns([a, b], at as usize)));
            }
        }
        let ways: Ways = ways.into();
        self.ways[template] = Some(Rc::clone(&ways));
        ways
    }

    /// A cut of columns anywhere: how seconds grow, from two of them.
    fn free_way(&mut self, template: usize, devices: [usize; 2], cut: impl Fn(u32) -> Cut) -> Option<Way> {
        let known = &self.pool.problem.templates[template];
        let step = known.column_step;
        let quarter = (known.columns / 4).next_multiple_of(step);
        let mut seconds = [[0.0; 2]; 2];
        let at = [quarter, 3 * quarter];
        for (seconds, at) in seconds.iter_mut().zip(at) {
            let idx = self.pool.find(template, cut(at as u32))?;
            for piece in &self.pool.candidate(template, idx).pieces {
                seconds[usize::from(piece.device != devices[0])] += piece.seconds;
            }
        }
        let width = (at[1] - at[0]) as f64;
        let slopes = [(seconds[1][0] - seconds[0][0]) / width, (seconds[0][1] - seconds[1][1]) / width];
        if slopes[0] <= 0.0 || slopes[1] <= 0.0 {
            return None;
        }
        let mut busy = [0.0; MAX_DEVICES];
        busy[devices[0]] = (seconds[0][0] - slopes[0] * at[0] as f64).max(0.0);
        busy[devices[1]] = seconds[0][1] + slopes[1] * at[0] as f64;
        Some(Way { cut: cut(quarter as u32), devices, busy, slopes })
    }
}

/// Whether a way is among the few that small operators are divided in: whole, or by columns.
fn is_simple(way: &Way) -> bool {
    matches!(way.cut, Cut::Whole(_) | Cut::Columns(..))
}

/// Of all combinations the ones that end first, as sums have it.
fn best_combinations(
    ways: &[Ways],
    widths: &[f64],
    starts: &[f64; MAX_DEVICES],
    limit: f64,
    n: usize,
) -> Vec<Combination> {
    let mut combining = Combining { ways, widths, starts, limit, n, best: Vec::with_capacity(n + 1) };
    combining.add_members(ways.len(), [0; MOST_MEMBERS], *starts);
    combining.best
}

/// Combinations that are being compared.
struct Combining<'a> {
    ways: &'a [Ways],
    widths: &'a [f64],
    starts: &'a [f64; MAX_DEVICES],
    /// Later than this none may end.
    limit: f64,
    n: usize,
    best: Vec<Combination>,
}

impl Combining<'_> {
    /// Tries all ways for the first members, after those of the others were chosen, with which devices end so early at
    /// best.
    fn add_members(&mut self, n_members: usize, mut chosen: [u8; MOST_MEMBERS], ends: [f64; MAX_DEVICES]) {
        let ways = self.ways;
        let Some(member) = n_members.checked_sub(1) else { return self.add(chosen) };
        for (idx, way) in ways[member].iter().enumerate() {
            let mut ends = ends;
            let mut is_late = false;
            for (device, end) in ends.iter_mut().enumerate() {
                // Where columns are free, the second device may have none of them.
                let is_spared = way.is_free() && way.devices[1] == device;
                let spared = if is_spared { way.slopes[1] * self.widths[member] } else { 0.0 };
                let least = way.busy[device] - spared;
                *end += least;
                is_late |= least > 0.0 && *end >= self.limit;
            }
            if !is_late {
                chosen[member] = idx as u8;
                self.add_members(member, chosen, ends);
            }
        }
    }

    /// Adds a combination if it is one of the best.
    fn add(&mut self, chosen: [u8; MOST_MEMBERS]) {
        let Some(combination) = balance(self.ways, self.widths, self.starts, chosen, self.limit) else { return };
        let at = self.best.partition_point(|other| other.score <= combination.score);
        self.best.insert(at, combination);
        self.best.truncate(self.n);
        if self.best.len() == self.n {
            self.limit = self.best[self.n - 1].score;
        }
    }
}

/// Cuts columns, where they are free, so that devices end together; nothing when they then end after the limit, or one of
/// a pair has nothing to do.
fn balance(
    ways: &[Ways],
    widths: &[f64],
    starts: &[f64; MAX_DEVICES],
    chosen: [u8; MOST_MEMBERS],
    limit: f64,
) -> Option<Combination> {
    let of = |member: usize| &ways[member][usize::from(chosen[member])];
    let mut ends = *starts;
    let mut has_work = [false; MAX_DEVICES];
    let mut columns = [0.0; MOST_MEMBERS];
    for member in 0..ways.len() {
        let way = of(member);
        for device in 0..MAX_DEVICES {
            ends[device] += way.busy[device];
            has_work[device] |= way.busy[device] > 0.0;
        }
    }
    let end = |ends: &[f64; MAX_DEVICES]| {
        ends.iter().zip(has_work).filter(|(_, has_work)| *has_work).map(|(end, _)| *end).fold(0.0, f64::max)
    };
    let n_free = (0..ways.len()).filter(|&member| of(member).is_free()).count();
    for _ in 0..if n_free > 1 { N_ROUNDS } else { n_free } {
        for member in (0..ways.len()).filter(|&member| of(member).is_free()) {
            let Way { devices: [a, b], slopes, .. } = *of(member);
            let more = ((ends[b] - ends[a]) / (slopes[0] + slopes[1]))
                .clamp(-columns[member], widths[member] - columns[member]);
            columns[member] += more;
            ends[a] += slopes[0] * more;
            ends[b] -= slopes[1] * more;
        }
    }
    let is_cut = |member: usize| !of(member).is_free() || (columns[member] > 0.0 && columns[member] < widths[member]);
    let score = end(&ends);
    (score < limit && (0..ways.len()).all(is_cut)).then_some(Combination { score, ways: chosen, columns })
}
