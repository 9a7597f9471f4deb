//! The ways to compute a node, and what each costs.

use hetero_core::OperandOrder;

use crate::cost::{CostModel, DeviceSet, MAX_DEVICES, PartShape};

use super::problem::{Problem, Template, least_common_multiple};
use super::state::{Candidate, Cut, MAX_PARTS, Piece};
use super::{DynamicLength, Granularity, SolveOptions};

/// With at most so many positions where columns (or rows) may be cut, all are tried; with more, those that balance the
/// devices.
pub(crate) const FEW_CUTS: usize = 8;

/// As [`FEW_CUTS`], for rows on devices of fixed shapes.
const FEW_ROW_CUTS: usize = 2;

/// Positions between cuts of rows, where a device does not have its own standard numbers: the tile of NPUs.
pub(crate) const ROW_STEP: usize = 32;

/// All candidates that were asked for so far.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) costs: &'a dyn CostModel,
    pub(crate) options: &'a SolveOptions,
    /// Devices that may be used, and that the options allow.
    pub(crate) devices: Vec<usize>,
    lists: Vec<List>,
    /// For each template, see [`Pool::siblings_left`].
    siblings_left: Vec<Option<[f64; MAX_DEVICES]>>,
}

/// The candidates of one template.
#[derive(Debug, Default)]
struct List {
    /// What was asked for, and the candidate if there is one.
    known: Vec<(Cut, Option<usize>)>,
    candidates: Vec<Candidate>,
    /// Cuts that are tried whatever the state is, with their candidates.
    fixed: Option<Vec<(Cut, usize)>>,
    balances: Vec<Balance>,
}

