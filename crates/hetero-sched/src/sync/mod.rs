//! Fast synchronisation: all code of the scheduler that waits.
//!
//! Waiting for a processor through its driver costs hundreds of microseconds after the processor has finished, and
//! looking all the time burns a core and the battery. Steps repeat, so how long a submission takes is known after the
//! first few: the waiter sleeps until shortly before the predicted end, looks until it comes, and blocks only when it
//! is late (HeteroLLM, arXiv 2501.14794, section 4.3).
//!
//! - [`Waiter`] waits for the first of several [`hetero_core::Timeline`]s by a [`WaitPolicy`]; it knows no device.
//! - [`Estimate`] learns how long something takes, whatever the outliers.
//! - [`Clock`] is where time and sleep come from, so that simulated processors can bring their own.
//! - [`Completion`] is a timeline for processors that are threads; loom checks it.

mod clock;
mod completion;
mod estimate;
mod primitive;
mod waiter;

pub use clock::{Clock, SystemClock};
pub use completion::Completion;
pub use estimate::Estimate;
pub use waiter::{Awaited, Seen, Stuck, WaitOptions, WaitPolicy, WaitStats, Waiter};
