//! What a repeated duration will be the next time.

/// Samples that the median is of. Up to half of them may be outliers, and a lasting change shows after as many.
const WINDOW: usize = 9;

/// A robust online estimate: the median of the last nine samples.
///
/// The median does not move for outliers, however far they lie, as long as they are fewer than half of the window
/// (Rousseeuw and Leroy, Robust Regression and Outlier Detection, section 1.2: a breakdown point of one half). It
/// follows a lasting change within five samples. A seed counts as one sample that was seen three times, so that
/// prediction and experience are weighed until there is enough experience.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    /// The last samples; the oldest is overwritten at `next`.
    samples: [f64; WINDOW],
    n_samples: usize,
    next: usize,
    /// Median of the samples.
    median: Option<f64>,
    /// Upper quartile of the samples.
    upper: Option<f64>,
    /// Bounds in a row that the estimate exceeded.
    n_bounds: u32,
    /// The longest that it was seen to take at least, since it was last seen to end; 0 where that is out of date.
    floor: f64,
}

impl Estimate {
    /// Nothing is known.
    pub fn new() -> Estimate {
        Estimate::default()
    }

    /// Begins with a prediction, in seconds.
    pub fn seeded(seconds: f64) -> Estimate {
        let mut estimate = Estimate::new();
        (0..3).for_each(|_| estimate.add(seconds));
        estimate
    }

    /// Seconds, when anything is known.
    pub fn seconds(&self) -> Option<f64> {
        self.median
    }

    /// What most samples do not exceed: their upper quartile.
    pub fn upper(&self) -> Option<f64> {
        self.upper
    }

    /// Takes a sample, in seconds. What is no time is ignored.
    pub fn add(&mut self, seconds: f64) {
        if !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        if self.n_bounds > 1 {
            // The samples are guesses of `add_bound`, and this is the truth.
            self.forget();
        }
        self.n_bounds = 0;
        self.floor = 0.0;
        self.push(seconds);
    }

    /// Takes the knowledge that the duration was between two bounds, as when looking was given up and a driver has told
    /// of the end, however late. The upper one counts as a sample if the estimate was too short; as drivers may be very
    /// late, it is not defended against what later waits show.
    pub fn add_between(&mut self, least: f64, most: f64) {
        if !least.is_finite() || !most.is_finite() || self.median.is_some_and(|median| median >= least) {
            return self.add_bound(most);
        }
        self.push(most.max(0.0));
        (self.floor, self.n_bounds) = (least, 1);
    }

    /// Takes the knowledge that the duration was at most so many seconds, as when a wait has overslept.
    ///
    /// An estimate that is too long sees nothing but such bounds, so it must shrink by itself until the end is seen
    /// again. A single bound counts as a sample a little below it; from the second in a row on the window is wrong, and
    /// the estimate falls to the middle between the bound and what the duration was at least, if that is known.
    pub fn add_bound(&mut self, seconds: f64) {
        if self.median.is_some_and(|median| median < seconds) || !seconds.is_finite() {
            return;
        }
        if seconds <= self.floor {
            self.floor = 0.0;
        }
        self.n_bounds += 1;
        let middle = (self.floor + seconds) / 2.0;
        match self.n_bounds {
            1 => self.push(seconds * 0.9),
            n_bounds => {
                self.forget();
                self.push(if n_bounds == 2 { middle.max(0.8 * seconds) } else { middle });
            }
        }
    }

    /// Takes the knowledge that several durations, one after the other and this one among them, took this part of what
    /// their estimates say together: exactly or, where the end was seen late, at most. As nothing else is known, each is
    /// taken to be too long by the same part.
    pub fn add_share(&mut self, part: f64, is_sharp: bool) {
        let Some(seconds) = self.median.filter(|_| part > 0.0) else { return };
        if is_sharp { self.add(seconds * part) } else { self.add_bound(seconds * part) }
    }

    fn forget(&mut self) {
        (self.n_samples, self.next) = (0, 0);
    }

