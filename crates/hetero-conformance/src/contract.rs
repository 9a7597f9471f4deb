//! What a backend promises beyond numbers: order, rights, memory, misuse.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_core::{
    Access, Backend, BackendError, Binding, Bindings, DType, Executable, GraphBuilder, Op, OpSpec,
    Part, RowSelection, Segment, SharedTensor, StepParams, Support, Tensor, TensorDesc, Ticket,
    WeightFormat, WeightRows,
};

use crate::bench::{Bench, Snapshot, Trouble};
use crate::case::{Case, Cut};
use crate::compare::compare;
use crate::expectations::Expectations;
use crate::report::CaseResult;
use crate::runner::{caught, panic_message};
use crate::sentinel::Image;

type Check = fn(&Probe<'_>) -> Result<(), Trouble>;

/// All checks by name.
const CHECKS: [(&str, Check); 17] = [
    (
        "allocations are zeroed, aligned and reached directly",
        allocation,
    ),
    (
        "an allocation that cannot be is an error",
        impossible_allocation,
    ),
    ("weights say what and whose they are", weights),
    ("the timeline counts submissions in order", order),
    ("several submissions are in flight", in_flight),
    ("completion is seen without waiting", polling),
    ("dropping a ticket waits", dropped_ticket),
    ("a submission outlives its executable", dropped_executable),
    ("two threads submit at once", two_threads),
    ("misuse: too few bindings", too_few_bindings),
    ("misuse: a tensor of another shape", wrong_shape),
    ("misuse: a tensor of another type", wrong_type),
    ("misuse: an output that is only viewed", viewed_output),
    ("misuse: no rows", no_rows),
    ("misuse: rows above the capacity", too_many_rows),
    ("misuse: a step beyond the cache", beyond_cache),
    (
        "misuse: compiling what is not supported",
        unsupported_segment,
    ),
];

/// Runs the checks whose name, `contract/<name>`, is selected.
pub(crate) fn run(
    backend: &dyn Backend,
    expectations: &Expectations,
    selected: &dyn Fn(&str) -> bool,
    results: &mut Vec<CaseResult>,
) {
    for (check_name, check) in CHECKS {
        let name = format!("contract/{check_name}");
        if !selected(&name) {
            continue;
        }
        let started = Instant::now();
        let result = caught(|| check(&Probe::find(backend)?));
        results.push(CaseResult {
            outcome: expectations.judge(&name, result.err()),
            name,
            op: "contract",
            format: String::new(),
            error: None,
            elapsed: started.elapsed(),
        });
    }
}

/// A small case that the backend supports.
struct Probe<'a> {
    backend: &'a dyn Backend,
    case: Case,
}

impl<'a> Probe<'a> {
    fn find(backend: &'a dyn Backend) -> Result<Probe<'a>, Trouble> {
        let mut specs = Vec::new();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for op in [
                Op::Add { features: 64 },
                Op::Swiglu { features: 64 },
                Op::Linear {
                    in_features: 64,
                    out_features: 64,
                    format: WeightFormat::F32,
                    bias: false,
                },
                Op::Convert {
                    rows: RowSelection::All,
                    features: 64,
                },
            ] {
                specs.push(OpSpec {
                    inputs: vec![dtype; op.input_columns().len()],
                    output: dtype,
                    op,
                });
            }
        }
        let mut specs = specs.into_iter();
        match specs.find(|spec| backend.support(spec) == Support::Yes) {
            Some(spec) => {
                let case = Case::single(spec, WeightFormat::F32, 4, &[(0, 3)]);
                Ok(Probe { backend, case })
            }
            None => Err(Trouble::Unsupported(
                "none of the operators that the contract is tested with".to_owned(),
            )),
        }
    }

    fn job(&self) -> Result<Job<'_>, Trouble> {
        let bench = Bench::new(self.backend, &self.case)?;
        let (segment, executable) = bench.compile_whole()?;
        bench.fill(0, true);
        Ok(Job {
            expected: bench.oracle().remove(0),
            before: bench.snapshot(),
            bench,
            segment,
            executable,
        })
    }

    fn jobs(&self, n: usize) -> Result<Vec<Job<'_>>, Trouble> {
        (0..n).map(|_| self.job()).collect()
    }
}

/// The probe with tensors of its own, compiled and filled.
struct Job<'a> {
    bench: Bench<'a>,
    segment: Segment,
    executable: Arc<dyn Executable>,
    expected: Snapshot,
    before: Snapshot,
}

