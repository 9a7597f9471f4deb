//! Work that the GPU has before its inputs exist: it begins when the host signals, or never.

use std::sync::Arc;

use backend_gpu_vulkano::{Ahead, VulkanBackend, VulkanOptions};
use hetero_core::{
    Backend, BackendError, Bindings, Claim, DType, Executable, Graph, GraphBuilder, NodeId, Op, OperandOrder, Part,
    QueuedAhead, Segment, SegmentNode, SharedTensor, StepParams, Ticket, ValueId,
};

const STEP: StepParams = StepParams { past: 0, rows: 2 };

/// Whatever the GPU is.
fn open(ahead: Ahead) -> Arc<VulkanBackend> {
    let options = VulkanOptions { ahead, ..VulkanOptions::default() };
    Arc::new(VulkanBackend::new(&options).unwrap_or_else(|error| panic!("{error}; {}", error.fix())))
}

/// Twice the input, and twice that, on tensors of its own.
struct Doubling {
    gpu: Arc<VulkanBackend>,
    executable: Arc<dyn Executable>,
    tensors: Vec<(Arc<SharedTensor>, Arc<Claim>)>,
}

impl Doubling {
    fn new(gpu: &Arc<VulkanBackend>) -> Doubling {
        let graph = Arc::new(twice_twice());
        let node = |node| SegmentNode {
            node: NodeId(node),
            part: Part::whole(4, 64),
            weights: vec![],
            operand_order: OperandOrder::default(),
        };
        let segment = Segment::new(Arc::clone(&graph), vec![node(0), node(1)]);
        let tensor = |idx: usize| {
            let value = segment.values_of(idx).next().unwrap();
            let tensor = SharedTensor::new(gpu.allocate(&graph.tensor_desc(value)).unwrap());
            (value, (tensor, Arc::clone(segment.claim_of(idx))))
        };
        let mut tensors: Vec<(ValueId, _)> = (0..segment.n_bindings()).map(tensor).collect();
        // Bindings stand in the order of the values here.
        tensors.sort_by_key(|(value, _)| value.0);
        let executable = gpu.compile(&segment).unwrap();
        Doubling { gpu: Arc::clone(gpu), executable, tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect() }
    }

    fn queue(&self) -> Option<Result<QueuedAhead, BackendError>> {
        QueuedAhead::queue(&self.executable, &self.tensors, STEP)
    }

    fn bindings(&self) -> Bindings {
        let lend = |(tensor, claim): &(Arc<SharedTensor>, Arc<Claim>)| tensor.lend(claim, self.gpu.info().id);
        Bindings { tensors: self.tensors.iter().map(lend).collect() }
    }

    fn submit(&self) -> Ticket {
        self.executable.submit(self.bindings(), STEP).unwrap()
    }

    fn write_input(&self, value: f32) {
        let mut slot = self.tensors[0].0.slot();
        (0..STEP.rows).for_each(|row| slot.row_mut::<f32>(row).fill(value));
    }

    /// All elements of the last value in the rows of the step, which are one number.
    fn output(&self) -> f32 {
        let view = self.tensors[2].0.view();
        let first = view.row::<f32>(0)[0];
        for row in 0..STEP.rows {
            assert!(view.row::<f32>(row).iter().all(|&x| x == first), "{:?}", view.row::<f32>(row));
        }
        first
    }
}

fn twice_twice() -> Graph {
    let mut builder = GraphBuilder::new(4);
    let x = builder.input("x", 64, DType::F32);
    let y = builder.node("twice", Op::Add { features: 64 }, &[x, x], &[], DType::F32);
    let z = builder.node("twice", Op::Add { features: 64 }, &[y, y], &[], DType::F32);
    builder.output(z);
    builder.finish()
}

fn finish(ticket: Ticket) {
    ticket.wait().map(drop).unwrap();
}

#[test]
fn inputs_are_written_after_the_work_was_queued() {
    let gpu = open(Ahead::Always);
    let work = Doubling::new(&gpu);
    // Nobody has used the queue yet, which says nothing about who will.
    work.write_input(0.5);
    finish(work.submit());
    for step in 1..200 {
        let queued = work.queue().expect("this queue is this thread's alone").unwrap();
        work.write_input(step as f32);
        finish(queued.start(work.bindings()).unwrap());
        assert_eq!(work.output(), 4.0 * step as f32);
        // In turn with ordinary submissions of the same commands.
        if step % 3 == 0 {
            work.write_input(-1.0);
            finish(work.submit());
            assert_eq!(work.output(), -4.0);
        }
    }
    assert!(gpu.complaints().is_empty(), "{:#?}", gpu.complaints());
}

