//! A compiled segment and its submission.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hetero_core::{BackendError, Bindings, Executable, HandBack, Op, Segment, StepCheck, StepParams, Ticket, Timeline};
use parking_lot::Mutex;

use crate::backend::Device;
use crate::clock::Submission;
use crate::cost::{Demand, node_demand};
use crate::fault::SubmissionFaults;
use crate::numerics::{self, Arithmetic};
use crate::rules::LiveGraph;
use crate::simulated_soc::TimeMode;
use crate::timeline::VirtualTimeline;
use crate::trace::NodeLabel;

/// A segment with everything that does not depend on the step.
#[derive(Debug)]
pub(crate) struct SimExecutable {
    device: Arc<Device>,
    program: Arc<Program>,
    /// Its place in the NPU.
    _graph: Option<LiveGraph>,
}

/// What is computed, without the device: a thread that runs it keeps nothing else alive.
#[derive(Debug)]
pub(crate) struct Program {
    segment: Segment,
    /// None when nothing is computed.
    arithmetic: Option<Arithmetic>,
    check: StepCheck,
    labels: Arc<[NodeLabel]>,
    /// Nodes whose cost depends on the positions before.
    attention: Vec<usize>,
    costs: Mutex<Option<StepCosts>>,
}

/// A submission on its way.
#[derive(Debug)]
pub(crate) struct Job {
    program: Arc<Program>,
    bindings: Bindings,
    step: StepParams,
    pub(crate) faults: SubmissionFaults,
    hand_back: Arc<HandBack>,
}

/// The demands of a step, kept for the next one.
#[derive(Debug)]
struct StepCosts {
    step: StepParams,
    demands: Arc<[Demand]>,
}

impl SimExecutable {
    pub(crate) fn new(device: Arc<Device>, segment: &Segment, graph: Option<LiveGraph>) -> SimExecutable {
        let program = Arc::new(Program::new(segment, device.arithmetic));
        SimExecutable { device, program, _graph: graph }
    }
}

impl Executable for SimExecutable {
    fn submit(&self, bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        let (device, program) = (&*self.device, &self.program);
        program.check.check(&bindings, step);
        if let Some(error) = device.stop_error() {
            return Err(error);
        }
        let faults = device.faults.lock().submission();
        let demands = program.demands(device, step);
        let hand_back = Arc::new(HandBack::default());
        let lent = Arc::clone(&hand_back);
        let job = Job { program: Arc::clone(program), bindings, step, faults, hand_back };
        let late_seconds = alone_seconds(&demands) * faults.extra_factor + faults.extra_seconds;
        let (timeline, value): (Arc<dyn Timeline>, u64) = match device.time {
            TimeMode::Real { scale } => {
                device.clock.count(device.idx, &demands);
                let seconds = alone_seconds(&demands) * scale * (1.0 + faults.extra_factor) + faults.extra_seconds;
                device.queue()?.submit(job, seconds)
            }
            TimeMode::Free => {
                device.clock.count(device.idx, &demands);
                let stop = (faults.is_fatal || faults.is_stuck).then_some(faults.is_stuck);
                let value = device.timeline.submit(job, || device.clock.submit_finished(device.idx, stop));
                device.timeline.settle(value);
                (Arc::<VirtualTimeline>::clone(&device.timeline), value)
            }
            TimeMode::Virtual => {
                let stall_seconds = if faults.is_stuck { f64::INFINITY } else { late_seconds };
                let labels = Arc::clone(&program.labels);
                let submission = Submission { labels, demands, step, stall_seconds, is_fatal: faults.is_fatal };
                let value = device.timeline.submit(job, || device.clock.submit(device.idx, submission));
                (Arc::<VirtualTimeline>::clone(&device.timeline), value)
            }
        };
        Ok(Ticket::lent(timeline, value, lent))
    }
}

impl Job {
    /// Computes. After an error the rights have been given back, and what was written is void.
    pub(crate) fn compute(mut self, device: &str) -> Result<Job, BackendError> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let Job { program, bindings, step, faults, .. } = &mut self;
            program.run(bindings, *step, faults);
        }));
        match result {
            Ok(()) => Ok(self),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let reason = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a kernel panicked");
                Err(BackendError::Failed { device: device.to_owned(), reason: reason.to_owned() })
            }
        }
    }

    /// Gives the rights back to the ticket.
    pub(crate) fn give_back(self) {
        self.hand_back.give(self.bindings);
    }
}

fn alone_seconds(demands: &[Demand]) -> f64 {
    demands.iter().map(Demand::alone_seconds).sum()
}

impl Program {
    fn new(segment: &Segment, arithmetic: Option<Arithmetic>) -> Program {
        let graph = &segment.graph;
        let labels = segment.nodes.iter().map(|segment_node| {
            let node = graph.node(segment_node.node);
            NodeLabel {
                name: node.layer.map_or_else(|| node.name.to_owned(), |layer| format!("layers.{layer}.{}", node.name)),
                operator: graph.op_spec(segment_node.node).to_string(),
                part: format!("rows {:?}, columns {:?}", segment_node.part.rows, segment_node.part.columns),
            }
        });
        let is_attention = |idx: &usize| matches!(graph.node(segment.nodes[*idx].node).op, Op::Attention { .. });
        Program {
            check: StepCheck::new(segment),
            labels: labels.collect(),
            attention: (0..segment.nodes.len()).filter(is_attention).collect(),
            costs: Mutex::new(None),
            arithmetic,
            segment: segment.clone(),
        }
    }

    /// What each node asks of the processor. A step like the last one costs nothing to know, and of one with as many
    /// rows only attention is looked at again.
    fn demands(&self, device: &Device, step: StepParams) -> Arc<[Demand]> {
        let Segment { graph, nodes, .. } = &self.segment;
        let demand = |idx: usize| node_demand(&device.soc, device.info.kind, graph, &nodes[idx], step);
        let mut costs = self.costs.lock();
        let demands = match costs.take() {
            Some(known) if known.step == step => known.demands,
            Some(mut known) if known.step.rows == step.rows => {
                let demands = Arc::make_mut(&mut known.demands);
                self.attention.iter().for_each(|&idx| demands[idx] = demand(idx));
                known.demands
            }
            _ => (0..nodes.len()).map(demand).collect(),
        };
        *costs = Some(StepCosts { step, demands: Arc::clone(&demands) });
        demands
    }

    /// Computes, with the faults that show in the results.
    fn run(&self, bindings: &mut Bindings, step: StepParams, faults: &SubmissionFaults) {
        if let Some(arithmetic) = self.arithmetic {
            arithmetic.run_segment(&self.segment, bindings, step);
        }
        if faults.n_wrong > 0 {
            numerics::spoil(&self.segment, bindings, step, faults.n_wrong, faults.seed);
        }
    }
}
