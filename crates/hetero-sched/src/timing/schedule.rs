//! Submissions with what they wait for, and when they run where devices do not hinder each other.

use crate::cost::MAX_DEVICES;

use super::moments::Moments;
use super::{Load, Overheads};

/// Submissions with what they wait for, to be run in thought. Keeps its memory when it is cleared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    pub(super) jobs: Vec<Job>,
    pub(super) loads: Vec<QueuedLoad>,
    /// The first job of each device, and the last one.
    pub(super) first: [u32; MAX_DEVICES],
    last: [u32; MAX_DEVICES],
    /// The most that a load of each device wants of the bus.
    most: [f64; MAX_DEVICES],
    /// Of the last run.
    pub(super) moments: Moments,
}

/// A queue that runs empty within so many seconds may have done so before the host gets there: times are not known
/// better, and a plan that relies on them pays what an idle device costs at every other layer.
pub(super) const MARGIN: f64 = 10e-6;

/// No load, no job.
pub(super) const NONE: u32 = u32::MAX;

/// A submission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) device: u8,
    n_needs: u8,
    pub(super) needs: [u32; MAX_DEVICES],
    pub(super) first_load: u32,
    pub(super) last_load: u32,
    /// The next one on the same device.
    pub(super) next: u32,
    /// Seconds of all loads alone, and of the last one.
    seconds: f64,
    last_seconds: f64,
    /// When it has ended; infinite as long as that is not known.
    pub(super) end: f64,
}

/// Work of a submission.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedLoad {
    pub(super) seconds: f64,
    /// Bytes per second that it wants of the bus.
    pub(super) rate: f64,
    /// The next one of its job.
    pub(super) next: u32,
}

/// The state of a schedule while it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScheduleMark {
    pub(crate) n_jobs: usize,
    pub(crate) n_loads: usize,
    first: [u32; MAX_DEVICES],
    pub(super) last: [u32; MAX_DEVICES],
    most: [f64; MAX_DEVICES],
    /// Of the last job of each device what changes when work is added to it.
    pub(super) grown: [Grown; MAX_DEVICES],
}

/// What adding work to a job changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grown {
    seconds: f64,
    last_seconds: f64,
    first_load: u32,
    pub(super) last_load: u32,
}

/// What is told of a run.
pub(crate) enum Event {
    /// The load that was pushed at this position took so long.
    Load { number: usize, seconds: f64 },
    /// A job ran.
    Job { job: usize, start: f64, end: f64 },
}

impl Schedule {
    pub(crate) fn new() -> Schedule {
        let mut schedule = Schedule::default();
        schedule.clear();
        schedule
    }

    pub(crate) fn clear(&mut self) {
        self.jobs.clear();
        self.loads.clear();
        (self.first, self.last) = ([NONE; MAX_DEVICES], [NONE; MAX_DEVICES]);
        self.most = [0.0; MAX_DEVICES];
        self.moments.forget();
    }

