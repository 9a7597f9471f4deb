//! The KV cache in several memories: every plan finds in it what the steps before have written, wherever that was; only
//! what is new is copied; and what a lost device knew is asked for again.

mod common;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::equal::Equal;
use common::threads::{Habits, Threaded};
use common::{CONTEXT, Model, any_model, any_plan, decoder};
use hetero_conformance::{Wrapped, Wrapper};
use hetero_core::{
    Access, Backend, BackendError, Bindings, ByteRuns, DType, DeviceId, Executable, GraphBuilder, HostTensor, NodeId,
    Op, Part, Segment, SharedTensor, StepParams, Tensor, TensorDesc, Ticket, Timeline,
};
use hetero_sched::cost::DeviceSet;
use hetero_sched::{
    Executor, ExecutorOptions, PlacedPart, Plan, Residency, Runner, SchedError, SolveOptions, State, Team, TeamOptions,
};

const CAPACITY: usize = 5;
/// Fewer where every instruction is interpreted.
const N_SEEDS: usize = if cfg!(miri) { 2 } else { 100 };

/// A device that reaches its own memory alone.
#[derive(Debug)]
struct Apart;

impl Wrapper for Apart {
    fn access(&self, inner: &dyn Backend, tensor: &dyn Tensor) -> Access {
        if tensor.device() == inner.info().id { Access::Direct } else { Access::NeedsCopy }
    }
}

/// Threads that each reach their own memory alone.
fn apart(habits: &[Habits]) -> Vec<Arc<dyn Backend>> {
    let device = |(idx, habits): (usize, &Habits)| {
        let thread = Threaded::backend(&format!("thread{idx}"), habits.clone());
        Arc::new(Wrapped::around(thread, Apart)) as Arc<dyn Backend>
    };
    habits.iter().enumerate().map(device).collect()
}

/// State in the memory of one of the devices.
fn state_of(model: &Model, device: &dyn Backend) -> Arc<State> {
    State::allocate(&model.graph, device).expect("memory")
}

fn ready(model: &Model, plan: Plan, devices: &[Arc<dyn Backend>], state: &Arc<State>) -> Executor {
    Executor::new(plan, devices, &model.weights, state, &mut Residency::new()).expect("everything is supported")
}

fn single(model: &Model) -> Plan {
    Plan::single_device(Arc::clone(&model.graph), 0)
}

/// A conversation: positions before each step and of it. It goes back twice, as when a text is edited, and forth again.
const CONVERSATION: [[usize; 2]; 8] = [[0, 5], [5, 1], [6, 3], [4, 5], [9, 1], [10, 5], [2, 3], [5, 5]];

/// Runs a conversation with a new plan for every step, by two executors in turn that share their state.
fn conversation(model: &Model, devices: &[Arc<dyn Backend>], plan: impl Fn(usize) -> Plan) -> Vec<Vec<Vec<f32>>> {
    let state = state_of(model, &*devices[0]);
    let mut executors = [ready(model, plan(0), devices, &state), ready(model, plan(1), devices, &state)];
    let step = |(idx, [past, rows]): (usize, [usize; 2])| {
        let executor = &mut executors[idx % 2];
        executor.set_plan(plan(idx), &mut Residency::new()).expect("everything is supported");
        common::step(model, executor, StepParams { past, rows }, idx)
    };
    CONVERSATION.into_iter().enumerate().map(step).collect()
}

#[test]
fn plans_that_compute_in_different_memories_continue_each_other() {
    for seed in 0..N_SEEDS {
        let model = if seed % 2 == 0 { decoder(CAPACITY) } else { any_model(seed, CAPACITY) };
        let expected = conversation(&model, &apart(&[Habits::default()]), |_| single(&model));
        let late = Habits { late_us: 100, seed, ..Habits::default() };
        let devices = apart(&[late.clone(), late.clone(), late]);
        let plan = |idx| any_plan(&model.graph, 3, 1000 * seed + idx);
        assert_eq!(conversation(&model, &devices, plan), expected, "plans from {seed}");
    }
}

