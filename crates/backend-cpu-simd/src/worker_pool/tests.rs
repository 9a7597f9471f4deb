//! Runs, barriers, panics and ends of the worker pool.

use super::*;
use core::sync::atomic::AtomicU64;

#[test]
fn every_worker_runs_once_and_the_caller_is_worker_0() {
    for n_workers in [1, 2, 3, 8] {
        let pool = WorkerPool::new(n_workers).expect("threads");
        let caller = std::thread::current().id();
        for _ in 0..100 {
            let counts: Vec<_> = (0..n_workers).map(|_| AtomicUsize::new(0)).collect();
            pool.run(|worker| {
                counts[worker.index()].fetch_add(1, Ordering::Relaxed);
                assert_eq!(worker.n_workers(), n_workers);
                assert_eq!(worker.index() == 0, std::thread::current().id() == caller);
            })
            .expect("no panic");
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn a_barrier_makes_all_writes_visible() {
    for n_workers in [2, 4, 9] {
        let pool = WorkerPool::new(n_workers).expect("threads");
        let slots: Vec<_> = (0..n_workers).map(|_| AtomicU64::new(0)).collect();
        pool.run(|worker| {
            for round in 1..200 {
                slots[worker.index()].store(round, Ordering::Relaxed);
                worker.barrier();
                assert!(slots.iter().all(|slot| slot.load(Ordering::Relaxed) == round));
                worker.barrier();
            }
        })
        .expect("no panic");
    }
}

#[test]
fn sleeping_workers_are_woken() {
    let pool = WorkerPool::new(4).expect("threads");
    for _ in 0..5 {
        // Longer than a worker watches, so that it has gone to sleep. The test asserts no time: on a slow machine the
        // workers are still awake, and the run has to work then too.
        std::thread::sleep(Duration::from_millis(2));
        pool.run(|worker| {
            if worker.index() == 0 {
                // The others have finished by now and sleep again before the run ends.
                std::thread::sleep(Duration::from_millis(1));
            }
            worker.barrier();
        })
        .expect("no panic");
    }
}

#[test]
fn a_panic_is_reported_and_the_pool_goes_on() {
    for guilty in 0..3 {
        let pool = WorkerPool::new(3).expect("threads");
        for _ in 0..20 {
            let error = pool
                .run(|worker| assert!(worker.index() != guilty, "worker {} gives up", worker.index()))
                .expect_err("a worker panicked");
            assert_eq!(error.message, format!("worker {guilty} gives up"));
            pool.run(|worker| worker.barrier()).expect("no panic");
        }
    }
}

#[test]
fn a_panic_frees_those_who_wait_at_a_barrier() {
    for guilty in 0..3 {
        let pool = WorkerPool::new(3).expect("threads");
        let passed = AtomicUsize::new(0);
        let error = pool
            .run(|worker| {
                worker.barrier();
                assert!(worker.index() != guilty, "given up");
                worker.barrier();
                passed.fetch_add(1, Ordering::Relaxed);
            })
            .expect_err("a worker panicked");
        assert_eq!(error.message, "given up");
        assert_eq!(passed.load(Ordering::Relaxed), 0);
        pool.run(|worker| worker.barrier()).expect("no panic");
    }
}

#[test]
fn runs_of_several_threads_come_one_after_the_other() {
    let pool = WorkerPool::new(2).expect("threads");
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.run(|worker| {
                        assert!(inside.fetch_add(1, Ordering::AcqRel) < 2);
                        worker.barrier();
                        inside.fetch_sub(1, Ordering::AcqRel);
                    })
                    .expect("no panic");
                }
            });
        }
    });
}

#[test]
fn a_run_inside_a_run_is_refused() {
    let pool = WorkerPool::new(2).expect("threads");
    let error = pool.run(|_| drop(pool.run(|_| {}))).expect_err("nested");
    assert!(error.message.contains("inside a task"), "{error}");
}

#[test]
fn dropping_the_pool_ends_its_threads() {
    for _ in 0..20 {
        let pool = WorkerPool::new(5).expect("threads");
        let shared = Arc::clone(&pool.shared);
        drop(pool);
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}

#[test]
fn shares_cover_all_items_once() {
    for count in [0, 1, 2, 15, 16, 17, 128] {
        for parts in [1, 2, 3, 7, 16] {
            let mut next = 0;
            for part in 0..parts {
                let range = share(count, part, parts);
                assert_eq!(range.start, next);
                assert!(range.len().abs_diff(count / parts) <= 1);
                next = range.end;
            }
            assert_eq!(next, count);
        }
    }
}

#[test]
fn chunks_cover_all_items_once() {
    let pool = WorkerPool::new(3).expect("threads");
    let counter = ChunkCounter::new();
    for _ in 0..10 {
        let taken = AtomicUsize::new(0);
        pool.run(|_| {
            while let Some(chunk) = counter.take(1000, 7) {
                taken.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        })
        .expect("no panic");
        assert_eq!(taken.load(Ordering::Relaxed), 1000);
        counter.reset();
    }
}
