//! How often a measurement is repeated, and how far its result can be trusted.
//!
//! What disturbs a run makes it longer and never shorter, so the fastest runs are nearest to the truth, and when several
//! of them agree it is not likely that all were disturbed by the same amount: the K-best scheme (Bryant and O'Hallaron,
//! Computer Systems: A Programmer's Perspective, first edition, section 9.4.3). On a machine with nothing else to do the
//! first runs agree; on a busy one it goes on until some have had the processor for themselves.

use hetero_core::BackendError;

use super::measure::MeasureOptions;
use super::probe::Probe;
use crate::sync::Clock;

/// So many of the fastest runs have to agree.
const N_AGREEING: usize = 3;
/// They do when the slowest of them takes this part longer than the fastest.
const AGREEMENT: f64 = 0.05;
/// Work that takes longer than this many seconds is measured once.
pub(super) const LONG_SECONDS: f64 = 0.05;
/// A measurement is repeated no more often than this.
const MOST_REPEATS: usize = 400;

/// What repeated runs have shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeated {
    /// Seconds of each run, ascending.
    seconds: Vec<f64>,
}

impl Repeated {
    /// Notes a run.
    pub(super) fn add(&mut self, seconds: f64) {
        let at = self.seconds.partition_point(|&known| known <= seconds);
        self.seconds.insert(at, seconds);
    }

    /// Seconds of the fastest run; infinite before the first.
    pub(super) fn fastest(&self) -> f64 {
        self.seconds.first().copied().unwrap_or(f64::INFINITY)
    }

    /// Seconds by which the fastest runs differ, or all runs where there are fewer than have to agree.
    pub(super) fn error_seconds(&self) -> f64 {
        let last = self.seconds.get(N_AGREEING - 1).or(self.seconds.last());
        last.map_or(0.0, |last| last - self.fastest())
    }

    /// By which part half of the runs take longer than the fastest at least.
    pub(super) fn spread(&self) -> f64 {
        match self.seconds.get(self.seconds.len() / 2) {
            Some(middle) if self.fastest() > 0.0 => middle / self.fastest() - 1.0,
            _ => 0.0,
        }
    }

    fn agrees(&self) -> bool {
        self.seconds.len() >= N_AGREEING && self.error_seconds() <= AGREEMENT * self.fastest()
    }
}

/// Repeats a measurement of several quantities, which `run` adds one run of each to, as often as the options say and, on
/// a clock that things disturb, until all of them agree.
pub(super) fn repeat<const N: usize>(
    clock: &dyn Clock,
    options: &MeasureOptions,
    mut run: impl FnMut(&mut [Repeated; N]) -> Result<(), BackendError>,
) -> Result<[Repeated; N], BackendError> {
    let begin = clock.now();
    let mut repeated: [Repeated; N] = std::array::from_fn(|_| Repeated::default());
    for n_done in 0..=MOST_REPEATS {
        let seconds = clock.now() - begin;
        let is_enough = n_done > options.n_repeats && seconds >= options.least_seconds;
        if is_enough && (seconds >= options.most_seconds || repeated.iter().all(Repeated::agrees)) {
            break;
        }
        run(&mut repeated)?;
    }
    Ok(repeated)
}

/// Runs of a probe.
pub(super) fn repeat_probe(
    probe: &mut Probe,
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<Repeated, BackendError> {
    let first = probe.run(clock)?;
    if first > LONG_SECONDS {
        return Ok(Repeated { seconds: vec![first] });
    }
    let mut first = Some(first);
    let [repeated] = repeat(clock, options, |[repeated]| {
        repeated.add(first.take().map_or_else(|| probe.run(clock), Ok)?);
        Ok(())
    })?;
    Ok(repeated)
}

/// Runs of two probes that take turns, so that what disturbs the one disturbs the other.
pub(super) fn repeat_two(
    [one, other]: [&mut Probe; 2],
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<[Repeated; 2], BackendError> {
    repeat(clock, options, |[of_one, of_other]| {
        of_one.add(one.run(clock)?);
        of_other.add(other.run(clock)?);
        Ok(())
    })
}

/// The fastest of some runs.
pub(super) fn fastest(probe: &mut Probe, clock: &dyn Clock, options: &MeasureOptions) -> Result<f64, BackendError> {
    Ok(repeat_probe(probe, clock, options)?.fastest())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Time that passes as runs say.
    #[derive(Debug, Default)]
    struct RunClock {
        now: Mutex<f64>,
    }

    impl RunClock {
        fn pass(&self, seconds: f64) -> f64 {
            *self.now.lock().expect("no test panics with the lock") += seconds;
            seconds
        }
    }

    impl Clock for RunClock {
        fn now(&self) -> f64 {
            *self.now.lock().expect("no test panics with the lock")
        }

        fn sleep(&self, seconds: f64) {
            self.pass(seconds);
        }
    }

    /// Repeats what takes 100 us, and `disturbed` more in all runs but one of `every`.
    fn measured(every: usize, disturbed: impl Fn(usize) -> f64, most_seconds: f64) -> (Repeated, usize) {
        let clock = RunClock::default();
        let options = MeasureOptions { n_repeats: 2, least_seconds: 2e-3, most_seconds, ..MeasureOptions::default() };
        let mut n_runs = 0;
        let repeated = repeat(&clock, &options, |[repeated]| {
            n_runs += 1;
            let more = if n_runs % every == 0 { 0.0 } else { disturbed(n_runs) };
            repeated.add(clock.pass(100e-6 + more));
            Ok(())
        });
        let [repeated] = repeated.expect("nothing fails");
        (repeated, n_runs)
    }

    #[test]
    fn undisturbed_runs_agree_at_once() {
        let (repeated, n_runs) = measured(1, |_| 0.0, 1.0);
        assert!((20..=22).contains(&n_runs), "as long as is asked: {n_runs}");
        assert!((repeated.fastest() - 100e-6).abs() < 1e-12);
        assert!(repeated.error_seconds() < 1e-12 && repeated.spread() < 1e-9);
    }

    #[test]
    fn on_a_busy_machine_it_goes_on_until_some_runs_had_the_processor_for_themselves() {
        // Nine of ten runs lose the processor for a while, each for another one.
        let slices = |run: usize| 1e-3 * (1 + run % 7) as f64;
        let (hasty, n_hasty) = measured(10, slices, 0.0);
        let (repeated, n_runs) = measured(10, slices, 1.0);
        assert!(n_hasty < 10 && hasty.fastest() > 1e-3, "{n_hasty} runs: {hasty:?}");
        assert_eq!(n_runs, 30, "three runs have to agree");
        assert!((repeated.fastest() - 100e-6).abs() < 1e-12 && repeated.error_seconds() < 1e-12);
        assert!(repeated.spread() > 1.0, "and the machine was busy");
    }

    #[test]
    fn what_never_agrees_ends_and_is_known_not_to_agree() {
        let (repeated, n_runs) = measured(usize::MAX, |run| 1e-3 * run as f64, 50e-3);
        assert!(n_runs < 15, "{n_runs}");
        assert!(repeated.error_seconds() > repeated.fastest(), "{repeated:?}");
    }
}
