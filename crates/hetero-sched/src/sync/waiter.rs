//! Waits for the first of several submissions: sleeps, then looks, then blocks.

use std::sync::Arc;
use std::time::Duration;

use hetero_core::Timeline;

use super::{Clock, Estimate};

/// Waits, and learns how long sleeping really takes.
#[derive(Debug)]
pub struct Waiter {
    clock: Arc<dyn Clock>,
    options: WaitOptions,
    is_left_to_drivers: bool,
    /// Seconds by which sleeps were too long.
    overshoot: Estimate,
    shortest: ShortestSleep,
    stats: WaitStats,
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WaitOptions {
    /// In which way.
    pub policy: WaitPolicy,
    /// Seconds of looking after the predicted end, until the waiter blocks.
    pub poll_seconds: f64,
    /// A processor is stuck when a submission takes this many times as long as predicted...
    pub stuck_multiple: f64,
    /// ...and at least so many seconds longer, which the waiter has seen pass: time in which this process could not run
    /// does not count, because the processor's driver may not have run either.
    pub stuck_floor_seconds: f64,
}

impl Default for WaitOptions {
    fn default() -> Self {
        WaitOptions {
            policy: WaitPolicy::Predicted,
            // Several times the overshoot of a sleep, and less than a blocking wait costs.
            poll_seconds: 200e-6,
            stuck_multiple: 50.0,
            stuck_floor_seconds: 5.0,
        }
    }
}

/// In which way to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WaitPolicy {
    /// Sleep until shortly before the predicted end, look until it comes, block when it does not.
    #[default]
    Predicted,
    /// Look all the time.
    Spin,
    /// Let the processor's driver wait.
    Block,
}

/// A submission that is waited for.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// The timeline of its backend.
    pub timeline: Arc<dyn Timeline>,
    /// The count at which it has finished.
    pub value: u64,
    /// When it is predicted to end, by the waiter's clock.
    pub expected: Option<f64>,
    /// When it has taken so long that its processor must be stuck.
    pub give_up: f64,
}

/// How much of a wait the waiter has seen.
///
/// A process may be stopped for longer than any submission takes: by Ctrl+Z, a debugger, a virtual machine that is paused,
/// or a machine with far more to do than it has cores. The clock goes on, and so does a GPU, but the threads of its
/// driver may have been stopped too, and a look right after says nothing about the processor. So a step from one look to
/// the next counts as no longer than it was meant to be.
#[derive(Clone, Copy, Debug)]
struct Watch {
    start: f64,
    last: f64,
    /// Seconds in which nobody could look.
    unseen: f64,
}

/// What a wait has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Which of the awaited has finished or failed.
    pub idx: usize,
    /// When that was seen.
    pub at: f64,
    /// Whether it happened just then; otherwise it had happened before the first look.
    pub is_sharp: bool,
    /// When it was last seen not to have happened, if that was in this wait: just before `at`, but for a driver's wait
    /// behind looks in vain.
    pub not_before: Option<f64>,
}

impl Seen {
    /// Tells an estimate how long took what started at `start`, as far as this shows it.
    pub fn teach(&self, estimate: &mut Estimate, start: f64) {
        let taken = self.at - start.min(self.at);
        match (self.is_sharp, self.not_before) {
            (true, None) => estimate.add(taken),
            (true, Some(not_before)) => estimate.add_between(not_before - start.min(not_before), taken),
            (false, _) => estimate.add_bound(taken),
        }
    }
}

/// A wait that took too long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stuck {
    /// Which of the awaited has not finished.
    pub idx: usize,
    /// Seconds that it was waited for in this wait.
    pub waited_seconds: f64,
}

/// What waiting has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WaitStats {
    /// Number of waits.
    pub n_waits: u64,
    /// Waits in which something had finished already at the first look.
    pub n_ready: u64,
    /// Waits that slept.
    pub n_slept: u64,
    /// Waits that slept and found at the first look afterwards that something had finished.
    pub n_overslept: u64,
    /// Waits that looked again and again.
    pub n_polled: u64,
    /// Waits that blocked.
    pub n_blocked: u64,
    /// Seconds asleep.
    pub slept_seconds: f64,
    /// Seconds of looking.
    pub polled_seconds: f64,
    /// Seconds blocked.
    pub blocked_seconds: f64,
}

