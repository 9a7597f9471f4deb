//! The search's estimate of when submissions run: quick, and without the bus.
//!
//! The host's time is given out in the order of the nodes, and a later submission that is ready earlier takes a gap
//! that earlier ones have left, as far as the host looks back ([`LOOK_BACK`] submissions). [`crate::timing`] is what
//! plans are compared by in the end.

use crate::cost::MAX_DEVICES;
use crate::timing::Overheads;

/// How many submissions of the past still leave gaps of host time to later ones.
const LOOK_BACK: usize = 4;

/// When devices and host are free, in seconds since the step began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clock {
    /// The end of everything that is queued on a device.
    pub(crate) free: [f64; MAX_DEVICES],
    /// When a device's last submission had been queued.
    submitted: [f64; MAX_DEVICES],
    /// Nothing is submitted before this.
    floor: f64,
    /// The host's last submissions, by their start; the first `n_busy` count.
    busy: [(f64, f64); LOOK_BACK],
    n_busy: usize,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock {
            free: [0.0; MAX_DEVICES],
            submitted: [0.0; MAX_DEVICES],
            floor: 0.0,
            busy: [(0.0, 0.0); LOOK_BACK],
            n_busy: 0,
        }
    }

    /// Submits to a device what the host knows to be ready at `ready`. Returns when its work starts, which is then
    /// [`Clock::free`] of the device; the work itself is added to that.
    pub(crate) fn submit(&mut self, device_idx: usize, ready: f64, overheads: &Overheads) -> f64 {
        let ready = ready.max(self.submitted[device_idx]);
        let idle = if self.free[device_idx] <= ready { overheads.idle } else { 0.0 };
        let (_, queued) = self.take_host(ready, overheads.submit + idle);
        self.submitted[device_idx] = queued;
        let free = &mut self.free[device_idx];
        *free = free.max(queued) + overheads.start;
        *free
    }

    /// When a submission to a device would start that is ready at `ready`.
    pub(crate) fn would_start(&self, device_idx: usize, ready: f64, overheads: &Overheads) -> f64 {
        Clock { ..*self }.submit(device_idx, ready, overheads)
    }

    /// When the host knows that every device has finished.
    pub(crate) fn end_known(&self, overheads: &[Overheads; MAX_DEVICES]) -> f64 {
        let used = self.free.iter().zip(overheads).filter(|(free, _)| **free > 0.0);
        used.map(|(free, overheads)| free + overheads.sync).fold(0.0, f64::max)
    }

    /// The earliest span of so many seconds, not before `ready`, in which the host does nothing else.
    fn take_host(&mut self, ready: f64, seconds: f64) -> (f64, f64) {
        let mut start = ready.max(self.floor);
        let mut position = self.n_busy;
        for (idx, &(busy_start, busy_end)) in self.busy[..self.n_busy].iter().enumerate() {
            if start + seconds <= busy_start {
                position = idx;
                break;
            }
            start = start.max(busy_end);
        }
        let span = (start, start + seconds);
        if self.n_busy == LOOK_BACK {
            // The oldest span is forgotten, and nothing may be put before its end any more.
            if position == 0 {
                self.floor = self.floor.max(span.1);
                return span;
            }
            self.floor = self.floor.max(self.busy[0].1);
            self.busy.copy_within(1..position, 0);
            self.busy[position - 1] = span;
        } else {
            self.busy.copy_within(position..self.n_busy, position + 1);
            self.busy[position] = span;
            self.n_busy += 1;
        }
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Overheads = Overheads { submit: 1.0, idle: 5.0, start: 0.5, sync: 2.0 };

    #[test]
    fn an_idle_device_starts_late_and_a_busy_one_at_once() {
        let mut clock = Clock::new();
        assert_eq!(clock.submit(0, 0.0, &GPU), 6.5);
        clock.free[0] += 10.0;
        assert_eq!(clock.submit(0, 0.0, &GPU), 17.0);
        clock.free[0] += 1.0;
        // Ready long after the queue has run empty.
        assert_eq!(clock.submit(0, 100.0, &GPU), 106.5);
    }

    #[test]
    fn the_host_does_one_thing_at_a_time_and_fills_gaps() {
        let mut clock = Clock::new();
        assert_eq!(clock.take_host(10.0, 2.0), (10.0, 12.0));
        assert_eq!(clock.take_host(10.0, 2.0), (12.0, 14.0));
        assert_eq!(clock.take_host(3.0, 2.0), (3.0, 5.0));
        // Three seconds fit between 5 and 10, six do not.
        assert_eq!(clock.take_host(4.0, 3.0), (5.0, 8.0));
        assert_eq!(clock.take_host(4.0, 6.0), (14.0, 20.0));
    }

    #[test]
    fn the_host_looks_back_so_far_and_no_further() {
        let mut clock = Clock::new();
        for i in 1..=LOOK_BACK {
            clock.take_host(10.0 * i as f64, 1.0);
        }
        clock.take_host(100.0, 1.0);
        // The first submission ended at 11 and is forgotten, so that is the earliest.
        assert_eq!(clock.take_host(0.0, 1.0), (11.0, 12.0));
    }
}