    fn push(&mut self, seconds: f64) {
        self.samples[self.next] = seconds;
        self.next = (self.next + 1) % WINDOW;
        self.n_samples = (self.n_samples + 1).min(WINDOW);
        let mut sorted = self.samples;
        let sorted = &mut sorted[..self.n_samples];
        sorted.sort_unstable_by(f64::total_cmp);
        self.upper = Some(sorted[(self.n_samples - 1) * 3 / 4]);
        let middle = self.n_samples / 2;
        let is_even = self.n_samples.is_multiple_of(2);
        self.median = Some(if is_even { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_move_it() {
        let mut estimate = Estimate::new();
        assert_eq!(estimate.seconds(), None);
        (0..9).for_each(|idx| estimate.add(1.0 + f64::from(idx) * 1e-3));
        for outlier in [100.0, 1e-9, 50.0, f64::NAN, 1e9] {
            estimate.add(outlier);
        }
        let seconds = estimate.seconds().unwrap();
        assert!((0.999..1.01).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_lasting_change_is_followed() {
        let mut estimate = Estimate::seeded(1.0);
        assert_eq!(estimate.seconds(), Some(1.0));
        (0..4).for_each(|_| estimate.add(2.0));
        assert_eq!(estimate.seconds(), Some(2.0), "four samples outweigh the seed");
        (0..5).for_each(|_| estimate.add(3.0));
        assert_eq!(estimate.seconds(), Some(3.0));
    }

    #[test]
    fn an_estimate_that_is_too_long_is_found_out() {
        let mut estimate = Estimate::seeded(100.0);
        let truth = 1.0;
        let mut n_bounds = 0;
        // A wait that sleeps as long as the estimate says sees the end only when it was too short.
        while estimate.seconds().unwrap() > truth && n_bounds < 1000 {
            estimate.add_bound(estimate.seconds().unwrap());
            n_bounds += 1;
        }
        assert!(n_bounds < 12, "{n_bounds}");
        estimate.add(truth);
        assert_eq!(estimate.seconds(), Some(truth), "guesses give way to what was seen");
        estimate.add_bound(5.0);
        assert_eq!(estimate.seconds(), Some(truth), "a bound above it says nothing new");
    }

    /// A driver that is late by more than half of the duration does not keep the estimate swinging between too short,
    /// which makes the waiter ask the driver, and too long, which makes it oversleep.
    #[test]
    fn a_late_driver_does_not_keep_it_from_the_truth() {
        let (truth, looks_for, late) = (762.0, 200.0, 400.0);
        for first in [5.0, 100.0, 330.0, 600.0, 700.0, 900.0, 1200.0, 5000.0] {
            let mut estimate = Estimate::seeded(first);
            let mut n_late = 0;
            for _ in 0..40 {
                let expected = estimate.seconds().unwrap();
                if expected > truth {
                    n_late += 1;
                    estimate.add_bound(0.98 * expected);
                } else if expected + looks_for < truth {
                    n_late += 1;
                    estimate.add_between(expected + looks_for, truth + late);
                } else {
                    estimate.add(truth);
                }
            }
            assert!((estimate.seconds().unwrap() - truth).abs() < 1.0 && n_late <= 9, "{first}: {n_late} {estimate:?}");
        }
    }

    /// A host that waits for the last of three submissions alone, which are all expected to take longer than they do, at
    /// first sees it end before it should have begun. It must learn the sum, and never that something takes no time.
    #[test]
    fn what_ends_before_it_was_expected_to_begin_is_no_longer_expected_so_late() {
        for (truth, is_sharp) in [([1.0, 2.0, 3.0], true), ([3.0, 0.5, 0.1], true), ([1.0, 2.0, 3.0], false)] {
            let end: f64 = truth.iter().sum();
            let mut chain = [20.0, 30.0, 10.0].map(Estimate::seeded);
            for _ in 0..30 {
                let expected = chain.each_ref().map(|estimate| estimate.seconds().unwrap());
                let start = expected[0] + expected[1];
                if end > start {
                    chain[2].add(end - start);
                } else {
                    let part = end / expected.iter().sum::<f64>();
                    chain.iter_mut().for_each(|estimate| estimate.add_share(part, is_sharp));
                }
                assert!(chain.iter().all(|estimate| estimate.seconds().unwrap() > 0.0), "{truth:?}: {chain:?}");
            }
            let sum: f64 = chain.iter().map(|estimate| estimate.seconds().unwrap()).sum();
            assert!((sum / end - 1.0).abs() < 0.01, "{truth:?}, {is_sharp}: {sum} instead of {end}");
        }
    }

    #[test]
    fn one_early_end_changes_little() {
        let mut estimate = Estimate::new();
        (0..9).for_each(|_| estimate.add(1.0));
        estimate.add_bound(0.1);
        assert_eq!(estimate.seconds(), Some(1.0));
    }
}