/// How the work of a chain of nodes grows with its columns, on two devices.
#[derive(Debug)]
struct Balance {
    devices: [usize; 2],
    is_chain: bool,
    /// Columns may be cut at multiples of this.
    step: usize,
    /// Columns of the first device, ascending, and seconds of both devices for them and for the rest; empty when one
    /// of them cannot compute the node.
    points: Vec<(f64, [f64; 2])>,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(problem: &'a Problem, costs: &'a dyn CostModel, options: &'a SolveOptions) -> Pool<'a> {
        let devices = (0..costs.devices().len()).filter(|&device| options.devices.contains(device)).collect();
        let lists = problem.templates.iter().map(|_| List::default()).collect();
        let mut pool = Pool { problem, costs, options, devices, lists, siblings_left: Vec::new() };
        pool.siblings_left = problem.templates.iter().map(|template| pool.time_siblings(template)).collect();
        pool
    }

    /// For each device, the seconds that it alone would take for what is still to be computed of the same input by
    /// linear operators: for keys and values after queries. `None` when a node is the last of its kind.
    pub(crate) fn siblings_left(&self, template: usize) -> Option<[f64; MAX_DEVICES]> {
        self.siblings_left[template]
    }

    fn time_siblings(&self, template: &Template) -> Option<[f64; MAX_DEVICES]> {
        if template.siblings.is_empty() {
            return None;
        }
        let mut seconds = [f64::INFINITY; MAX_DEVICES];
        for &device in &self.devices {
            let siblings = template.siblings.iter().map(|&sibling| &self.problem.templates[sibling]);
            let alone = siblings.map(|other| {
                let piece = self.piece(other, device, [0, other.rows], [0, other.columns], DeviceSet::EMPTY);
                piece.map_or(f64::INFINITY, |piece| piece.0.seconds)
            });
            seconds[device] = alone.sum::<f64>().max(f64::MIN_POSITIVE);
        }
        Some(seconds)
    }

    pub(crate) fn candidate(&self, template: usize, idx: usize) -> &Candidate {
        &self.lists[template].candidates[idx]
    }

    /// The candidate for a cut, or `None` when the operator or a device does not allow it.
    pub(crate) fn find(&mut self, template: usize, cut: Cut) -> Option<usize> {
        if let Some((_, idx)) = self.lists[template].known.iter().find(|(known, _)| *known == cut) {
            return *idx;
        }
        let candidate = self.make(&self.problem.templates[template], cut);
        let list = &mut self.lists[template];
        let idx = candidate.map(|candidate| {
            list.candidates.push(candidate);
            list.candidates.len() - 1
        });
        list.known.push((cut, idx));
        idx
    }

    /// The cuts that are tried for a template whatever the state is, with their candidates.
    pub(crate) fn fixed_cuts(&mut self, template: usize) -> &[(Cut, usize)] {
        if self.lists[template].fixed.is_none() {
            let cuts = self.list_fixed_cuts(template);
            let mut fixed: Vec<(Cut, usize)> = Vec::with_capacity(cuts.len());
            for cut in cuts {
                fixed.extend(self.find(template, cut).map(|candidate| (cut, candidate)));
            }
            if self.problem.layers.is_some() {
                // A part that takes twice as long as all of it on the best device gains nothing, even beside other work.
                let longest = |candidate: usize| self.candidate(template, candidate).longest();
                let is_whole = |cut: Cut| cut.devices().len() == 1;
                let whole = fixed.iter().filter(|(cut, _)| is_whole(*cut)).map(|&(_, candidate)| longest(candidate));
                let best = whole.fold(f64::INFINITY, f64::min);
                let mut kept = fixed.clone();
                kept.retain(|&(cut, candidate)| is_whole(cut) || longest(candidate) < 2.0 * best);
                fixed = kept;
            }
            self.lists[template].fixed = Some(fixed);
        }
        self.lists[template].fixed.as_deref().expect("it was just made")
    }

    fn list_fixed_cuts(&self, template: usize) -> Vec<Cut> {
        let template = &self.problem.templates[template];
        let mut cuts: Vec<Cut> = self.devices.iter().map(|&device| Cut::Whole(device as u8)).collect();
        let cuts_rows = template.cuts_rows && template.rows > 1 && template.tensor_rows >= template.rows;
        let dynamic = self.options.dynamic_length;
        if cuts_rows && matches!(dynamic, DynamicLength::Pipe | DynamicLength::Tensor) {
            let fixed_shape = |device: &&usize| !self.costs.devices()[**device].standard_rows.is_empty();
            cuts.extend(self.devices.iter().filter(fixed_shape).map(|&device| Cut::Chunks(device as u8)));
        }
        if self.options.granularity == Granularity::Layer {
            return cuts;
        }
        for (a, b) in pairs(&self.devices) {
            let n_positions = (template.columns - 1).checked_div(template.column_step).unwrap_or(0);
            if (1..=FEW_CUTS).contains(&n_positions) {
                let positions = (1..=n_positions).map(|i| i * template.column_step);
                cuts.extend(positions.clone().map(|at| Cut::columns([a, b], at)));
                for &c in self.devices.iter().filter(|&&c| c > b) {
                    let devices = [a, b, c].map(|device| device as u8);
                    cuts.extend(positions.clone().flat_map(|first| {
                        let later = positions.clone().filter(move |&second| second > first);
                        later.map(move |second| Cut::Columns(devices, [first as u32, second as u32]))
                    }));
                }
            }
            if cuts_rows && dynamic == DynamicLength::Tensor {
                self.list_row_cuts(template, [a, b], &mut cuts);
            }
        }
        cuts
    }

    /// Cuts of rows: standard numbers on a device that wants them, the rest on the other.
    fn list_row_cuts(&self, template: &Template, [a, b]: [usize; 2], cuts: &mut Vec<Cut>) {
        let is_fixed = |device: usize| !self.costs.devices()[device].standard_rows.is_empty();
        let [a, b] = if is_fixed(b) && !is_fixed(a) { [b, a] } else { [a, b] };
        let devices = [a as u8, b as u8];
        let rows = template.rows;
        if is_fixed(a) {
            let (full, balanced) = if (rows - 1) / ROW_STEP <= FEW_ROW_CUTS {
                ((1..=(rows - 1) / ROW_STEP).map(|i| i * ROW_STEP).collect(), Vec::new())
            } else {
                (self.full_sums(a, rows), self.balanced_sums(template, [a, b]))
            };
            for &at in &full {
                cuts.extend(self.corner_cuts(template, [a, b], at));
            }
            let mut sums = [full, balanced].concat();
            sums.sort_unstable();
            sums.dedup();
            cuts.extend(sums.into_iter().map(|at| Cut::Rows(devices, at as u32)));
        } else if (rows - 1) / ROW_STEP <= FEW_CUTS {
            cuts.extend((1..=(rows - 1) / ROW_STEP).map(|i| Cut::Rows(devices, (i * ROW_STEP) as u32)));
        } else if let Some(at) = self.balanced_rows(template, [a, b]) {
            cuts.extend(
                [at, at + ROW_STEP]
                    .into_iter()
                    .filter(|&at| at > 0 && at < rows)
                    .map(|at| Cut::Rows(devices, at as u32)),
            );
        }
    }

    /// The numbers of positions below `rows` that a device of fixed shapes computes without padding in few pieces: the
    /// largest standard number that fits, then with the next one that fits into the rest, and so on.
    fn full_sums(&self, device: usize, rows: usize) -> Vec<usize> {
        let standard = &self.costs.devices()[device].standard_rows;
        let mut sums = Vec::new();
        let mut sum = 0;
        while sums.len() < MAX_PARTS - 2 {
            let Some(&next) = standard.iter().rev().find(|&&next| next > 1 && sum + next < rows) else { break };
            sum += next;
            sums.push(sum);
        }
        sums
    }

    /// Sums of standard numbers with which the first device, of fixed shapes, finishes a little before the second,
    /// which computes the rest: the closest one in few pieces, what it is without its last piece, and with twice that.
    fn balanced_sums(&self, template: &Template, [a, b]: [usize; 2]) -> Vec<usize> {
        let standard = &self.costs.devices()[a].standard_rows;
        let both = DeviceSet::one(a).with(b);
        let columns = [0, template.columns];
        let mut sums: Vec<usize> = Vec::new();
        let (mut sum, mut spent) = (0, 0.0);
        for &size in standard.iter().rev().filter(|&&size| size > 1) {
            let end = sum + size;
            if end >= template.rows || sums.len() >= MAX_PARTS - 2 {
                continue;
            }
            let first = self.piece(template, a, [sum, end], columns, both);
            let rest = self.piece(template, b, [end, template.rows], columns, both);
            let (Some(first), Some(rest)) = (first, rest) else { return sums };
            if spent + first.0.seconds <= rest.0.seconds {
                (sum, spent) = (end, spent + first.0.seconds);
                sums.push(sum);
            } else if sums.len() + 1 >= self.options.effort.balanced_row_cuts || size == standard[0].max(ROW_STEP) {
                // One step too far may still be the best, beside other work.
                sums.push(end);
                break;
            }
        }
        let surplus = sums.len().saturating_sub(self.options.effort.balanced_row_cuts);
        sums.drain(..surplus);
        sums
    }

    /// For standard numbers of positions on the first device: as many of their columns that it finishes with the
    /// second, which computes the rest of the columns and of the rows.
    fn corner_cuts(&self, template: &Template, [a, b]: [usize; 2], at: usize) -> Vec<Cut> {
        let both = DeviceSet::one(a).with(b);
        let step = template.column_step;
        // Beside linear operators, others take such a cut over from what they read; where all is tried, so is this.
        if step == 0 || !(template.is_linear || self.problem.layers.is_none()) {
            return Vec::new();
        }
        let n_steps = (template.columns - 1) / step;
        let corner = |n: usize| Cut::Corner([a as u8, b as u8], at as u32, (n * step) as u32);
        if n_steps <= FEW_CUTS {
            return (1..=n_steps).map(corner).collect();
        }
        let gap = |n: usize| -> Option<f64> {
            let columns = n * step;
            let first = self.piece(template, a, [0, at], [0, columns], both)?.0.seconds;
            let beside = self.piece(template, b, [0, at], [columns, template.columns], both)?.0.seconds;
            let below = self.piece(template, b, [at, template.rows], [0, template.columns], both)?.0.seconds;
            Some(first - beside - below)
        };
        // The gap grows with the first device's columns; the cut is where it changes its sign.
        let (mut low, mut high) = (1, n_steps);
        while low < high {
            let middle = low.midpoint(high);
            match gap(middle) {
                Some(gap) if gap < 0.0 => low = middle + 1,
                Some(_) => high = middle,
                None => return Vec::new(),
            }
        }
        let around = low.saturating_sub(1)..=low;
        around.filter(|n| (1..=n_steps).contains(n)).map(corner).collect()
    }

    /// The number of rows, a multiple of [`ROW_STEP`], below which the first of two devices that take any number
    /// finishes before the second.
    fn balanced_rows(&self, template: &Template, [a, b]: [usize; 2]) -> Option<usize> {
        let both = DeviceSet::one(a).with(b);
        let columns = [0, template.columns];
        let (mut low, mut high) = (0, (template.rows - 1) / ROW_STEP);
        while low < high {
            let middle = (low + high).div_ceil(2);
            let at = middle * ROW_STEP;
            let first = self.piece(template, a, [0, at], columns, both)?.0.seconds;
            let second = self.piece(template, b, [at, template.rows], columns, both)?.0.seconds;
            if first <= second { low = middle } else { high = middle - 1 }
        }
        Some(low * ROW_STEP)
    }

    /// The columns of the first of two devices with which both finish a node together, or the whole chain that it
    /// begins, when the first can start so many seconds after the second (negative: before it); rounded down and up to
    /// the alignment.
    pub(crate) fn balanced_columns(
        &mut self,
        template: usize,
        devices: [usize; 2],
        is_chain: bool,
        head_start: f64,
    ) -> Option<[usize; 2]> {
        let known = self.lists[template].balances.iter().position(|b| b.devices == devices && b.is_chain == is_chain);
        let idx = known.unwrap_or_else(|| {
            let balance = self.balance(template, devices, is_chain);
            self.lists[template].balances.push(balance);
            self.lists[template].balances.len() - 1
        });
        let balance = &self.lists[template].balances[idx];
        let gap = |seconds: [f64; 2]| seconds[0] + head_start - seconds[1];
        let points = &balance.points;
        let after = points.iter().position(|&(_, seconds)| gap(seconds) >= 0.0).unwrap_or(points.len());
        if after == 0 || after == points.len() {
            // One device alone is faster than any cut.
            return None;
        }
        let ((x0, s0), (x1, s1)) = (points[after - 1], points[after]);
        let (g0, g1) = (gap(s0), gap(s1));
        let at = x0 + (x1 - x0) * -g0 / (g1 - g0).max(f64::MIN_POSITIVE);
        let columns = self.problem.templates[template].columns;
        let last = (columns - 1) / balance.step * balance.step;
        let down = ((at / balance.step as f64) as usize * balance.step).min(last);
        Some([down.max(balance.step).min(last), (down + balance.step).min(last)])
    }

    /// Cuts of columns between three devices that finish together when each starts at its time, from the rate that
    /// each has for a third of the columns; rounded to the alignment both ways.
    pub(crate) fn balanced_three(&self, template: usize, starts: &[f64]) -> Vec<Cut> {
        let template = &self.problem.templates[template];
        let step = template.column_step;
        let third = (template.columns / 3).next_multiple_of(step);
        let mut cuts = Vec::new();
        for (position, &a) in self.devices.iter().enumerate() {
            for (b, c) in pairs(&self.devices[position + 1..]) {
                let devices = [a, b, c];
                let all = devices.into_iter().collect();
                let rate = |device| {
                    let piece = self.piece(template, device, [0, template.rows], [0, third], all)?;
                    Some(third as f64 / piece.0.seconds.max(f64::MIN_POSITIVE))
                };
                let [Some(ra), Some(rb), Some(rc)] = devices.map(rate) else { continue };
                let rates = [ra, rb, rc];
                let begun: f64 = devices.iter().zip(rates).map(|(&device, rate)| starts[device] * rate).sum();
                let end = (template.columns as f64 + begun) / rates.iter().sum::<f64>();
                let columns = [0, 1].map(|i| ((end - starts[devices[i]]) * rates[i] / step as f64).max(0.0) as usize);
                for (more_a, more_b) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let first = (columns[0] + more_a) * step;
                    let second = first + (columns[1] + more_b) * step;
                    if first > 0 && second > first && second < template.columns {
                        cuts.push(Cut::Columns(devices.map(|device| device as u8), [first as u32, second as u32]));
                    }
                }
            }
        }
        cuts
    }

