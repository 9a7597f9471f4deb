//! The host's time: what its calls cost, and when it sees what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_core::{DeviceKind, StepParams};
use parking_lot::Mutex;

use super::engine::{Engine, Event, Job, N_PROCESSORS, Work};
use crate::cost::Demand;
use crate::soc::Overheads;
use crate::trace::{HostAction, NodeLabel, Recorder, Trace};

/// The clock of a simulated phone, in seconds since it was switched on.
///
/// The module's documentation says what advances it.
#[derive(Debug)]
pub struct VirtualClock {
    state: Mutex<State>,
    /// Where time is real.
    real: Option<RealTime>,
}

#[derive(Clone, Copy, Debug)]
struct RealTime {
    since: Instant,
    /// Real seconds for a simulated one.
    scale: f64,
}

/// What the clock has to know of a phone.
#[derive(Clone, Debug)]
pub(crate) struct ClockParams {
    pub(crate) combined_bytes_per_second: f64,
    pub(crate) watchdog_seconds: f64,
    pub(crate) shortest_sleep_seconds: f64,
    /// What driving CPU, GPU and NPU costs.
    pub(crate) overheads: [Overheads; N_PROCESSORS],
    pub(crate) is_traced: bool,
    /// Real seconds for a simulated one, where time is real.
    pub(crate) real_scale: Option<f64>,
}

/// A submission as the clock keeps it.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) labels: Arc<[NodeLabel]>,
    pub(crate) demands: Arc<[Demand]>,
    pub(crate) step: StepParams,
    /// Seconds that it hangs before its first node.
    pub(crate) stall_seconds: f64,
    /// Whether the processor is lost at it.
    pub(crate) is_fatal: bool,
}

/// A processor has stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// The submission at which it stopped.
    pub(crate) value: u64,
    /// Whether it hung, rather than being lost.
    pub(crate) timed_out: bool,
}

/// What a processor has done since the counts were reset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) work: Work,
    /// Arithmetic operations of nodes that have finished.
    pub(crate) operations: f64,
    pub(crate) submissions: u64,
    pub(crate) compile_seconds: f64,
}

#[derive(Debug)]
struct State {
    params: ClockParams,
    now: f64,
    engine: Engine<Arc<Submission>>,
    books: Books,
    /// Completions that the host knows of.
    seen: [u64; N_PROCESSORS],
    /// Looks in a row that showed nothing.
    n_vain_polls: u32,
    /// When the counts were reset.
    counted_since: f64,
}

/// What events are written down in.
#[derive(Debug)]
struct Books {
    stops: [Option<Stop>; N_PROCESSORS],
    counts: [Counts; N_PROCESSORS],
    recorder: Option<Recorder>,
}

impl VirtualClock {
    /// Looks without news after which the host is taken to be spinning.
    pub const SPIN_POLLS: u32 = 32;

    pub(crate) fn new(params: ClockParams) -> VirtualClock {
        let real = params.real_scale.map(|scale| RealTime { since: Instant::now(), scale });
        let engine = Engine::new(params.combined_bytes_per_second, params.watchdog_seconds);
        let books = Books {
            stops: [None; N_PROCESSORS],
            counts: [Counts::default(); N_PROCESSORS],
            recorder: params.is_traced.then(Recorder::default),
        };
        let seen = [0; N_PROCESSORS];
        let state = State { params, now: 0.0, engine, books, seen, n_vain_polls: 0, counted_since: 0.0 };
        VirtualClock { state: Mutex::new(state), real }
    }

    /// The host's time, in seconds. In real time ([`crate::TimeMode::Real`]) it is the machine's.
    pub fn now(&self) -> f64 {
        if let Some(real) = self.real {
            return real.since.elapsed().as_secs_f64();
        }
        let mut state = self.state.lock();
        state.n_vain_polls = 0;
        state.now
    }

    /// The host computes or sleeps for so many seconds; in real time it sleeps for as long times the scale.
    ///
    /// # Panics
    /// When the time is negative or not finite.
    pub fn advance(&self, seconds: f64) {
        assert!(seconds >= 0.0 && seconds.is_finite(), "time cannot go on by {seconds} s");
        self.spend(HostAction::Work, seconds, |_| {});
    }

    /// The host sleeps for so many seconds, or for the shortest time that its system can sleep when that is more.
    ///
    /// # Panics
    /// As [`VirtualClock::advance`].
    pub fn sleep(&self, seconds: f64) {
        let shortest = self.state.lock().params.shortest_sleep_seconds;
        self.advance(seconds.max(shortest));
    }

