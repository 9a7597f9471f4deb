//! When submissions run that share the memory bus: from event to event.
//!
//! Plans are timed hundreds of times while they are looked for, so what every event looks at lies side by side, device
//! by device.

use crate::cost::MAX_DEVICES;

use super::schedule::{Event, MARGIN, NONE, Schedule};
use super::{Overheads, fair_shares};

impl Schedule {
    /// Follows the host and all devices from event to event, and notes when jobs end.
    pub(super) fn run_shared(&mut self, overheads: &[Overheads; MAX_DEVICES], bus: f64, tell: &mut impl FnMut(Event)) {
        let at = self.start(overheads);
        let mut run = Run { schedule: self, overheads, bus, at };
        while run.step(tell) {}
    }

    /// The same from where this run is as the one before, noting where it stands for the next one.
    pub(super) fn go_on_shared(&mut self, overheads: &[Overheads; MAX_DEVICES], bus: f64) {
        let common = self.last_common_moment(overheads);
        let at = common.unwrap_or_else(|| self.start(overheads));
        let mut run = Run { schedule: self, overheads, bus, at };
        let mut tell = |_: Event| {};
        loop {
            let was_submitting = run.at.submitting;
            if !run.step(&mut tell) {
                break;
            }
            if was_submitting != NONE && run.at.submitting == NONE {
                run.schedule.moments.note(&run.at);
            }
        }
        self.keep_all_moments();
    }
}

/// A run under way.
struct Run<'s> {
    schedule: &'s mut Schedule,
    overheads: &'s [Overheads; MAX_DEVICES],
    bus: f64,
    at: Moment,
}

/// Where a run stands. Arrays hold one entry for each device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) time: f64,
    /// The next job to be submitted, and when the host knows that it can be; infinite as long as that is not known.
    pub(super) heads: [u32; MAX_DEVICES],
    pub(super) known: [f64; MAX_DEVICES],
    /// When what it does now ends if nothing changes; infinite when it does nothing.
    ends: [f64; MAX_DEVICES],
    /// What it wants of the bus, and seconds alone that pass in a second.
    rates: [f64; MAX_DEVICES],
    speeds: [f64; MAX_DEVICES],
    pub(super) works: [Working; MAX_DEVICES],
    /// The last job that was submitted, and the last one that began.
    pub(super) submitted: [u32; MAX_DEVICES],
    pub(super) begun: [u32; MAX_DEVICES],
    /// What the host submits, and until when.
    pub(super) submitting: u32,
    submitted_at: f64,
    /// Whether someone gets less of the bus than it wants.
    is_short: bool,
    /// How many jobs have ended.
    pub(super) n_ended: usize,
}

impl Moment {
    /// Before anything has happened.
    pub(super) const START: Moment = Moment {
        time: 0.0,
        heads: [NONE; MAX_DEVICES],
        known: [f64::INFINITY; MAX_DEVICES],
        ends: [f64::INFINITY; MAX_DEVICES],
        rates: [0.0; MAX_DEVICES],
        speeds: [1.0; MAX_DEVICES],
        works: [Working::IDLE; MAX_DEVICES],
        submitted: [NONE; MAX_DEVICES],
        begun: [NONE; MAX_DEVICES],
        submitting: NONE,
        submitted_at: f64::INFINITY,
        is_short: false,
        n_ended: 0,
    };
}

/// What a device does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Working {
    /// The job that runs, and when its first load began.
    pub(super) job: u32,
    job_start: f64,
    /// Whether it has not come to the first load yet.
    pub(super) is_starting: bool,
    /// The load, and when it began.
    pub(super) load: u32,
    since: f64,
}

impl Working {
    const IDLE: Working = Working { job: NONE, job_start: 0.0, is_starting: false, load: NONE, since: 0.0 };
}

