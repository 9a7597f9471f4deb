//! What a candidate adds to what devices hold, and the cuts that use what is there.

use hetero_core::{NodeId, Part};

use crate::cost::DeviceSet;
use crate::plan::PlacedPart;

use super::candidates::{Pool, pairs};
use super::inventory::copy_bytes;
use super::problem::{Problem, Template};
use super::state::{Candidate, Cut, Piece};
use super::{DynamicLength, Inventory, Preparation};

/// For each template the nodes that it stands for, where it matters what is held.
pub(super) fn nodes_of(problem: &Problem, inventory: &Inventory, preparation: Preparation) -> Vec<Vec<NodeId>> {
    if inventory.is_empty() && preparation == Preparation::Ahead {
        return Vec::new();
    }
    let mut nodes = vec![Vec::new(); problem.templates.len()];
    for (idx, work) in problem.works.iter().enumerate() {
        nodes[work.template].push(NodeId(idx));
    }
    nodes
}

impl Pool<'_> {
    /// Adds what the pieces of a candidate ask devices to hold. What not every layer has counts as missing in all of
    /// them.
    pub(super) fn add_holdings(&self, template_idx: usize, candidate: &mut Candidate, devices: DeviceSet) {
        let template = &self.problem.templates[template_idx];
        let nodes = self.nodes_of.get(template_idx).map_or(&[][..], Vec::as_slice);
        let Candidate { pieces, outlay, own_bytes, .. } = candidate;
        for device in devices.iter() {
            for (idx, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.device == device) {
                // The rows of a weight are loaded once for all positions.
                let is_same = |other: &Piece| (other.device, other.columns) == (device, piece.columns);
                if pieces[..idx].iter().any(is_same) {
                    continue;
                }
                let columns = piece.columns[0] as usize..piece.columns[1] as usize;
                let bytes =
                    copy_bytes(self.graph, NodeId(template.node), self.costs, device, template.class, columns.len());
                if bytes == 0 {
                    continue;
                }
                *own_bytes += bytes;
                // What lies within is used where it is: see `Constraints::reused`.
                let there = |node: &NodeId| self.inventory.pinned_within(self.graph, *node, device, &columns);
                let there = nodes.iter().map(|node| there(node).map_or(0, |rows| rows.len())).min().unwrap_or(0);
                let is_pinned =
                    |node: &NodeId| self.inventory.holds(self.graph, *node, device, columns.clone()) == Some(true);
                let share = match there {
                    0 if !nodes.is_empty() && nodes.iter().all(is_pinned) => 0.0,
                    there => 1.0 - there as f64 / columns.len() as f64,
                };
                outlay.bytes += bytes as f64 * share;
            }
        }
        if self.options.preparation != Preparation::Ahead {
            outlay.prepare_seconds = pieces.iter().map(|piece| self.compile_seconds(template, nodes, piece)).sum();
        }
    }

    /// Seconds to compile a piece of a node, zero where it is compiled.
    fn compile_seconds(&self, template: &Template, nodes: &[NodeId], piece: &Piece) -> f64 {
        let rows = piece.rows.map(|row| (row as usize).min(template.rows));
        let columns = piece.columns.map(|column| column as usize);
        if self.costs.devices()[piece.device].standard_rows.is_empty() || rows[0] >= rows[1] || columns[0] >= columns[1]
        {
            return 0.0;
        }
        let part = Part { rows: piece.rows[0] as usize..piece.rows[1] as usize, columns: columns[0]..columns[1] };
        let is_compiled = |node: &NodeId| self.inventory.has_compiled(*node, piece.device, &part, piece.order);
        if nodes.iter().all(is_compiled) {
            return 0.0;
        }
        let shape = self.shape(template, piece.device, rows, columns, DeviceSet::EMPTY, piece.order);
        self.costs.compile_seconds(piece.device, &shape)
    }

    /// Cuts in which a device computes what it holds something for already.
    pub(super) fn held_cuts(&self, template_idx: usize) -> Vec<Cut> {
        // Where neither bytes nor graphs cost anything, what is there is no reason for a cut.
        let is_free = self.options.memory_budget.is_none() && self.options.preparation == Preparation::Ahead;
        if is_free || self.inventory.is_empty() {
            return Vec::new();
        }
        let template = &self.problem.templates[template_idx];
        let parts = self.inventory.parts_of(self.graph, NodeId(template.node));
        parts.iter().flat_map(|placed| self.cuts_with(template, placed)).collect()
    }

    /// Cuts one of whose parts is this one.
    fn cuts_with(&self, template: &Template, placed: &PlacedPart) -> Vec<Cut> {
        let PlacedPart { device_idx: device, part: Part { rows, columns }, .. } = placed;
        if !self.devices.contains(device) {
            return Vec::new();
        }
        let device = *device as u8;
        let others: Vec<usize> = self.devices.iter().copied().filter(|&other| other != usize::from(device)).collect();
        let has_rows = rows.start == 0 && rows.end >= template.rows;
        let [start, end] = [columns.start, columns.end].map(|at| at as u32);
        let has_columns = *columns == (0..template.columns);
        let pairs = || pairs(&others).flat_map(|(a, b)| [[a as u8, b as u8], [b as u8, a as u8]]);
        let each = || others.iter().map(|&other| other as u8);
        match (has_rows, has_columns) {
            (true, true) => vec![Cut::Whole(device)],
            (true, false) if start == 0 => {
                let step = template.column_step.max(1) as u32;
                let middle = end + (template.columns as u32 - end) / 2 / step * step;
                let three = pairs().map(|[a, b]| Cut::Columns([device, a, b], [end, middle]));
                let two = each().map(|other| Cut::Columns([device, other, other], [end; 2]));
                two.chain(three.filter(|_| middle > end)).collect()
            }
            (true, false) if columns.end == template.columns => {
                let step = template.column_step.max(1) as u32;
                let middle = start / 2 / step * step;
                let three = pairs().map(|[a, b]| Cut::Columns([a, b, device], [middle, start]));
                let two = each().map(|other| Cut::Columns([other, device, device], [start; 2]));
                two.chain(three.filter(|_| middle > 0)).collect()
            }
            (true, false) => pairs().map(|[a, b]| Cut::Columns([a, device, b], [start, end])).collect(),
            (false, _) if rows.start > 0 || self.options.dynamic_length != DynamicLength::Tensor => Vec::new(),
            (false, true) => each().map(|other| Cut::Rows([device, other], rows.end as u32)).collect(),
            (false, false) if start == 0 => {
                each().map(|other| Cut::Corner([device, other], rows.end as u32, end)).collect()
            }
            (false, false) => Vec::new(),
        }
    }
}
