//! Waiting in virtual time, where everything is exact.

use super::*;
use hetero_core::BackendError;
use std::sync::Mutex;

/// Virtual time. Sleeps take a little longer than asked for, and never less than some time, looks a little time.
#[derive(Debug)]
struct Virtual {
    now: Mutex<f64>,
    overshoot: f64,
    shortest_sleep: f64,
}

impl Virtual {
    fn advance_to(&self, time: f64) {
        let mut now = self.now.lock().unwrap();
        *now = now.max(time);
    }
}

impl Clock for Virtual {
    fn now(&self) -> f64 {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, seconds: f64) {
        *self.now.lock().unwrap() += seconds.max(self.shortest_sleep) + self.overshoot;
    }
}

/// Finishes at a time; a blocking wait costs something on top.
#[derive(Debug)]
struct Ends {
    clock: Arc<Virtual>,
    at: f64,
    look_seconds: f64,
    block_seconds: f64,
    error: Option<BackendError>,
}

impl Timeline for Ends {
    fn completed(&self) -> u64 {
        self.clock.advance_to(self.clock.now() + self.look_seconds);
        u64::from(self.clock.now() >= self.at)
    }

    fn block_until(&self, _value: u64) -> Result<(), BackendError> {
        self.clock.advance_to(self.at + self.block_seconds);
        self.error.clone().map_or(Ok(()), Err)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        if self.clock.now() + timeout.as_secs_f64() < self.at {
            self.clock.advance_to(self.clock.now() + timeout.as_secs_f64());
            return Ok(false);
        }
        self.block_until(value).map(|()| true)
    }
}

const LOOK: f64 = 0.5e-6;
const BLOCK: f64 = 400e-6;

struct Setup {
    clock: Arc<Virtual>,
    waiter: Waiter,
}

impl Setup {
    fn new(policy: WaitPolicy) -> Setup {
        Setup::on(policy, 60e-6, 0.0)
    }

    fn on(policy: WaitPolicy, overshoot: f64, shortest_sleep: f64) -> Setup {
        let clock = Arc::new(Virtual { now: Mutex::new(1.0), overshoot, shortest_sleep });
        let options = WaitOptions { policy, ..WaitOptions::default() };
        Setup { waiter: Waiter::new(Arc::clone(&clock) as Arc<dyn Clock>, options), clock }
    }

    /// A submission that ends after `seconds`, predicted or not.
    fn awaited(&self, seconds: f64, predicted: Option<f64>) -> Awaited {
        let now = self.clock.now();
        let timeline = Arc::new(Ends {
            clock: Arc::clone(&self.clock),
            at: now + seconds,
            look_seconds: LOOK,
            block_seconds: BLOCK,
            error: None,
        });
        let expected = predicted.map(|seconds| now + seconds);
        let give_up = predicted.map_or(f64::INFINITY, |seconds| self.waiter.give_up(now + seconds, seconds, false));
        Awaited { timeline, value: 1, expected, give_up }
    }

    /// Seconds from the end of a submission to the return of the wait for it.
    fn late(&mut self, seconds: f64, predicted: Option<f64>) -> f64 {
        let end = self.clock.now() + seconds;
        let seen = self.waiter.wait_any(&[self.awaited(seconds, predicted)]).expect("it ends");
        // What was slept through is seen at the first look.
        assert!(self.clock.now() - seen.at <= LOOK * 1.001);
        seen.at - end
    }
}

#[test]
fn a_good_prediction_is_slept_through_and_met() {
    let mut setup = Setup::new(WaitPolicy::Predicted);
    for _ in 0..20 {
        let late = setup.late(2e-3, Some(2e-3));
        assert!((0.0..=LOOK * 1.001).contains(&late), "{late}");
    }
    let stats = setup.waiter.stats();
    assert_eq!((stats.n_waits, stats.n_slept, stats.n_polled), (20, 20, 20));
    assert_eq!((stats.n_overslept, stats.n_blocked), (0, 0));
    // The margin has learnt the overshoot: next to nothing is left to look for.
    setup.waiter.reset_stats();
    setup.late(2e-3, Some(2e-3));
    let stats = setup.waiter.stats();
    assert!(stats.polled_seconds < 50e-6 && stats.slept_seconds > 1.95e-3, "{stats:?}");
}