/// The shortest sleep that the system keeps, as far as is known.
///
/// Short sleeps are not long ones with less of the same overshoot: many systems let no sleep be shorter than some 100
/// us, and who asks for 30 wakes up too late although long sleeps are exact. Shorter ones are tried now and then, and
/// the more seldom the more often that went wrong.
#[derive(Clone, Copy, Debug)]
struct ShortestSleep {
    seconds: f64,
    /// Shorter ones that were not tried since the last trial, and after how many one is.
    n_passed: u32,
    patience: u32,
}

/// A sleep shorter than this is not worth the call.
const SHORTEST_SLEEP: f64 = 20e-6;

/// The overshoot that is assumed before one was measured, and the shortest sleep that is kept: what `usleep` takes on a
/// phone (80 to 100 us: HeteroLLM, arXiv 2501.14794 v2, section 4.3).
const FIRST_OVERSHOOT: f64 = 100e-6;

/// After how many chances a shorter sleep is tried, at first and at most.
const PATIENCE: [u32; 2] = [32, 1024];

/// How much earlier than the predicted end looking begins at least, in seconds.
const LEAD: f64 = 5e-6;

/// The same as a share of the time until then: repeated work varies by about so much.
const LEAD_SHARE: f64 = 0.02;

/// With several submissions to wait for, blocking is for one of them, and the others are looked at so often.
const BLOCK_SLICE: f64 = 500e-6;

/// Blocking for one alone is interrupted so often, to see whether this process runs.
const ALONE_SLICE: f64 = 1.0;

/// How many times as long as others a submission may take that has not run before: Mesa's software GPUs compile a kernel
/// when it first runs (for 72 s, large tiles on a busy machine), and weights may still have to be read from a disk.
const FIRST_TIME: f64 = 12.0;

/// Looks are believed to have been possible when they come so many seconds later than they were meant to: some turns of
/// the other threads on a core.
const LATE_LOOK: f64 = 50e-3;

