//! The discrete-event simulation of processors that share a bus.
//!
//! Nothing happens between two events but that transfers go on at constant rates, so time leaps from event to event
//! and there is no time step. An event is the end of a delay, of a transfer or of a computation. Each event that is
//! handled retires one of these for good, however its time was rounded, so the simulation always comes to an end.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bus::fair_rates;
use crate::cost::Demand;

/// Number of processors: CPU, GPU, NPU.
pub(crate) const N_PROCESSORS: usize = 3;

/// One submission as the simulation sees it.
#[derive(Clone, Debug)]
pub(crate) struct Job<T> {
    /// What each node asks of the processor, in order.
    pub(crate) demands: Arc<[Demand]>,
    /// Seconds of the processor between the submission before and this one.
    pub(crate) start_seconds: f64,
    /// Seconds that it hangs before its first node; infinite when it never gets there.
    pub(crate) stall_seconds: f64,
    /// Whether the processor is lost at it, rather than finishing it.
    pub(crate) is_fatal: bool,
    /// Whatever the caller wants to know when it ends.
    pub(crate) tag: T,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event<T> {
    /// A node ran from `start` until now.
    Node {
        /// Which processor.
        processor: usize,
        /// Which of the job's demands.
        node_idx: usize,
        /// When it began, in seconds.
        start: f64,
        /// The job's.
        tag: T,
    },
    /// A submission hung from `start` until now, before its first node.
    Hung {
        /// Which processor.
        processor: usize,
        /// Since when, in seconds.
        start: f64,
        /// The job's.
        tag: T,
    },
    /// A processor has stopped for good. What was queued behind the submission will not run.
    Stopped {
        /// Which processor.
        processor: usize,
        /// Count of the submission at which it stopped.
        value: u64,
        /// Whether the submission hung for longer than the watchdog lets it, rather than losing the processor.
        timed_out: bool,
    },
}

/// Processors with their queues, at one moment.
#[derive(Debug)]
pub(crate) struct Engine<T> {
    /// Bytes per second that all processors get together at most.
    combined: f64,
    /// Seconds that a submission may hang before it is given up.
    watchdog_seconds: f64,
    time: f64,
    processors: [Processor<T>; N_PROCESSORS],
}

/// What a processor has done, since the simulation began or since it was reset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Seconds in which it had a submission.
    pub(crate) busy_seconds: f64,
    /// Bytes that it moved over the bus.
    pub(crate) bytes: f64,
}

#[derive(Debug)]
struct Processor<T> {
    /// The first one runs, unless the processor is idle.
    queue: VecDeque<Job<T>>,
    phase: Phase,
    /// Which of the first job's demands runs, and since when.
    node_idx: usize,
    node_start: f64,
    submitted: u64,
    completed: u64,
    work: Work,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle,
    /// Before the first node, until a time.
    Starting {
        until: f64,
        hangs: bool,
    },
    /// The fixed part of a node, until a time.
    Fixed {
        until: f64,
    },
    /// Computation and transfer go on beside each other; the transfer at the speed given at most.
    Running {
        compute_until: f64,
        bytes_left: f64,
        bytes_per_second: f64,
    },
}

impl<T: Clone> Engine<T> {
    /// Idle processors at time zero.
    ///
    /// # Panics
    /// When a number is not positive; the bandwidth must be finite as well.
    pub(crate) fn new(combined_bytes_per_second: f64, watchdog_seconds: f64) -> Engine<T> {
        assert!(combined_bytes_per_second > 0.0 && combined_bytes_per_second.is_finite(), "the bus has no bandwidth");
        assert!(watchdog_seconds > 0.0, "the watchdog has no patience");
        Engine {
            combined: combined_bytes_per_second,
            watchdog_seconds,
            time: 0.0,
            processors: std::array::from_fn(|_| Processor {
                queue: VecDeque::new(),
                phase: Phase::Idle,
                node_idx: 0,
                node_start: 0.0,
                submitted: 0,
                completed: 0,
                work: Work::default(),
            }),
        }
    }

    /// Up to when everything has been simulated, in seconds.
    pub(crate) fn time(&self) -> f64 {
        self.time
    }