/// A busy moment, in which sleeps are far too long, does not keep the waiter awake for ever.
#[test]
fn sleeping_is_tried_again() {
    let mut setup = Setup::new(WaitPolicy::Predicted);
    (0..9).for_each(|_| setup.waiter.overshoot.add(50e-3));
    let n_waits = 60;
    (0..n_waits).for_each(|_| assert!(setup.late(1e-3, Some(1e-3)) < 1e-3));
    let stats = setup.waiter.stats();
    assert!(stats.n_slept > 0 && stats.n_slept < n_waits, "{stats:?}");
    assert!(setup.waiter.overshoot.upper().unwrap() < 1e-3);
}

/// Long sleeps are exact here and no sleep is shorter than 90 us: what is nearer is looked for, however long that goes on.
#[test]
fn a_sleep_that_the_system_does_not_keep_is_not_asked_for() {
    let mut setup = Setup::on(WaitPolicy::Predicted, 0.0, 90e-6);
    let mut n_late = 0;
    for _ in 0..500 {
        assert!(setup.late(1e-3, Some(1e-3)) <= LOOK * 1.001);
        n_late += usize::from(setup.late(60e-6, Some(60e-6)) > LOOK * 1.001);
    }
    // Tried after 32 chances, after 64 more, 128 more, and 256 more.
    assert!((1..=4).contains(&n_late), "{n_late} late of 500");
}

#[test]
fn a_system_that_keeps_short_sleeps_gets_them() {
    let mut setup = Setup::on(WaitPolicy::Predicted, 0.0, 0.0);
    (0..100).for_each(|_| assert!(setup.late(60e-6, Some(60e-6)) <= LOOK * 1.001));
    setup.waiter.reset_stats();
    (0..100).for_each(|_| assert!(setup.late(60e-6, Some(60e-6)) <= LOOK * 1.001));
    assert_eq!(setup.waiter.stats().n_slept, 100);
}

#[test]
fn a_late_end_is_met_by_looking_and_a_later_one_by_blocking() {
    let mut setup = Setup::new(WaitPolicy::Predicted);
    assert!(setup.late(1.15e-3, Some(1e-3)) <= LOOK * 1.001);
    let late = setup.late(5e-3, Some(1e-3));
    assert!((late - BLOCK).abs() < 1e-9, "{late}");
    let stats = setup.waiter.stats();
    assert_eq!((stats.n_polled, stats.n_blocked), (2, 1));
    assert!(stats.blocked_seconds > 3e-3 && stats.polled_seconds < 1e-3, "{stats:?}");
}

#[test]
fn an_early_end_is_known_to_have_been_slept_through() {
    let mut setup = Setup::new(WaitPolicy::Predicted);
    let awaited = [setup.awaited(1e-3, Some(2e-3))];
    let seen = setup.waiter.wait_any(&awaited).unwrap();
    assert!(!seen.is_sharp);
    assert_eq!(setup.waiter.stats().n_overslept, 1);
}

#[test]
fn without_fast_synchronisation_every_wait_blocks() {
    let mut setup = Setup::new(WaitPolicy::Block);
    let late = setup.late(2e-3, Some(2e-3));
    assert!((late - BLOCK).abs() < 1e-9, "{late}");
    let stats = setup.waiter.stats();
    assert_eq!((stats.n_slept, stats.n_polled, stats.n_blocked), (0, 0, 1));
}

#[test]
fn spinning_never_sleeps() {
    let mut setup = Setup::new(WaitPolicy::Spin);
    assert!(setup.late(5e-3, None) <= LOOK * 1.001);
    let stats = setup.waiter.stats();
    assert_eq!((stats.n_slept, stats.n_blocked), (0, 0));
    assert!(stats.polled_seconds > 4.9e-3);
}

#[test]
fn the_first_of_several_ends_the_wait() {
    for policy in [WaitPolicy::Predicted, WaitPolicy::Spin, WaitPolicy::Block] {
        let mut setup = Setup::new(policy);
        // The prediction has the wrong one first.
        let awaited = [setup.awaited(9e-3, Some(1e-3)), setup.awaited(3e-3, Some(2e-3))];
        let seen = setup.waiter.wait_any(&awaited).unwrap();
        assert_eq!(seen.idx, 1, "{policy:?}");
        assert!(seen.at < 1.0 + 4e-3, "{policy:?}: {seen:?}");
    }
}

#[test]
fn what_has_finished_is_not_waited_for() {
    let mut setup = Setup::new(WaitPolicy::Predicted);
    let awaited = [setup.awaited(0.0, Some(1.0))];
    assert!(!setup.waiter.wait_any(&awaited).unwrap().is_sharp);
    assert_eq!(setup.waiter.stats().n_ready, 1);
}