    /// The host copies so many bytes through the driver of a processor and waits for the end. Such a copy takes its
    /// time from the SoC file; it is not simulated on the bus.
    pub fn copy(&self, kind: DeviceKind, bytes: u64) {
        self.copy_piece(kind, bytes, false);
    }

    /// As [`VirtualClock::copy`], for one of several pieces that are copied in one call: only the first costs the call.
    pub(crate) fn copy_piece(&self, kind: DeviceKind, bytes: u64, is_continued: bool) {
        let processor = index_of(kind);
        let overheads = self.state.lock().params.overheads[processor].clone();
        let call_seconds = if is_continued { 0.0 } else { overheads.copy_seconds };
        let seconds = call_seconds + bytes as f64 / overheads.copy_bytes_per_second;
        self.spend(HostAction::Copy { processor, bytes }, seconds, |_| {});
    }

    /// The host compiles for a processor, which takes so many seconds.
    pub(crate) fn compile(&self, processor: usize, seconds: f64) {
        self.spend(HostAction::Compile { processor }, seconds, |books| {
            books.counts[processor].compile_seconds += seconds;
        });
    }

    fn spend(&self, action: HostAction, seconds: f64, write: impl FnOnce(&mut Books)) {
        let mut state = self.state.lock();
        write(&mut state.books);
        match self.real {
            Some(real) => {
                drop(state);
                // In real time the host's own work and sleep take real time: that is what the caller asked for. A scale
                // may be absurd, but not make this panic.
                std::thread::sleep(Duration::try_from_secs_f64(seconds * real.scale).unwrap_or(Duration::MAX));
            }
            None => state.act(action, seconds),
        }
    }

    /// Queues a submission; the count at which it has finished.
    pub(crate) fn submit(&self, processor: usize, submission: Submission) -> u64 {
        let mut state = self.state.lock();
        let overheads = &state.params.overheads[processor];
        let (submit_seconds, idle_seconds) = (overheads.submit_seconds, overheads.submit_idle_seconds);
        let start_seconds = overheads.start_seconds;
        let has_run_empty = state.engine.is_idle(processor);
        let value = state.engine.submitted(processor) + 1;
        let seconds = submit_seconds + if has_run_empty { idle_seconds } else { 0.0 };
        state.act(HostAction::Submit { processor, value }, seconds);
        state.books.counts[processor].submissions += 1;
        state.engine.submit(
            processor,
            Job {
                demands: Arc::clone(&submission.demands),
                start_seconds,
                stall_seconds: submission.stall_seconds,
                is_fatal: submission.is_fatal,
                tag: Arc::new(submission),
            },
        )
    }

    /// Counts a submission's work where this clock does not time it.
    pub(crate) fn count(&self, processor: usize, demands: &[Demand]) {
        let mut state = self.state.lock();
        let counts = &mut state.books.counts[processor];
        counts.submissions += 1;
        for demand in demands {
            counts.operations += demand.operations;
            counts.work.bytes += demand.bytes;
            counts.work.busy_seconds += demand.alone_seconds();
        }
    }

    /// Takes a submission that has finished already, or at which the processor has stopped: then whether it hung.
    pub(crate) fn submit_finished(&self, processor: usize, stop: Option<bool>) -> u64 {
        let mut state = self.state.lock();
        let value = state.engine.submit_finished(processor);
        if let Some(timed_out) = stop {
            state.books.stops[processor].get_or_insert(Stop { value, timed_out });
        }
        value
    }

    /// A look at the count of finished submissions.
    pub(crate) fn poll(&self, processor: usize) -> u64 {
        self.state.lock().poll(processor)
    }

    /// Waits for a count of finished submissions.
    ///
    /// # Panics
    /// When nothing is under way that could reach it.
    pub(crate) fn block_until(&self, processor: usize, value: u64) {
        let has_finished = self.state.lock().block_for(processor, value, f64::INFINITY);
        assert!(has_finished, "nothing is under way that could reach {value}");
    }

    /// Waits for a count of finished submissions for so many seconds at most: whether it was reached.
    pub(crate) fn block_for(&self, processor: usize, value: u64, seconds: f64) -> bool {
        self.state.lock().block_for(processor, value, seconds)
    }

    /// Where a processor has stopped for good, as far as the host has come.
    pub(crate) fn stopped(&self, processor: usize) -> Option<Stop> {
        self.state.lock().books.stops[processor]
    }

