//! From the end of a processor's work to the moment that the waiting thread goes on, by policy of waiting.
//!
//! A producer thread works for a known time and publishes its count; the consumer waits for it as the executor waits
//! for a device. What criterion reports is the latency alone. What the consumer's thread burnt of a CPU while it
//! waited is printed besides: fast synchronisation means the latency of spinning for little more CPU time than blocking.
//! With the features `gpu-vulkano` and `gpu-wgpu` the same is measured of GPUs.

#[cfg(feature = "gpu-vulkano")]
mod ahead;
#[cfg(any(feature = "gpu-vulkano", feature = "gpu-wgpu"))]
mod gpu;

use std::fmt;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use cpu_time::ThreadTime;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hetero_core::Timeline;
use hetero_sched::sync::{
    Awaited, Clock, Completion, Estimate, SystemClock, WaitOptions, WaitPolicy, WaitStats, Waiter,
};

/// Durations of work, in microseconds.
const WORK_US: [u64; 4] = [50, 200, 1000, 5000];

/// Work differs from one time to the next by up to so much, as a share.
const JITTER: f64 = 0.02;

fn sync(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sync");
    for work_us in WORK_US {
        for (name, policy) in
            [("predicted", WaitPolicy::Predicted), ("spin", WaitPolicy::Spin), ("block", WaitPolicy::Block)]
        {
            let mut pair = Pair::new(policy);
            // The prediction and the overshoot of sleeps are learnt before anything counts.
            for _ in 0..20 {
                pair.wait(work_us);
            }
            pair.reset();
            group.bench_function(BenchmarkId::new(name, format!("{work_us} us")), |bencher| {
                bencher.iter_custom(|n| (0..n).map(|_| pair.wait(work_us)).sum());
            });
            pair.report(&format!("{name}/{work_us} us"));
        }
    }
    group.finish();
}

/// A producer and its consumer.
struct Pair {
    clock: Arc<SystemClock>,
    completion: Arc<Completion>,
    /// When the work ended, in nanoseconds by the clock.
    ended_ns: Arc<AtomicU64>,
    /// Count and end of the work to do.
    jobs: Sender<(u64, f64)>,
    waiter: Waiter,
    seconds: Estimate,
    n_submitted: u64,
    latencies: Spread,
    cpu: Duration,
}

impl Pair {
    fn new(policy: WaitPolicy) -> Pair {
        let clock = Arc::new(SystemClock::new());
        let completion = Arc::new(Completion::new());
        let ended_ns = Arc::new(AtomicU64::new(0));
        let (jobs, incoming) = channel::<(u64, f64)>();
        std::thread::spawn({
            let (clock, completion, ended_ns) = (Arc::clone(&clock), Arc::clone(&completion), Arc::clone(&ended_ns));
            move || {
                for (value, until) in incoming {
                    while clock.now() < until {
                        spin_loop();
                    }
                    ended_ns.store((clock.now() * 1e9) as u64, Ordering::Relaxed);
                    completion.complete(value);
                }
            }
        });
        let options = WaitOptions { policy, ..WaitOptions::default() };
        let waiter = Waiter::new(Arc::clone(&clock) as Arc<dyn Clock>, options);
        let (seconds, latencies) = (Estimate::new(), Spread::default());
        Pair { clock, completion, ended_ns, jobs, waiter, seconds, n_submitted: 0, latencies, cpu: Duration::ZERO }
    }

    /// The time from the end of the work to the end of the wait.
    fn wait(&mut self, work_us: u64) -> Duration {
        self.n_submitted += 1;
        // The golden ratio spreads the jitter evenly.
        let jitter = 1.0 + JITTER * ((self.n_submitted as f64 * 0.618_034).fract() * 2.0 - 1.0);
        let submitted = self.clock.now();
        let job = (self.n_submitted, submitted + work_us as f64 * 1e-6 * jitter);
        assert!(self.jobs.send(job).is_ok(), "the producer runs as long as the pair");
        let awaited = Awaited {
            timeline: Arc::clone(&self.completion) as Arc<dyn Timeline>,
            value: self.n_submitted,
            expected: self.seconds.seconds().map(|seconds| submitted + seconds),
            give_up: f64::INFINITY,
        };
        let cpu = ThreadTime::now();
        let seen = black_box(self.waiter.wait_any(&[awaited])).expect("nothing hangs");
        self.cpu += cpu.elapsed();
        seen.teach(&mut self.seconds, submitted);
        let latency = (seen.at - self.ended_ns.load(Ordering::Relaxed) as f64 * 1e-9).max(0.0);
        self.latencies.add(latency);
        Duration::from_secs_f64(latency)
    }

    fn reset(&mut self) {
        self.latencies = Spread::default();
        self.cpu = Duration::ZERO;
        self.waiter.reset_stats();
    }

    /// Prints the CPU time of a wait and how its latencies spread.
    fn report(&mut self, name: &str) {
        let n = self.latencies.len();
        let WaitStats { n_waits, n_slept, n_overslept, n_blocked, .. } = self.waiter.stats();
        eprintln!(
            "sync/{name}: latency {}; CPU {:.1} us a wait; of {n_waits} waits {n_slept} slept, {n_overslept} overslept, \
             {n_blocked} blocked",
            self.latencies,
            self.cpu.as_secs_f64() * 1e6 / n as f64,
        );
    }
}

/// Times in seconds, of which the spread is told.
#[derive(Debug, Default)]
struct Spread(Vec<f64>);

impl Spread {
    fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f.write_str("nothing measured") };
        let quantile_us = |share: f64| sorted[(last as f64 * share) as usize] * 1e6;
        let [median, high, highest] = [0.5, 0.95, 0.99].map(quantile_us);
        write!(f, "{median:.1} us (median), {high:.1} us (95 %), {highest:.1} us (99 %)")
    }
}

#[cfg(any(feature = "gpu-vulkano", feature = "gpu-wgpu"))]
fn gpus(criterion: &mut Criterion) {
    gpu::gpus(criterion);
    #[cfg(feature = "gpu-vulkano")]
    ahead::ahead(criterion);
}

/// This build has none.
#[cfg(not(any(feature = "gpu-vulkano", feature = "gpu-wgpu")))]
fn gpus(_criterion: &mut Criterion) {}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    targets = sync, gpus
}
criterion_main!(benches);
