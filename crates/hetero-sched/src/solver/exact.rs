//! The step that choices lead to, as [`crate::timing`] has it: which submissions arise, and when they run beside each
//! other.
//!
//! Submissions are those of [`mod@crate::submissions`], formed here from pieces, so that no plan has to be made to know
//! what it takes.

use std::ops::Range;

use crate::cost::{CostModel, MAX_DEVICES};
use crate::timing::{Event, Overheads, Schedule, TimedSubmission, Timeline};

use super::problem::{Input, Problem, Work};
use super::state::Piece;

/// A step that is put together node by node. Keeps its memory from one to the next.
#[derive(Debug)]
pub(crate) struct Exact {
    overheads: [Overheads; MAX_DEVICES],
    bus: f64,
    /// The most bytes of weights in a submission of each device.
    most_bytes: [u64; MAX_DEVICES],
    schedule: Schedule,
    /// For each job and device, how many jobs are known to have finished there: the number of the latest, plus one.
    known: Vec<[u32; MAX_DEVICES]>,
    /// For each device its latest job, whether that takes more work, and the bytes of weights in it.
    latest: [Latest; MAX_DEVICES],
    /// By slot, where in `parts` the value lies.
    values: Vec<Range<u32>>,
    parts: Vec<Located>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    job: u32,
    is_open: bool,
    bytes: u64,
}

/// Who computes which rectangle of a value, in which job.
#[derive(Clone, Copy, Debug)]
struct Located {
    device: u32,
    job: u32,
    rows: [u32; 2],
    columns: [u32; 2],
}

const NO_JOB: u32 = u32::MAX;
const NONE: Latest = Latest { job: NO_JOB, is_open: false, bytes: 0 };

impl Exact {
    pub(crate) fn new(costs: &dyn CostModel) -> Exact {
        let mut most_bytes = [u64::MAX; MAX_DEVICES];
        for (most, device) in most_bytes.iter_mut().zip(costs.devices()) {
            *most = device.max_segment_weight_bytes.unwrap_or(u64::MAX);
        }
        Exact {
            overheads: Overheads::of(costs.devices()),
            bus: costs.bus(),
            most_bytes,
            schedule: Schedule::default(),
            known: Vec::new(),
            latest: [NONE; MAX_DEVICES],
            values: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Seconds of the given nodes alone, each computed as pieces say.
    pub(crate) fn seconds<'p>(&mut self, problem: &Problem, nodes: impl Iterator<Item = (usize, &'p [Piece])>) -> f64 {
        self.lay_out(problem, nodes);
        self.schedule.run(&self.overheads, self.bus, &mut |_| {})
    }

    /// When everything runs. Part seconds stand in the order of nodes and pieces.
    pub(crate) fn timeline<'p>(
        &mut self,
        problem: &Problem,
        nodes: impl Iterator<Item = (usize, &'p [Piece])>,
    ) -> Timeline {
        let n_parts = self.lay_out(problem, nodes);
        let mut part_seconds = vec![0.0; n_parts];
        let mut submissions = vec![TimedSubmission::default(); self.known.len()];
        let seconds = self.schedule.run(&self.overheads, self.bus, &mut |event| match event {
            Event::Load { number, seconds } => part_seconds[number] = seconds,
            Event::Job { job, start, end } => submissions[job] = TimedSubmission { start, end },
        });
        Timeline { submissions, part_seconds, seconds }
    }

    /// Forms the submissions of some nodes; says how many parts there are.
    fn lay_out<'p>(&mut self, problem: &Problem, nodes: impl Iterator<Item = (usize, &'p [Piece])>) -> usize {
        self.schedule.clear();
        self.known.clear();
        self.latest = [NONE; MAX_DEVICES];
        self.values.clear();
        self.values.resize(problem.n_slots, 0..0);
        self.parts.clear();
        for (idx, pieces) in nodes {
            self.add(problem, &problem.works[idx], pieces);
        }
        self.parts.len()
    }

    fn add(&mut self, problem: &Problem, work: &Work, pieces: &[Piece]) {
        let inputs = problem.inputs(work);
        let template = &problem.templates[work.template];
        let first_part = self.parts.len() as u32;
        // What other devices wait for takes nothing more, and nothing of this node either.
        for piece in pieces {
            let latest = &mut self.latest;
            for_each_need(&self.values, &self.parts, inputs, piece, |part| {
                let latest = &mut latest[part.device as usize];
                latest.is_open &= latest.job != part.job;
            });
        }
        for piece in pieces {
            let device = piece.device;
            let Latest { job: last, is_open, bytes } = self.latest[device];
            let mut known = if last == NO_JOB { [0; MAX_DEVICES] } else { self.known[last as usize] };
            let mut wanted = [0; MAX_DEVICES];
            for_each_need(&self.values, &self.parts, inputs, piece, |part| {
                let wanted = &mut wanted[part.device as usize];
                *wanted = part.job.saturating_add(1).max(*wanted);
            });
            let more_bytes = template.weight_bytes((piece.columns[1] - piece.columns[0]) as usize);
            let knows = wanted.iter().zip(&known).all(|(wanted, known)| wanted <= known);
            let job = if is_open && knows && bytes.saturating_add(more_bytes) <= self.most_bytes[device] {
                self.latest[device].bytes += more_bytes;
                last as usize
            } else {
                let job = self.schedule.open(device);
                for other in 0..MAX_DEVICES {
                    if wanted[other] > known[other] {
                        self.schedule.need(wanted[other] as usize - 1);
                    }
                }
                for wanted in wanted.into_iter().filter(|&wanted| wanted > 0) {
                    for (known, its) in known.iter_mut().zip(self.known[wanted as usize - 1]) {
                        *known = its.max(*known);
                    }
                }
                known[device] = job as u32 + 1;
                self.known.push(known);
                self.latest[device] = Latest { job: job as u32, is_open: true, bytes: more_bytes };
                job
            };
            self.schedule.push(job, piece.load);
            self.parts.push(Located {
                device: device as u32,
                job: job as u32,
                rows: piece.rows,
                columns: piece.columns,
            });
        }
        self.values[work.output] = first_part..self.parts.len() as u32;
    }
}

/// Calls `f` for every part on another device that a piece needs.
fn for_each_need(
    values: &[Range<u32>],
    parts: &[Located],
    inputs: &[Input],
    piece: &Piece,
    mut f: impl FnMut(&Located),
) {
    let meet = |a: [u32; 2], b: [u32; 2]| a[0] < b[1] && b[0] < a[1];
    for input in inputs {
        let Some(Range { start, end }) = input.slot.map(|slot| values[slot].clone()) else { continue };
        for part in &parts[start as usize..end as usize] {
            if part.device as usize != piece.device
                && (input.all_rows || meet(part.rows, piece.rows))
                && (!input.same_columns || meet(part.columns, piece.columns))
            {
                f(part);
            }
        }
    }
}