    fn balance(&self, template: usize, [a, b]: [usize; 2], is_chain: bool) -> Balance {
        let head = &self.problem.templates[template];
        let both = DeviceSet::one(a).with(b);
        let whole = |member: &Template, device| self.piece(member, device, [0, member.rows], [0, member.columns], both);
        let chain = head.chain.iter().map(|&member| &self.problem.templates[member]);
        let mut members: Vec<&Template> =
            chain.take_while(|member| whole(member, a).is_some() && whole(member, b).is_some()).collect();
        members.truncate(if is_chain { members.len() } else { 1 });
        let step = members.iter().map(|member| member.column_step).fold(1, least_common_multiple);
        let mut balance = Balance { devices: [a, b], is_chain, step, points: Vec::new() };
        if members.is_empty() || head.column_step == 0 || step >= head.columns || (is_chain && members.len() == 1) {
            return balance;
        }
        let n_points = self.options.effort.balance_points.min(head.columns / step).max(2);
        for point in 0..=n_points {
            let at = (head.columns * point / n_points).next_multiple_of(step).min(head.columns);
            let sum = |device: usize, columns: [usize; 2]| -> f64 {
                let seconds = members.iter().map(|member| {
                    self.piece(member, device, [0, member.rows], columns, both)
                        .map_or(f64::INFINITY, |piece| piece.0.seconds)
                });
                seconds.sum()
            };
            let seconds = [sum(a, [0, at]), sum(b, [at, head.columns])];
            if balance.points.last().is_none_or(|(last, _)| *last < at as f64) {
                balance.points.push((at as f64, seconds));
            }
        }
        balance
    }

