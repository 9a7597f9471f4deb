//! When submissions run that share the memory bus: from event to event.

use crate::cost::MAX_DEVICES;

use super::schedule::{Event, MARGIN, NONE, Schedule};
use super::{Overheads, fair_shares};

impl Schedule {
    /// Follows the host and all devices from event to event, and notes when jobs end.
    pub(super) fn run_shared(&mut self, overheads: &[Overheads; MAX_DEVICES], bus: f64, tell: &mut impl FnMut(Event)) {
        let devices = self.first.map(|head| Device { head, ..Device::IDLE });
        let mut run = Run { schedule: self, overheads, bus, time: 0.0, devices, submitting: None, is_short: false };
        run.learn();
        while run.step(tell) {}
    }
}

/// A run under way.
struct Run<'s> {
    schedule: &'s mut Schedule,
    overheads: &'s [Overheads; MAX_DEVICES],
    bus: f64,
    time: f64,
    devices: [Device; MAX_DEVICES],
    /// What the host submits, and until when.
    submitting: Option<(u32, f64)>,
    /// Whether someone gets less of the bus than it wants.
    is_short: bool,
}

#[derive(Clone, Copy, Debug)]
struct Device {
    /// The next job to be submitted, and when the host knows that it can be; infinite as long as that is not known.
    head: u32,
    known: f64,
    /// The job that runs.
    running: u32,
    /// Of the running job: the load, when it began, and when it ends if nothing changes.
    load: u32,
    since: f64,
    end: f64,
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
        known: f64::INFINITY,
        running: NONE,
        load: NONE,
        since: 0.0,
        end: f64::INFINITY,
        speed: 1.0,
        rate: 0.0,
        job_start: 0.0,
        is_starting: false,
    };
}

impl Run<'_> {
    /// Goes on to the next event; no when there is none.
    fn step(&mut self, tell: &mut impl FnMut(Event)) -> bool {
        if self.submitting.is_none()
            && let Some(job) = self.next_ready()
        {
            let device = usize::from(self.schedule.jobs[job as usize].device);
            let overheads = &self.overheads[device];
            let idle = if self.is_nearly_idle(device) { overheads.idle } else { 0.0 };
            self.submitting = Some((job, self.time + overheads.submit + idle));
        }
        let mut until = match self.submitting {
            Some((_, end)) => end,
            // The host learns of something that one of the next jobs needs.
            None => self.devices.iter().map(|device| device.known).fold(f64::INFINITY, f64::min),
        };
        let mut first = None;
        for (idx, device) in self.devices.iter().enumerate() {
            if device.end < until {
                (until, first) = (device.end, Some(idx));
            }
        }
        if until == f64::INFINITY {
            return false;
        }
        self.time = until;
        match (first, self.submitting) {
            (Some(device), _) => self.go_on(device, tell),
            (None, Some((job, _))) => {
                self.submitting = None;
                let Job { device, next } = self.job(job);
                let overheads = self.overheads;
                let queue = &mut self.devices[device];
                queue.head = next;
                queue.known = if next == NONE { f64::INFINITY } else { self.schedule.known_at(next, overheads) };
                if queue.running == NONE {
                    self.begin(device, job);
                }
            }
            (None, None) => {}
        }
        true
    }

    fn job(&self, job: u32) -> Job {
        let job = &self.schedule.jobs[job as usize];
        Job { device: job.device.into(), next: job.next }
    }

    /// Looks up again what could not be submitted yet.
    fn learn(&mut self) {
        for device in &mut self.devices {
            if device.known == f64::INFINITY && device.head != NONE {
                device.known = self.schedule.known_at(device.head, self.overheads);
            }
        }
    }

    /// Whether a device's queue has run empty, or may have before a submission gets there.
    fn is_nearly_idle(&self, device: usize) -> bool {
        let device = &self.devices[device];
        if device.running == NONE {
            return true;
        }
        let is_last = self.job(device.running).next == device.head
            && !device.is_starting
            && self.schedule.loads[device.load as usize].next == NONE;
        is_last && device.end - self.time < MARGIN
    }

    /// The first job in order that can be submitted now.
    fn next_ready(&self) -> Option<u32> {
        let ready = self.devices.iter().filter(|device| device.known <= self.time);
        ready.map(|device| device.head).min()
    }

    /// A device begins with a job.
    fn begin(&mut self, device_idx: usize, job: u32) {
        let device = &mut self.devices[device_idx];
        device.running = job;
        device.is_starting = true;
        (device.end, device.speed) = (self.time + self.overheads[device_idx].start, 1.0);
        if device.rate > 0.0 {
            device.rate = 0.0;
            self.share_bus();
        }
    }

    /// A device has done what it was at.
    fn go_on(&mut self, device_idx: usize, tell: &mut impl FnMut(Event)) {
        let time = self.time;
        let device = &mut self.devices[device_idx];
        let next = if device.is_starting {
            device.is_starting = false;
            device.job_start = time;
            self.schedule.jobs[device.running as usize].first_load
        } else {
            tell(Event::Load { number: device.load as usize, seconds: time - device.since });
            self.schedule.loads[device.load as usize].next
        };
        if next != NONE {
            let load = &self.schedule.loads[next as usize];
            let is_same = load.rate == device.rate;
            (device.load, device.since, device.rate) = (next, time, load.rate);
            device.end = time + load.seconds / device.speed;
            if !is_same {
                self.share_bus();
            }
            return;
        }
        self.schedule.jobs[device.running as usize].end = time;
        tell(Event::Job { job: device.running as usize, start: device.job_start, end: time });
        let next = self.schedule.jobs[device.running as usize].next;
        if next != NONE && next != device.head {
            // It was submitted before this one ended.
            self.begin(device_idx, next);
        } else {
            let had_rate = device.rate > 0.0;
            (device.running, device.rate, device.end, device.speed) = (NONE, 0.0, f64::INFINITY, 1.0);
            if had_rate {
                self.share_bus();
            }
        }
        self.learn();
    }

    /// Gives each load that runs its share of the bus.
    fn share_bus(&mut self) {
        let wanted: f64 = self.devices.iter().map(|device| device.rate).sum();
        let was_short = std::mem::replace(&mut self.is_short, wanted > self.bus);
        if !self.is_short && !was_short {
            return;
        }
        let rates = match self.is_short {
            true => fair_shares(self.devices.map(|device| device.rate), self.bus),
            false => self.devices.map(|device| device.rate),
        };
        for (device, given) in self.devices.iter_mut().zip(rates) {
            let speed = if device.rate > 0.0 { given / device.rate } else { 1.0 };
            if speed != device.speed {
                device.end = self.time + (device.end - self.time) * device.speed / speed;
                device.speed = speed;
            }
        }
    }
}

/// What the loop needs of a job.
struct Job {
    device: usize,
    next: u32,
}
