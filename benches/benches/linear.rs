//! Linear operators on the CPU backend, as a plan runs them: submission, quantised activations, kernels, join.
//!
//! Throughput of one position is in bytes of weights, to be held against the machine's read bandwidth; of many
//! positions in operations (a multiply and an add are two), to be held against its arithmetic peak.

use std::sync::Arc;

use backend_cpu_simd::{CpuBackend, CpuOptions};
use benches::random_matrix;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hetero_core::{
    Backend, Binding, Bindings, DType, GraphBuilder, NodeId, Op, OperandOrder, Part, Segment, SegmentNode,
    SharedTensor, StepParams, WeightFormat, WeightLayout, WeightRows,
};

/// The shapes of Llama 3.2 1B, `[output features, input features]`.
const SHAPES: [[usize; 2]; 3] = [[2048, 2048], [8192, 2048], [2048, 8192]];

fn linear(criterion: &mut Criterion) {
    let backend = CpuBackend::new(&CpuOptions::default()).expect("the CPU is always there");
    for positions in [1, 128] {
        let mut group = criterion.benchmark_group(format!("linear/{positions} positions"));
        for [out_features, in_features] in SHAPES {
            for format in [WeightFormat::Bf16, WeightFormat::W8G32, WeightFormat::W4G32] {
                let layout = WeightLayout::panels(format, out_features, in_features);
                group.throughput(if positions == 1 {
                    Throughput::Bytes(layout.bytes() as u64)
                } else {
                    Throughput::Elements(2 * (positions * out_features * in_features) as u64)
                });
                let mut run = Run::new(&backend, layout, positions);
                let id = BenchmarkId::new(format.to_string(), format!("{out_features}x{in_features}"));
                group.bench_function(id, |bencher| bencher.iter(|| run.step()));
            }
        }
        group.finish();
    }
}

/// A segment of one linear operator.
struct Run {
    executable: Arc<dyn hetero_core::Executable>,
    input: Arc<SharedTensor>,
    output: Arc<SharedTensor>,
    bindings: Bindings,
    positions: usize,
}

impl Run {
    fn new(backend: &CpuBackend, layout: WeightLayout, positions: usize) -> Run {
        let WeightLayout { format, rows: out_features, columns: in_features, .. } = layout;
        let mut builder = GraphBuilder::new(positions);
        let x = builder.input("x", in_features, DType::F32);
        let weight = builder.weight("w", layout);
        let op = Op::Linear { in_features, out_features, format, bias: false };
        let y = builder.node("linear", op, &[x], &[weight], DType::F32);
        builder.output(y);
        let graph = Arc::new(builder.finish());
        let allocate = |value| SharedTensor::new(backend.allocate(&graph.tensor_desc(value)).expect("memory"));
        let (input, output) = (allocate(x), allocate(y));
        let mut slot = input.slot();
        for row in 0..positions {
            slot.row_mut::<f32>(row).iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 - 8.0);
        }
        drop(slot);
        let weight = backend.load_weight(WeightRows::all(random_matrix(backend, layout))).expect("memory");
        let part = Part::whole(positions, out_features);
        let node = SegmentNode { node: NodeId(0), part, weights: vec![weight], operand_order: OperandOrder::default() };
        let executable = backend.compile(&Segment::new(graph, vec![node])).expect("a linear operator");
        Run { executable, input, output, bindings: Bindings::default(), positions }
    }

    fn step(&mut self) {
        let mut bindings = std::mem::take(&mut self.bindings);
        bindings.tensors.push(Binding::Read(self.input.view()));
        bindings.tensors.push(Binding::Write(self.output.slot()));
        let ticket = self.executable.submit(bindings, StepParams { past: 0, rows: self.positions });
        self.bindings = ticket.expect("a submission").wait().expect("a result");
        self.bindings.tensors.clear();
    }
}

criterion_group!(benches, linear);
criterion_main!(benches);
