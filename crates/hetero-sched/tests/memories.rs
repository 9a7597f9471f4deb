//! Devices that do not share memory, and devices that meet at every crossing: the same outputs, by copies, and nothing
//! works ahead.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::threads::{Habits, Threaded};
use common::{Choice, Model, any_model, any_plan, decoder};
use hetero_conformance::{ReferenceBackend, Wrapped, Wrapper};
use hetero_core::{
    Access, Backend, BackendError, Bindings, DeviceId, Executable, Segment, StepParams, Tensor, Ticket, Timeline,
};
use hetero_sched::submissions::stages;
use hetero_sched::{Executor, ExecutorOptions, Plan, Residency, SchedError, Synchronisation};

const CAPACITY: usize = 5;
/// Fewer where every instruction is interpreted.
const N_PLANS: usize = if cfg!(miri) { 3 } else { 100 };

/// A device that reaches its own memory alone.
#[derive(Debug)]
struct Apart;

impl Apart {
    /// Devices of which those named do not reach the others' memory.
    fn team(devices: Vec<Arc<dyn Backend>>, is_apart: impl Fn(usize) -> bool) -> Vec<Arc<dyn Backend>> {
        let apart = |(idx, device): (usize, Arc<dyn Backend>)| -> Arc<dyn Backend> {
            if is_apart(idx) { Arc::new(Wrapped::around(device, Apart)) } else { device }
        };
        devices.into_iter().enumerate().map(apart).collect()
    }
}

impl Wrapper for Apart {
    fn access(&self, inner: &dyn Backend, tensor: &dyn Tensor) -> Access {
        if tensor.device() == inner.info().id { Access::Direct } else { Access::NeedsCopy }
    }
}

fn threads(n: usize, late_us: usize) -> Vec<Arc<dyn Backend>> {
    let device = |seed| Threaded::backend(&format!("thread{seed}"), Habits { late_us, seed, ..Habits::default() });
    (0..n).map(|seed| device(seed) as Arc<dyn Backend>).collect()
}

fn executor(
    model: &Model,
    plan: Plan,
    devices: &[Arc<dyn Backend>],
    synchronisation: Synchronisation,
) -> Result<Executor, SchedError> {
    let options = ExecutorOptions { synchronisation, ..ExecutorOptions::default() };
    Executor::with_options(plan, devices, &model.weights, &model.state(), &mut Residency::new(), options)
}

/// Steps of several lengths, so that not all rows are in use.
fn steps(model: &Model, executor: &mut Executor) -> Vec<Vec<Vec<f32>>> {
    let step = |(idx, rows)| common::step(model, executor, StepParams { past: 3 * idx, rows }, idx);
    [CAPACITY, 2, 3].into_iter().enumerate().map(step).collect()
}

fn any(seed: usize) -> Model {
    if seed.is_multiple_of(3) { decoder(CAPACITY) } else { any_model(seed, CAPACITY) }
}

fn expected(model: &Model) -> Vec<Vec<Vec<f32>>> {
    let plan = Plan::single_device(Arc::clone(&model.graph), 0);
    let devices: Vec<Arc<dyn Backend>> = vec![Arc::new(ReferenceBackend::new())];
    steps(model, &mut executor(model, plan, &devices, Synchronisation::Fast).expect("one computes everything"))
}

#[test]
fn devices_that_share_no_memory_give_the_same_bits() {
    for seed in 0..N_PLANS {
        let model = any(seed);
        let late_us = 1 + Choice::new(seed).below(200);
        // One, two or all of three have memory of their own; the first allocates for the rest.
        let devices = Apart::team(threads(3, late_us), |idx| idx > seed % 2 || seed % 5 == 0);
        let plan = any_plan(&model.graph, 3, seed);
        let mut executor = executor(&model, plan, &devices, Synchronisation::Fast).expect("everything is supported");
        assert_eq!(steps(&model, &mut executor), expected(&model), "plan {seed}");
    }
}

