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

mod moments;
mod schedule;
mod shared;

pub(crate) use schedule::{Event, Schedule, ScheduleMark};

use crate::Plan;
use crate::cost::{DeviceCosts, MAX_DEVICES};
use crate::submissions::Submission;

/// What a part asks of its device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Seconds that it takes alone on the bus.
    pub seconds: f64,
    /// Bytes per second that it wants of the bus.
    pub rate: f64,
}

impl Load {
    /// Work that does not use the bus.
    pub fn computing(seconds: f64) -> Load {
        Load { seconds, rate: 0.0 }
    }

    /// Work that moves so many bytes over the bus.
    pub fn moving(seconds: f64, bytes: f64) -> Load {
        Load { seconds, rate: if bytes > 0.0 && seconds > 0.0 { bytes / seconds } else { 0.0 } }
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
    let mut schedule = Schedule::new();
    let mut parts = Vec::with_capacity(loads.len());
    for submission in submissions {
        assert!(submission.device_idx < devices.len(), "device {} of {}", submission.device_idx, devices.len());
        let job = schedule.open(submission.device_idx);
        submission.depends_on.iter().for_each(|&needed| schedule.need(needed));
        for part in &submission.parts {
            let number = first_part[part.node.0] + part.part_idx;
            parts.push(number);
            schedule.push(job, loads[number]);
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

/// What each of some flows gets of a limit, by max-min fairness.
pub(crate) fn fair_shares(wanted: [f64; MAX_DEVICES], limit: f64) -> [f64; MAX_DEVICES] {
    let mut given = [0.0; MAX_DEVICES];
    let mut waiting = wanted.map(|wanted| wanted > 0.0);
    let mut n_waiting = waiting.iter().filter(|waiting| **waiting).count();
    let mut left = limit;
    while n_waiting > 0 {
        let share = left / n_waiting as f64;
        let before = n_waiting;
        // Who wants no more than the share has it, and leaves the rest to the others.
        for idx in 0..MAX_DEVICES {
            if waiting[idx] && wanted[idx] <= share {
                (given[idx], waiting[idx]) = (wanted[idx], false);
                left = (left - wanted[idx]).max(0.0);
                n_waiting -= 1;
            }
        }
        if n_waiting == before {
            for idx in 0..MAX_DEVICES {
                given[idx] = if waiting[idx] { share } else { given[idx] };
            }
            break;
        }
    }
    given
}