impl Waiter {
    /// Waits by a clock, which must be that of the processors.
    pub fn new(clock: Arc<dyn Clock>, options: WaitOptions) -> Waiter {
        let overshoot = Estimate::seeded(FIRST_OVERSHOOT);
        let (shortest, stats) = (ShortestSleep::new(), WaitStats::default());
        Waiter { clock, options, is_left_to_drivers: false, overshoot, shortest, stats }
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// From now on lets drivers wait, whatever its options say, or not any more.
    pub fn leave_to_drivers(&mut self, is_left: bool) {
        self.is_left_to_drivers = is_left;
    }

    /// How it waits.
    pub fn options(&self) -> &WaitOptions {
        &self.options
    }

    /// What waiting has cost so far.
    pub fn stats(&self) -> WaitStats {
        self.stats
    }

    /// Counts from here on.
    pub fn reset_stats(&mut self) {
        self.stats = WaitStats::default();
    }

    /// When a submission that is predicted to end at `expected` after `seconds` of work has taken too long. The first
    /// time of a submission may hold what no other does, and no prediction knows.
    pub fn give_up(&self, expected: f64, seconds: f64, is_first: bool) -> f64 {
        let floor = self.options.stuck_floor_seconds * if is_first { FIRST_TIME } else { 1.0 };
        expected + (self.options.stuck_multiple * seconds).max(floor)
    }

    /// Waits until the first of them has finished or failed.
    ///
    /// # Panics
    /// When there is nothing to wait for.
    pub fn wait_any(&mut self, awaited: &[Awaited]) -> Result<Seen, Stuck> {
        assert!(!awaited.is_empty(), "nothing to wait for");
        self.stats.n_waits += 1;
        let start = self.clock.now();
        let mut watch = Watch::new(start);
        if let Some(idx) = finished(awaited) {
            self.stats.n_ready += 1;
            return Ok(Seen { idx, at: start, is_sharp: false, not_before: None });
        }
        let expected = awaited.iter().filter_map(|awaited| awaited.expected).min_by(f64::total_cmp);
        let policy = if self.is_left_to_drivers { WaitPolicy::Block } else { self.options.policy };
        let polled_until = match policy {
            WaitPolicy::Block => start,
            WaitPolicy::Spin => f64::INFINITY,
            WaitPolicy::Predicted => {
                let now = match expected {
                    Some(expected) => self.sleep_until_shortly_before(expected, start),
                    None => start,
                };
                if now > start
                    && let Some(idx) = finished(awaited)
                {
                    self.stats.n_overslept += 1;
                    return Ok(Seen { idx, at: now, is_sharp: false, not_before: None });
                }
                watch.look(now, expected.map_or(0.0, |expected| expected - start));
                expected.map_or(now, |expected| expected.max(now)) + self.options.poll_seconds
            }
        };
        if polled_until > start
            && let Some(result) = self.poll(awaited, &mut watch, polled_until)
        {
            return result;
        }
        self.block(awaited, watch, policy == WaitPolicy::Predicted)
    }

    /// Lets the driver of a processor wait until it has finished, whether it has already or not: a driver's `finish`,
    /// which takes its time for draining the queue in any case.
    pub fn finish(&mut self, awaited: &Awaited) -> Result<Seen, Stuck> {
        self.stats.n_waits += 1;
        let start = self.clock.now();
        self.block(std::slice::from_ref(awaited), Watch::new(start), false)
    }

    /// Sleeps, if it is worth while, and returns the time afterwards.
    fn sleep_until_shortly_before(&mut self, expected: f64, now: f64) -> f64 {
        // Sleeps are too long and predictions not exact: better to look for a moment than to be late.
        let margin = self.overshoot.upper().unwrap_or(FIRST_OVERSHOOT);
        let latest = expected - LEAD - LEAD_SHARE * (expected - now);
        let (seconds, most) = (latest - margin - now, latest - now);
        let is_kept = seconds >= self.shortest.seconds;
        if !is_kept && most >= self.shortest.seconds {
            // Sleeps are believed to be too long only until they have been tried again: a busy moment passes.
            self.overshoot.add(margin * 0.5);
            return now;
        }
        if !is_kept && !self.shortest.is_to_be_tried(most) {
            return now;
        }
        self.clock.sleep(if is_kept { seconds } else { most });
        let after = self.clock.now();
        match is_kept {
            true => self.overshoot.add((after - now - seconds).max(0.0)),
            false => self.shortest.tried(most, after <= latest + LEAD),
        }
        self.stats.n_slept += 1;
        self.stats.slept_seconds += after - now;
        after
    }

    /// Looks again and again; `None` when it is time to block.
    fn poll(&mut self, awaited: &[Awaited], watch: &mut Watch, until: f64) -> Option<Result<Seen, Stuck>> {
        self.stats.n_polled += 1;
        let polled_from = self.clock.now();
        let mut last = polled_from;
        let mut n_looks: u32 = 0;
        loop {
            let found = finished(awaited);
            let now = self.clock.now();
            watch.look(now, 0.0);
            let result = match (found, self.stuck(awaited, watch)) {
                (Some(idx), _) => Some(Ok(Seen { idx, at: now, is_sharp: true, not_before: None })),
                (None, Some(stuck)) => Some(Err(stuck)),
                (None, None) => None,
            };
            if result.is_some() || now >= until {
                self.stats.polled_seconds += now - polled_from;
                return result;
            }
            n_looks += 1;
            if n_looks.is_multiple_of(64) {
                // In virtual time looking may cost nothing, and then nothing would ever happen.
                if now == last {
                    self.clock.sleep(1e-6);
                }
                last = now;
            }
            // Leaves the core's other thread and the memory bus to others, for some nanoseconds.
            std::hint::spin_loop();
        }
    }

    /// Lets the backend of the first to end wait.
    fn block(&mut self, awaited: &[Awaited], mut watch: Watch, has_looked: bool) -> Result<Seen, Stuck> {
        self.stats.n_blocked += 1;
        let blocked_from = self.clock.now();
        // Where drivers always wait, what they cost is part of how long everything takes.
        let not_before = has_looked.then_some(blocked_from);
        let end_of = |awaited: &Awaited| awaited.expected.unwrap_or(f64::INFINITY);
        let first = (0..awaited.len()).min_by(|&a, &b| end_of(&awaited[a]).total_cmp(&end_of(&awaited[b])));
        let first = first.expect("there is something to wait for");
        let Awaited { timeline, value, .. } = &awaited[first];
        let give_up = awaited.iter().map(|awaited| awaited.give_up).fold(f64::INFINITY, f64::min);
        let longest = match awaited.len() {
            1 if give_up.is_infinite() => f64::INFINITY,
            1 => ALONE_SLICE,
            _ => BLOCK_SLICE,
        };
        let mut now = blocked_from;
        watch.look(now, 0.0);
        let result = loop {
            let slice = (self.patience(give_up, &watch) - watch.seen()).clamp(0.0, longest);
            let has_ended = match Duration::try_from_secs_f64(slice) {
                Ok(timeout) => timeline.block_for(*value, timeout),
                // There is no limit that a clock could hold.
                Err(_) => timeline.block_until(*value).map(|()| true),
            };
            now = self.clock.now();
            // An error ends the submission too; whoever takes its ticket back sees which.
            let found = if has_ended.unwrap_or(true) { Some(first) } else { finished(awaited) };
            if let Some(idx) = found {
                break Ok(Seen { idx, at: now, is_sharp: true, not_before });
            }
            watch.look(now, slice);
            if let Some(stuck) = self.stuck(awaited, &watch) {
                break Err(stuck);
            }
        };
        self.stats.blocked_seconds += now - blocked_from;
        result
    }

    /// When whoever is to be given up at `give_up` has been waited for long enough, by what was seen of the time. The
    /// wait may have begun after that, where this process could not run before it.
    fn patience(&self, give_up: f64, watch: &Watch) -> f64 {
        give_up.max(watch.start + self.options.stuck_floor_seconds)
    }

    fn stuck(&self, awaited: &[Awaited], watch: &Watch) -> Option<Stuck> {
        let seen = watch.seen();
        let idx = awaited.iter().position(|awaited| seen >= self.patience(awaited.give_up, watch))?;
        Some(Stuck { idx, waited_seconds: watch.last - watch.start })
    }
}

impl Watch {
    fn new(start: f64) -> Watch {
        Watch { start, last: start, unseen: 0.0 }
    }

