//! One walk over the nodes of a graph with a choice made for each: which submissions arise, and when they run.
//!
//! A device's open submission takes the next part of that device, unless the part needs something of another device
//! that the submission does not wait for, or something in the submission is waited for by another device. When a
//! submission is opened, all that it waits for is closed, so its start is known; its end grows with what joins it.

use hetero_core::OperandOrder;

use crate::cost::{DeviceSet, MAX_DEVICES};
use crate::timing::{Load, Overheads};

use super::clock::Clock;
use super::problem::{Problem, Work};
use super::weighting::Outlay;

/// For each device, the number of a submission.
type Known = [u32; MAX_DEVICES];

/// The most parts into which one output is cut.
pub(crate) const MAX_PARTS: usize = 6;

/// How an output is cut, without the details that follow from the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// All on one device, padded to a number of positions that the device takes.
    Whole(u8),
    /// All on one device, as standard numbers of positions one after the other.
    Chunks(u8),
    /// Columns up to the first position on the first device, up to the second position on the second, the rest on the
    /// third; with two devices both positions are the same.
    Columns([u8; 3], [u32; 2]),
    /// Positions up to this on the first device, in standard numbers if it wants them, the rest on the second.
    Rows([u8; 2], u32),
    /// The first device computes these first columns of these first positions, the second all else.
    Corner([u8; 2], u32, u32),
}

impl Cut {
    /// A cut of columns between two devices.
    pub(crate) fn columns(devices: [usize; 2], at: usize) -> Cut {
        let [a, b] = devices.map(|device| device as u8);
        Cut::Columns([a, b, b], [at as u32; 2])
    }

    /// The devices that take part.
    pub(crate) fn devices(self) -> DeviceSet {
        match self {
            Cut::Whole(device) | Cut::Chunks(device) => DeviceSet::one(device.into()),
            Cut::Columns(devices, _) => devices.into_iter().map(usize::from).collect(),
            Cut::Rows(devices, _) | Cut::Corner(devices, ..) => devices.into_iter().map(usize::from).collect(),
        }
    }
}

/// A rectangle of an output on a device, and what it costs there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) device: usize,
    pub(crate) rows: [u32; 2],
    pub(crate) columns: [u32; 2],
    pub(crate) order: OperandOrder,
    /// Seconds on the device, as the search estimates them.
    pub(crate) seconds: f64,
    /// What counts in the end.
    pub(crate) load: Load,
}

/// One way to compute a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) cut: Cut,
    pub(crate) pieces: Vec<Piece>,
    /// Of all pieces.
    pub(crate) outlay: Outlay,
    /// Bytes of weights that devices hold as copies of their own for it.
    pub(crate) own_bytes: u64,
}

impl Candidate {
    /// A cut without pieces yet.
    pub(crate) fn nothing(cut: Cut) -> Candidate {
        Candidate { cut, pieces: Vec::new(), outlay: Outlay::default(), own_bytes: 0 }
    }

    /// The seconds of the device that takes longest.
    pub(crate) fn longest(&self) -> f64 {
        let seconds = |device: usize| -> f64 {
            self.pieces.iter().filter(|piece| piece.device == device).map(|piece| piece.seconds).sum()
        };
        self.cut.devices().iter().map(seconds).fold(0.0, f64::max)
    }
}

/// Where a value is: who computes which rectangle, in which submission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) cut: Cut,
    /// Columns of the whole value.
    pub(crate) columns: usize,
    n_parts: usize,
    parts: [LocatedPart; MAX_PARTS],
}

#[derive(Clone, Copy, Debug)]
struct LocatedPart {
    device: usize,
    rows: [u32; 2],
    columns: [u32; 2],
    /// Number of the submission among its device's, from 1.
    submission: u32,
    /// When the submission ends; valid once its device has a later one.
    end: f64,
    /// Up to which submission of each device what it waits for reaches; valid once its device has a later one.
    known: Known,
}

impl Located {
    const NOWHERE: Located =
        Located { cut: Cut::Whole(0), columns: 0, n_parts: 0, parts: [LocatedPart::NOWHERE; MAX_PARTS] };
}

impl LocatedPart {
    const NOWHERE: LocatedPart =
        LocatedPart { device: 0, rows: [0; 2], columns: [0; 2], submission: 0, end: 0.0, known: [0; MAX_DEVICES] };
}

/// A walk so far.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) progress: Progress,
    /// By slot. `None` where the value was written by the caller or is not written yet.
    pub(crate) values: Vec<Option<Located>>,
    /// Where the choices that led here are noted.
    pub(crate) trace: usize,
}

