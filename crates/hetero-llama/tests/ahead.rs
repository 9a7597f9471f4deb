//! CPU and GPU in turn on one memory: the GPU has its work before the CPU has computed what it reads.

#![cfg(all(feature = "cpu-simd", feature = "gpu-vulkano"))]

use std::sync::Arc;

use backend_gpu_vulkano::{Ahead, VulkanBackend, VulkanOptions};
use hetero_core::{Backend, DType, Graph, GraphBuilder, Op, Part, StepParams, ValueId};
use hetero_llama::backends::open;
use hetero_llama::{DeviceOptions, DeviceSelection};
use hetero_sched::trace::Doing;
use hetero_sched::{Executor, ExecutorOptions, PlacedPart, Plan, Residency, State};

/// Columns of every value, rows of a step, and operators one behind the other.
const FEATURES: usize = 4096;
const ROWS: usize = 64;
const N_NODES: usize = 6;

#[test]
fn a_gpu_has_its_work_before_the_inputs_exist_and_computes_the_same() {
    let cpu = DeviceSelection::Named(vec!["cpu".to_owned()]);
    let mut devices = open(&DeviceOptions { devices: cpu, ..DeviceOptions::default() }).expect("the CPU");
    let options = VulkanOptions { ahead: Ahead::Always, ..VulkanOptions::default() };
    devices.push(Arc::new(VulkanBackend::new(&options).expect("a GPU")));
    let (graph, input, output) = sums();
    let mut results = Vec::new();
    for is_queued_ahead in [true, false] {
        let mut executor = executor(&graph, &devices, is_queued_ahead);
        let mut outputs = Vec::new();
        for step in 0..50 {
            let mut slot = executor.tensor(input).slot();
            (0..ROWS).for_each(|row| slot.row_mut::<f32>(row).fill((row * 50 + step) as f32 * 0.1));
            drop(slot);
            executor.step(StepParams { past: 0, rows: ROWS }).expect("a step");
            let view = executor.tensor(output).view();
            outputs.push((0..ROWS).map(|row| view.row::<f32>(row).to_vec()).collect::<Vec<_>>());
        }
        let n_ahead =
            executor.trace().host_events().filter(|event| matches!(event.doing, Doing::QueueAhead { .. })).count();
        // The CPU is sometimes done before the host looks; then there is nothing to be ahead of.
        assert_eq!(n_ahead > 0, is_queued_ahead, "{n_ahead} submissions were queued ahead");
        results.push(outputs);
    }
    assert!(results[0] == results[1], "the same bits either way");
}

fn sums() -> (Arc<Graph>, ValueId, ValueId) {
    let mut builder = GraphBuilder::new(ROWS);
    let input = builder.input("x", FEATURES, DType::F32);
    let add = |builder: &mut GraphBuilder, sum| {
        builder.node("add", Op::Add { features: FEATURES }, &[sum, input], &[], DType::F32)
    };
    let output = (0..N_NODES).fold(input, |sum, _| add(&mut builder, sum));
    builder.output(output);
    (Arc::new(builder.finish()), input, output)
}

/// Operators on the processors in turn.
fn executor(graph: &Arc<Graph>, devices: &[Arc<dyn Backend>], is_queued_ahead: bool) -> Executor {
    let placed = |idx: usize| vec![PlacedPart::new(idx % 2, Part::whole(ROWS, FEATURES))];
    let plan = Plan::new(Arc::clone(graph), (0..N_NODES).map(placed).collect()).expect("a cover");
    let options = ExecutorOptions { is_queued_ahead, n_traced: 10_000, ..ExecutorOptions::default() };
    let state = State::allocate(graph, &*devices[0]).expect("no state");
    Executor::with_options(plan, devices, &[], &state, &mut Residency::new(), options).expect("both add")
}
