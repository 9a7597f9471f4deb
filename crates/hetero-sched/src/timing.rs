//! When the submissions of a step start and end: the model of execution that solver and predictions share.
//!
//! **Devices** run their submissions in order. A submission starts `start_seconds` after it is queued and its device is
//! free.
//!
//! **The host** is one thread, and eager: of the submissions whose needs are complete and known to it, `sync_seconds`
//! after their end, it makes the first in the order of the plan. That takes `submit_seconds`, and
//! `submit_idle_seconds` more when the device's queue has run empty. When there is none it waits.
//!
//! **The memory bus** is shared by what runs at the same time. A part moves its bytes evenly over the time that it takes
//! alone; together parts get no more than the bus's limit, and what one leaves over goes to the others in equal shares
//! (max-min fairness; Bertsekas and Gallager, Data Networks, section 6.5.2). A part that gets less takes longer in
//! proportion.
//!
//! **The step** ends when every device has finished and the host knows it.

use crate::Plan;
use crate::cost::{DeviceCosts, MAX_DEVICES};
use crate::submissions::Submission;

/// What a part asks of its device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Seconds that it takes alone on the bus.
    pub seconds: f64,
    /// Bytes that it moves over the bus.
    pub bytes: f64,
}

impl Load {
    /// Work that does not use the bus.
    pub fn computing(seconds: f64) -> Load {
        Load { seconds, bytes: 0.0 }
    }
}

/// When the submissions of one step run.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// In the order of the plan's submissions.
    pub submissions: Vec<TimedSubmission>,
    /// For each part of the plan, node by node, the seconds that it occupies its device beside the others.
    pub part_seconds: Vec<f64>,
    /// Seconds from the beginning of the step until the host knows that every device has finished.
    pub seconds: f64,
}

/// When a submission runs, in seconds since the step began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimedSubmission {
    /// When its device begins with it.
    pub start: f64,
    /// When its device has finished it.
    pub end: f64,
}

/// Predicts when the submissions of a plan run whose parts take a known time beside each other.
///
/// `part_seconds` holds, node by node, for each part of the plan the seconds that it occupies its device, as
/// [`crate::Solution::part_seconds`] does.
///
/// # Panics
/// As [`timeline_on_bus`].
pub fn timeline(plan: &Plan, submissions: &[Submission], part_seconds: &[f64], devices: &[DeviceCosts]) -> Timeline {
    let loads: Vec<Load> = part_seconds.iter().copied().map(Load::computing).collect();
    timeline_on_bus(plan, submissions, &loads, devices, f64::INFINITY)
}

/// Predicts when the submissions of a plan run, and by how much their parts hinder each other.
///
/// `loads` holds one for each part of the plan, node by node. `bus` is what all devices move together at most, in bytes
/// per second; infinite where they do not hinder each other.
///
/// # Panics
/// When there is not one load for each part, or the plan names a device that is not in `devices`.
pub fn timeline_on_bus(
    plan: &Plan,
    submissions: &[Submission],
    loads: &[Load],
    devices: &[DeviceCosts],
    bus: f64,
) -> Timeline {
    let mut first_part = vec![0];
    for placed in plan.placements() {
        first_part.push(first_part[first_part.len() - 1] + placed.len());
    }
    assert_eq!(first_part[plan.placements().len()], loads.len(), "one load for each part");
    let mut schedule = Schedule::default();
    let mut parts = Vec::with_capacity(loads.len());
    for submission in submissions {
        assert!(submission.device_idx < devices.len(), "device {} of {}", submission.device_idx, devices.len());
        schedule.open(submission.device_idx);
        submission.depends_on.iter().for_each(|&needed| schedule.need(needed));
        for part in &submission.parts {
            let number = first_part[part.node.0] + part.part_idx;
            parts.push(number);
            schedule.push(schedule.jobs.len() - 1, loads[number]);
        }
    }
    let mut part_seconds = vec![0.0; loads.len()];
    let mut timed = vec![TimedSubmission::default(); submissions.len()];
    let seconds = schedule.run(&Overheads::of(devices), bus, &mut |event| match event {
        Event::Load { number, seconds } => part_seconds[parts[number]] = seconds,
        Event::Job { job, start, end } => timed[job] = TimedSubmission { start, end },
    });
    Timeline { submissions: timed, part_seconds, seconds }
}

