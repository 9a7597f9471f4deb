//! Time as the scheduler sees it.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Tells the time and lets it pass.
///
/// Simulated processors run in virtual time, and then whoever waits for them must too: their clock is handed in.
pub trait Clock: Debug + Send + Sync {
    /// Seconds since some moment; never less than before.
    fn now(&self) -> f64;

    /// Lets about so many seconds pass, usually a little more.
    fn sleep(&self, seconds: f64);
}

/// The computer's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Time begins now.
    #[expect(clippy::new_without_default, reason = "a clock is started, not defaulted")]
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn sleep(&self, seconds: f64) {
        // A prediction may be absurd, but not make this panic.
        if let Ok(duration) = Duration::try_from_secs_f64(seconds) {
            std::thread::sleep(duration);
        }
    }
}