#[test]
fn without_fast_synchronisation_the_bits_are_the_same() {
    for seed in 0..N_PLANS {
        let model = any(seed);
        let devices = Apart::team(threads(3, 50), |_| seed % 2 == 0);
        let plan = any_plan(&model.graph, 3, seed);
        let mut executor =
            executor(&model, plan, &devices, Synchronisation::PerCrossing).expect("everything is supported");
        assert_eq!(steps(&model, &mut executor), expected(&model), "plan {seed}");
    }
}

/// What a device was asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Submit { device: usize, stage: usize },
    Look,
    Finish { device: usize },
}

/// A device that notes what it is asked and finishes only when it is waited for.
#[derive(Debug)]
struct Witness {
    stages: Vec<usize>,
    timeline: Arc<WitnessTimeline>,
}

#[derive(Debug)]
struct WitnessTimeline {
    idx: usize,
    calls: Arc<Mutex<Vec<Call>>>,
    submitted: AtomicU64,
    completed: AtomicU64,
}

impl WitnessTimeline {
    fn note(&self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Timeline for WitnessTimeline {
    fn completed(&self) -> u64 {
        self.note(Call::Look);
        self.completed.load(Ordering::Acquire)
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        // A ticket that is taken back asks for what is known already.
        if self.completed.fetch_max(value, Ordering::AcqRel) < value {
            self.note(Call::Finish { device: self.idx });
        }
        Ok(())
    }

    fn block_for(&self, value: u64, _timeout: Duration) -> Result<bool, BackendError> {
        self.block_until(value).map(|()| true)
    }
}

impl Wrapper for Witness {
    fn compile(&self, inner: &dyn Backend, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        let stages: Vec<usize> = segment.nodes.iter().map(|node| self.stages[node.node.0]).collect();
        assert!(stages.iter().all(|stage| *stage == stages[0]), "a submission of several stages: {stages:?}");
        Ok(Arc::new(WitnessExecutable {
            device: inner.info().id,
            stage: stages[0],
            timeline: Arc::clone(&self.timeline),
        }))
    }
}

#[derive(Debug)]
struct WitnessExecutable {
    device: DeviceId,
    stage: usize,
    timeline: Arc<WitnessTimeline>,
}

impl Executable for WitnessExecutable {
    fn submit(&self, mut bindings: Bindings, _step: StepParams) -> Result<Ticket, BackendError> {
        bindings.hand_over(self.device);
        self.timeline.note(Call::Submit { device: self.timeline.idx, stage: self.stage });
        let value = self.timeline.submitted.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Ticket::new(Arc::clone(&self.timeline) as Arc<dyn Timeline>, value, bindings))
    }
}

#[test]
fn without_fast_synchronisation_nothing_works_ahead() {
    for seed in 0..N_PLANS {
        let model = any(seed);
        let plan = any_plan(&model.graph, 3, seed);
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let device = |idx| -> Arc<dyn Backend> {
            let (submitted, completed) = (AtomicU64::new(0), AtomicU64::new(0));
            let timeline = Arc::new(WitnessTimeline { idx, calls: Arc::clone(&calls), submitted, completed });
            Arc::new(Wrapped::reference(Witness { stages: stages(&plan), timeline }))
        };
        let devices: Vec<Arc<dyn Backend>> = (0..3).map(device).collect();
        let mut executor =
            executor(&model, plan.clone(), &devices, Synchronisation::PerCrossing).expect("everything is supported");
        executor.step(StepParams { past: 0, rows: CAPACITY }).expect("a step");
        let mut is_busy = [false; 3];
        let mut stage = 0;
        for &call in calls.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match call {
                Call::Submit { device, stage: of } => {
                    assert!(of == stage || is_busy == [false; 3], "plan {seed}: {call:?} while stage {stage} runs");
                    stage = of;
                    is_busy[device] = true;
                }
                Call::Finish { device } => is_busy[device] = false,
                Call::Look => panic!("plan {seed}: a driver finishes, nobody looks"),
            }
        }
        assert_eq!(is_busy, [false; 3], "plan {seed}: all have finished at the end");
    }
}
