//! The simulator's own speed: submissions and nodes for each second of this machine.

use std::sync::Arc;

use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, Soc, blank_weight};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hetero_core::{
    Backend, Binding, Bindings, DType, DeviceKind, Executable, GraphBuilder, NodeId, Op, OperandOrder, Part, Segment,
    SegmentNode, SharedTensor, StepParams, Ticket, WeightFormat, WeightLayout, WeightRows,
};

const FEATURES: usize = 4096;
/// As many as a decode step of Llama 3 8B has.
const MODEL_NODES: usize = 550;

/// A chain of products as one segment on one processor.
struct Chain {
    executable: Arc<dyn Executable>,
    /// Input, output and inner values in turn, so that no product writes what it reads.
    tensors: Vec<Arc<SharedTensor>>,
    writes: Vec<bool>,
}

impl Chain {
    fn new(backend: &dyn Backend, n_nodes: usize) -> Chain {
        let mut builder = GraphBuilder::new(1);
        let layout = WeightLayout::panels(WeightFormat::W4G32, FEATURES, FEATURES);
        let mut x = builder.input("x", FEATURES, DType::F16);
        for _ in 0..n_nodes {
            let weight = builder.weight("weight", layout);
            let op = Op::Linear { in_features: FEATURES, out_features: FEATURES, format: layout.format, bias: false };
            x = builder.node("linear", op, &[x], &[weight], DType::F16);
        }
        builder.output(x);
        let graph = Arc::new(builder.finish());
        let node = |idx| {
            let matrix = blank_weight("weight", layout).expect("address space");
            SegmentNode {
                node: NodeId(idx),
                part: Part::whole(1, FEATURES),
                weights: vec![backend.load_weight(WeightRows::all(matrix)).expect("a weight")],
                operand_order: OperandOrder::WeightStationary,
            }
        };
        let nodes = (0..n_nodes).map(node).collect();
        let segment = Segment::with_storage(Arc::clone(&graph), nodes, |value| value.0 % 2);
        let allocate = |idx| {
            let value = segment.values_of(idx).next().expect("a binding holds a value");
            SharedTensor::new(backend.allocate(&graph.tensor_desc(value)).expect("a row"))
        };
        let tensors = (0..segment.n_bindings()).map(allocate).collect();
        let is_written = |idx| segment.values_of(idx).any(|value| segment.writes(value));
        let writes = (0..segment.n_bindings()).map(is_written).collect();
        Chain { executable: backend.compile(&segment).expect("a chain"), tensors, writes }
    }

    fn submit(&self, past: usize) -> Ticket {
        let bind = |(tensor, writes): (&Arc<SharedTensor>, &bool)| match writes {
            true => Binding::Write(tensor.slot()),
            false => Binding::Read(tensor.view()),
        };
        let tensors = self.tensors.iter().zip(&self.writes).map(bind).collect();
        self.executable.submit(Bindings { tensors }, StepParams { past, rows: 1 }).expect("a step")
    }
}

fn simulator(criterion: &mut Criterion) {
    let options = SimOptions { numerics: Numerics::None, ..SimOptions::default() };
    let soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    let phone = SimulatedSoc::new(soc, options);
    let chain = |kind, n_nodes| Chain::new(&*phone.backend(kind), n_nodes);
    let (gpu, npu) = (chain(DeviceKind::Gpu, 1), chain(DeviceKind::Npu, 1));
    let model = chain(DeviceKind::Gpu, MODEL_NODES);

    let mut group = criterion.benchmark_group("simulator");
    group.throughput(Throughput::Elements(1));
    group.bench_function("submission, blocking wait", |bencher| {
        bencher.iter(|| gpu.submit(0).wait().expect("nothing fails"));
    });
    group.throughput(Throughput::Elements(2));
    group.bench_function("two processors, polled", |bencher| {
        bencher.iter(|| {
            let tickets = [gpu.submit(0), npu.submit(0)];
            for ticket in tickets {
                while !ticket.is_complete() {}
                ticket.wait().expect("nothing fails");
            }
        });
    });
    group.throughput(Throughput::Elements(MODEL_NODES as u64));
    let mut past = 0;
    group.bench_function("nodes of a model's decode step", |bencher| {
        bencher.iter(|| {
            past += 1;
            model.submit(past).wait().expect("nothing fails")
        });
    });
    group.finish();
}

criterion_group!(benches, simulator);
criterion_main!(benches);