    /// Adds a submission behind the others of its device and returns its index.
    pub(crate) fn open(&mut self, device: usize) -> usize {
        let idx = self.jobs.len() as u32;
        match self.last[device] {
            NONE => self.first[device] = idx,
            last => self.jobs[last as usize].next = idx,
        }
        self.last[device] = idx;
        self.jobs.push(Job {
            device: device as u8,
            n_needs: 0,
            needs: [NONE; MAX_DEVICES],
            first_load: NONE,
            last_load: NONE,
            next: NONE,
            seconds: 0.0,
            last_seconds: 0.0,
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
    pub(crate) fn push(&mut self, job: usize, Load { seconds, rate }: Load) {
        let number = self.loads.len() as u32;
        let job = &mut self.jobs[job];
        match job.last_load {
            NONE => job.first_load = number,
            last => self.loads[last as usize].next = number,
        }
        job.last_load = number;
        job.seconds += seconds;
        job.last_seconds = seconds;
        let most = &mut self.most[usize::from(job.device)];
        *most = most.max(rate);
        self.loads.push(QueuedLoad { seconds, rate, next: NONE });
    }

    /// When a job ended in the last run, without the loads from this number on.
    pub(crate) fn end_before(&self, job: usize, load: usize) -> f64 {
        let mut end = self.jobs[job].end;
        let mut next = self.jobs[job].first_load;
        while next != NONE {
            let its = &self.loads[next as usize];
            end -= if next as usize >= load { its.seconds } else { 0.0 };
            next = its.next;
        }
        end
    }

    /// For each device, how many submissions it has.
    pub(crate) fn n_jobs(&self) -> [usize; MAX_DEVICES] {
        let mut n_jobs = [0; MAX_DEVICES];
        self.jobs.iter().for_each(|job| n_jobs[usize::from(job.device)] += 1);
        n_jobs
    }

    /// What has been added so far, to return to.
    pub(crate) fn mark(&self) -> ScheduleMark {
        let Schedule { first, last, most, .. } = *self;
        let grown = last.map(|last| {
            let Some(&Job { seconds, last_seconds, first_load, last_load, .. }) = self.jobs.get(last as usize) else {
                return Grown::default();
            };
            Grown { seconds, last_seconds, first_load, last_load }
        });
        ScheduleMark { n_jobs: self.jobs.len(), n_loads: self.loads.len(), first, last, most, grown }
    }

    /// Forgets what was added since a mark was made.
    pub(crate) fn return_to(&mut self, mark: &ScheduleMark) {
        self.keep_moments_until(mark);
        self.jobs.truncate(mark.n_jobs);
        self.loads.truncate(mark.n_loads);
        (self.first, self.last, self.most) = (mark.first, mark.last, mark.most);
        // Only the last job of a device can have changed since.
        for (&last, grown) in mark.last.iter().zip(&mark.grown).filter(|(last, _)| **last != NONE) {
            let job = &mut self.jobs[last as usize];
            let Grown { seconds, last_seconds, first_load, last_load } = *grown;
            (job.seconds, job.last_seconds, job.next) = (seconds, last_seconds, NONE);
            (job.first_load, job.last_load) = (first_load, last_load);
            if last_load != NONE {
                self.loads[last_load as usize].next = NONE;
            }
        }
    }

    /// Seconds until the host knows that everything has finished.
    pub(crate) fn run(&mut self, overheads: &[Overheads; MAX_DEVICES], bus: f64, tell: &mut impl FnMut(Event)) -> f64 {
        if self.hinders_nobody(bus) {
            self.run_apart(overheads, tell);
        } else {
            self.run_shared(overheads, bus, tell);
        }
        self.end_known(overheads)
    }

    /// The same, from where this run is the same as the one before.
    pub(crate) fn run_on(&mut self, overheads: &[Overheads; MAX_DEVICES], bus: f64) -> f64 {
        if self.hinders_nobody(bus) {
            self.run_apart(overheads, &mut |_| {});
        } else {
            self.go_on_shared(overheads, bus);
        }
        self.end_known(overheads)
    }

    /// Whether the bus has enough for all at any time.
    fn hinders_nobody(&self, bus: f64) -> bool {
        self.most.iter().sum::<f64>() <= bus
    }

    fn end_known(&self, overheads: &[Overheads; MAX_DEVICES]) -> f64 {
        let ends = self.last.iter().zip(overheads).filter(|(last, _)| **last != NONE);
        ends.map(|(&last, overheads)| self.jobs[last as usize].end + overheads.sync).fold(0.0, f64::max)
    }

    /// Where no device can hinder another one, a job's end is known when it is submitted, and only what the host does
    /// has to be followed.
    fn run_apart(&mut self, overheads: &[Overheads; MAX_DEVICES], tell: &mut impl FnMut(Event)) {
        self.moments.forget();
        self.jobs.iter_mut().for_each(|job| job.end = f64::INFINITY);
        let mut time = 0.0;
        let mut devices = self.first.map(|head| Queue { head, ..Queue::EMPTY });
        let n_devices = self.first.iter().rposition(|&head| head != NONE).map_or(0, |last| last + 1);
        loop {
            let (mut ready, mut wake) = (NONE, f64::INFINITY);
            for queue in &mut devices[..n_devices] {
                if queue.known == f64::INFINITY && queue.head != NONE {
                    queue.known = self.known_at(queue.head, overheads);
                }
                if queue.known <= time {
                    ready = ready.min(queue.head);
                } else {
                    wake = wake.min(queue.known);
                }
            }
            if ready == NONE {
                if wake == f64::INFINITY {
                    break;
                }
                time = wake;
                continue;
            }
            let job = &mut self.jobs[ready as usize];
            let queue = &mut devices[usize::from(job.device)];
            let its = &overheads[usize::from(job.device)];
            let is_nearly_idle = queue.free <= time || (queue.free < time + MARGIN && queue.last_start <= time);
            time += its.submit + if is_nearly_idle { its.idle } else { 0.0 };
            let start = queue.free.max(time) + its.start;
            job.end = start + job.seconds;
            *queue =
                Queue { head: job.next, known: f64::INFINITY, free: job.end, last_start: job.end - job.last_seconds };
            tell(Event::Job { job: ready as usize, start, end: job.end });
        }
        for (number, load) in self.loads.iter().enumerate() {
            tell(Event::Load { number, seconds: load.seconds });
        }
    }

    /// When the host knows that all that a job needs has ended; infinite as long as one of these ends is not known.
    pub(super) fn known_at(&self, job: u32, overheads: &[Overheads; MAX_DEVICES]) -> f64 {
        let job = &self.jobs[job as usize];
        let mut known = 0.0f64;
        for &needed in &job.needs[..usize::from(job.n_needs)] {
            let needed = &self.jobs[needed as usize];
            known = known.max(needed.end + overheads[usize::from(needed.device)].sync);
        }
        known
    }
}

/// A device's queue.
#[derive(Clone, Copy, Debug)]
struct Queue {
    /// The next job to be submitted, and when the host knows that it can be; infinite as long as that is not known.
    head: u32,
    known: f64,
    /// When all that was submitted has ended, and when the last load of that begins.
    free: f64,
    last_start: f64,
}

impl Queue {
    const EMPTY: Queue = Queue { head: NONE, known: f64::INFINITY, free: 0.0, last_start: 0.0 };
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Numbers below `n` that look random (Marsaglia's xorshift).
    pub(in crate::timing) fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |n| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % n
        }
    }

    fn ends(schedule: &Schedule, run: impl Fn(&mut Schedule)) -> Vec<f64> {
        let mut schedule = schedule.clone();
        run(&mut schedule);
        schedule.jobs.iter().map(|job| job.end).collect()
    }

    #[test]
    fn on_a_bus_that_has_enough_for_all_everything_runs_as_without_one() {
        let overheads = [1, 2, 3, 4].map(|i| {
            let unit = 1.7e-6 * f64::from(i);
            Overheads { submit: unit, idle: 5.0 * unit, start: 0.3 * unit, sync: 2.0 * unit }
        });
        for seed in 1..200 {
            let mut pick = numbers(seed * 7919);
            let mut schedule = Schedule::new();
            for idx in 0..40 {
                let device = pick(3) as usize;
                schedule.open(device);
                let needed = pick(idx.max(1) + 3) as usize;
                if needed < idx as usize && usize::from(schedule.jobs[needed].device) != device {
                    schedule.need(needed);
                }
                for _ in 0..=pick(3) {
                    let seconds = pick(100_000) as f64 * 1e-9;
                    schedule.push(idx as usize, Load { seconds, rate: 1e9 });
                }
            }
            let apart = ends(&schedule, |schedule| schedule.run_apart(&overheads, &mut |_| {}));
            let shared = ends(&schedule, |schedule| schedule.run_shared(&overheads, 1e12, &mut |_| {}));
            for (job, (apart, shared)) in apart.iter().zip(&shared).enumerate() {
                assert!((apart - shared).abs() < 1e-12, "seed {seed}, job {job}: {apart} s apart, {shared} s shared");
            }
        }
    }
}