/// The part of a walk that changes with every choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) clock: Clock,
    /// Number of a device's latest submission.
    pub(crate) latest: [u32; MAX_DEVICES],
    /// Whether it takes more work.
    is_open: [bool; MAX_DEVICES],
    /// For each device, up to which submission of each other one it has waited, itself or through others.
    known: [Known; MAX_DEVICES],
    pub(crate) outlay: Outlay,
}

/// What a choice leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) progress: Progress,
    placed: Placed,
    /// For each device that got a new submission: the end of the one before, and what that knows.
    ended: [(f64, Known); MAX_DEVICES],
}

/// Which submission each piece of a choice went into; its end and what it knows where that is settled already.
type Placed = [(u32, f64, Known); MAX_PARTS];

impl Outcome {
    /// Room for one.
    pub(crate) fn new() -> Outcome {
        Outcome {
            progress: State::new(0).progress,
            placed: [(0, f64::NAN, [0; MAX_DEVICES]); MAX_PARTS],
            ended: [(f64::NAN, [0; MAX_DEVICES]); MAX_DEVICES],
        }
    }
}

impl State {
    /// Before the first node.
    pub(crate) fn new(n_slots: usize) -> State {
        let progress = Progress {
            clock: Clock::new(),
            latest: [0; MAX_DEVICES],
            is_open: [false; MAX_DEVICES],
            known: [[0; MAX_DEVICES]; MAX_DEVICES],
            outlay: Outlay::default(),
        };
        State { progress, values: vec![None; n_slots], trace: 0 }
    }

    /// What a choice for the next node leads to.
    pub(crate) fn try_candidate(
        &self,
        problem: &Problem,
        work: &Work,
        candidate: &Candidate,
        overheads: &[Overheads; MAX_DEVICES],
        Outcome { progress, placed, ended }: &mut Outcome,
    ) {
        progress.clone_from(&self.progress);
        let inputs = problem.inputs(work);
        // What other devices wait for is closed before anything of this node is placed; a single piece does so below.
        if candidate.pieces.len() > 1 {
            for piece in &candidate.pieces {
                self.for_each_need(inputs, piece, |part| {
                    if part.submission == progress.latest[part.device] {
                        progress.is_open[part.device] = false;
                    }
                });
            }
        }
        for (idx, piece) in candidate.pieces.iter().enumerate() {
            let device = piece.device;
            let mut ready = f64::NEG_INFINITY;
            let mut known = progress.known[device];
            self.for_each_need(inputs, piece, |part| {
                if part.submission > known[part.device] {
                    if part.submission == progress.latest[part.device] {
                        progress.is_open[part.device] = false;
                    }
                    let (end, its_known) = self.end_of(part);
                    ready = ready.max(end + overheads[part.device].sync);
                    for (known, its) in known.iter_mut().zip(its_known) {
                        *known = (*known).max(its);
                    }
                    known[part.device] = part.submission;
                }
            });
            if ready > f64::NEG_INFINITY || !progress.is_open[device] {
                // A piece of this node that the device already has is in a submission that ends here.
                for (before, placed) in candidate.pieces[..idx].iter().zip(&mut *placed) {
                    if before.device == device && placed.0 == progress.latest[device] {
                        (placed.1, placed.2) = (progress.clock.free[device], progress.known[device]);
                    }
                }
                if progress.latest[device] == self.progress.latest[device] {
                    ended[device] = (progress.clock.free[device], progress.known[device]);
                }
                progress.known[device] = known;
                progress.clock.submit(device, ready.max(0.0), &overheads[device]);
                progress.latest[device] += 1;
                progress.is_open[device] = true;
            }
            progress.clock.free[device] += piece.seconds;
            placed[idx].0 = progress.latest[device];
        }
        progress.outlay += candidate.outlay;
    }

    /// Makes this the state that a choice led to from `before`. Of the values only those are kept that are still read.
    pub(crate) fn advance_from(
        &mut self,
        before: &State,
        problem: &Problem,
        work: &Work,
        candidate: &Candidate,
        outcome: &Outcome,
    ) {
        self.values.resize(before.values.len(), None);
        for &slot in problem.live(work) {
            self.values[slot].clone_from(&before.values[slot]);
        }
        self.take_over(problem.live(work), &before.progress, work, candidate, outcome);
    }