    fn make(&self, template: &Template, cut: Cut) -> Option<Candidate> {
        let devices = cut.devices();
        if devices.iter().any(|device| !self.devices.contains(&device)) {
            return None;
        }
        let (rows, columns) = (template.rows, template.columns);
        let mut rectangles: Vec<(usize, [usize; 2], [usize; 2])> = Vec::with_capacity(MAX_PARTS);
        let all_columns = [0, columns];
        match cut {
            Cut::Whole(device) => rectangles.push((device.into(), [0, rows], all_columns)),
            Cut::Chunks(device) => {
                let chunks = self.chunks(device.into(), rows);
                if !template.cuts_rows || !(2..=MAX_PARTS).contains(&chunks.len()) {
                    return None;
                }
                rectangles.extend(chunks.into_iter().map(|rows| (device.into(), rows, all_columns)));
            }
            Cut::Columns(devices, at) => {
                let ends = [at[0] as usize, at[1] as usize, columns];
                let mut start = 0;
                for (device, end) in devices.into_iter().zip(ends) {
                    let fits = template.column_step > 0 && (end == columns || end.is_multiple_of(template.column_step));
                    if !fits || end < start || end > columns {
                        return None;
                    }
                    if end > start {
                        rectangles.push((device.into(), [0, rows], [start, end]));
                    }
                    start = end;
                }
            }
            Cut::Rows([a, b], at) => {
                let at = at as usize;
                let chunks = self.chunks(a.into(), at);
                if !template.cuts_rows || at == 0 || at >= rows || chunks.len() >= MAX_PARTS {
                    return None;
                }
                rectangles.extend(chunks.into_iter().map(|rows| (a.into(), rows, all_columns)));
                rectangles.push((b.into(), [at, rows], all_columns));
            }
            Cut::Corner([a, b], at_row, at_column) => {
                let (at_row, at_column) = (at_row as usize, at_column as usize);
                let chunks = self.chunks(a.into(), at_row);
                let fits =
                    template.cuts_rows && template.column_step > 0 && at_column.is_multiple_of(template.column_step);
                if !fits
                    || at_row == 0
                    || at_row >= rows
                    || at_column == 0
                    || at_column >= columns
                    || chunks.len() + 2 > MAX_PARTS
                {
                    return None;
                }
                rectangles.extend(chunks.into_iter().map(|rows| (a.into(), rows, [0, at_column])));
                rectangles.push((b.into(), [0, at_row], [at_column, columns]));
                rectangles.push((b.into(), [at_row, rows], all_columns));
            }
        }
        let mut candidate = Candidate { cut, pieces: Vec::with_capacity(rectangles.len()), joules: 0.0, own_bytes: 0 };
        for &(device, rows, columns) in &rectangles {
            let (mut piece, joules) = self.piece(template, device, rows, columns, devices)?;
            // The last rows of the step stand for all further rows of the tensor, which are not in use.
            if rows[1] == template.rows {
                piece.rows[1] = template.tensor_rows as u32;
            }
            candidate.joules += joules;
            candidate.pieces.push(piece);
        }
        for device in devices.iter() {
            let columns = own_columns(&candidate.pieces, device);
            candidate.own_bytes += self.costs.own_bytes(device, template.class, columns);
        }
        if self.options.memory_budget == Some(0) && candidate.own_bytes > 0 {
            return None;
        }
        Some(candidate)
    }

