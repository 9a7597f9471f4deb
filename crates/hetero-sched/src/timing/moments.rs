//! What a run has in common with the one before: plans that are compared often differ in a few operators only, and until
//! one of these counts for the first time everything happens as it did.
//!
//! A run notes where it stands now and then. When submissions are taken away and others added, those moments stay that
//! were before anything of what changed was looked at, and the next run goes on from the last of them.

use crate::cost::MAX_DEVICES;

use super::Overheads;
use super::schedule::{NONE, Schedule, ScheduleMark};
use super::shared::Moment;

/// Where the last run stood.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    /// In the order of their times.
    noted: Vec<Moment>,
    /// Jobs in the order in which they ended.
    pub(super) ended: Vec<u32>,
    common: Option<Common>,
}

/// What has stayed since the last run.
#[derive(Clone, Copy, Debug)]
struct Common {
    mark: ScheduleMark,
    /// For each device, whether its last job that stayed has lost work.
    has_lost: [bool; MAX_DEVICES],
}

impl Moments {
    /// Makes the next run begin anew.
    pub(super) fn forget(&mut self) {
        self.noted.clear();
        self.ended.clear();
        self.common = None;
    }

    /// Notes where a run stands.
    pub(super) fn note(&mut self, moment: &Moment) {
        self.noted.push(*moment);
    }
}

impl Schedule {
    /// Remembers that all that there is was run.
    pub(super) fn keep_all_moments(&mut self) {
        self.moments.common = Some(Common { mark: self.mark(), has_lost: [false; MAX_DEVICES] });
    }

    /// Remembers that what was added since a mark was made is taken away; before it is.
    pub(super) fn keep_moments_until(&mut self, mark: &ScheduleMark) {
        let Some(common) = &self.moments.common else { return };
        if common.mark.n_loads != self.loads.len() || common.mark.n_jobs != self.jobs.len() {
            // Something else has changed since the last run.
            self.moments.forget();
            return;
        }
        let mut has_lost = [false; MAX_DEVICES];
        for (has_lost, (&last, grown)) in has_lost.iter_mut().zip(mark.last.iter().zip(&mark.grown)) {
            *has_lost = last != NONE && self.jobs[last as usize].last_load != grown.last_load;
        }
        self.moments.common = Some(Common { mark: *mark, has_lost });
    }

    /// Before anything has happened.
    pub(super) fn start(&mut self, overheads: &[Overheads; MAX_DEVICES]) -> Moment {
        self.moments.forget();
        self.jobs.iter_mut().for_each(|job| job.end = f64::INFINITY);
        self.look_ahead(Moment::START, overheads)
    }

    /// The last moment at which this run stands where the one before did, and with it when jobs have ended until then.
    pub(super) fn last_common_moment(&mut self, overheads: &[Overheads; MAX_DEVICES]) -> Option<Moment> {
        let common = self.moments.common?;
        let is_common = |moment: &Moment| self.is_common(moment, &common, overheads);
        let n_common = self.moments.noted.partition_point(is_common);
        self.moments.noted.truncate(n_common);
        let moment = *self.moments.noted.last()?;
        for &job in &self.moments.ended[moment.n_ended..] {
            if let Some(job) = self.jobs.get_mut(job as usize) {
                job.end = f64::INFINITY;
            }
        }
        self.moments.ended.truncate(moment.n_ended);
        // What comes next may have been added since the moment was noted.
        Some(self.look_ahead(moment, overheads))
    }

    /// A moment with what is submitted next to each device.
    fn look_ahead(&self, mut moment: Moment, overheads: &[Overheads; MAX_DEVICES]) -> Moment {
        for device in 0..MAX_DEVICES {
            (moment.heads[device], moment.known[device]) = self.next_after(moment.submitted[device], device, overheads);
        }
        moment
    }