    /// Makes a choice for the next node.
    pub(crate) fn advance(
        &mut self,
        problem: &Problem,
        work: &Work,
        candidate: &Candidate,
        overheads: &[Overheads; MAX_DEVICES],
        outcome: &mut Outcome,
    ) {
        self.try_candidate(problem, work, candidate, overheads, outcome);
        let before = self.progress;
        self.take_over(problem.live(work), &before, work, candidate, outcome);
    }

    /// Puts a value on a device, complete and in its open submission, as the layer before may have left it.
    pub(crate) fn place_in_open(&mut self, slot: usize, device: usize) {
        let progress = &mut self.progress;
        progress.latest[device] = 1;
        progress.is_open[device] = true;
        let mut parts = [LocatedPart::NOWHERE; MAX_PARTS];
        let all = [0, u32::MAX];
        parts[0] = LocatedPart { device, rows: all, columns: all, submission: 1, end: 0.0, known: [0; MAX_DEVICES] };
        self.values[slot] = Some(Located { cut: Cut::Whole(device as u8), columns: 0, n_parts: 1, parts });
    }

    fn take_over(
        &mut self,
        live: &[usize],
        before: &Progress,
        work: &Work,
        candidate: &Candidate,
        Outcome { progress, placed, ended }: &Outcome,
    ) {
        let has_new = |device: usize| progress.latest[device] != before.latest[device];
        if (0..MAX_DEVICES).any(has_new) {
            for &slot in live.iter().filter(|&&slot| slot != work.output) {
                let Some(located) = &mut self.values[slot] else { continue };
                for part in &mut located.parts[..located.n_parts] {
                    if has_new(part.device) && part.submission == before.latest[part.device] {
                        (part.end, part.known) = ended[part.device];
                    }
                }
            }
        }
        let located = self.values[work.output].get_or_insert(Located::NOWHERE);
        located.cut = candidate.cut;
        located.columns = candidate.pieces.iter().map(|piece| piece.columns[1]).max().unwrap_or(0) as usize;
        located.n_parts = candidate.pieces.len();
        for ((part, piece), &(submission, end, known)) in located.parts.iter_mut().zip(&candidate.pieces).zip(placed) {
            let Piece { device, rows, columns, .. } = *piece;
            *part = LocatedPart { device, rows, columns, submission, end, known };
        }
        self.progress.clone_from(progress);
    }

    /// When a device could begin with something that needs all of some values.
    pub(crate) fn could_start(
        &self,
        inputs: impl Iterator<Item = usize>,
        device: usize,
        overheads: &[Overheads; MAX_DEVICES],
    ) -> f64 {
        let known_at = self.known_at(inputs, device, overheads);
        let clock = &self.progress.clock;
        if known_at == 0.0 && self.progress.is_open[device] {
            return clock.free[device];
        }
        clock.would_start(device, known_at, &overheads[device])
    }

    /// When the host knows that all that a device lacks of some values is complete; zero when it lacks nothing.
    pub(crate) fn known_at(
        &self,
        slots: impl Iterator<Item = usize>,
        device: usize,
        overheads: &[Overheads; MAX_DEVICES],
    ) -> f64 {
        let mut at = 0.0f64;
        for located in slots.filter_map(|slot| self.values[slot].as_ref()) {
            for part in &located.parts[..located.n_parts] {
                if part.device != device && part.submission > self.progress.known[device][part.device] {
                    at = at.max(self.end_of(part).0 + overheads[part.device].sync);
                }
            }
        }
        at
    }

    /// When the submission of a part ends, and what it knows.
    fn end_of(&self, part: &LocatedPart) -> (f64, Known) {
        if part.submission == self.progress.latest[part.device] {
            (self.progress.clock.free[part.device], self.progress.known[part.device])
        } else {
            (part.end, part.known)
        }
    }

    /// Calls `f` for every part on another device that a piece needs.
    fn for_each_need(&self, inputs: &[super::problem::Input], piece: &Piece, mut f: impl FnMut(&LocatedPart)) {
        let meet = |a: [u32; 2], b: [u32; 2]| a[0] < b[1] && b[0] < a[1];
        for input in inputs {
            let Some(located) = input.slot.and_then(|slot| self.values[slot].as_ref()) else { continue };
            for part in &located.parts[..located.n_parts] {
                if part.device != piece.device
                    && (input.all_rows || meet(part.rows, piece.rows))
                    && (!input.same_columns || meet(part.columns, piece.columns))
                {
                    f(part);
                }
            }
        }
    }
}
