//! How fast the machine's threads read memory together.

use serde_json::{Value, json};
use std::fs;
use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// Readings for each number of threads; the median is reported.
const READINGS: usize = 7;

/// Below this share of its cores, a measurement is of the neighbours and not of the memory.
const QUIET_SHARE: f64 = 0.9;

/// The reading rate of some number of threads.
#[derive(Clone, Debug)]
pub(super) struct Bandwidth {
    /// Threads that read, each a part of the array of its own.
    threads: u64,
    /// Bytes a second of all together: the median.
    median: f64,
    /// Slowest and fastest reading.
    range: (f64, f64),
    /// Part of the time that the threads spent on a core; `None` where the system does not tell.
    core_share: Option<f64>,
}

/// Reads an array of so many mebibytes with one thread, two, four, and all.
pub(super) fn measure(mebibytes: usize) -> Vec<Bandwidth> {
    let array: Vec<u64> = (0..mebibytes as u64 * (1 << 17)).collect();
    let all = thread::available_parallelism().map_or(1, usize::from);
    let mut counts: Vec<usize> = (0..).map(|p| 1 << p).take_while(|n| *n < all).collect();
    counts.push(all);
    counts.into_iter().map(|n| measure_threads(&array, n)).collect()
}

fn measure_threads(array: &[u64], n_threads: usize) -> Bandwidth {
    let part = array.len().div_ceil(n_threads);
    let (mut on_cpu, mut elapsed) = (Some(0.0), 0.0);
    let mut rates = Vec::new();
    for _ in 0..READINGS {
        let began = Instant::now();
        let times: Vec<Option<f64>> = thread::scope(|scope| {
            let readers: Vec<_> = array
                .chunks(part)
                .map(|part| {
                    scope.spawn(move || {
                        let before = thread_seconds();
                        black_box(sum(part));
                        Some(thread_seconds()? - before?)
                    })
                })
                .collect();
            let join = |reader: thread::ScopedJoinHandle<'_, _>| reader.join().ok().flatten();
            readers.into_iter().map(join).collect()
        });
        let seconds = began.elapsed().as_secs_f64();
        elapsed += seconds;
        for time in times {
            on_cpu = on_cpu.zip(time).map(|(sum, time)| sum + time);
        }
        rates.push(size_of_val(array) as f64 / seconds);
    }
    rates.sort_by(f64::total_cmp);
    Bandwidth {
        threads: n_threads as u64,
        median: rates[READINGS / 2],
        range: (rates[0], rates[READINGS - 1]),
        core_share: on_cpu.map(|seconds| seconds / (elapsed * n_threads as f64)),
    }
}

/// Time that this thread has spent on a core, where the system tells.
fn thread_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

/// The least share of its cores that a measurement got, if that spoils the numbers.
///
/// A thread that waits for a core reads nothing, so a busy machine looks like one with slow memory.
pub(super) fn contention(limits: &[Bandwidth]) -> Option<f64> {
    let shares = limits.iter().filter_map(|limit| limit.core_share);
    let least = shares.fold(f64::INFINITY, f64::min);
    (least < QUIET_SHARE).then_some(least)
}

/// Sixteen independent sums, so that loads and not additions are the limit.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 16];
    for words in words.chunks_exact(16) {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum ^= word;
        }
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

/// The best median that this number of threads reached; with none of that number, the best of all.
pub(super) fn best(limits: &[Bandwidth], threads: u64) -> f64 {
    let of = |wanted: &dyn Fn(&&Bandwidth) -> bool| {
        limits.iter().filter(wanted).map(|limit| limit.median).fold(0.0, f64::max)
    };
    let same = of(&|limit| limit.threads == threads);
    if same > 0.0 { same } else { of(&|_| true) }
}

/// A line for each number of threads.
pub(super) fn print(limits: &[Bandwidth]) {
    for limit in limits {
        println!(
            "bandwidth  {} threads read {:.1} GB/s (median of {READINGS}, {:.1} to {:.1})",
            limit.threads,
            limit.median / 1e9,
            limit.range.0 / 1e9,
            limit.range.1 / 1e9
        );
    }
    if let Some(share) = contention(limits) {
        println!(
            "           BUSY: other programs left {:.0} % of the cores; this is no limit of the machine",
            100.0 * share
        );
    }
}

/// The readings for the report.
pub(super) fn to_json(limits: &[Bandwidth]) -> Value {
    let row = |limit: &Bandwidth| {
        json!({
            "threads": limit.threads, "bytes_per_second": limit.median,
            "min": limit.range.0, "max": limit.range.1, "core_share": limit.core_share,
        })
    };
    limits.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_same_number_of_threads_is_taken() {
        let limit =
            |threads, median, share| Bandwidth { threads, median, range: (median, median), core_share: Some(share) };
        let limits = [limit(1, 5.0, 1.0), limit(2, 8.0, 0.95), limit(1, 6.0, 0.99)];
        assert_eq!(best(&limits, 1), 6.0);
        assert_eq!(best(&limits, 2), 8.0);
        assert_eq!(best(&limits, 3), 8.0);
        assert_eq!(contention(&limits), None);
        assert_eq!(contention(&[limit(1, 2.0, 0.2), limits[0].clone()]), Some(0.2));
    }
}