    /// Submissions of a processor that have finished.
    pub(crate) fn completed(&self, processor: usize) -> u64 {
        self.processors[processor].completed
    }

    /// Submissions of a processor so far.
    pub(crate) fn submitted(&self, processor: usize) -> u64 {
        self.processors[processor].submitted
    }

    /// Whether a processor has nothing to do.
    pub(crate) fn is_idle(&self, processor: usize) -> bool {
        self.processors[processor].queue.is_empty()
    }

    /// What a processor has done.
    pub(crate) fn work(&self, processor: usize) -> Work {
        self.processors[processor].work
    }

    /// Counts work from here on.
    pub(crate) fn reset_work(&mut self) {
        self.processors.iter_mut().for_each(|processor| processor.work = Work::default());
    }

    /// Queues a submission now and returns its count.
    ///
    /// # Panics
    /// When a demand is negative or not finite, or wants bytes at no speed: a cost model is wrong.
    pub(crate) fn submit(&mut self, processor: usize, job: Job<T>) -> u64 {
        job.demands.iter().for_each(check);
        let time = self.time;
        let processor = &mut self.processors[processor];
        processor.submitted += 1;
        processor.queue.push_back(job);
        if processor.queue.len() == 1 {
            processor.start_job(time, self.watchdog_seconds);
        }
        processor.submitted
    }

    /// Counts a submission that takes no time and finishes at once.
    ///
    /// # Panics
    /// When others are queued before it.
    pub(crate) fn submit_finished(&mut self, processor: usize) -> u64 {
        let processor = &mut self.processors[processor];
        assert!(processor.queue.is_empty(), "a submission cannot overtake others");
        processor.submitted += 1;
        processor.completed += 1;
        processor.submitted
    }

    /// Goes on to a time; every event on the way is told to `tell` with its time.
    pub(crate) fn run_until(&mut self, time: f64, tell: &mut impl FnMut(f64, Event<T>)) {
        while self.step(time, tell) {}
        self.time = self.time.max(time);
    }

    /// Goes on until a processor has finished `value` submissions, or to `limit`: whether it has.
    pub(crate) fn run_until_completed(
        &mut self,
        processor: usize,
        value: u64,
        limit: f64,
        tell: &mut impl FnMut(f64, Event<T>),
    ) -> bool {
        while self.completed(processor) < value {
            if !self.step(limit, tell) {
                return false;
            }
        }
        true
    }

    /// Goes on until any processor finishes a submission, or to the end when there is none under way.
    pub(crate) fn run_until_any_completed(&mut self, tell: &mut impl FnMut(f64, Event<T>)) {
        let before = self.processors.each_ref().map(|processor| processor.completed);
        while self.processors.each_ref().map(|processor| processor.completed) == before
            && self.step(f64::INFINITY, tell)
        {}
    }

    /// Handles the next event when it is not after `limit`, else goes on to `limit` and says no. A processor that has
    /// nothing to do has no events.
    fn step(&mut self, limit: f64, tell: &mut impl FnMut(f64, Event<T>)) -> bool {
        let rates = fair_rates(self.processors.each_ref().map(Processor::wanted_rate), self.combined);
        let next: [f64; N_PROCESSORS] =
            std::array::from_fn(|idx| self.processors[idx].next_event(self.time, rates[idx]));
        let first = (0..N_PROCESSORS).min_by(|&a, &b| next[a].total_cmp(&next[b])).unwrap_or(0);
        let happens = next[first] <= limit && next[first].is_finite();
        let until = if happens { next[first] } else { limit };
        if until.is_finite() && until > self.time {
            let seconds = until - self.time;
            for (processor, rate) in self.processors.iter_mut().zip(rates) {
                processor.pass(seconds, rate);
            }
            self.time = until;
        }
        if happens {
            self.processors[first].handle_event(self.time, first, self.watchdog_seconds, tell);
        }
        happens
    }
}

impl<T: Clone> Processor<T> {
    fn wanted_rate(&self) -> f64 {
        match self.phase {
            Phase::Running { bytes_left, bytes_per_second, .. } if bytes_left > 0.0 => bytes_per_second,
            _ => 0.0,
        }
    }

