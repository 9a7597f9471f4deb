//! The ways to compute a node, and what each costs.

use arrayvec::ArrayVec;
use hetero_core::{Graph, NodeId, OperandOrder};
use rustc_hash::FxHashMap;

use crate::cost::{CostModel, DeviceSet, MAX_DEVICES, PartShape};
use crate::plan::{PlacedPart, Plan};
use crate::timing::Load;

use super::balance::Balance;
use super::cuts::ROW_STEP;
use super::holdings::nodes_of;
use super::problem::{Problem, Template};
use super::state::{Candidate, Cut, MAX_PARTS, Piece};
use super::{DynamicLength, Inventory, Objective, SolveOptions};

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
    /// For each template the first one of which each part costs the same.
    kinds: Vec<usize>,
    /// By kind.
    lists: Vec<List>,
    /// By template.
    pub(super) balances: Vec<Vec<Balance>>,
    /// For each template, see [`Pool::siblings_left`].
    siblings_left: Vec<Option<[f64; MAX_DEVICES]>>,
}

/// The candidates of one kind of template.
#[derive(Debug, Default)]
struct List {
    /// What was asked for, and the candidate if there is one.
    known: FxHashMap<Cut, Option<usize>>,
    candidates: Vec<Candidate>,
    /// Cuts that are tried whatever the state is, with their candidates.
    fixed: Option<Vec<(Cut, usize)>>,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(
        problem: &'a Problem,
        graph: &'a Graph,
        costs: &'a dyn CostModel,
        options: &'a SolveOptions,
        inventory: &'a Inventory,
    ) -> Pool<'a> {
        let nodes_of = nodes_of(problem, inventory, options.preparation);
        let mut pool = Pool {
            problem,
            graph,
            costs,
            options,
            inventory,
            kinds: kinds(problem, nodes_of.is_empty()),
            nodes_of,
            devices: (0..costs.devices().len()).filter(|&device| options.devices.contains(device)).collect(),
            bus: costs.bus(),
            lists: problem.templates.iter().map(|_| List::default()).collect(),
            balances: problem.templates.iter().map(|_| Vec::new()).collect(),
            siblings_left: Vec::new(),
        };
        pool.siblings_left = problem.templates.iter().map(|template| pool.time_siblings(template)).collect();
        pool
    }

    /// Whether a step waits for its plan, and more than two devices leave no time for what seldom helps.
    pub(crate) fn is_hurried(&self) -> bool {
        self.devices.len() > 2 && !self.options.effort.replaces_all
    }

    /// Whether a step waits for its plan, and devices hinder each other on the bus: timing a plan takes twice as long then.
    pub(crate) fn is_pressed(&self) -> bool {
        self.bus.is_finite() && !self.options.effort.replaces_all
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
                let seconds = self.seconds(other, device, [0, other.rows], [0, other.columns], DeviceSet::EMPTY);
                seconds.unwrap_or(f64::INFINITY)
            });
            seconds[device] = alone.sum::<f64>().max(f64::MIN_POSITIVE);
        }
        Some(seconds)
    }

    pub(crate) fn candidate(&self, template: usize, idx: usize) -> &Candidate {
        &self.lists[self.kinds[template]].candidates[idx]
    }

    /// How many candidates of a template there are so far.
    pub(crate) fn n_candidates(&self, template: usize) -> usize {
        self.lists[self.kinds[template]].candidates.len()
    }

    /// The candidate for a cut, or `None` when the operator or a device does not allow it.
    pub(crate) fn find(&mut self, template: usize, cut: Cut) -> Option<usize> {
        let kind = self.kinds[template];
        if let Some(idx) = self.lists[kind].known.get(&cut) {
            return *idx;
        }
        let candidate = self.make(template, cut);
        let list = &mut self.lists[kind];
        let idx = candidate.map(|candidate| {
            list.candidates.push(candidate);
            list.candidates.len() - 1
        });
        list.known.insert(cut, idx);
        idx
    }

    /// The cuts that are tried for a template whatever the state is, with their candidates.
    pub(crate) fn fixed_cuts(&mut self, template: usize) -> &[(Cut, usize)] {
        let kind = self.kinds[template];
        if self.lists[kind].fixed.is_none() {
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
            self.lists[kind].fixed = Some(fixed);
        }
        self.lists[kind].fixed.as_deref().expect("it was just made")
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
        let mut rectangles: ArrayVec<(usize, [usize; 2], [usize; 2]), MAX_PARTS> = ArrayVec::new();
        let all_columns = [0, columns];
        match cut {
            Cut::Whole(device) => rectangles.push((device.into(), [0, rows], all_columns)),
            Cut::Chunks(device) => {
                let chunks = self.chunks(device.into(), rows)?;
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
                let chunks = self.chunks(a.into(), at)?;
                if !template.cuts_rows || at == 0 || at >= rows || chunks.len() >= MAX_PARTS {
                    return None;
                }
                rectangles.extend(chunks.into_iter().map(|rows| (a.into(), rows, all_columns)));
                rectangles.push((b.into(), [at, rows], all_columns));
            }
            Cut::Corner([a, b], at_row, at_column) => {
                let (at_row, at_column) = (at_row as usize, at_column as usize);
                let chunks = self.chunks(a.into(), at_row)?;
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
            let mut piece = self.piece(template, device, rows, columns, devices)?;
            // The last rows of the step stand for all further rows of the tensor, which are not in use.
            if rows[1] == template.rows {
                piece.rows[1] = template.tensor_rows as u32;
            }
            candidate.pieces.push(piece);
        }
        if self.options.objective != Objective::Time {
            candidate.outlay.joules = self.joules(template, &candidate.pieces);
        }
        self.add_holdings(template_idx, &mut candidate, devices);
        if self.options.memory_budget == Some(0) && candidate.outlay.bytes > 0.0 {
            return None;
        }
        Some(candidate)
    }

    /// How a device computes so many rows: in standard numbers, if it wants them, largest first; the last one may be
    /// padded.
    /// `None` when these would be more parts than a cut has.
    fn chunks(&self, device: usize, rows: usize) -> Option<ArrayVec<[usize; 2], MAX_PARTS>> {
        let costs = &self.costs.devices()[device];
        let mut chunks = ArrayVec::new();
        let mut start = 0;
        while start < rows {
            let end = start + costs.next_chunk(rows - start);
            chunks.try_push([start, end]).ok()?;
            start = end;
        }
        Some(chunks)
    }

    /// A rectangle on a device in its better operand order.
    pub(super) fn piece(
        &self,
        template: &Template,
        device: usize,
        rows: [usize; 2],
        columns: [usize; 2],
        devices: DeviceSet,
    ) -> Option<Piece> {
        let (shape, [alone, seconds]) = self.shape_and_seconds(template, device, rows, columns, devices)?;
        debug_assert!(seconds >= 0.0, "a part that takes {seconds} seconds");
        let is_empty = columns[0] == columns[1] || rows[0] == rows[1];
        Some(Piece {
            device,
            rows: rows.map(|row| row as u32),
            columns: columns.map(|column| column as u32),
            order: shape.order,
            seconds,
            load: if is_empty { Load::default() } else { self.load(device, &shape, alone, seconds) },
        })
    }

    /// Seconds of a rectangle on a device in its better operand order.
    pub(super) fn seconds(
        &self,
        template: &Template,
        device: usize,
        rows: [usize; 2],
        columns: [usize; 2],
        devices: DeviceSet,
    ) -> Option<f64> {
        self.shape_and_seconds(template, device, rows, columns, devices).map(|(_, [_, seconds])| seconds)
    }

    /// What a device is asked for with a rectangle in its better operand order, and its seconds alone and beside the other
    /// devices.
    fn shape_and_seconds(
        &self,
        template: &Template,
        device: usize,
        rows: [usize; 2],
        columns: [usize; 2],
        devices: DeviceSet,
    ) -> Option<(PartShape, [f64; 2])> {
        let order_counts = self.costs.devices()[device].order_sensitive && template.is_linear;
        let order = self.options.operand_order.filter(|_| order_counts);
        let shape = self.shape(template, device, rows, columns, devices, order.unwrap_or_default());
        if columns[0] == columns[1] || rows[0] == rows[1] {
            return Some((shape, [0.0; 2]));
        }
        let ask = |shape: &PartShape| match self.bus.is_finite() {
            true => self.costs.seconds_alone_and_beside(device, shape),
            // Only what they take beside each other counts.
            false => self.costs.seconds(device, shape).map(|seconds| [seconds; 2]),
        };
        let seconds = ask(&shape)?;
        if order_counts && order.is_none() {
            let other = PartShape { order: OperandOrder::WeightStationary, ..shape };
            if let Some(less) = ask(&other).filter(|less| less[1] < seconds[1]) {
                return Some((other, less));
            }
        }
        Some((shape, seconds))
    }

    /// Joules of pieces that belong together.
    pub(super) fn joules(&self, template: &Template, pieces: &[Piece]) -> f64 {
        let devices: DeviceSet = pieces.iter().map(|piece| piece.device).collect();
        let joules = pieces.iter().map(|piece| {
            let [rows, columns] = [piece.rows, piece.columns].map(|range| range.map(|at| at as usize));
            let rows = rows.map(|row| row.min(template.rows));
            if rows[0] >= rows[1] || columns[0] >= columns[1] {
                return 0.0;
            }
            let shape = self.shape(template, piece.device, rows, columns, devices, piece.order);
            self.costs.joules(piece.device, &shape)
        });
        joules.sum()
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
            let unused = Some([0.0; 2]);
            let seconds = if is_used { self.costs.seconds_alone_and_beside(*device, &shape) } else { unused };
            let [alone, seconds] = seconds?;
            candidate.pieces.push(Piece {
                device: *device,
                rows: all_rows.map(|row| row as u32),
                columns: columns.map(|column| column as u32),
                order: *operand_order,
                seconds,
                load: if is_used { self.load(*device, &shape, alone, seconds) } else { Load::default() },
            });
        }
        self.add_holdings(template_idx, &mut candidate, devices);
        Some(candidate)
    }

    /// What a shape asks of a device that takes so many seconds for it alone, and beside companions.
    fn load(&self, device: usize, shape: &PartShape, alone: f64, beside: f64) -> Load {
        if self.bus == f64::INFINITY {
            return Load::computing(beside);
        }
        let shape = PartShape { companions: DeviceSet::EMPTY, ..*shape };
        Load::moving(alone, self.costs.bus_bytes(device, &shape))
    }
}

/// For each template the first one of which each part costs the same: the operator is the same and so are the numbers of
/// rows. Where it counts which of them devices hold something for, each template is its own kind.
fn kinds(problem: &Problem, are_alike: bool) -> Vec<usize> {
    let templates = &problem.templates;
    let sizes = |it: &Template| [it.rows, it.tensor_rows, it.last_row, it.columns, it.column_step];
    let is_same = |a: &Template, b: &Template| (a.class, sizes(a), a.cuts_rows) == (b.class, sizes(b), b.cuts_rows);
    let kind = |idx: usize| (0..idx).find(|&other| are_alike && is_same(&templates[other], &templates[idx]));
    (0..templates.len()).map(|idx| kind(idx).unwrap_or(idx)).collect()
}

/// Pairs of devices, the lower index first.
pub(crate) fn pairs(devices: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let later = |idx: usize| devices[idx + 1..].iter();
    devices.iter().enumerate().flat_map(move |(idx, &a)| later(idx).map(move |&b| (a, b)))
}