impl Job<'_> {
    const STEP: StepParams = StepParams { past: 0, rows: 3 };

    fn submit(&self) -> Result<Ticket, BackendError> {
        let bindings = self.bench.bind_whole(&self.segment);
        self.executable.submit(bindings, Job::STEP)
    }

    fn finish(&self, ticket: Ticket) -> Result<(), Trouble> {
        self.bench.finish(&self.segment, ticket, &self.whole())?;
        self.check()
    }

    /// The result is there and right, and all rights are back.
    fn check(&self) -> Result<(), Trouble> {
        let parts = [self.whole()];
        let after = self.bench.check_memory(&self.before, &parts, Job::STEP)?;
        let id = self.bench.case.last_output();
        let written = self.bench.written(id, &parts, Job::STEP);
        let difference = compare(&self.expected[id.0], &after[id.0], &written, 0.3)?;
        // Coarse: numbers are the business of the cases.
        if difference.normalised > 0.05 {
            return Err(Trouble::Failed("the result is wrong".to_owned()));
        }
        Ok(())
    }

    fn whole(&self) -> Part {
        self.bench.case.partition(Cut::Whole).parts()[0].clone()
    }

    /// `submit` panics with a message, gives all rights back, and the backend goes on.
    fn refuses(&self, bindings: Bindings, step: StepParams) -> Result<(), Trouble> {
        let result = catch_unwind(AssertUnwindSafe(|| self.executable.submit(bindings, step)));
        match result {
            Err(panic) if panic_message(&*panic).is_empty() => {
                return Err(Trouble::Failed("the panic has no message".to_owned()));
            }
            Err(_) => {}
            Ok(Err(error)) => {
                return Err(Trouble::Failed(format!(
                    "misuse is an error instead of a panic: {error}"
                )));
            }
            Ok(Ok(_)) => return Err(Trouble::Failed("misuse is accepted".to_owned())),
        }
        self.bench.check_memory(&self.before, &[], step)?;
        self.finish(self.submit()?)
    }
}

fn require(holds: bool, message: &str) -> Result<(), Trouble> {
    if holds {
        Ok(())
    } else {
        Err(Trouble::Failed(message.to_owned()))
    }
}

fn allocation(probe: &Probe<'_>) -> Result<(), Trouble> {
    let info = probe.backend.info();
    require(!info.name.is_empty(), "the backend has no name")?;
    require(info == probe.backend.info(), "the backend's info changes")?;
    require(
        info.weight_row_alignment > 0,
        "the alignment of weight rows is zero",
    )?;
    for (rows, columns, dtype) in [
        (1, 1, DType::F32),
        (3, 33, DType::F16),
        (7, 257, DType::BF16),
        (5, 1, DType::U32),
        (1, 4097, DType::U8),
    ] {
        let desc = TensorDesc {
            rows,
            columns,
            dtype,
        };
        let tensor = probe.backend.allocate(&desc)?;
        require(*tensor.desc() == desc, "a tensor of another shape or type")?;
        require(tensor.device() == info.id, "a tensor of another device")?;
        require(
            probe.backend.access(&*tensor) == Access::Direct,
            "a backend does not reach its own tensor directly",
        )?;
        let Some(start) = tensor.host_ptr() else {
            return Err(Trouble::Unsupported("no host access".to_owned()));
        };
        require(
            start.addr().get().is_multiple_of(<dyn Tensor>::ALIGNMENT),
            "a tensor is not aligned",
        )?;
        let image = Image::read(&SharedTensor::new(tensor));
        require(
            image.bits.iter().all(|&bits| bits == 0),
            "a tensor is not zeroed",
        )?;
    }
    Ok(())
}

fn impossible_allocation(probe: &Probe<'_>) -> Result<(), Trouble> {
    for (rows, columns) in [(usize::MAX, 2), (usize::MAX / 8, 1)] {
        let desc = TensorDesc {
            rows,
            columns,
            dtype: DType::F32,
        };
        match probe.backend.allocate(&desc) {
            Err(BackendError::OutOfMemory { .. }) => {}
            Err(error) => return Err(Trouble::Failed(format!("not `OutOfMemory`: {error}"))),
            Ok(_) => return Err(Trouble::Failed(format!("{desc:?} was allocated"))),
        }
    }
    Ok(())
}

