//! A segment as a list of kernel calls.
//!
//! Making a [`Program`] looks everything up once: weights as pointers, values as indices, linear operators that share
//! an input as one step. Running it walks the list and cuts each step for the worker pool.

mod linear;
mod scratch;
mod steps;

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use hetero_core::{Bindings, Op, Rows as RowCount, Segment, SegmentNode, StepParams, ValueId};
use parking_lot::Mutex;

use crate::backend::ActivationMode;
use crate::dispatch::Kernels;
use crate::kernels::{Rows, RowsMut};
use crate::worker_pool::{Worker, WorkerPool};

use self::linear::LinearGroup;
pub(crate) use self::scratch::{Scratch, ScratchNeed};
use self::steps::Step;

/// A segment made ready for one set of kernels.
#[derive(Debug)]
pub(crate) struct Program {
    segment: Segment,
    kernels: &'static Kernels,
    steps: Vec<Step>,
    /// Lists of addresses that are not in use, so that a submission allocates nothing.
    spare_lists: Mutex<Vec<Vec<RawTensor>>>,
}

/// Where a bound tensor lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTensor {
    start: NonNull<u8>,
    /// Elements from one row to the next.
    columns: usize,
}

// SAFETY: an address and no more. Only `Program::run` follows it, whose contract says what must hold.
unsafe impl Send for RawTensor {}
// SAFETY: as above.
unsafe impl Sync for RawTensor {}

/// What all steps of one run share.
struct Run<'a> {
    kernels: &'static Kernels,
    pool: &'a WorkerPool,
    tensors: &'a [RawTensor],
    step: StepParams,
}

impl Program {
    /// Prepares the segment's nodes, whose weights must have been loaded by this backend.
    pub(crate) fn new(segment: &Segment, kernels: &'static Kernels, activations: ActivationMode) -> Program {
        let mut steps: Vec<Step> = Vec::with_capacity(segment.nodes.len());
        let mut written_since_group: Vec<usize> = Vec::new();
        for node in &segment.nodes {
            let output = segment.binding_idx(segment.graph.node(node.node).output);
            if let Op::Linear { .. } = segment.graph.node(node.node).op {
                let group = LinearGroup::new(segment, node, kernels, activations);
                // Neighbours that read the same input quantise it once and are cut as one.
                if let Some(Step::Linear(last)) = steps.last_mut()
                    && last.accepts(&group)
                    && !written_since_group.contains(&group.input())
                {
                    last.merge(group);
                } else {
                    written_since_group.clear();
                    steps.push(Step::Linear(group));
                }
            } else {
                steps.push(Step::new(segment, node));
            }
            written_since_group.push(output);
        }
        Program { segment: segment.clone(), kernels, steps, spare_lists: Mutex::default() }
    }

    /// The segment that was prepared.
    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The working memory that a run needs.
    pub(crate) fn scratch_need(&self) -> ScratchNeed {
        let capacity = self.segment.graph.capacity();
        self.steps.iter().map(|step| step.scratch_need(capacity)).fold(ScratchNeed::default(), ScratchNeed::max)
    }

    /// The addresses of bound tensors, to be given to [`Program::run`].
    pub(crate) fn raw_tensors(&self, bindings: &Bindings) -> Vec<RawTensor> {
        let mut list = self.spare_lists.lock().pop().unwrap_or_else(|| Vec::with_capacity(bindings.tensors.len()));
        list.extend(bindings.tensors.iter().map(|binding| {
            let tensor = binding.tensor().tensor();
            let start = tensor.host_ptr().expect("`Backend::access` says that the CPU cannot reach this tensor");
            RawTensor { start, columns: tensor.desc().columns }
        }));
        list
    }

    /// Takes a list of addresses back.
    pub(crate) fn recycle(&self, mut list: Vec<RawTensor>) {
        list.clear();
        self.spare_lists.lock().push(list);
    }

    /// Computes all steps.
    ///
    /// # Safety
    ///
    /// `tensors` came from [`Program::raw_tensors`] with bindings that passed `StepCheck` for `step` and were handed
    /// over, and those bindings exist until this returns: the tensors are alive, the rectangles that the segment's
    /// nodes write are held as slots and those that they read as views or slots. Nothing else that was handed over to
    /// the same processor runs meanwhile.
    pub(crate) unsafe fn run(&self, tensors: &[RawTensor], step: StepParams, pool: &WorkerPool, scratch: &mut Scratch) {
        scratch.begin_run();
        let run = Run { kernels: self.kernels, pool, tensors, step };
        for step in &self.steps {
            // SAFETY: forwarded; the steps were made from this segment, so their indices and parts are its own.
            unsafe { step.run(&run, scratch) }
        }
    }
}

impl Run<'_> {
    /// A bound tensor's rows from `first_row`, columns from `first_column`.
    ///
    /// # Safety
    ///
    /// The element exists and is a `T`.
    unsafe fn rows<T>(&self, tensor_idx: usize, first_row: usize, first_column: usize) -> Rows<T> {
        // SAFETY: forwarded.
        unsafe { self.rows_mut(tensor_idx, first_row, first_column) }.as_rows()
    }

    /// As [`Run::rows`], to write.
    ///
    /// # Safety
    ///
    /// As for [`Run::rows`].
    unsafe fn rows_mut<T>(&self, tensor_idx: usize, first_row: usize, first_column: usize) -> RowsMut<T> {
        let RawTensor { start, columns } = self.tensors[tensor_idx];
        // SAFETY: the caller vouches that the element is inside the tensor.
        let first = unsafe { start.as_ptr().cast::<T>().add(first_row * columns + first_column) };
        RowsMut { first, stride: columns }
    }

    /// The rows of a part that this step computes.
    fn rows_in_use(&self, part_rows: &Range<usize>) -> Range<usize> {
        part_rows.start.min(self.step.rows)..part_rows.end.min(self.step.rows)
    }

    /// Runs `work` on `0..n_items`, cut among the workers when there is enough of it. `cost` is roughly the number of
    /// elements in all; below [`SERIAL_COST`] waking workers costs more than they save.
    fn parallel(&self, n_items: usize, cost: usize, work: impl Fn(Range<usize>) + Sync) {
        if self.pool.n_workers() == 1 || n_items == 1 || cost < SERIAL_COST {
            work(0..n_items);
            return;
        }
        self.run_all(|worker| {
            let items = worker.share(n_items);
            if !items.is_empty() {
                work(items);
            }
        });
    }

    /// Runs `task` once on every worker.
    ///
    /// # Panics
    /// When a worker panics; the queue's thread catches that and reports the submission as failed.
    fn run_all(&self, task: impl Fn(&Worker<'_>) + Sync) {
        if let Err(panicked) = self.pool.run(task) {
            panic!("{panicked}");
        }
    }
}

/// Elements of simple arithmetic that one thread does in about the time of a join, a few microseconds.
const SERIAL_COST: usize = 16 * 1024;

/// Which rows of a node's output a part names; `None` rows of a fixed-size output are taken as they are.
fn part_rows(segment: &Segment, node: &SegmentNode) -> (Range<usize>, bool) {
    let output: ValueId = segment.graph.node(node.node).output;
    let follows_step = segment.graph.value(output).rows == RowCount::Positions;
    (node.part.rows.clone(), follows_step)
}

/// Keeps the weights of a step alive beside the pointers into them.
type KeptWeights = Vec<Arc<dyn hetero_core::Weight>>;