#[test]
fn a_cache_has_memory_only_where_a_plan_touches_it() {
    let model = decoder(CAPACITY);
    let devices = apart(&[Habits::default(), Habits::default()]);
    let state = state_of(&model, &*devices[0]);
    let bytes = state.bytes();
    let mut executor = ready(&model, single(&model), &devices, &state);
    assert_eq!(state.n_memories(), [1; 4]);
    // The attention of the second layer goes to the other device.
    let mut placements = single(&model).placements().to_vec();
    let is_second = |idx: &usize| model.graph.node(NodeId(*idx)).name == "attention" && *idx > placements.len() / 2;
    let moved = (0..placements.len()).find(is_second).expect("a decoder attends");
    placements[moved][0].device_idx = 1;
    let plan = Plan::new(Arc::clone(&model.graph), placements).expect("a cover");
    executor.set_plan(plan, &mut Residency::new()).expect("ready");
    assert_eq!((state.n_memories(), state.bytes()), (vec![1, 1, 2, 2], bytes / 2 * 3));
}

/// A device that computes nothing, at once, in memory that counts what is copied.
#[derive(Debug, Default)]
struct Counting {
    completed: Arc<AtomicU64>,
    /// Bytes copied out of its memory and into it, and calls.
    copied: Arc<Mutex<Copied>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Copied {
    downloads: usize,
    downloaded: usize,
    uploads: usize,
    uploaded: usize,
}

#[derive(Debug)]
struct Far {
    desc: TensorDesc,
    device: DeviceId,
    copied: Arc<Mutex<Copied>>,
}

// SAFETY: there is no pointer to what the tensor holds, which is nothing, and the description never changes.
unsafe impl Tensor for Far {
    fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        None
    }

    fn download(&self, _runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        let mut copied = self.copied.lock().expect("no panic under it");
        copied.downloads += 1;
        copied.downloaded += out.len();
        Ok(())
    }

    fn upload(&self, _runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        let mut copied = self.copied.lock().expect("no panic under it");
        copied.uploads += 1;
        copied.uploaded += bytes.len();
        Ok(())
    }
}

#[derive(Debug)]
struct Done(Arc<AtomicU64>);

impl Timeline for Done {
    fn completed(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn block_until(&self, _value: u64) -> Result<(), BackendError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Nothing {
    device: DeviceId,
    completed: Arc<AtomicU64>,
}

impl Executable for Nothing {
    fn submit(&self, mut bindings: Bindings, _step: StepParams) -> Result<Ticket, BackendError> {
        bindings.hand_over(self.device);
        let value = self.completed.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Ticket::new(Arc::new(Done(Arc::clone(&self.completed))), value, bindings))
    }
}

impl Wrapper for Counting {
    fn access(&self, inner: &dyn Backend, tensor: &dyn Tensor) -> Access {
        if tensor.device() == inner.info().id { Access::Direct } else { Access::NeedsCopy }
    }

    fn allocate(&self, inner: &dyn Backend, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        Ok(Arc::new(Far { desc: *desc, device: inner.info().id, copied: Arc::clone(&self.copied) }))
    }

