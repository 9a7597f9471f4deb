//! Which parts of a plan are submitted together, and what each submission waits for: a pure function of the plan.
//!
//! A processor finishes its submissions in order, so only what another processor computes is worth waiting for, and of
//! each other processor only the latest submission. Parts are taken in the graph's order. The open submission of a
//! processor takes its next part unless
//!
//! 1. the part needs something of another processor that the submission does not wait for already, itself or through
//!    what was submitted before it or what it waits for; or
//! 2. somebody on another processor waits for something in it: then it is closed and let go; or
//! 3. its weights would be more than the processor takes in one segment.
//!
//! Operators that are cut at the same columns and need only those therefore share a submission on each processor, with
//! no join between them.
//!
//! Where processors do not work ahead ([`crate::Synchronisation::PerCrossing`]) the graph falls into [`stages`], and a
//! submission ends with its stage as well.
//!
//! A part needs what wrote the rectangles that it reads. State is updated in place, so a part that updates it also
//! needs what has read or written it before. Other values never wait for the readers of what lay in their tensor
//! before: [`crate::activations`] gives a value only such a tensor that this is so in any plan.

use std::ops::Range;

use hetero_core::{Arrangement, NodeId, Part, ValueKind};

use crate::Plan;

/// Parts that one processor computes without a join between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Which of the plan's devices.
    pub device_idx: usize,
    /// What it computes, in the graph's order.
    pub parts: Vec<PartId>,
    /// Submissions on other devices that must have finished, as indices into the list, rising: at most one of each
    /// device, and none that another of them or an earlier submission of this device implies.
    pub depends_on: Vec<usize>,
}

/// One part of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartId {
    /// Which node of the graph.
    pub node: NodeId,
    /// Which of the node's placed parts.
    pub part_idx: usize,
}

/// The submissions of a plan, in an order in which none depends on a later one and those of each device are in the
/// order in which it runs them.
pub fn submissions(plan: &Plan) -> Vec<Submission> {
    submissions_within(plan, &[])
}

/// As [`submissions`], where the device at each index takes segments with at most so many bytes of weights; `None`, or
/// no entry, for any number. A part that has more by itself has a submission to itself.
pub fn submissions_within(plan: &Plan, most_weight_bytes: &[Option<u64>]) -> Vec<Submission> {
    list_submissions(plan, most_weight_bytes, |_| 0)
}

/// As [`submissions_within`], for processors that meet whenever the work passes from one to another: no submission
/// holds nodes of several of the plan's [`stages`].
pub fn submissions_in_stages(plan: &Plan, most_weight_bytes: &[Option<u64>]) -> Vec<Submission> {
    let stages = stages(plan);
    list_submissions(plan, most_weight_bytes, |node| stages[node])
}

/// For each node of a plan, in which of the stages it is that run one after the other when processors never work
/// ahead: an operator that is cut between several is a stage, and so are neighbours that are whole on the same one.
pub fn stages(plan: &Plan) -> Vec<usize> {
    let mut stage = 0;
    let mut before: Option<usize> = None;
    let of_node = |(idx, placed): (usize, &Vec<crate::PlacedPart>)| {
        let first = placed[0].device_idx;
        let only = placed.iter().all(|placed| placed.device_idx == first).then_some(first);
        if idx > 0 && (only.is_none() || only != before) {
            stage += 1;
        }
        before = only;
        stage
    };
    plan.placements().iter().enumerate().map(of_node).collect()
}

fn list_submissions(
    plan: &Plan,
    most_weight_bytes: &[Option<u64>],
    stage_of: impl Fn(usize) -> usize,
) -> Vec<Submission> {
    let needs = Needs::of(plan);
    let n_devices = plan.placements().iter().flatten().map(|placed| placed.device_idx + 1).max().unwrap_or(0);
    let mut list: Vec<Submission> = Vec::new();
    // For each submission and device, how many of the list have finished on it by the time that this one has: the
    // index of the latest, plus one.
    let mut known: Vec<usize> = Vec::new();
    // For each device, its latest submission and the node at which somebody waits for it.
    let mut open: Vec<Option<(usize, usize)>> = vec![None; n_devices];
    // For each device, the bytes of weights in its latest submission.
    let mut open_bytes = vec![0; n_devices];
    let mut submission_of = vec![usize::MAX; needs.n_parts()];
    let mut wanted = vec![0; n_devices];
    for (node_idx, placed) in plan.placements().iter().enumerate() {
        for (part_idx, placed) in placed.iter().enumerate() {
            let device_idx = placed.device_idx;
            let number = needs.first_of_node[node_idx] + part_idx;
            wanted.fill(0);
            for &needed in needs.of_part(number) {
                let submission = submission_of[needed];
                let other = list[submission].device_idx;
                if other != device_idx {
                    wanted[other] = wanted[other].max(submission + 1);
                }
            }
            let knows = |submission: usize| {
                let known = &known[submission * n_devices..][..n_devices];
                wanted.iter().zip(known).all(|(wanted, known)| wanted <= known)
            };
            let bytes = weight_bytes(plan, NodeId(node_idx), &placed.part);
            let most_bytes = most_weight_bytes.get(device_idx).copied().flatten().unwrap_or(u64::MAX);
            let has_room = open_bytes[device_idx] + bytes <= most_bytes;
            let is_same_stage = |last: usize| stage_of(list[last].parts[0].node.0) == stage_of(node_idx);
            let (idx, until) = match open[device_idx] {
                Some((last, until)) if node_idx < until && has_room && is_same_stage(last) && knows(last) => {
                    (last, until)
                }
                last => {
                    open_bytes[device_idx] = 0;
                    match last {
                        Some((last, _)) => known.extend_from_within(last * n_devices..(last + 1) * n_devices),
                        None => known.resize(known.len() + n_devices, 0),
                    }
                    let depends_on = necessary(&wanted, &mut known, n_devices);
                    known[list.len() * n_devices + device_idx] = list.len() + 1;
                    list.push(Submission { device_idx, parts: Vec::new(), depends_on });
                    (list.len() - 1, usize::MAX)
                }
            };
            open_bytes[device_idx] += bytes;
            list[idx].parts.push(PartId { node: NodeId(node_idx), part_idx });
            submission_of[number] = idx;
            open[device_idx] = Some((idx, until.min(needs.first_elsewhere[number])));
        }
    }
    list
}