#[test]
fn what_is_dropped_computes_nothing_and_holds_up_nobody() {
    let gpu = open(Ahead::Always);
    let [dropped, behind] = [(); 2].map(|()| Doubling::new(&gpu));
    [&dropped, &behind].iter().for_each(|work| work.write_input(1.0));
    finish(dropped.submit());
    dropped.write_input(7.0);
    for _ in 0..20 {
        let queued = dropped.queue().unwrap().unwrap();
        let ticket = behind.submit();
        assert!(!ticket.is_complete(), "it stands behind what has not begun");
        drop(queued);
        finish(ticket);
        assert_eq!((dropped.output(), behind.output()), (4.0, 4.0));
    }
    // The same commands work again afterwards.
    let queued = dropped.queue().unwrap().unwrap();
    finish(queued.start(dropped.bindings()).unwrap());
    assert_eq!(dropped.output(), 28.0);
    assert!(gpu.complaints().is_empty(), "{:#?}", gpu.complaints());
}

/// More than lanes are kept, in an order that is not that of the queue.
#[test]
fn many_wait_at_once_and_begin_in_any_order() {
    let gpu = open(Ahead::Always);
    let works: Vec<Doubling> = (0..12).map(|_| Doubling::new(&gpu)).collect();
    works[0].write_input(1.0);
    finish(works[0].submit());
    let mut queued: Vec<_> = works.iter().map(|work| Some(work.queue().unwrap().unwrap())).collect();
    works.iter().enumerate().for_each(|(idx, work)| work.write_input(idx as f32));
    let mut tickets = Vec::new();
    for idx in (0..12).map(|idx| idx * 5 % 12) {
        let queued = queued[idx].take().unwrap();
        if idx % 4 == 3 {
            drop(queued);
        } else {
            tickets.push((idx, queued.start(works[idx].bindings()).unwrap()));
        }
    }
    for (idx, ticket) in tickets {
        finish(ticket);
        assert_eq!(works[idx].output(), 4.0 * idx as f32);
    }
}

/// What waits is dropped with everything else, whatever goes first.
#[test]
fn nothing_hangs_when_all_is_dropped() {
    let gpu = open(Ahead::Always);
    let work = Doubling::new(&gpu);
    work.write_input(1.0);
    finish(work.submit());
    let queued = work.queue().unwrap().unwrap();
    drop(gpu);
    drop(work);
    drop(queued);
}

#[test]
fn other_tensors_than_those_it_was_queued_for_are_refused() {
    let gpu = open(Ahead::Always);
    let [work, other] = [(); 2].map(|()| Doubling::new(&gpu));
    work.write_input(1.0);
    finish(work.submit());
    let queued = work.queue().unwrap().unwrap();
    let bindings = other.bindings();
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| queued.start(bindings)));
    assert!(refused.is_err());
    finish(work.submit());
    assert_eq!(work.output(), 4.0);
}

/// A queue that several threads use is not kept waiting by one of them.
#[test]
fn nothing_is_queued_ahead_where_others_submit_or_where_it_is_switched_off() {
    let gpu = open(Ahead::Always);
    let [work, of_other] = [(); 2].map(|()| Doubling::new(&gpu));
    work.write_input(1.0);
    of_other.write_input(1.0);
    finish(work.submit());
    assert!(work.queue().is_some());
    std::thread::scope(|scope| drop(scope.spawn(|| finish(of_other.submit()))));
    finish(work.submit());
    assert!(work.queue().is_none());
    (0..64).for_each(|_| finish(work.submit()));
    assert!(work.queue().is_some(), "alone again");

    let gpu = open(Ahead::Never);
    let work = Doubling::new(&gpu);
    work.write_input(1.0);
    finish(work.submit());
    assert!(work.queue().is_none());
}

#[test]
fn every_gpu_but_software_is_given_its_work_ahead_unless_told_otherwise() {
    let gpu = open(Ahead::Detected);
    let work = Doubling::new(&gpu);
    work.write_input(1.0);
    finish(work.submit());
    assert_eq!(work.queue().is_some(), !gpu.is_software());
}
