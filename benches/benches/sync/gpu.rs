//! A GPU's step, from its submission to the result in the host's hands, by the ways there are to hear of its end.
//!
//! Through Vulkan the executor looks at the timeline semaphore's counter, or the driver's wait for it blocks; through
//! wgpu it waits by callback and reads the result back by a copy. The steps are the same kernels in one submission: a
//! short one, in which hearing of the end is most of the time, and one of some milliseconds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use criterion::{BenchmarkId, Criterion};
use hetero_core::{Backend, DType, Graph, GraphBuilder, Op, Part, StepParams, ValueId};
use hetero_llama::backends::open;
use hetero_llama::{DeviceOptions, DeviceSelection};
use hetero_sched::sync::{WaitOptions, WaitPolicy};
use hetero_sched::{Executor, ExecutorOptions, Plan, Residency, State};

use crate::Spread;

/// Columns of every value, and the most rows.
const SHAPE: [usize; 2] = [64, 4096];

/// Additions one behind the other, and rows.
pub(crate) const STEPS: [(&str, usize, usize); 2] = [("short", 1, 1), ("long", 24, 64)];

/// Ways to hear of the end: a name, the device and how the host waits.
const WAYS: [(&str, &str, WaitPolicy); 4] = [
    ("vulkan, predicted and polled", "vulkan", WaitPolicy::Predicted),
    ("vulkan, polled throughout", "vulkan", WaitPolicy::Spin),
    ("vulkan, driver's wait", "vulkan", WaitPolicy::Block),
    ("wgpu, wait and readback", "wgpu", WaitPolicy::Block),
];

pub(crate) fn gpus(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gpu-sync");
    for (step, n_nodes, rows) in STEPS {
        for (way, device, policy) in WAYS {
            let Some(mut gpu) = Gpu::open(device, policy, n_nodes, rows) else { continue };
            // What is learnt and what is allocated once comes before anything counts.
            for _ in 0..20 {
                gpu.step();
            }
            gpu.reset();
            group.bench_function(BenchmarkId::new(way, step), |bencher| {
                bencher.iter_custom(|n| (0..n).map(|_| gpu.step()).sum());
            });
            gpu.report(&format!("{way}/{step}"));
        }
    }
    group.finish();
}

/// A GPU with a step to run.
struct Gpu {
    description: String,
    executor: Executor,
    output: ValueId,
    rows: usize,
    read: Vec<u8>,
    times: Spread,
    cpu: Duration,
}

impl Gpu {
    fn open(name: &str, policy: WaitPolicy, n_nodes: usize, rows: usize) -> Option<Gpu> {
        let devices = DeviceSelection::Named(vec![name.to_owned()]);
        let devices = match open(&DeviceOptions { devices, ..DeviceOptions::default() }) {
            Ok(devices) => devices,
            Err(error) => {
                eprintln!("SKIPPED {name}: {error}; {}", error.fix());
                return None;
            }
        };
        let (graph, output) = additions(n_nodes);
        let wait = WaitOptions { policy, ..WaitOptions::default() };
        let options = ExecutorOptions { wait, ..ExecutorOptions::default() };
        let backend: &Arc<dyn Backend> = &devices[0];
        let description = backend.info().description.clone();
        let state = State::allocate(&graph, &**backend).expect("no state");
        let plan = Plan::single_device(graph, 0);
        let executor = Executor::with_options(plan, &devices, &[], &state, &mut Residency::new(), options);
        let executor = executor.expect("GPUs add");
        let read = vec![0; rows * SHAPE[1] * DType::F32.size()];
        Some(Gpu { description, executor, output, rows, read, times: Spread::default(), cpu: Duration::ZERO })
    }

    /// From the submission until the result has been read.
    fn step(&mut self) -> Duration {
        let (begin, cpu) = (Instant::now(), ThreadTime::now());
        self.executor.step(StepParams { past: 0, rows: self.rows }).expect("a step");
        let part = Part::whole(self.rows, SHAPE[1]);
        self.executor.tensor(self.output).view().read_bytes(&part, &mut self.read).expect("a result");
        black_box(&self.read);
        self.cpu += cpu.elapsed();
        let taken = begin.elapsed();
        self.times.add(taken.as_secs_f64());
        taken
    }

    fn reset(&mut self) {
        self.times = Spread::default();
        self.cpu = Duration::ZERO;
    }

    fn report(&mut self, name: &str) {
        let n_steps = self.times.len();
        eprintln!(
            "gpu-sync/{name}: {} to the result; CPU {:.0} us a step on the waiting thread; {}",
            self.times,
            self.cpu.as_secs_f64() * 1e6 / n_steps as f64,
            self.description,
        );
    }
}

/// A sum to which the input is added over and over.
pub(crate) fn additions(n_nodes: usize) -> (Arc<Graph>, ValueId) {
    let [rows, features] = SHAPE;
    let mut builder = GraphBuilder::new(rows);
    let input = builder.input("x", features, DType::F32);
    let add =
        |builder: &mut GraphBuilder, sum| builder.node("add", Op::Add { features }, &[sum, input], &[], DType::F32);
    let output = (0..n_nodes).fold(input, |sum, _| add(&mut builder, sum));
    builder.output(output);
    (Arc::new(builder.finish()), output)
}
