//! What each call costs the host, and that spinning is only cheaper to simulate.

use super::*;

const SUBMIT: f64 = 15e-6;
const IDLE: f64 = 75e-6;
const WAIT: f64 = 400e-6;
const POLL: f64 = 1e-6;
const START: f64 = 5e-6;
/// What a submission computes.
const RUN: f64 = 10e-3;

fn clock() -> VirtualClock {
    let overheads = Overheads {
        submit_seconds: SUBMIT,
        submit_idle_seconds: IDLE,
        wait_seconds: WAIT,
        poll_seconds: POLL,
        start_seconds: START,
        copy_seconds: 100e-6,
        copy_bytes_per_second: 1e9,
    };
    VirtualClock::new(ClockParams {
        combined_bytes_per_second: 60e9,
        watchdog_seconds: 2.0,
        shortest_sleep_seconds: 90e-6,
        overheads: [overheads.clone(), overheads.clone(), overheads],
        is_traced: false,
        real_scale: None,
    })
}

fn submission(stall_seconds: f64) -> Submission {
    let demand = Demand { compute_seconds: RUN, bytes_per_second: 1e9, ..Demand::default() };
    Submission {
        labels: Arc::new([]),
        demands: Arc::new([demand]),
        step: StepParams { past: 0, rows: 1 },
        stall_seconds,
        is_fatal: false,
    }
}

#[track_caller]
fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found} s instead of {expected} s");
}

#[test]
fn submitting_to_a_queue_that_has_run_empty_costs_more() {
    let clock = clock();
    clock.submit(2, submission(0.0));
    assert_close(clock.now(), SUBMIT + IDLE);
    clock.submit(2, submission(0.0));
    assert_close(clock.now(), 2.0 * SUBMIT + IDLE);
    clock.submit(1, submission(0.0));
    assert_close(clock.now(), 3.0 * SUBMIT + 2.0 * IDLE);
    clock.advance(1.0);
    clock.submit(2, submission(0.0));
    assert_close(clock.now(), 1.0 + 4.0 * SUBMIT + 3.0 * IDLE);
}

#[test]
fn waiting_lasts_until_completion_and_a_little_longer() {
    let clock = clock();
    let value = clock.submit(1, submission(0.0));
    clock.block_until(1, value);
    let end = SUBMIT + IDLE + START + RUN;
    assert_close(clock.now(), end + WAIT);
    clock.block_until(1, value);
    assert_close(clock.now(), end + WAIT);

    // A completion that the host has not seen costs a wait even when it is past.
    let value = clock.submit(1, submission(0.0));
    clock.advance(1.0);
    let before = clock.now();
    clock.block_until(1, value);
    assert_close(clock.now(), before + WAIT);
}

#[test]
fn a_completion_seen_by_looking_need_not_be_waited_for() {
    let clock = clock();
    let value = clock.submit(0, submission(0.0));
    while clock.poll(0) < value {}
    let seen = clock.now();
    let end = SUBMIT + IDLE + START + RUN;
    assert!((end..end + 2.0 * POLL).contains(&seen), "{seen} s");
    clock.block_until(0, value);
    assert_close(clock.now(), seen);
}

#[test]
fn spinning_takes_few_looks_and_the_same_time() {
    let (spinning, looking) = (clock(), clock());
    for clock in [&spinning, &looking] {
        clock.submit(2, submission(0.0));
        clock.submit(1, submission(0.0));
    }
    let (mut n_spins, mut n_looks) = (0, 0);
    for value in [2, 1] {
        while spinning.poll(value) < 1 {
            n_spins += 1;
        }
        while looking.poll(value) < 1 {
            // Reading the clock keeps each look a single one.
            let _ = looking.now();
            n_looks += 1;
        }
    }
    assert!(n_spins <= 2 * VirtualClock::SPIN_POLLS + 2 && n_looks > 5000, "{n_spins} and {n_looks} looks");
    assert!((spinning.now() - looking.now()).abs() < 1e-9, "{} and {} s", spinning.now(), looking.now());
}

#[test]
fn a_look_in_vain_is_over_when_the_watchdog_bites() {
    let clock = clock();
    let value = clock.submit(2, submission(f64::INFINITY));
    while clock.poll(2) < value {}
    assert_eq!(clock.stopped(2), Some(Stop { value, timed_out: true }));
    assert!((clock.now() - 2.0).abs() < 1e-3);
}

#[test]
fn copies_take_time_by_their_bytes() {
    let clock = clock();
    clock.copy(DeviceKind::Gpu, 1_000_000);
    assert_close(clock.now(), 1.1e-3);
}

#[test]
fn counts_start_anew_where_they_were_reset() {
    let clock = clock();
    let value = clock.submit(2, submission(0.0));
    clock.advance(4e-3);
    clock.reset_counts();
    clock.block_until(2, value);
    let (seconds, counts) = clock.counts();
    assert_close(counts[2].work.busy_seconds, START + RUN - 4e-3);
    assert_close(seconds, START + RUN - 4e-3 + WAIT);
    assert_eq!(counts[2].submissions, 0);
}

#[test]
fn a_wait_for_a_limited_time_ends_with_it() {
    let clock = clock();
    let value = clock.submit(2, submission(0.0));
    assert!(!clock.block_for(2, value, 4e-3));
    assert_close(clock.now(), SUBMIT + IDLE + 4e-3);
    assert!(clock.block_for(2, value, 1.0));
    assert_close(clock.now(), SUBMIT + IDLE + START + RUN + WAIT);
    assert!(!clock.block_for(2, value + 1, 1.0), "nothing is under way");
}

#[test]
fn a_sleep_is_no_shorter_than_the_system_can() {
    let clock = clock();
    clock.sleep(1e-6);
    assert_close(clock.now(), 90e-6);
    clock.sleep(1e-3);
    assert_close(clock.now(), 1.09e-3);
}
