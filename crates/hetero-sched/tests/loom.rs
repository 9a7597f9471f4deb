//! All interleavings of a producer and those who wait for it, on the shipped code.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p hetero-sched --test loom --release`; without that there is nothing
//! here.
#![cfg(loom)]

use hetero_core::{BackendError, Timeline};
use hetero_sched::sync::Completion;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

fn error() -> BackendError {
    BackendError::Failed { device: "thread".into(), reason: "told to".into() }
}

/// A count and what was written before it rose. The data is relaxed, so that only the count orders it.
#[derive(Default)]
struct Shared {
    completion: Completion,
    data: [AtomicU64; 2],
}

impl Shared {
    fn produce(&self, value: u64) {
        self.data[value as usize - 1].store(value * 10, Ordering::Relaxed);
        self.completion.complete(value);
    }

    fn check(&self, value: u64) {
        for value in 1..=value {
            assert_eq!(self.data[value as usize - 1].load(Ordering::Relaxed), value * 10);
        }
    }
}

#[test]
fn who_looks_sees_what_was_written() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || (1..=2).for_each(|value| shared.produce(value))
        });
        for _ in 0..2 {
            shared.check(shared.completion.completed());
        }
        producer.join().unwrap();
    });
}

/// A lost wake-up would be a deadlock, which loom finds.
#[test]
fn who_parks_is_woken_and_sees_what_was_written() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || (1..=2).for_each(|value| shared.produce(value))
        });
        shared.completion.block_until(2).unwrap();
        shared.check(2);
        producer.join().unwrap();
    });
}

#[test]
fn two_wait_for_different_counts() {
    // Three threads have too many interleavings for all; most errors show with two preemptions (Musuvathi and Qadeer,
    // Iterative Context Bounding, PLDI 2007).
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new(Shared::default());
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.completion.block_until(1).unwrap();
                shared.check(1);
            }
        });
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || (1..=2).for_each(|value| shared.produce(value))
        });
        shared.completion.block_until(2).unwrap();
        shared.check(2);
        other.join().unwrap();
        producer.join().unwrap();
    });
}

#[test]
fn a_failure_reaches_who_waits_for_it_and_spares_what_came_before() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.produce(1);
                shared.completion.fail(2, error());
            }
        });
        shared.completion.block_until(1).unwrap();
        shared.check(1);
        assert_eq!(shared.completion.block_until(2), Err(error()));
        producer.join().unwrap();
    });
}

#[test]
fn who_waits_for_what_never_comes_is_told_when_it_is_given_up() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce(1)
        });
        let canceller = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.completion.cancel(error())
        });
        assert_eq!(shared.completion.block_until(2), Err(error()));
        producer.join().unwrap();
        canceller.join().unwrap();
        // Whichever came first: the first submission has finished.
        assert_eq!(shared.completion.completed(), 1);
    });
}