/// Bytes of the weights that a part of a node uses, as they are stored: of a matrix its rows, of a table all.
fn weight_bytes(plan: &Plan, node: NodeId, part: &Part) -> u64 {
    let node = plan.graph().node(node);
    let bytes = |weight: &hetero_core::WeightId| {
        let layout = &plan.graph().weights()[weight.0].layout;
        match layout.arrangement {
            Arrangement::Panels => layout.byte_range(part.columns.clone()).len() as u64,
            Arrangement::Rows => layout.bytes() as u64,
        }
    };
    node.weights.iter().map(bytes).sum()
}

/// Those of the wanted submissions that nothing else implies. The last row of `known` is what the submissions before
/// on the same device imply, and becomes what the new one does.
fn necessary(wanted: &[usize], known: &mut [usize], n_devices: usize) -> Vec<usize> {
    let (before, row) = known.split_at_mut(known.len() - n_devices);
    let of = |submission: usize| &before[(submission - 1) * n_devices..][..n_devices];
    let mut depends_on: Vec<usize> = Vec::new();
    for (device_idx, &submission) in wanted.iter().enumerate() {
        let is_implied = |by: usize| by != submission && by > 0 && of(by)[device_idx] >= submission;
        if submission > row[device_idx] && !wanted.iter().any(|&by| is_implied(by)) {
            depends_on.push(submission - 1);
        }
    }
    for &submission in wanted.iter().filter(|submission| **submission > 0) {
        row.iter_mut().zip(of(submission)).for_each(|(row, known)| *row = (*row).max(*known));
    }
    depends_on.sort_unstable();
    depends_on
}

/// What every part needs, parts numbered in the plan's order.
struct Needs {
    /// For each node, the number of its first part; the number of parts at the end.
    first_of_node: Vec<usize>,
    /// For each part, where its needs lie in `needed`.
    ranges: Vec<Range<usize>>,
    needed: Vec<usize>,
    /// For each part, the first node that needs it on another device.
    first_elsewhere: Vec<usize>,
}

impl Needs {
    fn of(plan: &Plan) -> Needs {
        let (graph, placements) = (plan.graph(), plan.placements());
        let mut first_of_node = vec![0];
        for placed in placements {
            first_of_node.push(first_of_node[first_of_node.len() - 1] + placed.len());
        }
        let device_of: Vec<usize> = placements.iter().flatten().map(|placed| placed.device_idx).collect();
        let mut needs = Needs { first_of_node, ranges: Vec::new(), needed: Vec::new(), first_elsewhere: Vec::new() };
        needs.first_elsewhere.resize(device_of.len(), usize::MAX);
        // For each value the nodes that have written it, and of state also those that have read it.
        let mut writers: Vec<Vec<usize>> = vec![Vec::new(); graph.values().len()];
        let mut readers: Vec<Vec<(usize, usize)>> = vec![Vec::new(); graph.values().len()];
        for (node_idx, placed) in placements.iter().enumerate() {
            let (id, node) = (NodeId(node_idx), graph.node(NodeId(node_idx)));
            let updates_state = graph.value(node.output).kind == ValueKind::State;
            for placed in placed {
                let start = needs.needed.len();
                for (input_idx, input) in node.inputs.iter().enumerate() {
                    let read = graph.input_part(id, input_idx, &placed.part);
                    writers[input.0].iter().for_each(|&writer| needs.add(plan, writer, &read, Part::clone));
                }
                if updates_state {
                    let output = &node.output;
                    writers[output.0].iter().for_each(|&writer| needs.add(plan, writer, &placed.part, Part::clone));
                    for &(reader, input_idx) in &readers[output.0] {
                        let touched = |part: &Part| graph.input_part(NodeId(reader), input_idx, part);
                        needs.add(plan, reader, &placed.part, touched);
                    }
                }
                for &needed in needs.needed[start..].iter().filter(|&&needed| device_of[needed] != placed.device_idx) {
                    needs.first_elsewhere[needed] = needs.first_elsewhere[needed].min(node_idx);
                }
                needs.ranges.push(start..needs.needed.len());
            }
            writers[node.output.0].push(node_idx);
            for (input_idx, input) in node.inputs.iter().enumerate() {
                if graph.value(*input).kind == ValueKind::State {
                    readers[input.0].push((node_idx, input_idx));
                }
            }
        }
        needs
    }

    fn n_parts(&self) -> usize {
        self.first_elsewhere.len()
    }

    fn of_part(&self, number: usize) -> &[usize] {
        &self.needed[self.ranges[number].clone()]
    }

    /// Adds the parts of a node that touch a rectangle of one of its values, `touched` of each.
    fn add(&mut self, plan: &Plan, node_idx: usize, rectangle: &Part, touched: impl Fn(&Part) -> Part) {
        let first = self.first_of_node[node_idx];
        for (part_idx, placed) in plan.placements()[node_idx].iter().enumerate() {
            if touched(&placed.part).overlaps(rectangle) {
                self.needed.push(first + part_idx);
            }
        }
    }
}