/// What starting work on a device and waiting for it cost, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Overheads {
    pub(crate) submit: f64,
    pub(crate) idle: f64,
    pub(crate) start: f64,
    pub(crate) sync: f64,
}

impl Overheads {
    pub(crate) fn of(devices: &[DeviceCosts]) -> [Overheads; MAX_DEVICES] {
        assert!(devices.len() <= MAX_DEVICES, "a plan uses at most {MAX_DEVICES} devices, not {}", devices.len());
        let mut all = [Overheads::default(); MAX_DEVICES];
        for (overheads, device) in all.iter_mut().zip(devices) {
            *overheads = Overheads {
                submit: device.submit_seconds,
                idle: device.submit_idle_seconds,
                start: device.start_seconds,
                sync: device.sync_seconds,
            };
        }
        all
    }
}

/// Submissions with what they wait for, to be run in thought. Keeps its memory when it is cleared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    jobs: Vec<Job>,
    /// Loads, each with the next one of its job.
    loads: Vec<(Load, u32)>,
    /// The last job of each device.
    last: [Option<u32>; MAX_DEVICES],
    first: [Option<u32>; MAX_DEVICES],
}

/// A queue that runs empty within so many seconds may have done so before the host gets there: times are not known
/// better, and a plan that relies on them pays what an idle device costs at every other layer.
const MARGIN: f64 = 10e-6;

/// No load, no job.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Job {
    device: u8,
    n_needs: u8,
    needs: [u32; MAX_DEVICES],
    first_load: u32,
    last_load: u32,
    /// The next one on the same device.
    next: u32,
    /// When it has ended; infinite until then.
    end: f64,
}

/// What is told of a run.
pub(crate) enum Event {
    /// The load that was pushed at this position took so long.
    Load { number: usize, seconds: f64 },
    /// A job ran.
    Job { job: usize, start: f64, end: f64 },
}

impl Schedule {
    pub(crate) fn clear(&mut self) {
        self.jobs.clear();
        self.loads.clear();
        (self.first, self.last) = ([None; MAX_DEVICES], [None; MAX_DEVICES]);
    }

    /// Adds a submission behind the others of its device and returns its index.
    pub(crate) fn open(&mut self, device: usize) -> usize {
        let idx = self.jobs.len() as u32;
        match self.last[device] {
            Some(last) => self.jobs[last as usize].next = idx,
            None => self.first[device] = Some(idx),
        }
        self.last[device] = Some(idx);
        self.jobs.push(Job {
            device: device as u8,
            n_needs: 0,
            needs: [0; MAX_DEVICES],
            first_load: NONE,
            last_load: NONE,
            next: NONE,
            end: f64::INFINITY,
        });
        idx as usize
    }

    /// Makes the last submission wait for another one.
    pub(crate) fn need(&mut self, needed: usize) {
        let job = self.jobs.last_mut().expect("a submission is open");
        job.needs[usize::from(job.n_needs)] = needed as u32;
        job.n_needs += 1;
    }

    /// Adds work to a submission.
    pub(crate) fn push(&mut self, job: usize, load: Load) {
        let number = self.loads.len() as u32;
        let job = &mut self.jobs[job];
        match job.last_load {
            NONE => job.first_load = number,
            last => self.loads[last as usize].1 = number,
        }
        job.last_load = number;
        self.loads.push((load, NONE));
    }