    /// Notes a look that was meant to come so many seconds after the last one.
    fn look(&mut self, now: f64, meant_seconds: f64) {
        let longest = meant_seconds.max(0.0) + LATE_LOOK;
        self.unseen += (now - self.last - longest).max(0.0);
        self.last = now;
    }

    /// The time, if none but what was seen had passed since the wait began.
    fn seen(&self) -> f64 {
        self.last - self.unseen
    }
}

impl ShortestSleep {
    fn new() -> ShortestSleep {
        ShortestSleep { seconds: FIRST_OVERSHOOT, n_passed: 0, patience: PATIENCE[0] }
    }

    /// Whether a sleep that is shorter than any known to be kept is tried now.
    fn is_to_be_tried(&mut self, seconds: f64) -> bool {
        if seconds < SHORTEST_SLEEP {
            return false;
        }
        self.n_passed += 1;
        let is_tried = self.n_passed >= self.patience;
        if is_tried {
            self.n_passed = 0;
        }
        is_tried
    }

    /// Takes what a trial showed.
    fn tried(&mut self, seconds: f64, was_in_time: bool) {
        if was_in_time {
            // A little shorter ones are believed as well, until they are found out.
            *self = ShortestSleep { seconds: 0.9 * seconds, ..ShortestSleep::new() };
        } else {
            self.patience = (2 * self.patience).min(PATIENCE[1]);
        }
    }
}

fn finished(awaited: &[Awaited]) -> Option<usize> {
    awaited.iter().position(|awaited| awaited.timeline.completed() >= awaited.value)
}

#[cfg(all(test, not(loom)))]
#[path = "waiter_tests.rs"]
mod tests;