    /// Seconds since the counts were reset, and the counts.
    pub(crate) fn counts(&self) -> (f64, [Counts; N_PROCESSORS]) {
        let state = self.state.lock();
        let mut counts = state.books.counts;
        for (idx, counts) in counts.iter_mut().enumerate() {
            let work = state.engine.work(idx);
            counts.work.busy_seconds += work.busy_seconds;
            counts.work.bytes += work.bytes;
        }
        (state.now - state.counted_since, counts)
    }

    /// Counts from now on.
    pub(crate) fn reset_counts(&self) {
        let mut state = self.state.lock();
        state.books.counts = Default::default();
        state.engine.reset_work();
        state.counted_since = state.now;
    }

    /// What has been recorded.
    pub(crate) fn trace(&self, name: &str) -> Trace {
        self.state.lock().books.recorder.as_ref().map_or_else(Trace::default, |recorder| recorder.trace(name))
    }
}

impl State {
    /// The host does something for so long, and the processors go on meanwhile.
    fn act(&mut self, action: HostAction, seconds: f64) {
        let start = self.now;
        self.n_vain_polls = 0;
        self.go_on(start + seconds);
        self.record(action, start);
    }

    fn go_on(&mut self, until: f64) {
        self.now = self.now.max(until);
        let State { engine, books, .. } = self;
        engine.run_until(self.now, &mut |time, event| books.write(time, event));
    }

    fn record(&mut self, action: HostAction, start: f64) {
        if let Some(recorder) = &mut self.books.recorder {
            recorder.host(action, start, self.now);
        }
    }

    fn poll(&mut self, processor: usize) -> u64 {
        let start = self.now;
        let poll_seconds = self.params.overheads[processor].poll_seconds;
        let mut until = start + poll_seconds;
        let is_spinning = self.n_vain_polls >= VirtualClock::SPIN_POLLS;
        if is_spinning {
            let State { engine, books, .. } = &mut *self;
            engine.run_until_any_completed(&mut |time, event| books.write(time, event));
            let next = self.engine.time();
            if next > until {
                // The first look that is not before the completion.
                let n_polls = if poll_seconds > 0.0 { ((next - start) / poll_seconds).ceil() } else { 0.0 };
                until = (start + n_polls * poll_seconds).max(next);
            }
        }
        self.go_on(until);
        let completed = self.engine.completed(processor);
        if completed > self.seen[processor] || is_spinning {
            // What has completed may be another processor's, and the host looks at each in turn.
            self.n_vain_polls = 0;
        } else {
            self.n_vain_polls += 1;
        }
        self.seen[processor] = completed;
        self.record(HostAction::Poll { processor }, start);
        completed
    }

    /// Whether so many have finished within a time.
    fn block_for(&mut self, processor: usize, value: u64, seconds: f64) -> bool {
        let mut has_finished = true;
        if value > self.seen[processor] {
            let start = self.now;
            self.n_vain_polls = 0;
            let wait_seconds = self.params.overheads[processor].wait_seconds;
            let State { engine, books, .. } = &mut *self;
            let limit = start + seconds;
            has_finished =
                engine.run_until_completed(processor, value, limit, &mut |time, event| books.write(time, event));
            if has_finished {
                let completion = self.engine.time();
                self.go_on(self.now.max(completion) + wait_seconds);
                // What has finished besides is known when it is looked for.
                self.seen[processor] = value;
            } else if limit.is_finite() {
                self.go_on(limit);
            }
            self.record(HostAction::Wait { processor, value }, start);
        }
        has_finished
    }
}

impl Books {
    fn write(&mut self, time: f64, event: Event<Arc<Submission>>) {
        match event {
            Event::Node { processor, node_idx, start, tag } => {
                self.counts[processor].operations += tag.demands[node_idx].operations;
                if let Some(recorder) = &mut self.recorder {
                    recorder.node(processor, node_idx, start, time, &tag);
                }
            }
            Event::Hung { processor, start, tag } => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.hang(processor, start, time, &tag);
                }
            }
            Event::Stopped { processor, value, timed_out } => {
                self.stops[processor] = Some(Stop { value, timed_out });
            }
        }
    }
}

/// Which processor of the clock is of a kind.
pub(crate) fn index_of(kind: DeviceKind) -> usize {
    match kind {
        DeviceKind::Cpu => 0,
        DeviceKind::Gpu => 1,
        DeviceKind::Npu => 2,
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
