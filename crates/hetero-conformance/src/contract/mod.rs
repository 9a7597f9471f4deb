//! What a backend promises beyond numbers: order, rights, memory, misuse.

mod memory;
mod misuse;
mod order;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use hetero_core::{
    Backend, BackendError, Binding, Bindings, DType, Executable, Op, OpSpec, Part, QueuedAhead, RowSelection, Segment,
    StepParams, Support, Ticket, WeightFormat,
};

use crate::bench::{Bench, Snapshot, Trouble};
use crate::case::{Case, Cut};
use crate::compare::compare;
use crate::expectations::Expectations;
use crate::report::CaseResult;
use crate::runner::{caught, panic_message};

type Check = fn(&Probe<'_>) -> Result<(), Trouble>;

/// All checks by name.
const CHECKS: [(&str, Check); 19] = [
    ("allocations are zeroed, aligned and reached directly", memory::allocation),
    ("rectangles are copied in and out", memory::copies),
    ("an allocation that cannot be is an error", memory::impossible_allocation),
    ("weights say what and whose they are", memory::weights),
    ("the timeline counts submissions in order", order::order),
    ("several submissions are in flight", order::in_flight),
    ("completion is seen without waiting", order::polling),
    ("dropping a ticket waits", order::dropped_ticket),
    ("a submission outlives its executable", order::dropped_executable),
    ("what is queued ahead begins when it is started, or never", order::queued_ahead),
    ("two threads submit at once", order::two_threads),
    ("misuse: too few bindings", misuse::too_few_bindings),
    ("misuse: a tensor of another shape", misuse::wrong_shape),
    ("misuse: a tensor of another type", misuse::wrong_type),
    ("misuse: an output that is only viewed", misuse::viewed_output),
    ("misuse: no rows", misuse::no_rows),
    ("misuse: rows above the capacity", misuse::too_many_rows),
    ("misuse: a step beyond the cache", misuse::beyond_cache),
    ("misuse: compiling what is not supported", misuse::unsupported_segment),
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
                Op::Linear { in_features: 64, out_features: 64, format: WeightFormat::F32, bias: false },
                Op::Convert { rows: RowSelection::All, features: 64 },
            ] {
                specs.push(OpSpec { inputs: vec![dtype; op.input_columns().len()], output: dtype, op });
            }
        }
        let mut specs = specs.into_iter();
        match specs.find(|spec| backend.support(spec) == Support::Yes) {
            Some(spec) => {
                // Jobs run the first step; the second is for other numbers in its place.
                let case = Case::single(spec, WeightFormat::F32, 4, &[(0, 3), (0, 3)]);
                Ok(Probe { backend, case })
            }
            None => Err(Trouble::Unsupported("none of the operators that the contract is tested with".to_owned())),
        }
    }

    fn job(&self) -> Result<Job<'_>, Trouble> {
        let bench = Bench::new(self.backend, &self.case)?;
        let (segment, executable) = bench.compile_whole()?;
        bench.fill(0, true);
        Ok(Job { expected: bench.oracle().remove(0), before: bench.snapshot(), bench, segment, executable })
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

    fn queue_ahead(&self) -> Option<Result<QueuedAhead, BackendError>> {
        let bindings = self.bench.bind_whole(&self.segment);
        let tensor = |binding: &Binding| (Arc::clone(binding.shared()), Arc::new(binding.claim().clone()));
        let tensors: Vec<_> = bindings.tensors.iter().map(tensor).collect();
        drop(bindings);
        QueuedAhead::queue(&self.executable, &tensors, Job::STEP)
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
                return Err(Trouble::Failed(format!("misuse is an error instead of a panic: {error}")));
            }
            Ok(Ok(_)) => return Err(Trouble::Failed("misuse is accepted".to_owned())),
        }
        self.bench.check_memory(&self.before, &[], step)?;
        self.finish(self.submit()?)
    }
}

fn require(holds: bool, message: &str) -> Result<(), Trouble> {
    if holds { Ok(()) } else { Err(Trouble::Failed(message.to_owned())) }
}