    /// Seconds until the host knows that everything has finished.
    pub(crate) fn run(&mut self, overheads: &[Overheads; MAX_DEVICES], bus: f64, tell: &mut impl FnMut(Event)) -> f64 {
        let mut run = Run {
            jobs: &mut self.jobs,
            loads: &self.loads,
            overheads,
            bus,
            time: 0.0,
            devices: self.first.map(|first| Device { head: first.unwrap_or(NONE), ..Device::IDLE }),
            submitting: None,
            wake: 0.0,
        };
        while run.step(tell) {}
        let ends = self.last.iter().zip(overheads).filter_map(|(last, overheads)| {
            let last = (*last)? as usize;
            Some(self.jobs[last].end + overheads.sync)
        });
        ends.fold(0.0, f64::max)
    }
}

/// A run under way.
struct Run<'s> {
    jobs: &'s mut [Job],
    loads: &'s [(Load, u32)],
    overheads: &'s [Overheads; MAX_DEVICES],
    bus: f64,
    time: f64,
    devices: [Device; MAX_DEVICES],
    /// What the host submits, and until when.
    submitting: Option<(u32, f64)>,
    /// Nothing can be submitted before this, unless a job ends; zero when that is to be found out.
    wake: f64,
}

#[derive(Clone, Copy, Debug)]
struct Device {
    /// The next job to be submitted.
    head: u32,
    /// The job that runs, and the first that is not submitted yet.
    running: u32,
    /// Of the running job: the load, when it began, and what is left of it in seconds alone.
    load: u32,
    since: f64,
    left: f64,
    /// Seconds alone that pass in a second; also while it starts.
    speed: f64,
    /// What the load wants of the bus.
    rate: f64,
    job_start: f64,
    /// Whether it has not come to the first load yet.
    is_starting: bool,
}

impl Device {
    const IDLE: Device = Device {
        head: NONE,
        running: NONE,
        load: NONE,
        since: 0.0,
        left: 0.0,
        speed: 1.0,
        rate: 0.0,
        job_start: 0.0,
        is_starting: false,
    };
}