    fn next_event(&self, time: f64, rate: f64) -> f64 {
        match self.phase {
            Phase::Idle => f64::INFINITY,
            Phase::Starting { until, .. } | Phase::Fixed { until } => until,
            Phase::Running { bytes_left, .. } if bytes_left > 0.0 => time + bytes_left / rate,
            Phase::Running { compute_until, .. } => compute_until.max(time),
        }
    }

    /// Time passes without an event.
    fn pass(&mut self, seconds: f64, rate: f64) {
        if !matches!(self.phase, Phase::Idle) {
            self.work.busy_seconds += seconds;
        }
        if let Phase::Running { bytes_left, .. } = &mut self.phase {
            let moved = (rate * seconds).min(*bytes_left);
            *bytes_left -= moved;
            self.work.bytes += moved;
        }
    }

    fn handle_event(&mut self, time: f64, idx: usize, watchdog_seconds: f64, tell: &mut impl FnMut(f64, Event<T>)) {
        match &mut self.phase {
            Phase::Idle => {}
            Phase::Starting { hangs, .. } if *hangs || self.queue[0].is_fatal => {
                if *hangs {
                    let tag = self.queue[0].tag.clone();
                    tell(time, Event::Hung { processor: idx, start: time - watchdog_seconds, tag });
                }
                tell(time, Event::Stopped { processor: idx, value: self.completed + 1, timed_out: *hangs });
                self.queue.clear();
                self.phase = Phase::Idle;
                self.completed = self.submitted;
            }
            Phase::Starting { .. } => {
                let Job { stall_seconds, ref tag, .. } = self.queue[0];
                if stall_seconds > 0.0 {
                    tell(time, Event::Hung { processor: idx, start: time - stall_seconds, tag: tag.clone() });
                }
                self.start_node(0, time, watchdog_seconds);
            }
            Phase::Fixed { .. } => {
                let demand = self.queue[0].demands[self.node_idx];
                self.phase = Phase::Running {
                    compute_until: time + demand.compute_seconds,
                    bytes_left: demand.bytes,
                    // A kernel that computes for longer loads piece by piece as it goes. One that the bus has held up
                    // does not catch up: its pieces still take their time.
                    bytes_per_second: demand.bytes_per_second.min(demand.bytes / demand.compute_seconds),
                };
            }
            Phase::Running { bytes_left, compute_until, .. } => {
                // The end of the transfer, of which rounding may have left a little, or of the computation.
                self.work.bytes += std::mem::take(bytes_left);
                if *compute_until <= time {
                    let (start, tag) = (self.node_start, self.queue[0].tag.clone());
                    tell(time, Event::Node { processor: idx, node_idx: self.node_idx, start, tag });
                    self.start_node(self.node_idx + 1, time, watchdog_seconds);
                }
            }
        }
    }

    fn start_job(&mut self, time: f64, watchdog_seconds: f64) {
        let job = &self.queue[0];
        let hangs = job.stall_seconds > watchdog_seconds;
        let until = time + if hangs { watchdog_seconds } else { job.start_seconds + job.stall_seconds };
        self.phase = Phase::Starting { until, hangs };
    }

    fn start_node(&mut self, node_idx: usize, time: f64, watchdog_seconds: f64) {
        self.node_idx = node_idx;
        self.node_start = time;
        if let Some(demand) = self.queue[0].demands.get(node_idx) {
            self.phase = Phase::Fixed { until: time + demand.fixed_seconds };
            return;
        }
        self.completed += 1;
        self.phase = Phase::Idle;
        self.queue.pop_front();
        if !self.queue.is_empty() {
            self.start_job(time, watchdog_seconds);
        }
    }
}

fn check(demand: &Demand) {
    let Demand { fixed_seconds, compute_seconds, bytes, bytes_per_second, .. } = *demand;
    let is_sound = [fixed_seconds, compute_seconds, bytes].iter().all(|x| x.is_finite() && *x >= 0.0);
    assert!(is_sound && (bytes == 0.0 || bytes_per_second > 0.0), "a processor cannot do {demand:?}");
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
