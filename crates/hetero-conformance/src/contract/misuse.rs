//! Misuse is refused with a panic that says what is wrong, and leaves the backend as it was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hetero_core::{
    Binding, DType, GraphBuilder, NodeId, Op, OperandOrder, Part, Segment, SegmentNode, SharedTensor, StepParams,
    Support, TensorDesc,
};

use super::{Job, Probe, require};
use crate::bench::{Bench, Trouble};
use crate::case::{Case, Cut};
use crate::cases;
use crate::runner::panic_message;

pub(super) fn too_few_bindings(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let mut bindings = job.bench.bind_whole(&job.segment);
    bindings.tensors.pop();
    job.refuses(bindings, Job::STEP)
}

pub(super) fn wrong_shape(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    for (rows, columns) in [(4, 63), (3, 64), (5, 64), (8, 32)] {
        wrong_tensor(&job, |desc| TensorDesc { rows, columns, ..desc })?;
    }
    Ok(())
}

pub(super) fn wrong_type(probe: &Probe<'_>) -> Result<(), Trouble> {
    wrong_tensor(&probe.job()?, |desc| TensorDesc {
        dtype: match desc.dtype {
            DType::F16 => DType::BF16,
            _ => DType::U32,
        },
        ..desc
    })
}

fn wrong_tensor(job: &Job<'_>, change: impl Fn(TensorDesc) -> TensorDesc) -> Result<(), Trouble> {
    let n_values = job.segment.values().len();
    for idx in 0..n_values {
        let mut bindings = job.bench.bind_whole(&job.segment);
        let desc = change(*bindings.tensors[idx].tensor().desc());
        let tensor = SharedTensor::new(job.bench.backend.allocate(&desc)?);
        let is_slot = matches!(bindings.tensors[idx], Binding::Write(_));
        bindings.tensors[idx] = if is_slot { Binding::Write(tensor.slot()) } else { Binding::Read(tensor.view()) };
        job.refuses(bindings, Job::STEP)?;
        job.bench.fill(0, true);
    }
    Ok(())
}

pub(super) fn viewed_output(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let mut bindings = job.bench.bind_whole(&job.segment);
    let id = job.bench.case.last_output();
    let idx = job.segment.binding_idx(id);
    bindings.tensors.remove(idx);
    let view = job.bench.tensors[id.0].view();
    bindings.tensors.insert(idx, Binding::Read(view));
    job.refuses(bindings, Job::STEP)
}

pub(super) fn no_rows(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let bindings = job.bench.bind_whole(&job.segment);
    job.refuses(bindings, StepParams { past: 0, rows: 0 })
}

pub(super) fn too_many_rows(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let bindings = job.bench.bind_whole(&job.segment);
    job.refuses(bindings, StepParams { past: 0, rows: 5 })
}

pub(super) fn beyond_cache(probe: &Probe<'_>) -> Result<(), Trouble> {
    let mut n_checked = 0;
    for case in cases::all() {
        let is_cache_op = matches!(case.op, "attention" | "cache_write");
        if !is_cache_op || n_checked == 4 {
            continue;
        }
        let bench = match Bench::new(probe.backend, &case) {
            Ok(bench) => bench,
            Err(Trouble::Unsupported(_)) => continue,
            Err(failed) => return Err(failed),
        };
        n_checked += 1;
        let (segment, executable) = bench.compile_whole()?;
        // One position more than the last step, which fills the cache.
        let last = case.steps.last().expect("a case has steps");
        let step = StepParams { past: last.past + 1, rows: last.rows };
        let bindings = bench.bind_whole(&segment);
        let result = catch_unwind(AssertUnwindSafe(|| executable.submit(bindings, step)));
        match result {
            Err(panic) => require(!panic_message(&*panic).is_empty(), "the panic has no message")?,
            Ok(_) => {
                return Err(Trouble::Failed(format!("a step beyond the cache is accepted: {}", case.name(Cut::Whole))));
            }
        }
    }
    if n_checked == 0 {
        return Err(Trouble::Unsupported("no operator with a cache".to_owned()));
    }
    Ok(())
}

pub(super) fn unsupported_segment(probe: &Probe<'_>) -> Result<(), Trouble> {
    let mut builder = GraphBuilder::new(2);
    let a = builder.input("a", 8, DType::U8);
    let b = builder.input("b", 8, DType::U8);
    let sum = builder.node("add", Op::Add { features: 8 }, &[a, b], &[], DType::U8);
    builder.output(sum);
    let case = Case::of_graph("add", builder.finish(), &[(0, 1)]);
    let spec = case.graph.op_spec(NodeId(0));
    require(
        probe.backend.support(&spec) != Support::Yes,
        "the backend says that it adds bytes, which no operator is defined for",
    )?;
    let segment = Segment::new(
        Arc::clone(&case.graph),
        vec![SegmentNode {
            node: NodeId(0),
            part: Part::whole(2, 8),
            weights: vec![],
            operand_order: OperandOrder::default(),
        }],
    );
    let result = catch_unwind(AssertUnwindSafe(|| probe.backend.compile(&segment)));
    match result {
        Err(panic) => require(!panic_message(&*panic).is_empty(), "the panic has no message"),
        Ok(_) => Err(Trouble::Failed("an unsupported operator is compiled".to_owned())),
    }
}