#[test]
fn a_processor_that_does_not_come_back_is_stuck() {
    for policy in [WaitPolicy::Predicted, WaitPolicy::Spin, WaitPolicy::Block] {
        let mut setup = Setup::new(policy);
        setup.waiter.options.stuck_floor_seconds = 10e-3;
        let mut stuck_after = |seconds| {
            let awaited = [setup.awaited(1e9, Some(seconds))];
            let stuck = setup.waiter.wait_any(&awaited).unwrap_err();
            assert_eq!(stuck.idx, 0);
            stuck.waited_seconds
        };
        let seconds = stuck_after(0.1e-3);
        assert!((10e-3..11e-3).contains(&seconds), "{policy:?}: {seconds}");
        // A long prediction is given its multiple.
        let seconds = stuck_after(1e-3);
        assert!((50.9e-3..52e-3).contains(&seconds), "{policy:?}: {seconds}");
    }
}

/// Nobody could look while the process was stopped, and right after that the processor has not come back yet either.
#[test]
fn a_process_that_was_stopped_blames_no_processor() {
    for policy in [WaitPolicy::Predicted, WaitPolicy::Spin, WaitPolicy::Block] {
        for stopped_at in [0.0, 0.5e-3, 3e-3, 1.5] {
            let mut setup = Setup::new(policy);
            let predicted = if stopped_at == 0.5e-3 { 2e-3 } else { 0.1e-3 };
            let mut awaited = setup.awaited(100.0 + 2.0, Some(predicted));
            let stopping = Stopping {
                ends: Arc::clone(&awaited.timeline),
                clock: Arc::clone(&setup.clock),
                at: setup.clock.now() + stopped_at,
                seconds: Mutex::new(100.0),
            };
            awaited.timeline = Arc::new(stopping);
            let seen = setup.waiter.wait_any(&[awaited.clone()]);
            assert_eq!(seen.map(|seen| seen.idx), Ok(0), "{policy:?}, stopped after {stopped_at} s");
        }
    }
}

/// A processor's timeline in a process that is stopped once, at some time and for some time.
#[derive(Debug)]
struct Stopping {
    ends: Arc<dyn Timeline>,
    clock: Arc<Virtual>,
    at: f64,
    seconds: Mutex<f64>,
}

impl Stopping {
    fn stop(&self) {
        if self.clock.now() >= self.at {
            let seconds = std::mem::take(&mut *self.seconds.lock().unwrap());
            self.clock.advance_to(self.clock.now() + seconds);
        }
    }
}

impl Timeline for Stopping {
    fn completed(&self) -> u64 {
        let completed = self.ends.completed();
        self.stop();
        completed
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        self.ends.block_until(value)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        let has_ended = self.ends.block_for(value, timeout);
        self.stop();
        has_ended
    }
}

#[test]
fn what_runs_for_the_first_time_is_waited_for_longer() {
    let waiter = Setup::new(WaitPolicy::Predicted).waiter;
    assert_eq!(waiter.give_up(1.0, 0.1e-3, false), 6.0);
    assert_eq!(waiter.give_up(1.0, 0.1e-3, true), 61.0);
    assert_eq!(waiter.give_up(1.0, 2.0, true), 101.0);
}

#[test]
fn an_error_ends_a_wait() {
    let mut setup = Setup::new(WaitPolicy::Block);
    let mut awaited = setup.awaited(1e-3, None);
    let error = BackendError::OutOfMemory { device: "host".to_owned(), bytes: 1 };
    awaited.timeline = Arc::new(Ends {
        clock: Arc::clone(&setup.clock),
        at: 1.0,
        look_seconds: 0.0,
        block_seconds: 0.0,
        error: Some(error),
    });
    awaited.value = 2;
    assert_eq!(setup.waiter.wait_any(&[awaited]).unwrap().idx, 0);
}

#[test]
fn looks_that_cost_no_time_do_not_hang() {
    let mut setup = Setup::new(WaitPolicy::Spin);
    let mut awaited = setup.awaited(1e-3, None);
    awaited.timeline = Arc::new(Ends {
        clock: Arc::clone(&setup.clock),
        at: setup.clock.now() + 1e-3,
        look_seconds: 0.0,
        block_seconds: 0.0,
        error: None,
    });
    setup.waiter.wait_any(&[awaited]).unwrap();
}
