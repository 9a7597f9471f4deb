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
            wake_in_time();
            std::thread::sleep(duration);
        }
    }
}

/// Asks the system not to let this thread sleep on so that it can wake several at once: Linux adds 50 us by default.
/// miri cannot make the call.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
fn wake_in_time() {
    use std::cell::Cell;
    use std::num::NonZeroU64;

    thread_local! {
        static IS_SET: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_SET.replace(true) {
        // Where it is refused sleeps are longer, which the waiter measures.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    }
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(miri))))]
fn wake_in_time() {}