    /// Whether nothing that has changed was looked at until a moment, and nothing new would have been.
    fn is_common(&self, moment: &Moment, common: &Common, overheads: &[Overheads; MAX_DEVICES]) -> bool {
        let Common { mark, has_lost } = common;
        let has_stayed = |job: u32| job == NONE || (job as usize) < mark.n_jobs;
        let is_untouched = |device: usize| {
            let (last, submitted) = (mark.last[device], moment.submitted[device]);
            if submitted != last {
                return has_stayed(submitted);
            }
            // All that has stayed of the device was submitted: what comes next is new.
            if last != NONE {
                let marked = mark.grown[device].last_load;
                let work = &moment.works[device];
                let has_ended = work.job != last && moment.begun[device] == last;
                let has_changed = has_lost[device] || self.jobs[last as usize].last_load != marked;
                let is_beyond = work.job == last && !work.is_starting && work.load > marked;
                if is_beyond || has_ended && has_changed {
                    return false;
                }
            }
            // Jobs that had not ended by then have an end after it, or none.
            self.next_after(last, device, overheads).1 > moment.time
        };
        (0..MAX_DEVICES).all(is_untouched)
    }

    /// The job that is submitted to a device after another one, and when the host knows that it can be.
    fn next_after(&self, job: u32, device: usize, overheads: &[Overheads; MAX_DEVICES]) -> (u32, f64) {
        let next = if job == NONE { self.first[device] } else { self.jobs[job as usize].next };
        (next, if next == NONE { f64::INFINITY } else { self.known_at(next, overheads) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Load;
    use super::super::schedule::tests::numbers;
    use super::*;

    #[test]
    fn a_run_that_goes_on_from_the_one_before_is_the_same_as_one_from_the_beginning() {
        let overheads = [1, 2, 3, 4].map(|i| {
            let unit = 1.7e-6 * f64::from(i);
            Overheads { submit: unit, idle: 5.0 * unit, start: 0.3 * unit, sync: 2.0 * unit }
        });
        let bus = 20e9;
        let mut n_common = 0;
        for seed in 1..100 {
            let mut pick = numbers(seed * 7919);
            let mut schedule = Schedule::new();
            let mut marks = vec![schedule.mark()];
            for round in 0..60 {
                // Some of what was there stays, and what comes behind it is new.
                if round % 4 != 3 {
                    let kept = pick(marks.len() as u64) as usize;
                    marks.truncate(kept + 1);
                    schedule.return_to(&marks[kept]);
                }
                for _ in 0..pick(30) {
                    add(&mut schedule, &mut pick);
                    marks.push(schedule.mark());
                }
                n_common += usize::from(schedule.clone().last_common_moment(&overheads).is_some());
                let mut fresh = schedule.clone();
                let seconds = fresh.run(&overheads, bus, &mut |_| {});
                assert_eq!(schedule.run_on(&overheads, bus), seconds, "seed {seed}, round {round}");
                let ends = |schedule: &Schedule| schedule.jobs.iter().map(|job| job.end).collect::<Vec<f64>>();
                assert_eq!(ends(&schedule), ends(&fresh), "seed {seed}, round {round}");
            }
        }
        assert!(n_common > 1000, "only {n_common} runs had something in common with the one before");
    }

    /// Adds work to the last submission of a device, or a submission that waits for up to two others.
    fn add(schedule: &mut Schedule, pick: &mut impl FnMut(u64) -> u64) {
        let device = pick(3) as usize;
        let is_last = |job: &super::super::schedule::Job| usize::from(job.device) == device && job.next == NONE;
        let last = schedule.jobs.iter().position(is_last);
        let job = match last {
            Some(last) if pick(2) == 0 => last,
            _ => {
                let others = schedule.jobs.len() as u64;
                let job = schedule.open(device);
                for _ in 0..pick(3) {
                    let back = pick(6) + 1;
                    let Some(needed) = others.checked_sub(back) else { continue };
                    let needed = needed as usize;
                    let is_new = !schedule.jobs[job].needs.contains(&(needed as u32));
                    if is_new && usize::from(schedule.jobs[needed].device) != device {
                        schedule.need(needed);
                    }
                }
                job
            }
        };
        let (seconds, rate) = (pick(100_000) as f64 * 1e-9, pick(12) as f64 * 1e9);
        schedule.push(job, Load { seconds, rate });
    }
}