impl Run<'_> {
    /// Goes on to the next event; no when there is none.
    fn step(&mut self, tell: &mut impl FnMut(Event)) -> bool {
        let mut until = match self.submitting {
            Some((_, end)) => end,
            None if self.time < self.wake => self.wake,
            None => match self.next_ready() {
                Ok(job) => {
                    let device = usize::from(self.jobs[job as usize].device);
                    let overheads = &self.overheads[device];
                    let idle = if self.is_nearly_idle(device) { overheads.idle } else { 0.0 };
                    let until = self.time + overheads.submit + idle;
                    self.submitting = Some((job, until));
                    until
                }
                Err(at) => {
                    self.wake = at;
                    at
                }
            },
        };
        let mut first = None;
        for (idx, device) in self.devices.iter().enumerate() {
            if device.running != NONE {
                let end = self.time + device.left / device.speed;
                if end < until {
                    (until, first) = (end, Some(idx));
                }
            }
        }
        if until == f64::INFINITY {
            return false;
        }
        let passed = until - self.time;
        for device in self.devices.iter_mut().filter(|device| device.running != NONE) {
            device.left -= passed * device.speed;
        }
        self.time = until;
        match (first, self.submitting) {
            (Some(device), _) => self.go_on(device, tell),
            (None, Some((job, _))) => {
                self.submitting = None;
                self.wake = 0.0;
                let device = usize::from(self.jobs[job as usize].device);
                self.devices[device].head = self.jobs[job as usize].next;
                if self.devices[device].running == NONE {
                    self.begin(device, job);
                }
            }
            // The host has only learned something.
            (None, None) => {}
        }
        true
    }

    /// Whether a device's queue has run empty, or may have before a submission gets there.
    fn is_nearly_idle(&self, device: usize) -> bool {
        let device = &self.devices[device];
        if device.running == NONE {
            return true;
        }
        let is_last = self.jobs[device.running as usize].next == device.head
            && !device.is_starting
            && self.loads[device.load as usize].1 == NONE;
        is_last && device.left < MARGIN * device.speed
    }

    /// The first job in order that can be submitted now, or when the host next learns of something that one needs.
    fn next_ready(&self) -> Result<u32, f64> {
        let (mut ready, mut wake) = (NONE, f64::INFINITY);
        for device in &self.devices {
            if device.head >= ready {
                continue;
            }
            let job = &self.jobs[device.head as usize];
            let mut known = 0.0f64;
            for &needed in &job.needs[..usize::from(job.n_needs)] {
                let needed = &self.jobs[needed as usize];
                known = known.max(needed.end + self.overheads[usize::from(needed.device)].sync);
            }
            if known <= self.time {
                ready = device.head;
            } else {
                wake = wake.min(known);
            }
        }
        if ready == NONE { Err(wake) } else { Ok(ready) }
    }

    /// A device begins with a job.
    fn begin(&mut self, device_idx: usize, job: u32) {
        let device = &mut self.devices[device_idx];
        device.running = job;
        device.is_starting = true;
        (device.left, device.speed) = (self.overheads[device_idx].start, 1.0);
        if device.rate > 0.0 {
            device.rate = 0.0;
            self.share_bus();
        }
    }

    /// A device has done what it was at.
    fn go_on(&mut self, device_idx: usize, tell: &mut impl FnMut(Event)) {
        let time = self.time;
        let device = &mut self.devices[device_idx];
        let job = &mut self.jobs[device.running as usize];
        let next = if device.is_starting {
            device.is_starting = false;
            device.job_start = time;
            job.first_load
        } else {
            tell(Event::Load { number: device.load as usize, seconds: time - device.since });
            self.loads[device.load as usize].1
        };
        if next != NONE {
            let load = &self.loads[next as usize].0;
            let rate = if load.seconds > 0.0 { load.bytes / load.seconds } else { 0.0 };
            let is_same = rate == device.rate;
            (device.load, device.since, device.left, device.rate) = (next, time, load.seconds, rate);
            if !is_same {
                self.share_bus();
            }
            return;
        }
        job.end = time;
        self.wake = 0.0;
        tell(Event::Job { job: device.running as usize, start: device.job_start, end: time });
        let next = job.next;
        if next != NONE && next != device.head {
            // It was submitted before this one ended.
            self.begin(device_idx, next);
            return;
        }
        let had_rate = device.rate > 0.0;
        (device.running, device.rate) = (NONE, 0.0);
        if had_rate {
            self.share_bus();
        }
    }

    /// Gives each load that runs its share of the bus.
    fn share_bus(&mut self) {
        let wanted: f64 = self.devices.iter().map(|device| device.rate).sum();
        if wanted <= self.bus {
            self.devices.iter_mut().for_each(|device| device.speed = 1.0);
            return;
        }
        let rates = fair_shares(self.devices.map(|device| device.rate), self.bus);
        for (device, given) in self.devices.iter_mut().zip(rates) {
            device.speed = if device.rate > 0.0 { given / device.rate } else { 1.0 };
        }
    }
}

/// What each of some flows gets of a limit, by max-min fairness.
pub(crate) fn fair_shares(wanted: [f64; MAX_DEVICES], limit: f64) -> [f64; MAX_DEVICES] {
    let mut given = [0.0; MAX_DEVICES];
    let mut waiting = wanted.map(|wanted| wanted > 0.0);
    let mut left = limit;
    loop {
        let n_waiting = waiting.iter().filter(|waiting| **waiting).count();
        if n_waiting == 0 {
            return given;
        }
        let share = left / n_waiting as f64;
        // Who wants no more than the share has it, and leaves the rest to the others.
        let modest = (0..MAX_DEVICES).filter(|&idx| waiting[idx] && wanted[idx] <= share);
        let modest = modest.fold([false; MAX_DEVICES], |mut modest, idx| {
            modest[idx] = true;
            modest
        });
        if modest == [false; MAX_DEVICES] {
            for idx in (0..MAX_DEVICES).filter(|&idx| waiting[idx]) {
                given[idx] = share;
            }
            return given;
        }
        for idx in (0..MAX_DEVICES).filter(|&idx| modest[idx]) {
            (given[idx], waiting[idx]) = (wanted[idx], false);
            left = (left - wanted[idx]).max(0.0);
        }
    }
}