fn weights(probe: &Probe<'_>) -> Result<(), Trouble> {
    let spec = |format| OpSpec {
        op: Op::Linear {
            in_features: 64,
            out_features: 70,
            format,
            bias: false,
        },
        inputs: vec![DType::F32],
        output: DType::F32,
    };
    for format in WeightFormat::ALL {
        if probe.backend.support(&spec(format)) != Support::Yes {
            continue;
        }
        let case = Case::single(spec(format), WeightFormat::F32, 1, &[(0, 1)]);
        for matrix in crate::stimulus::weights(&case, probe.backend)? {
            for rows in [0..70, 0..32, 32..70, 64..70] {
                let asked = WeightRows {
                    matrix: Arc::clone(&matrix),
                    rows,
                };
                let weight = probe.backend.load_weight(asked.clone())?;
                let held = weight.rows();
                require(
                    held.rows == asked.rows && Arc::ptr_eq(&held.matrix, &matrix),
                    "a weight says that it holds other rows",
                )?;
                require(
                    weight.device() == probe.backend.info().id,
                    "a weight says that it is another device's",
                )?;
            }
        }
    }
    Ok(())
}

fn order(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let mut last = None;
    for _ in 0..5 {
        job.bench.fill(0, true);
        let ticket = job.submit()?;
        let timeline = Arc::clone(ticket.timeline());
        let value = ticket.value();
        if let Some(last) = last {
            require(value > last, "a later submission has no larger value")?;
            require(timeline.completed() >= last, "the timeline runs backwards")?;
            timeline.block_until(last)?;
        }
        timeline.block_until(value)?;
        require(
            timeline.completed() >= value,
            "`block_until` returns too early",
        )?;
        require(
            ticket.is_complete(),
            "a ticket is not complete after `block_until`",
        )?;
        job.finish(ticket)?;
        timeline.block_until(0)?;
        last = Some(value);
    }
    Ok(())
}

fn in_flight(probe: &Probe<'_>) -> Result<(), Trouble> {
    let jobs = probe.jobs(8)?;
    let mut tickets = Vec::new();
    for job in &jobs {
        tickets.push(job.submit()?);
    }
    let rising = tickets
        .windows(2)
        .all(|pair| pair[0].value() < pair[1].value());
    require(rising, "values of submissions do not rise")?;
    // The last has finished, so all have: submissions complete in order.
    let mut waiting = jobs.iter().zip(tickets).rev();
    if let Some((job, ticket)) = waiting.next() {
        job.finish(ticket)?;
    }
    for (job, ticket) in waiting {
        require(
            ticket.is_complete(),
            "a submission finished before an earlier one",
        )?;
        job.finish(ticket)?;
    }
    Ok(())
}

fn polling(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let ticket = job.submit()?;
    let started = Instant::now();
    while !ticket.is_complete() {
        require(
            started.elapsed() < Duration::from_secs(10),
            "`completed` does not reach a submission within 10 s unless somebody waits",
        )?;
        std::thread::yield_now();
    }
    job.finish(ticket)
}

fn dropped_ticket(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    drop(job.submit()?);
    job.check()
}

fn dropped_executable(probe: &Probe<'_>) -> Result<(), Trouble> {
    let mut job = probe.job()?;
    let ticket = job.submit()?;
    let other = probe.job()?;
    job.executable = Arc::clone(&other.executable);
    job.segment = other.segment.clone();
    job.finish(ticket)
}

fn two_threads(probe: &Probe<'_>) -> Result<(), Trouble> {
    const ROUNDS: usize = 20;
    let jobs = probe.jobs(2)?;
    // Both use one executable, each with its own tensors.
    let executable = &jobs[0].executable;
    let work = |job: &Job<'_>| -> Result<Vec<u64>, Trouble> {
        let mut values = Vec::new();
        for _ in 0..ROUNDS {
            job.bench.fill(0, true);
            let bindings = job.bench.bind_whole(&job.segment);
            let ticket = executable.submit(bindings, Job::STEP)?;
            values.push(ticket.value());
            job.finish(ticket)?;
        }
        Ok(values)
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| caught(|| work(&jobs[1])));
        (caught(|| work(&jobs[0])), other.join())
    });
    let mut values = a?;
    values.extend(b.expect("panics are caught inside the thread")?);
    values.sort_unstable();
    values.dedup();
    require(
        values.len() == 2 * ROUNDS,
        "two submissions have the same value",
    )
}