    /// How a device computes so many rows: in standard numbers, if it wants them, largest first; the last one may be
    /// padded.
    fn chunks(&self, device: usize, rows: usize) -> Vec<[usize; 2]> {
        let costs = &self.costs.devices()[device];
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < rows {
            let rest = rows - start;
            let fitting = costs.standard_rows.iter().rev().find(|&&size| size > 1 && size <= rest);
            // Padding up to a quarter of the work is less trouble than another graph.
            let is_tight = rest * 4 > costs.padded_rows(rest) * 3;
            let taken = if is_tight { rest } else { fitting.map_or(rest, |&size| size) };
            let largest = costs.standard_rows.last().map_or(rest, |&largest| largest);
            chunks.push([start, start + taken.min(largest)]);
            start += taken.min(largest);
        }
        chunks
    }

    /// A rectangle on a device in its better operand order, and its joules.
    fn piece(
        &self,
        template: &Template,
        device: usize,
        rows: [usize; 2],
        columns: [usize; 2],
        devices: DeviceSet,
    ) -> Option<(Piece, f64)> {
        let n_rows = rows[1] - rows[0];
        let costs = &self.costs.devices()[device];
        let padded =
            if self.options.dynamic_length == DynamicLength::Online { n_rows } else { costs.padded_rows(n_rows) };
        let mut piece = Piece {
            device,
            rows: rows.map(|row| row as u32),
            columns: columns.map(|column| column as u32),
            order: OperandOrder::default(),
            seconds: 0.0,
        };
        let mut shape = PartShape {
            class: template.class,
            rows: padded,
            past: self.problem.past + rows[0],
            columns: columns[1] - columns[0],
            order: OperandOrder::default(),
            companions: devices.without(device),
        };
        if columns[0] == columns[1] || rows[0] == rows[1] {
            return Some((piece, 0.0));
        }
        piece.seconds = self.costs.seconds(device, &shape)?;
        if costs.order_sensitive && template.is_linear && self.options.operand_order.is_none() {
            let other = PartShape { order: OperandOrder::WeightStationary, ..shape };
            if let Some(seconds) = self.costs.seconds(device, &other).filter(|&seconds| seconds < piece.seconds) {
                (piece.order, piece.seconds, shape) = (other.order, seconds, other);
            }
        } else if let (Some(order), true, true) =
            (self.options.operand_order, costs.order_sensitive, template.is_linear)
        {
            shape.order = order;
            piece.order = order;
            piece.seconds = self.costs.seconds(device, &shape)?;
        }
        debug_assert!(piece.seconds >= 0.0, "a part that takes {} seconds", piece.seconds);
        Some((piece, self.costs.joules(device, &shape)))
    }
}

/// Pairs of devices, the lower index first.
pub(crate) fn pairs(devices: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let later = |idx: usize| devices[idx + 1..].iter();
    devices.iter().enumerate().flat_map(move |(idx, &a)| later(idx).map(move |&b| (a, b)))
}

/// How many columns a device's pieces have, those of several pieces counted once.
fn own_columns(pieces: &[Piece], device: usize) -> usize {
    let mut ranges: Vec<[u32; 2]> =
        pieces.iter().filter(|piece| piece.device == device).map(|piece| piece.columns).collect();
    ranges.sort_unstable();
    let mut end = 0;
    let mut sum = 0;
    for [from, to] in ranges {
        sum += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    sum as usize
}
