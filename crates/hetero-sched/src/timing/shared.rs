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
        let mut run = Run {
            heads: self.first,
            known: [f64::INFINITY; MAX_DEVICES],
            ends: [f64::INFINITY; MAX_DEVICES],
            rates: [0.0; MAX_DEVICES],
            speeds: [1.0; MAX_DEVICES],
            works: [Working::IDLE; MAX_DEVICES],
            schedule: self,
            overheads,
            bus,
            time: 0.0,
            submitting: NONE,
            submitted_at: f64::INFINITY,
            is_short: false,
        };
        run.learn();
        while run.step(tell) {}
    }
}

/// A run under way. Arrays hold one entry for each device.
struct Run<'s> {
    schedule: &'s mut Schedule,
    overheads: &'s [Overheads; MAX_DEVICES],
    bus: f64,
    time: f64,
    /// The next job to be submitted, and when the host knows that it can be; infinite as long as that is not known.
    heads: [u32; MAX_DEVICES],
    known: [f64; MAX_DEVICES],
    /// When what it does now ends if nothing changes; infinite when it does nothing.
    ends: [f64; MAX_DEVICES],
    /// What it wants of the bus, and seconds alone that pass in a second.
    rates: [f64; MAX_DEVICES],
    speeds: [f64; MAX_DEVICES],
    works: [Working; MAX_DEVICES],
    /// What the host submits, and until when.
    submitting: u32,
    submitted_at: f64,
    /// Whether someone gets less of the bus than it wants.
    is_short: bool,
}

/// What a device does.
#[derive(Clone, Copy, Debug)]
struct Working {
    /// The job that runs, and when its first load began.
    job: u32,
    job_start: f64,
    /// Whether it has not come to the first load yet.
    is_starting: bool,
    /// The load, and when it began.
    load: u32,
    since: f64,
}

impl Working {
    const IDLE: Working = Working { job: NONE, job_start: 0.0, is_starting: false, load: NONE, since: 0.0 };
}

impl Run<'_> {
    /// Goes on to the next event; no when there is none.
    fn step(&mut self, tell: &mut impl FnMut(Event)) -> bool {
        if self.submitting == NONE {
            self.submit_ready();
        }
        // What the host does ends, or it learns of something that one of the next jobs needs.
        let by_host = if self.submitting == NONE { least(&self.known) } else { self.submitted_at };
        let by_device = least(&self.ends);
        if by_device < by_host {
            self.time = by_device;
            // Two passes without a branch take less time than one that remembers where the least is.
            let device = self.ends.iter().position(|&end| end == by_device).unwrap_or_default();
            self.go_on(device, tell);
        } else if by_host < f64::INFINITY {
            self.time = by_host;
            if self.submitting != NONE {
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
            if self.known[device] <= self.time {
                ready = ready.min(self.heads[device]);
            }
        }
        if ready != NONE {
            let device = usize::from(self.schedule.jobs[ready as usize].device);
            let overheads = &self.overheads[device];
            let idle = if self.is_nearly_idle(device) { overheads.idle } else { 0.0 };
            (self.submitting, self.submitted_at) = (ready, self.time + overheads.submit + idle);
        }
    }

    fn end_submitting(&mut self) {
        let job = std::mem::replace(&mut self.submitting, NONE);
        let its = &self.schedule.jobs[job as usize];
        let (device, next) = (usize::from(its.device), its.next);
        self.heads[device] = next;
        self.known[device] = if next == NONE { f64::INFINITY } else { self.schedule.known_at(next, self.overheads) };
        if self.works[device].job == NONE {
            self.begin(device, job);
        }
    }

    /// Looks up again what could not be submitted yet.
    fn learn(&mut self) {
        for (known, &head) in self.known.iter_mut().zip(&self.heads) {
            if *known == f64::INFINITY && head != NONE {
                *known = self.schedule.known_at(head, self.overheads);
            }
        }
    }

    /// Whether a device's queue has run empty, or may have before a submission gets there.
    fn is_nearly_idle(&self, device: usize) -> bool {
        let work = &self.works[device];
        if work.job == NONE {
            return true;
        }
        let is_last = self.schedule.jobs[work.job as usize].next == self.heads[device]
            && !work.is_starting
            && self.schedule.loads[work.load as usize].next == NONE;
        is_last && self.ends[device] - self.time < MARGIN
    }

    /// A device begins with a job.
    fn begin(&mut self, device: usize, job: u32) {
        let work = &mut self.works[device];
        (work.job, work.is_starting) = (job, true);
        (self.ends[device], self.speeds[device]) = (self.time + self.overheads[device].start, 1.0);
        if self.rates[device] > 0.0 {
            self.rates[device] = 0.0;
            self.share_bus();
        }
    }

    /// A device has done what it was at.
    fn go_on(&mut self, device: usize, tell: &mut impl FnMut(Event)) {
        let time = self.time;
        let work = &mut self.works[device];
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
            self.ends[device] = time + load.seconds / self.speeds[device];
            if load.rate != self.rates[device] {
                self.rates[device] = load.rate;
                self.share_bus();
            }
            return;
        }
        let (job, start) = (work.job, work.job_start);
        let its = &mut self.schedule.jobs[job as usize];
        its.end = time;
        let next = its.next;
        tell(Event::Job { job: job as usize, start, end: time });
        if next != NONE && next != self.heads[device] {
            // It was submitted before this one ended.
            self.begin(device, next);
        } else {
            work.job = NONE;
            (self.ends[device], self.speeds[device]) = (f64::INFINITY, 1.0);
            if self.rates[device] > 0.0 {
                self.rates[device] = 0.0;
                self.share_bus();
            }
        }
        self.learn();
    }

    /// Gives each load that runs its share of the bus.
    fn share_bus(&mut self) {
        let wanted: f64 = self.rates.iter().sum();
        let was_short = std::mem::replace(&mut self.is_short, wanted > self.bus);
        if !self.is_short && !was_short {
            return;
        }
        let given = if self.is_short { fair_shares(self.rates, self.bus) } else { self.rates };
        for (device, (&rate, given)) in self.rates.iter().zip(given).enumerate() {
            let speed = if given < rate { given / rate } else { 1.0 };
            if speed != self.speeds[device] {
                self.ends[device] = self.time + (self.ends[device] - self.time) * self.speeds[device] / speed;
                self.speeds[device] = speed;
            }
        }
    }
}

/// The smallest of some times.
fn least(times: &[f64; MAX_DEVICES]) -> f64 {
    times.iter().fold(f64::INFINITY, |least, &time| if time < least { time } else { least })
}