fn too_few_bindings(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let mut bindings = job.bench.bind_whole(&job.segment);
    bindings.tensors.pop();
    job.refuses(bindings, Job::STEP)
}

fn wrong_shape(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    for (rows, columns) in [(4, 63), (3, 64), (5, 64), (8, 32)] {
        wrong_tensor(&job, |desc| TensorDesc {
            rows,
            columns,
            ..desc
        })?;
    }
    Ok(())
}

fn wrong_type(probe: &Probe<'_>) -> Result<(), Trouble> {
    wrong_tensor(&probe.job()?, |desc| TensorDesc {
        dtype: match desc.dtype {
            DType::F16 => DType::BF16,
            _ => DType::U32,
        },
        ..desc
    })
}

fn wrong_tensor(job: &Job<'_>, change: impl Fn(TensorDesc) -> TensorDesc) -> Result<(), Trouble> {
    let n_values = job.segment.values.len();
    for idx in 0..n_values {
        let mut bindings = job.bench.bind_whole(&job.segment);
        let desc = change(*bindings.tensors[idx].tensor().desc());
        let tensor = SharedTensor::new(job.bench.backend.allocate(&desc)?);
        let is_slot = matches!(bindings.tensors[idx], Binding::Write(_));
        bindings.tensors[idx] = if is_slot {
            Binding::Write(tensor.slot())
        } else {
            Binding::Read(tensor.view())
        };
        job.refuses(bindings, Job::STEP)?;
        job.bench.fill(0, true);
    }
    Ok(())
}

fn viewed_output(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let mut bindings = job.bench.bind_whole(&job.segment);
    let id = job.bench.case.last_output();
    let idx = job.segment.binding_idx(id);
    bindings.tensors.remove(idx);
    let view = job.bench.tensors[id.0].view();
    bindings.tensors.insert(idx, Binding::Read(view));
    job.refuses(bindings, Job::STEP)
}

fn no_rows(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let bindings = job.bench.bind_whole(&job.segment);
    job.refuses(bindings, StepParams { past: 0, rows: 0 })
}

fn too_many_rows(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let bindings = job.bench.bind_whole(&job.segment);
    job.refuses(bindings, StepParams { past: 0, rows: 5 })
}

fn beyond_cache(probe: &Probe<'_>) -> Result<(), Trouble> {
    let mut n_checked = 0;
    for case in crate::cases::all() {
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
        let step = StepParams {
            past: last.past + 1,
            rows: last.rows,
        };
        let bindings = bench.bind_whole(&segment);
        let result = catch_unwind(AssertUnwindSafe(|| executable.submit(bindings, step)));
        match result {
            Err(panic) => require(
                !panic_message(&*panic).is_empty(),
                "the panic has no message",
            )?,
            Ok(_) => {
                return Err(Trouble::Failed(format!(
                    "a step beyond the cache is accepted: {}",
                    case.name(Cut::Whole)
                )));
            }
        }
    }
    if n_checked == 0 {
        return Err(Trouble::Unsupported("no operator with a cache".to_owned()));
    }
    Ok(())
}

fn unsupported_segment(probe: &Probe<'_>) -> Result<(), Trouble> {
    let mut builder = GraphBuilder::new(2);
    let a = builder.input("a", 8, DType::U8);
    let b = builder.input("b", 8, DType::U8);
    let sum = builder.node("add", Op::Add { features: 8 }, &[a, b], &[], DType::U8);
    builder.output(sum);
    let case = Case::of_graph("add", builder.finish(), &[(0, 1)]);
    let spec = case.graph.op_spec(hetero_core::NodeId(0));
    require(
        probe.backend.support(&spec) != Support::Yes,
        "the backend says that it adds bytes, which no operator is defined for",
    )?;
    let segment = Segment::new(
        Arc::clone(&case.graph),
        vec![hetero_core::SegmentNode {
            node: hetero_core::NodeId(0),
            part: Part::whole(2, 8),
            weights: vec![],
        }],
    );
    let result = catch_unwind(AssertUnwindSafe(|| probe.backend.compile(&segment)));
    match result {
        Err(panic) => require(
            !panic_message(&*panic).is_empty(),
            "the panic has no message",
        ),
        Ok(_) => Err(Trouble::Failed(
            "an unsupported operator is compiled".to_owned(),
        )),
    }
}