impl Run<'_> {
    /// Goes on to the next event; no when there is none.
    fn step(&mut self, tell: &mut impl FnMut(Event)) -> bool {
        // What the host does ends, or it learns of something that one of the next jobs needs.
        let mut by_host = if self.at.submitting == NONE { least(&self.at.known) } else { self.at.submitted_at };
        if by_host <= self.at.time && self.at.submitting == NONE {
            self.submit_ready();
            by_host = self.at.submitted_at;
        }
        let by_device = least(&self.at.ends);
        if by_device < by_host {
            self.at.time = by_device;
            // Two passes without a branch take less time than one that remembers where the least is.
            let device = self.at.ends.iter().position(|&end| end == by_device).unwrap_or_default();
            self.go_on(device, tell);
        } else if by_host < f64::INFINITY {
            self.at.time = by_host;
            if self.at.submitting != NONE {
                self.end_submitting();
            }
        } else {
            return false;
        }
        true
    }

    /// The host begins with the first job in order that can be submitted now.
    fn submit_ready(&mut self) {
        let mut ready = NONE;
        for device in 0..MAX_DEVICES {
            if self.at.known[device] <= self.at.time {
                ready = ready.min(self.at.heads[device]);
            }
        }
        if ready != NONE {
            let device = usize::from(self.schedule.jobs[ready as usize].device);
            let overheads = &self.overheads[device];
            let idle = if self.is_nearly_idle(device) { overheads.idle } else { 0.0 };
            (self.at.submitting, self.at.submitted_at) = (ready, self.at.time + overheads.submit + idle);
        }
    }

    fn end_submitting(&mut self) {
        let job = std::mem::replace(&mut self.at.submitting, NONE);
        let its = &self.schedule.jobs[job as usize];
        let (device, next) = (usize::from(its.device), its.next);
        self.at.submitted[device] = job;
        self.at.heads[device] = next;
        self.at.known[device] = if next == NONE { f64::INFINITY } else { self.schedule.known_at(next, self.overheads) };
        if self.at.works[device].job == NONE {
            self.begin(device, job);
        }
    }

    /// Looks up again what waits for a job that has ended.
    fn learn_of(&mut self, ended: u32) {
        for (known, &head) in self.at.known.iter_mut().zip(&self.at.heads) {
            if head != NONE && self.schedule.jobs[head as usize].needs.contains(&ended) {
                *known = self.schedule.known_at(head, self.overheads);
            }
        }
    }

    /// Whether a device's queue has run empty, or may have before a submission gets there.
    fn is_nearly_idle(&self, device: usize) -> bool {
        let work = &self.at.works[device];
        if work.job == NONE {
            return true;
        }
        let is_last = self.schedule.jobs[work.job as usize].next == self.at.heads[device]
            && !work.is_starting
            && self.schedule.loads[work.load as usize].next == NONE;
        is_last && self.at.ends[device] - self.at.time < MARGIN
    }

    /// A device begins with a job.
    fn begin(&mut self, device: usize, job: u32) {
        let work = &mut self.at.works[device];
        (work.job, work.is_starting) = (job, true);
        self.at.begun[device] = job;
        (self.at.ends[device], self.at.speeds[device]) = (self.at.time + self.overheads[device].start, 1.0);
        if self.at.rates[device] > 0.0 {
            self.at.rates[device] = 0.0;
            self.share_bus();
        }
    }

    /// A device has done what it was at.
    fn go_on(&mut self, device: usize, tell: &mut impl FnMut(Event)) {
        let time = self.at.time;
        let work = &mut self.at.works[device];
        let next = if work.is_starting {
            (work.is_starting, work.job_start) = (false, time);
            self.schedule.jobs[work.job as usize].first_load
        } else {
            tell(Event::Load { number: work.load as usize, seconds: time - work.since });
            self.schedule.loads[work.load as usize].next
        };
        if next != NONE {
            let load = &self.schedule.loads[next as usize];
            (work.load, work.since) = (next, time);
            self.at.ends[device] = time + load.seconds / self.at.speeds[device];
            if load.rate != self.at.rates[device] {
                self.at.rates[device] = load.rate;
                self.share_bus();
            }
            return;
        }
        let (job, start) = (work.job, work.job_start);
        let its = &mut self.schedule.jobs[job as usize];
        its.end = time;
        let next = its.next;
        self.schedule.moments.ended.push(job);
        self.at.n_ended += 1;
        tell(Event::Job { job: job as usize, start, end: time });
        if next != NONE && next != self.at.heads[device] {
            // It was submitted before this one ended.
            self.begin(device, next);
        } else {
            work.job = NONE;
            (self.at.ends[device], self.at.speeds[device]) = (f64::INFINITY, 1.0);
            if self.at.rates[device] > 0.0 {
                self.at.rates[device] = 0.0;
                self.share_bus();
            }
        }
        self.learn_of(job);
    }

    /// Gives each load that runs its share of the bus.
    fn share_bus(&mut self) {
        let wanted: f64 = self.at.rates.iter().sum();
        let was_short = std::mem::replace(&mut self.at.is_short, wanted > self.bus);
        if !self.at.is_short && !was_short {
            return;
        }
        let given = if self.at.is_short { fair_shares(self.at.rates, self.bus) } else { self.at.rates };
        for (device, (&rate, given)) in self.at.rates.iter().zip(given).enumerate() {
            let speed = if given < rate { given / rate } else { 1.0 };
            if speed != self.at.speeds[device] {
                self.at.ends[device] =
                    self.at.time + (self.at.ends[device] - self.at.time) * self.at.speeds[device] / speed;
                self.at.speeds[device] = speed;
            }
        }
    }
}

/// The smallest of some times.
fn least(times: &[f64; MAX_DEVICES]) -> f64 {
    times.iter().fold(f64::INFINITY, |least, &time| if time < least { time } else { least })
}