    fn compile(&self, inner: &dyn Backend, _segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        Ok(Arc::new(Nothing { device: inner.info().id, completed: Arc::clone(&self.completed) }))
    }
}

/// One cache of two heads, written by the first device and read by both, a head each.
#[test]
fn only_new_positions_of_the_heads_that_are_read_are_copied_and_in_one_piece() {
    const HEAD_DIM: usize = 16;
    let mut b = GraphBuilder::new(CAPACITY);
    let query = b.input("query", 2 * HEAD_DIM, DType::F32);
    let [keys, values] = ["keys", "values"].map(|name| {
        let state = b.state(name, 2 * CONTEXT, HEAD_DIM, DType::F16);
        let op = Op::CacheWrite { kv_heads: 2, head_dim: HEAD_DIM, context: CONTEXT };
        b.update("cache_write", op, &[query], state);
        state
    });
    let op = Op::Attention { heads: 2, kv_heads: 2, head_dim: HEAD_DIM, context: CONTEXT, scale: 0.25 };
    let attended = b.node("attention", op, &[query, keys, values], &[], DType::F32);
    b.output(attended);
    let model = Model::new(b.finish(), query, attended);
    let counts: Vec<Arc<Mutex<Copied>>> = (0..2).map(|_| Arc::default()).collect();
    let device = |copied: &Arc<Mutex<Copied>>| {
        let counting = Counting { copied: Arc::clone(copied), ..Counting::default() };
        Arc::new(Wrapped::reference(counting)) as Arc<dyn Backend>
    };
    let devices: Vec<Arc<dyn Backend>> = counts.iter().map(device).collect();
    let state = state_of(&model, &*devices[0]);
    let half = |columns| Part { rows: 0..CAPACITY, columns };
    let mut placements = single(&model).placements().to_vec();
    placements[2] = vec![PlacedPart::new(0, half(0..16)), PlacedPart::new(1, half(16..32))];
    let plan = Plan::new(Arc::clone(&model.graph), placements).expect("a cover");
    let mut executor = ready(&model, plan, &devices, &state);
    let run = |executor: &mut Executor, past, rows| {
        counts.iter().for_each(|copied| *copied.lock().expect("no panic under it") = Copied::default());
        executor.step(StepParams { past, rows }).expect("a step");
        [0, 1].map(|idx| *counts[idx].lock().expect("no panic under it"))
    };
    // Of the query, half of the columns for the second device; of keys and values a head each; of the output the half
    // comes back.
    let head = |rows: usize| rows * HEAD_DIM * 2;
    let query_half = |rows: usize| rows * HEAD_DIM * 4;
    for (past, rows) in [(0, 5), (5, 1), (6, 3)] {
        let [first, second] = run(&mut executor, past, rows);
        assert_eq!((second.uploads, second.uploaded), (3, query_half(rows) + 2 * head(rows)), "{rows} behind {past}");
        assert_eq!((first.downloads, first.downloaded), (3, query_half(rows) + 2 * head(rows)));
        assert_eq!((first.uploads, first.uploaded), (1, query_half(rows)));
    }
    // When the second device computes alone it needs of the other head all that there was before, once.
    executor.set_plan(Plan::single_device(Arc::clone(&model.graph), 1), &mut Residency::new()).expect("ready");
    let [first, _] = run(&mut executor, 9, 1);
    assert_eq!((first.downloads, first.downloaded), (3, 2 * query_half(1) + 2 * head(9)));
    let [first, _] = run(&mut executor, 10, 1);
    assert_eq!((first.downloads, first.downloaded), (1, 2 * query_half(1)));
    // And what the first lacks when it takes part again are the two positions since.
    executor.set_plan(single(&model), &mut Residency::new()).expect("ready");
    let [first, _] = run(&mut executor, 11, 1);
    assert_eq!((first.uploads, first.uploaded), (2, 2 * 2 * head(2)));
}

/// After a device is lost with its memory, a runner asks for what only that had, and goes on when it has got it.
#[test]
fn what_a_lost_device_knew_is_computed_again() {
    let model = decoder(CAPACITY);
    let inputs: Vec<usize> = (0..6).collect();
    let expected = {
        let devices = apart(&[Habits::default()]);
        let mut executor = ready(&model, single(&model), &devices, &state_of(&model, &*devices[0]));
        let step = |&idx: &usize| common::step(&model, &mut executor, StepParams { past: 2 * idx, rows: 2 }, idx);
        inputs.iter().map(step).collect::<Vec<_>>()
    };
    let (mut n_lost, mut n_repeated) = (0, 0);
    for lost_idx in 0..3 {
        for nth in [1, 5, 12, 20, 33] {
            let mut habits = vec![Habits::default(); 3];
            habits[lost_idx].lost_at = Some(nth);
            let devices = apart(&habits);
            // The cache begins in the memory of the device that is lost.
            let state = state_of(&model, &*devices[lost_idx]);
            let costs = Equal::of(&devices);
            let solve = SolveOptions::new(DeviceSet::first(3));
            let options = TeamOptions { solve, executor: ExecutorOptions::default(), is_strict: false };
            let team = Team::new(devices, costs, options);
            let first = StepParams { past: 0, rows: 2 };
            let mut runner = Runner::new(&team, &model.graph, &model.weights, &state, first).expect("ready");
            let mut idx = 0;
            while idx < inputs.len() {
                common::fill(&model, runner.executor(), 2, idx);
                match runner.step(StepParams { past: 2 * idx, rows: 2 }, &|| false) {
                    Ok(()) => {
                        let output = common::output(&model, runner.executor(), 2);
                        assert_eq!(output, expected[idx], "step {idx}, device {lost_idx} lost at {nth}");
                        idx += 1;
                    }
                    Err(SchedError::StateLost { kept }) => {
                        assert!(kept < 2 * idx && team.losses().len() == 1, "{kept} of {}", 2 * idx);
                        n_repeated += 1;
                        idx = kept / 2;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            n_lost += team.losses().len();
        }
    }
    assert!(n_lost >= 9 && n_repeated >= 2, "most losses are met, and some cost positions: {n_lost}, {n_repeated}");
}

/// What another memory has as well is not lost.
#[test]
fn positions_that_another_memory_has_are_kept() {
    let model = decoder(CAPACITY);
    // A step is one submission.
    let devices = apart(&[Habits::default(), Habits { lost_at: Some(4), ..Habits::default() }]);
    let plan = |device_idx| Plan::single_device(Arc::clone(&model.graph), device_idx);
    let alone = apart(&[Habits::default()]);
    let mut reference = ready(&model, single(&model), &alone, &state_of(&model, &*alone[0]));
    let mut executor = ready(&model, plan(1), &devices, &state_of(&model, &*devices[1]));
    let mut run = |executor: &mut Executor, idx: usize| {
        let step = StepParams { past: 2 * idx, rows: 2 };
        let expected = common::step(&model, &mut reference, step, idx);
        common::fill(&model, executor, 2, idx);
        executor.step(step)?;
        assert_eq!(common::output(&model, executor, 2), expected, "step {idx}");
        Ok::<(), SchedError>(())
    };
    run(&mut executor, 0).expect("the second device");
    executor.set_plan(plan(0), &mut Residency::new()).expect("ready");
    run(&mut executor, 1).expect("the first device, which gets what there was");
    executor.set_plan(plan(1), &mut Residency::new()).expect("ready");
    run(&mut executor, 2).expect("the second device");
    run(&mut executor, 3).expect("the second device");
    let error = run(&mut executor, 4).expect_err("the device is lost");
    assert_eq!(error.device_idx(), Some(1), "{error}");
    executor.set_plan(plan(0), &mut Residency::new()).expect("ready");
    // The first device has the two steps until its own.
    assert_eq!(run(&mut executor, 4), Err(SchedError::StateLost { kept: 4 }));
    (2..6).for_each(|idx| run(&mut executor, idx).expect("the first device"));
}

/// State that is no cache stays where it is, and who does not reach it is told so.
#[test]
fn state_that_is_no_cache_and_not_reached_is_an_error_that_names_it() {
    let mut b = GraphBuilder::new(1);
    let x = b.input("x", 4, DType::F32);
    let cache = b.state("memory", 3, 4, DType::F32);
    b.update("write", Op::CacheWrite { kv_heads: 1, head_dim: 4, context: 3 }, &[x], cache);
    let read =
        b.node("read", Op::Convert { rows: hetero_core::RowSelection::All, features: 4 }, &[cache], &[], DType::F32);
    b.output(read);
    let model = Model::new(b.finish(), x, read);
    let devices = apart(&[Habits::default()]);
    let desc = model.graph.tensor_desc(cache);
    let elsewhere = SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc).expect("memory")));
    let state = State::new(&model.graph, vec![elsewhere]);
    let error = Executor::new(single(&model), &devices, &[], &state, &mut Residency::new()).unwrap_err();
    assert!(matches!(&error, SchedError::Unreachable { value, .. } if value == "memory"), "{error}");
}
