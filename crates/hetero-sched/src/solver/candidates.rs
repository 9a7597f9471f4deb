//! The ways to compute a node, and what each costs.

use hetero_core::{Graph, NodeId, OperandOrder};

use crate::cost::{CostModel, DeviceSet, MAX_DEVICES, PartShape};
use crate::plan::{PlacedPart, Plan};
use crate::timing::Load;

use super::cuts::ROW_STEP;
use super::holdings::nodes_of;
use super::problem::{Problem, Template, least_common_multiple};
use super::state::{Candidate, Cut, MAX_PARTS, Piece};
use super::{DynamicLength, Inventory, SolveOptions};

/// All candidates that were asked for so far.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) graph: &'a Graph,
    pub(crate) costs: &'a dyn CostModel,
    pub(crate) options: &'a SolveOptions,
    /// What devices hold.
    pub(crate) inventory: &'a Inventory,
    /// See [`nodes_of`].
    pub(super) nodes_of: Vec<Vec<NodeId>>,
    /// Devices that may be used, and that the options allow.
    pub(crate) devices: Vec<usize>,
    /// See [`CostModel::bus`].
    bus: f64,
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
    pub(crate) fn new(
        problem: &'a Problem,
        graph: &'a Graph,
        costs: &'a dyn CostModel,
        options: &'a SolveOptions,
        inventory: &'a Inventory,
    ) -> Pool<'a> {
        let mut pool = Pool {
            problem,
            graph,
            costs,
            options,
            inventory,
            nodes_of: nodes_of(problem, inventory, options.preparation),
            devices: (0..costs.devices().len()).filter(|&device| options.devices.contains(device)).collect(),
            bus: costs.bus(),
            lists: problem.templates.iter().map(|_| List::default()).collect(),
            siblings_left: Vec::new(),
        };
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

    /// How many candidates of a template there are so far.
    pub(crate) fn n_candidates(&self, template: usize) -> usize {
        self.lists[template].candidates.len()
    }

    /// The candidate for a cut, or `None` when the operator or a device does not allow it.
    pub(crate) fn find(&mut self, template: usize, cut: Cut) -> Option<usize> {
        if let Some((_, idx)) = self.lists[template].known.iter().find(|(known, _)| *known == cut) {
            return *idx;
        }
        let candidate = self.make(template, cut);
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
            let mut cuts = self.list_fixed_cuts(template);
            for cut in self.held_cuts(template) {
                cuts.extend((!cuts.contains(&cut)).then_some(cut));
            }
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

    fn make(&self, template_idx: usize, cut: Cut) -> Option<Candidate> {
        let template = &self.problem.templates[template_idx];
        let devices = cut.devices();
        if devices.iter().any(|device| !self.devices.contains(&device)) {
            return None;
        }
        let granularity = self.options.granularity;
        let may_cut = match cut {
            Cut::Whole(_) | Cut::Chunks(_) => true,
            Cut::Columns(..) => granularity.cuts_columns(),
            Cut::Rows(..) => granularity.cuts_positions(),
            Cut::Corner(..) => granularity.cuts_columns() && granularity.cuts_positions(),
        };
        if !may_cut {
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
        let mut candidate = Candidate { pieces: Vec::with_capacity(rectangles.len()), ..Candidate::nothing(cut) };
        for &(device, rows, columns) in &rectangles {
            let (mut piece, joules) = self.piece(template, device, rows, columns, devices)?;
            // The last rows of the step stand for all further rows of the tensor, which are not in use.
            if rows[1] == template.rows {
                piece.rows[1] = template.tensor_rows as u32;
            }
            candidate.outlay.joules += joules;
            candidate.pieces.push(piece);
        }
        self.add_holdings(template_idx, &mut candidate, devices);
        if self.options.memory_budget == Some(0) && candidate.outlay.bytes > 0.0 {
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
    pub(super) fn piece(
        &self,
        template: &Template,
        device: usize,
        rows: [usize; 2],
        columns: [usize; 2],
        devices: DeviceSet,
    ) -> Option<(Piece, f64)> {
        let order_counts = self.costs.devices()[device].order_sensitive && template.is_linear;
        let order = self.options.operand_order.filter(|_| order_counts);
        let (mut shape, seconds) = {
            let shape = self.shape(template, device, rows, columns, devices, order.unwrap_or_default());
            let is_empty = columns[0] == columns[1] || rows[0] == rows[1];
            let seconds = if is_empty { 0.0 } else { self.costs.seconds(device, &shape)? };
            (shape, seconds)
        };
        let mut piece = Piece {
            device,
            rows: rows.map(|row| row as u32),
            columns: columns.map(|column| column as u32),
            order: shape.order,
            seconds,
            load: Load::default(),
        };
        if columns[0] == columns[1] || rows[0] == rows[1] {
            return Some((piece, 0.0));
        }
        if order_counts && order.is_none() {
            let other = PartShape { order: OperandOrder::WeightStationary, ..shape };
            if let Some(seconds) = self.costs.seconds(device, &other).filter(|&seconds| seconds < piece.seconds) {
                (piece.order, piece.seconds, shape) = (other.order, seconds, other);
            }
        }
        debug_assert!(piece.seconds >= 0.0, "a part that takes {} seconds", piece.seconds);
        piece.load = self.load(device, &shape, piece.seconds)?;
        Some((piece, self.costs.joules(device, &shape)))
    }

    /// What a device is asked for with a rectangle.
    pub(super) fn shape(
        &self,
        template: &Template,
        device: usize,
        rows: [usize; 2],
        columns: [usize; 2],
        devices: DeviceSet,
        order: OperandOrder,
    ) -> PartShape {
        let n_rows = rows[1] - rows[0];
        let is_online = self.options.dynamic_length == DynamicLength::Online;
        let costs = &self.costs.devices()[device];
        // The last part of the step has all further rows of the tensor too, and a graph of fixed shape computes them.
        let has_more = rows[1] == template.rows && template.last_row > template.rows && !costs.standard_rows.is_empty();
        let computed = match (has_more, is_online) {
            (true, _) => (template.last_row - rows[0]).next_multiple_of(ROW_STEP),
            (false, true) => n_rows,
            (false, false) => costs.padded_rows(n_rows),
        };
        // A graph of fixed shape looks back from the last position that there may be.
        let capacity = if costs.standard_rows.is_empty() { 0 } else { self.problem.capacity };
        PartShape {
            class: template.class,
            rows: computed,
            past: self.problem.past + rows[0].max(capacity.saturating_sub(computed)),
            columns: columns[1] - columns[0],
            order,
            companions: devices.without(device),
        }
    }

    /// The candidates that a plan consists of, or `None` when a device cannot compute its part.
    pub(crate) fn of_plan(&self, plan: &Plan) -> Option<Vec<Candidate>> {
        let works = self.problem.works.iter().zip(plan.placements());
        works.map(|(work, placed)| self.of_placed(work.template, placed)).collect()
    }

    fn of_placed(&self, template_idx: usize, placed: &[PlacedPart]) -> Option<Candidate> {
        let template = &self.problem.templates[template_idx];
        let devices: DeviceSet = placed.iter().map(|placed| placed.device_idx).collect();
        // Only the pieces count when a step is put together.
        let cut = Cut::Whole(placed[0].device_idx as u8);
        let mut candidate = Candidate { pieces: Vec::with_capacity(placed.len()), ..Candidate::nothing(cut) };
        for PlacedPart { device_idx: device, part, operand_order } in placed {
            let (all_rows, columns) = ([part.rows.start, part.rows.end], [part.columns.start, part.columns.end]);
            let rows = all_rows.map(|row| row.min(template.rows));
            let shape = self.shape(template, *device, rows, columns, devices, *operand_order);
            let is_used = rows[0] < rows[1];
            let seconds = if is_used { self.costs.seconds(*device, &shape)? } else { 0.0 };
            candidate.outlay.joules += if is_used { self.costs.joules(*device, &shape) } else { 0.0 };
            candidate.pieces.push(Piece {
                device: *device,
                rows: all_rows.map(|row| row as u32),
                columns: columns.map(|column| column as u32),
                order: *operand_order,
                seconds,
                load: if is_used { self.load(*device, &shape, seconds)? } else { Load::default() },
            });
        }
        self.add_holdings(template_idx, &mut candidate, devices);
        Some(candidate)
    }

    /// What a shape asks of a device that takes so many seconds for it beside companions.
    pub(super) fn load(&self, device: usize, shape: &PartShape, seconds: f64) -> Option<Load> {
        if self.bus == f64::INFINITY {
            return Some(Load::computing(seconds));
        }
        let alone = PartShape { companions: DeviceSet::EMPTY, ..*shape };
        let seconds = if shape.companions.is_empty() { seconds } else { self.costs.seconds(device, &alone)? };
        Some(Load { seconds, bytes: self.costs.bus_bytes(device, &alone) })
    }
}

/// Pairs of devices, the lower index first.
pub(crate) fn pairs(devices: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let later = |idx: usize| devices[idx + 1..].iter();
    devices.iter().enumerate().flat_map(move |(idx, &a)| later(idx).map(move |&b| (a, b)))
}
