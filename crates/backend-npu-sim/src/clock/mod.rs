//! Virtual time: one host and three processors on one bus.
//!
//! The host has a time of its own, which its calls advance: a submission costs what the driver takes, a wait lasts
//! until the processor has finished, and whatever else the host does it says with [`VirtualClock::advance`]. Between
//! calls no time passes. The processors run as far as the host has come, or as far as it waits for.
//!
//! | call | the host goes on |
//! |---|---|
//! | `submit` | `submit_seconds` later, and `submit_idle_seconds` more when the queue had run empty |
//! | `completed` | `poll_seconds` later |
//! | `block_until`, count not yet seen | `wait_seconds` after the completion, or after now when that is later |
//! | `block_until`, count seen before | at once: nothing is left to wait for |
//! | `compile` | as much later as the cost model says |
//! | [`VirtualClock::copy`] | `copy_seconds` and the bytes at `copy_bytes_per_second` later |
//! | `block_for` | as `block_until`, or as much later as it is allowed to wait |
//! | [`VirtualClock::advance`] | as much later as it says |
//! | [`VirtualClock::sleep`] | the same, or the shortest sleep of its system when that is more |
//!
//! **The bus.** A node first takes its fixed time. Then it computes, and loads at an even pace: as fast as it can, or
//! as slowly as its computation lets it. Processors that load at the same time share the bus by max-min fairness, and a
//! node that gets less than its pace takes longer; it does not catch up afterwards.
//!
//! **Polling.** Each look costs `poll_seconds`, so a loop of looks ends when the processor has finished, at the first
//! look after the completion. A host that has done nothing but look, more than [`VirtualClock::SPIN_POLLS`] times in a
//! row and without news, is taken to be spinning: its next look stands for all those up to the next completion of any
//! processor. That gives the same time as single looks would, because nothing that a look could show happens in
//! between, and it makes long waits cheap to simulate. A loop that reads the clock ([`VirtualClock::now`]) is not
//! spinning: it may have a deadline.
//!
//! The clock is deterministic: the same calls from one thread give the same times and the same trace, to the bit.
//! Calls from several threads are safe and stand for one host that does one thing after the other.

mod bus;
mod engine;
mod host;

pub use host::VirtualClock;

pub(crate) use engine::N_PROCESSORS;
pub(crate) use host::{ClockParams, Stop, Submission, index_of};
