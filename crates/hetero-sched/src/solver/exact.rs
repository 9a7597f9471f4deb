//! The step that choices lead to, as [`crate::timing`] has it: which submissions arise, and when they run beside each
//! other.
//!
//! Submissions are those of [`mod@crate::submissions`], formed here from pieces, so that no plan has to be made to know
//! what it takes.

use arrayvec::ArrayVec;

use crate::cost::{CostModel, MAX_DEVICES};
use crate::timing::{Event, Overheads, Schedule, ScheduleMark, TimedSubmission, Timeline};

use super::problem::{Input, Problem, Work};
use super::state::{MAX_PARTS, Piece};

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
    values: Vec<Value>,
    parts: Vec<Located>,
    /// For each node that was laid out, the slot of its output and where that lies.
    nodes: Vec<(usize, Value)>,
    /// For the nodes of the first copy of a layer: the state before them.
    marks: Vec<Mark>,
    /// Where that layer begins, and its choices.
    laid_start: usize,
    laid: Vec<usize>,
    /// For each piece of a node, what it waits for.
    wanted: ArrayVec<[u32; MAX_DEVICES], MAX_PARTS>,
}

/// What is returned to when the beginning of a layer is the same as before.
#[derive(Clone, Copy, Debug)]
struct Mark {
    schedule: ScheduleMark,
    latest: [Latest; MAX_DEVICES],
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

/// Where a value lies.
#[derive(Clone, Copy, Debug, Default)]
struct Value {
    /// From which of the parts to which.
    parts: [u32; 2],
    /// For each device its last job that computes some of it, plus one.
    jobs: [u32; MAX_DEVICES],
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
            schedule: Schedule::new(),
            known: Vec::new(),
            latest: [NONE; MAX_DEVICES],
            values: Vec::new(),
            parts: Vec::new(),
            nodes: Vec::new(),
            marks: Vec::new(),
            laid_start: 0,
            laid: Vec::new(),
            wanted: ArrayVec::new(),
        }
    }

    /// Seconds of the given nodes alone, each computed as pieces say.
    pub(crate) fn seconds<'p>(&mut self, problem: &Problem, nodes: impl Iterator<Item = (usize, &'p [Piece])>) -> f64 {
        self.lay_out(problem, nodes);
        self.schedule.run(&self.overheads, self.bus, &mut |_| {})
    }

    /// Lays out a layer alone that begins with the node `start`; what it has in common with the one before stays.
    /// `pieces_of` says for a node and a choice what is computed where.
    pub(crate) fn lay_out_first<'p>(
        &mut self,
        problem: &Problem,
        start: usize,
        choices: &[usize],
        pieces_of: impl Fn(usize, usize) -> &'p [Piece],
    ) {
        let is_other = self.laid_start != start || self.laid.len() != choices.len();
        if is_other || self.marks.is_empty() {
            self.clear(problem);
            self.laid_start = start;
            self.marks.push(Mark { schedule: self.schedule.mark(), latest: self.latest });
        }
        let n_same = self.laid.iter().zip(choices).take_while(|(laid, choice)| laid == choice).count();
        let mark = self.marks[n_same];
        self.marks.truncate(n_same + 1);
        self.schedule.return_to(&mark.schedule);
        self.latest = mark.latest;
        self.known.truncate(mark.schedule.n_jobs);
        self.parts.truncate(mark.schedule.n_loads);
        self.nodes.truncate(n_same);
        self.values.fill(Value::default());
        for (slot, value) in &self.nodes {
            self.values[*slot] = *value;
        }
        self.laid.clear();
        self.laid.extend_from_slice(choices);
        for (offset, &choice) in choices.iter().enumerate().skip(n_same) {
            self.add(problem, &problem.works[start + offset], pieces_of(start + offset, choice));
            self.marks.push(Mark { schedule: self.schedule.mark(), latest: self.latest });
        }
    }

    /// Lays out the same layer again behind it.
    pub(crate) fn lay_out_again<'p>(&mut self, problem: &Problem, pieces_of: impl Fn(usize, usize) -> &'p [Piece]) {
        let start = self.laid_start + self.nodes.len();
        for offset in 0..self.laid.len() {
            let node = start + offset;
            self.add(problem, &problem.works[node], pieces_of(node, self.laid[offset]));
        }
    }

    /// Seconds of what was laid out.
    pub(crate) fn run(&mut self) -> f64 {
        self.schedule.run_on(&self.overheads, self.bus)
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

    /// For each device, how many submissions were laid out.
    pub(crate) fn n_jobs(&self) -> [usize; MAX_DEVICES] {
        self.schedule.n_jobs()
    }

    /// When each device could have begun with one of the nodes that were timed last, the one at this position among them:
    /// when it was done with what came before, and the host knew of what others had computed for it.
    pub(crate) fn starts(&self, problem: &Problem, work: &Work, position: usize) -> [f64; MAX_DEVICES] {
        let mut starts = [0.0; MAX_DEVICES];
        let first_part = self.nodes[position].1.parts[0] as usize;
        for (device, start) in starts.iter_mut().enumerate() {
            let last = self.parts[..first_part].iter().rev().find(|part| part.device as usize == device);
            *start = last.map_or(0.0, |part| self.schedule.end_before(part.job as usize, first_part));
        }
        for slot in problem.inputs(work).iter().filter_map(|input| input.slot) {
            let Some(writer) = self.nodes[..position].iter().rposition(|node| node.0 == slot) else { continue };
            let [from, to] = self.nodes[writer].1.parts;
            for part in &self.parts[from as usize..to as usize] {
                let end = self.schedule.end_before(part.job as usize, first_part);
                let known = end + self.overheads[part.device as usize].sync;
                for (device, start) in
                    starts.iter_mut().enumerate().filter(|(device, _)| *device != part.device as usize)
                {
                    *start = f64::max(*start, known + self.overheads[device].submit);
                }
            }
        }
        starts
    }

    /// Forms the submissions of some nodes; says how many parts there are.
    fn lay_out<'p>(&mut self, problem: &Problem, nodes: impl Iterator<Item = (usize, &'p [Piece])>) -> usize {
        self.clear(problem);
        for (idx, pieces) in nodes {
            self.add(problem, &problem.works[idx], pieces);
        }
        self.parts.len()
    }

    fn clear(&mut self, problem: &Problem) {
        self.schedule.clear();
        self.known.clear();
        self.latest = [NONE; MAX_DEVICES];
        self.values.clear();
        self.values.resize(problem.n_slots, Value::default());
        self.parts.clear();
        self.nodes.clear();
        self.marks.clear();
        self.laid.clear();
    }

    fn add(&mut self, problem: &Problem, work: &Work, pieces: &[Piece]) {
        let first_part = self.parts.len() as u32;
        let inputs = problem.inputs(work);
        let wanted_of_all = find_wanted(&mut self.wanted, &self.values, &self.parts, inputs, pieces);
        let waits = wanted_of_all != [0; MAX_DEVICES];
        if waits {
            // What other devices wait for takes nothing more, and nothing of this node either.
            for (latest, wanted) in self.latest.iter_mut().zip(wanted_of_all) {
                latest.is_open &= wanted == 0 || wanted != latest.job.wrapping_add(1);
            }
        }
        let mut jobs = [0; MAX_DEVICES];
        for (piece, wanted) in pieces.iter().zip(&self.wanted) {
            let device = piece.device;
            let Latest { job: last, is_open, bytes } = self.latest[device];
            let knows = !waits
                || last != NO_JOB && {
                    let known = &self.known[last as usize];
                    wanted.iter().zip(known).all(|(wanted, known)| wanted <= known)
                };
            let more_bytes = match self.most_bytes[device] {
                u64::MAX => 0,
                _ => problem.templates[work.template].weight_bytes((piece.columns[1] - piece.columns[0]) as usize),
            };
            let job = if is_open && knows && bytes.saturating_add(more_bytes) <= self.most_bytes[device] {
                self.latest[device].bytes += more_bytes;
                last as usize
            } else {
                let mut known = if last == NO_JOB { [0; MAX_DEVICES] } else { self.known[last as usize] };
                let job = self.schedule.open(device);
                for (&wanted, already) in wanted.iter().zip(known) {
                    if wanted > already {
                        self.schedule.need(wanted as usize - 1);
                    }
                }
                for &wanted in wanted.iter().filter(|&&wanted| wanted > 0) {
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
            jobs[device] = job as u32 + 1;
            self.parts.push(Located {
                device: device as u32,
                job: job as u32,
                rows: piece.rows,
                columns: piece.columns,
            });
        }
        let value = Value { parts: [first_part, self.parts.len() as u32], jobs };
        self.values[work.output] = value;
        self.nodes.push((work.output, value));
    }
}

/// For each piece of a node and each other device, up to which of its jobs the piece waits for them: the number of the
/// job, plus one. Returns the same for all pieces together.
fn find_wanted(
    wanted: &mut ArrayVec<[u32; MAX_DEVICES], MAX_PARTS>,
    values: &[Value],
    parts: &[Located],
    inputs: &[Input],
    pieces: &[Piece],
) -> [u32; MAX_DEVICES] {
    let meet = |a: [u32; 2], b: [u32; 2]| a[0] < b[1] && b[0] < a[1];
    wanted.clear();
    wanted.extend(pieces.iter().map(|_| [0; MAX_DEVICES]));
    for input in inputs {
        let Some(value) = input.slot.map(|slot| &values[slot]) else { continue };
        if value.parts[1] - value.parts[0] == 1 || (input.all_rows && !input.same_columns) {
            // All of it is needed.
            for (piece, wanted) in pieces.iter().zip(wanted.iter_mut()) {
                let mut jobs = value.jobs;
                jobs[piece.device] = 0;
                for (wanted, jobs) in wanted.iter_mut().zip(jobs) {
                    *wanted = jobs.max(*wanted);
                }
            }
            continue;
        }
        let parts = &parts[value.parts[0] as usize..value.parts[1] as usize];
        for (piece, wanted) in pieces.iter().zip(wanted.iter_mut()) {
            for part in parts {
                let is_needed = part.device as usize != piece.device
                    && (input.all_rows || meet(part.rows, piece.rows))
                    && (!input.same_columns || meet(part.columns, piece.columns));
                if is_needed {
                    let wanted = &mut wanted[part.device as usize];
                    *wanted = (part.job + 1).max(*wanted);
                }
            }
        }
    }
    let mut of_all = [0; MAX_DEVICES];
    for wanted in wanted.iter() {
        for (of_all, &wanted) in of_all.iter_mut().zip(wanted) {
            *of_all = wanted.max(*of_all);
        }
    }
    of_all
}
