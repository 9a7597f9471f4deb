//! From the word of the host to the end of a GPU's step: submitted when its inputs are there, or queued before and begun
//! by a signal.
//!
//! In every round the step runs both ways, in turns, so that what else the machine does hits both alike. The GPU has been
//! idle for a moment before, as it is while it waits for another processor.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend_gpu_vulkano::{Ahead, VulkanBackend, VulkanOptions};
use criterion::{BenchmarkId, Criterion};
use hetero_core::{
    Backend, Bindings, Claim, DeviceId, Executable, NodeId, OperandOrder, Part, QueuedAhead, Segment, SegmentNode,
    SharedTensor, StepParams, Ticket,
};

use super::gpu::{STEPS, additions};
use crate::Spread;

/// For how long nothing happens before a step.
const IDLE: Duration = Duration::from_micros(200);

pub(crate) fn ahead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gpu-begin");
    for (step, n_nodes, rows) in STEPS {
        let Some(mut gpu) = Begun::open(n_nodes, rows) else { continue };
        for _ in 0..20 {
            gpu.round();
        }
        gpu.times = Default::default();
        for (way, name) in WAYS.into_iter().enumerate() {
            group.bench_function(BenchmarkId::new(name, step), |bencher| {
                bencher.iter_custom(|n| (0..n).map(|_| gpu.round()[way]).sum());
            });
        }
        for (name, [call, end]) in WAYS.into_iter().zip(&gpu.times) {
            eprintln!("gpu-begin/{name}/{step}: {end} to the end; the call itself {call}");
        }
    }
    group.finish();
}

const WAYS: [&str; 2] = ["submitted", "queued ahead"];

/// A step on a GPU that can be queued ahead.
struct Begun {
    executable: Arc<dyn Executable>,
    tensors: Vec<(Arc<SharedTensor>, Arc<Claim>)>,
    device: DeviceId,
    step: StepParams,
    n_rounds: usize,
    /// For each way, the seconds of the call and until the step had ended.
    times: [[Spread; 2]; 2],
}

impl Begun {
    fn open(n_nodes: usize, rows: usize) -> Option<Begun> {
        let options = VulkanOptions { ahead: Ahead::Always, ..VulkanOptions::default() };
        let backend = match VulkanBackend::new(&options) {
            Ok(backend) => backend,
            Err(error) => {
                eprintln!("SKIPPED vulkan: {error}; {}", error.fix());
                return None;
            }
        };
        let (graph, _) = additions(n_nodes);
        let node = |idx| {
            let output = graph.tensor_desc(graph.node(NodeId(idx)).output);
            let part = Part::whole(output.rows, output.columns);
            SegmentNode { node: NodeId(idx), part, weights: vec![], operand_order: OperandOrder::default() }
        };
        let segment = Segment::new(Arc::clone(&graph), (0..n_nodes).map(node).collect());
        let tensor = |idx: usize| {
            let value = segment.values_of(idx).next().expect("a binding holds a value");
            let tensor = SharedTensor::new(backend.allocate(&graph.tensor_desc(value)).expect("memory"));
            (tensor, Arc::clone(segment.claim_of(idx)))
        };
        let tensors: Vec<_> = (0..segment.n_bindings()).map(tensor).collect();
        let executable = backend.compile(&segment).expect("GPUs add");
        let begun = Begun {
            executable,
            tensors,
            device: backend.info().id,
            step: StepParams { past: 0, rows },
            n_rounds: 0,
            times: Default::default(),
        };
        drop(begun.executable.submit(begun.bindings(), begun.step).expect("a submission"));
        if begun.queue().is_none() {
            eprintln!("SKIPPED vulkan: nothing is queued ahead on {}", backend.info().description);
            return None;
        }
        Some(begun)
    }

    fn bindings(&self) -> Bindings {
        let lend = |(tensor, claim): &(Arc<SharedTensor>, Arc<Claim>)| tensor.lend(claim, self.device);
        Bindings { tensors: self.tensors.iter().map(lend).collect() }
    }

    fn queue(&self) -> Option<QueuedAhead> {
        QueuedAhead::queue(&self.executable, &self.tensors, self.step).map(|queued| queued.expect("a submission"))
    }

    /// The step both ways: how long each takes from the call to its end.
    fn round(&mut self) -> [Duration; 2] {
        self.n_rounds += 1;
        let mut taken = [Duration::ZERO; 2];
        for i in 0..2 {
            let way = (i + self.n_rounds) % 2;
            let queued = if way == 1 { self.queue() } else { None };
            let idle = Instant::now();
            while idle.elapsed() < IDLE {
                spin_loop();
            }
            let bindings = self.bindings();
            let begin = Instant::now();
            let ticket = match queued {
                Some(queued) => queued.start(bindings),
                None => self.executable.submit(bindings, self.step),
            };
            let ticket: Ticket = black_box(ticket).expect("a submission");
            let call = begin.elapsed();
            while !ticket.is_complete() {
                // Software computes on these cores.
                std::thread::yield_now();
            }
            taken[way] = begin.elapsed();
            self.times[way][0].add(call.as_secs_f64());
            self.times[way][1].add(taken[way].as_secs_f64());
        }
        taken
    }
}
