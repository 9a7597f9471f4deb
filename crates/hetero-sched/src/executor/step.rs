//! The loop of a step: submit what is ready, wait when nothing is.

use std::sync::Arc;
use std::time::Duration;

use hetero_core::{Backend, QueuedAhead, StepParams, Timeline};

use super::{Executor, Run, Synchronisation};
use crate::SchedError;
use crate::sync::{Awaited, Estimate, Seen, Stuck, Waiter};
use crate::trace::{Doing, TraceEvent};

/// A device and how far it has come in a step.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) backend: Arc<dyn Backend>,
    /// Its runs, in the order in which it runs them.
    pub(super) order: Vec<usize>,
    /// How many of `order` were submitted, and how many of those have finished.
    n_submitted: usize,
    n_finished: usize,
    /// When the last that has finished did.
    last_end: f64,
    /// Whether that is when it was seen to, rather than a bound.
    is_end_sharp: bool,
    /// Seconds of the runs of this step of which start and end are known, and what was predicted for them.
    observed: [f64; 2],
    /// The timeline that the last submission counts on.
    timeline: Option<Arc<dyn Timeline>>,
}

impl Device {
    pub(super) fn new(backend: &Arc<dyn Backend>) -> Device {
        Device {
            backend: Arc::clone(backend),
            order: Vec::new(),
            n_submitted: 0,
            n_finished: 0,
            last_end: 0.0,
            is_end_sharp: true,
            observed: [0.0; 2],
            timeline: None,
        }
    }

    pub(super) fn reset(&mut self) {
        (self.n_submitted, self.n_finished, self.last_end, self.is_end_sharp) = (0, 0, 0.0, true);
        self.observed = [0.0; 2];
    }

    /// Seconds of the runs of the last step of which start and end are known, and what was predicted for them.
    pub(super) fn observed(&self) -> [f64; 2] {
        self.observed
    }

    /// Notes that a run that was submitted at `submitted` has ended, with nothing between it and the last one.
    fn observe(&mut self, submitted: f64, at: f64, is_sharp: bool, predicted: Option<f64>) {
        // It began when it was submitted or when the one before had ended, of which only a bound may be known.
        let is_start_known = self.is_end_sharp || submitted >= self.last_end;
        let taken = at - submitted.max(self.last_end);
        if let Some(predicted) = predicted.filter(|&predicted| is_start_known && (is_sharp || taken < predicted)) {
            self.observed[0] += taken;
            self.observed[1] += predicted;
        }
    }

    /// The next to be submitted.
    fn head(&self) -> Option<usize> {
        self.order.get(self.n_submitted).copied()
    }

    fn under_way(&self) -> &[usize] {
        &self.order[self.n_finished..self.n_submitted]
    }
}

/// A step under way. When it ends early, by an error or a panic, what is still running is waited for.
pub(super) struct StepGuard<'e> {
    executor: &'e mut Executor,
    step: StepParams,
}

impl<'e> StepGuard<'e> {
    pub(super) fn new(executor: &'e mut Executor, step: StepParams) -> StepGuard<'e> {
        if executor.rows != step.rows {
            executor.rows = step.rows;
            for run in &mut executor.runs {
                run.seconds = run.predicted.map_or_else(Estimate::new, Estimate::seeded);
                run.has_run = false;
            }
        }
        executor.devices.iter_mut().for_each(Device::reset);
        executor.copies.reset();
        StepGuard { executor, step }
    }

    pub(super) fn run(mut self, is_cancelled: &dyn Fn() -> bool) -> Result<(), SchedError> {
        let begin = self.executor.traced_now();
        let Executor { state, devices, .. } = &mut *self.executor;
        state.begin(self.step, devices)?;
        loop {
            let ready = self.next_ready()?;
            if ready.is_none() && self.is_over() {
                let Executor { copies, memories, state, plan, .. } = &mut *self.executor;
                copies.make_outputs(memories, self.step)?;
                state.end(self.step, plan);
                let StepParams { rows, past } = self.step;
                self.executor.trace_host(Doing::Step { rows, past }, begin);
                return Ok(());
            }
            if is_cancelled() {
                return Err(SchedError::Cancelled);
            }
            match ready {
                Some(idx) => self.submit(idx)?,
                None if self.executor.synchronisation == Synchronisation::PerCrossing => self.finish_device()?,
                None => {
                    self.queue_ahead()?;
                    self.wait()?;
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.executor.devices.iter().all(|device| device.n_finished == device.order.len())
    }

    fn has_finished(&self, idx: usize) -> bool {
        let executor = &*self.executor;
        let device = &executor.devices[executor.runs[idx].submission.device_idx];
        // Indices rise along a device's order.
        device.order[..device.n_finished].last().is_some_and(|&last| idx <= last)
    }

    /// The first run in the plan's order that can be submitted now.
    fn next_ready(&mut self) -> Result<Option<usize>, SchedError> {
        if self.executor.synchronisation == Synchronisation::PerCrossing {
            return Ok(self.next_of_stage());
        }
        let mut first: Option<usize> = None;
        for device_idx in 0..self.executor.devices.len() {
            let Some(head) = self.executor.devices[device_idx].head() else { continue };
            if first.is_some_and(|first| first < head) {
                continue;
            }
            let mut is_ready = true;
            for i in 0..self.executor.runs[head].submission.depends_on.len() {
                let needed = self.executor.runs[head].submission.depends_on[i];
                if !self.has_finished(needed) {
                    self.look(self.executor.runs[needed].submission.device_idx)?;
                    is_ready &= self.has_finished(needed);
                }
            }
            if is_ready {
                first = Some(head);
            }
        }
        Ok(first)
    }

    /// The first run that is not submitted, when everything of the stages before its own has finished.
    fn next_of_stage(&self) -> Option<usize> {
        let Executor { runs, devices, .. } = &*self.executor;
        let head = devices.iter().filter_map(Device::head).min()?;
        let oldest = devices.iter().filter_map(|device| device.under_way().first()).min();
        oldest.is_none_or(|&oldest| runs[oldest].stage == runs[head].stage).then_some(head)
    }

    /// Lets the driver of one of the devices that have something to do finish it.
    fn finish_device(&mut self) -> Result<(), SchedError> {
        let Executor { runs, devices, waiter, .. } = &mut *self.executor;
        let under_way = devices.iter().filter_map(|device| device.under_way().last().copied());
        let Some(idx) = under_way.min() else { return Ok(()) };
        let Some(awaited) = runs[idx].awaited(waiter) else { return Ok(()) };
        match waiter.finish(&awaited) {
            Ok(seen) => self.finish(idx, &seen),
            Err(stuck) => Err(self.stuck(idx, stuck.waited_seconds)),
        }
    }

    /// Gives devices what comes next on them and waits for others, where they take it before its inputs exist: then the
    /// host only signals when these are there, instead of submitting. It does so while it has nothing better to do.
    ///
    /// # Why nobody waits for ever
    ///
    /// Nothing may be given to a device behind something that never begins. A run is queued ahead only as the next of its
    /// device's order, so on one device nothing of this step is queued out of order; and only when all that it waits for
    /// was submitted before, and so stands in front of it in every queue ([`hetero_core::QueuedAhead`] has the rest of
    /// the argument, for several executors on the same devices). What the host does before it starts the run is to wait
    /// for exactly these submissions, or for others that are under way, and to copy from and to tensors that the host
    /// reaches. When a step ends early the guard takes back what has not begun, before it waits for anything.
    fn queue_ahead(&mut self) -> Result<(), SchedError> {
        let is_on = self.executor.is_queued_ahead;
        for device_idx in 0..if is_on { self.executor.devices.len() } else { 0 } {
            let Some(head) = self.executor.devices[device_idx].head() else { continue };
            let run = &self.executor.runs[head];
            let has_begun = |&needed: &usize| self.executor.runs[needed].ticket.is_some() || self.has_finished(needed);
            if run.ahead.is_some() || !run.submission.depends_on.iter().all(has_begun) {
                continue;
            }
            let begin = self.executor.traced_now();
            let run = &mut self.executor.runs[head];
            let Some(queued) = QueuedAhead::queue(&run.executable, &run.tensors, self.step) else { continue };
            run.ahead = Some(queued.map_err(|error| SchedError::Device { device_idx, error })?);
            self.executor.trace_host(Doing::QueueAhead { run_idx: head }, begin);
        }
        Ok(())
    }

    /// Looks how far a device has come.
    fn look(&mut self, device_idx: usize) -> Result<(), SchedError> {
        let device = &self.executor.devices[device_idx];
        let Some(timeline) = device.timeline.as_ref().filter(|_| !device.under_way().is_empty()) else { return Ok(()) };
        let completed = timeline.completed();
        let has_ended = |&idx: &usize| self.executor.runs[idx].value().is_some_and(|value| value <= completed);
        let n_ended = device.under_way().iter().take_while(|idx| has_ended(idx)).count();
        if n_ended == 0 {
            return Ok(());
        }
        let last = device.under_way()[n_ended - 1];
        let now = self.executor.waiter.clock().now();
        self.finish(last, &Seen { idx: 0, at: now, is_sharp: false, not_before: None })
    }

    fn submit(&mut self, idx: usize) -> Result<(), SchedError> {
        let Executor { runs, devices, waiter, copies, memories, state, .. } = &mut *self.executor;
        let run = &mut runs[idx];
        copies.make(&run.copies, memories, self.step)?;
        state.make(&run.state_copies, self.step)?;
        run.submitting = waiter.clock().now();
        let device = &mut devices[run.submission.device_idx];
        let queue = device.backend.info().id;
        let mut bindings = std::mem::take(&mut run.bindings);
        bindings.tensors.extend(run.tensors.iter().map(|(tensor, claim)| tensor.lend(claim, queue)));
        let submitted = match run.ahead.take() {
            Some(queued) => queued.start(bindings),
            None => run.executable.submit(bindings, self.step),
        };
        let ticket = submitted.map_err(|error| SchedError::Device { device_idx: run.submission.device_idx, error })?;
        match &device.timeline {
            Some(timeline) if Arc::ptr_eq(timeline, ticket.timeline()) => {}
            _ => device.timeline = Some(Arc::clone(ticket.timeline())),
        }
        run.ticket = Some(ticket);
        run.submitted = waiter.clock().now();
        device.n_submitted += 1;
        let begin = run.submitting;
        if self.executor.trace.is_on() {
            self.executor.trace_host(Doing::Submit { run_idx: idx }, Some(begin));
        }
        self.expect_from(run_position(self.executor, idx));
        Ok(())
    }

    /// Reckons anew when the runs of a device that are under way start and end, from one of them on.
    fn expect_from(&mut self, (device_idx, first): (usize, usize)) {
        let Executor { runs, devices, .. } = &mut *self.executor;
        let device = &devices[device_idx];
        for position in first.max(device.n_finished)..device.n_submitted {
            let before = match position.checked_sub(1).map(|before| device.order[before]) {
                // One of which nothing is known counts as taking no time, and then the next as taking both times.
                Some(before) if position > device.n_finished => runs[before].end.unwrap_or(runs[before].start),
                Some(_) => device.last_end,
                None => 0.0,
            };
            let run = &mut runs[device.order[position]];
            run.start = before.max(run.submitted);
            run.end = run.seconds.seconds().map(|seconds| run.start + seconds);
        }
    }

    /// Waits until something has finished that a run needs or, when all are submitted, until a device has finished.
    fn wait(&mut self) -> Result<(), SchedError> {
        let begin = self.executor.traced_now();
        let Executor { runs, devices, waiter, awaited, awaited_runs, .. } = &mut *self.executor;
        awaited.clear();
        awaited_runs.clear();
        let mut add = |idx: usize, runs: &[Run]| {
            let Some(run) = runs[idx].awaited(waiter).filter(|_| !awaited_runs.contains(&idx)) else { return };
            awaited_runs.push(idx);
            awaited.push(run);
        };
        for head in devices.iter().filter_map(Device::head) {
            runs[head].submission.depends_on.iter().for_each(|&needed| add(needed, runs));
        }
        if devices.iter().all(|device| device.head().is_none()) {
            devices.iter().filter_map(|device| device.under_way().last()).for_each(|&last| add(last, runs));
        }
        if awaited.is_empty() {
            // A look on behalf of a later device has found what an earlier one needs: that one is ready now.
            return Ok(());
        }
        let seen = waiter.wait_any(awaited);
        awaited.clear();
        match seen {
            Ok(seen) => {
                let idx = awaited_runs[seen.idx];
                self.executor.trace_host(Doing::Wait, begin);
                self.finish(idx, &seen)
            }
            Err(Stuck { idx, waited_seconds }) => {
                let idx = awaited_runs[idx];
                Err(self.stuck(idx, waited_seconds))
            }
        }
    }

    fn stuck(&self, idx: usize, waited_seconds: f64) -> SchedError {
        let run = &self.executor.runs[idx];
        let device_idx = run.submission.device_idx;
        let duration = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        SchedError::Stuck {
            device_idx,
            device: self.executor.devices[device_idx].backend.info().name.clone(),
            waited: duration(waited_seconds),
            predicted: duration(run.seconds.seconds().unwrap_or(0.0)),
        }
    }

    /// Takes the rights of a run that was seen to have ended back, and of those before it on its device.
    fn finish(&mut self, idx: usize, seen: &Seen) -> Result<(), SchedError> {
        let Seen { at, is_sharp, .. } = *seen;
        let (device_idx, position) = run_position(self.executor, idx);
        let Executor { runs, devices, trace, graph, n_plans, .. } = &mut *self.executor;
        let device = &mut devices[device_idx];
        if device.n_finished == position {
            let run = &runs[idx];
            device.observe(run.queued(at), at, is_sharp, run.predicted);
        }
        device.is_end_sharp = is_sharp;
        // Of several that have ended since the last look only the sum is known, and the last one gets the difference.
        let start = runs[idx].start;
        if at > start {
            seen.teach(&mut runs[idx].seconds, start);
        } else if let Some(end) = runs[idx].end {
            // It has ended before it was expected to begin: those before it are expected to take too long. What has ended
            // before the host came back from submitting it shows nothing.
            let chain = &device.order[device.n_finished..=position];
            let begin = chain.first().map_or(start, |&first| runs[first].start);
            let part = (at - begin) / (end - begin);
            chain.iter().for_each(|&run| runs[run].seconds.add_share(part, is_sharp));
        }
        while device.n_finished <= position {
            let run = &mut runs[device.order[device.n_finished]];
            device.n_finished += 1;
            let ticket = run.ticket.take().expect("a run under way has a ticket");
            run.bindings = ticket.wait().map_err(|error| SchedError::Device { device_idx, error })?;
            run.bindings.tensors.clear();
            run.has_run = true;
            // What had ended before it was looked for did so when it was expected, or what runs behind it seems to have
            // just begun.
            let is_seen = is_sharp && device.n_finished > position;
            let end = if is_seen { at } else { run.end.unwrap_or(run.start).min(at) };
            let start = run.start.min(run.queued(at)).clamp(device.last_end, at);
            device.last_end = end.max(start);
            let node = run.submission.parts.first().map(|part| graph.node(part.node));
            trace.add(TraceEvent {
                device_idx,
                plan: *n_plans,
                run_idx: device.order[device.n_finished - 1],
                name: node.map_or("", |node| node.name),
                layer: node.and_then(|node| node.layer),
                n_nodes: run.submission.parts.len(),
                // The device may have begun before the host came back from submitting.
                submitted: run.submitted.min(start),
                start,
                end: device.last_end,
                predicted: run.predicted,
            });
        }
        self.expect_from((device_idx, position + 1));
        Ok(())
    }
}

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        // First what has not begun, which would hold up what was submitted behind it.
        self.executor.runs.iter_mut().for_each(|run| drop(run.ahead.take()));
        // Dropping a ticket waits for its submission and gives its rights back. After a step there is none.
        self.executor.runs.iter_mut().for_each(|run| drop(run.ticket.take()));
        self.executor.awaited.clear();
    }
}

impl Run {
    /// The count at which it has finished, while it is under way.
    fn value(&self) -> Option<u64> {
        self.ticket.as_ref().map(hetero_core::Ticket::value)
    }

    /// When its device had it, given when it was seen to have ended. Submitting takes time of the host, by whose end the
    /// device usually begins; but a host that loses its core in there finds the work done when it comes back.
    fn queued(&self, at: f64) -> f64 {
        let is_done_meanwhile = at - self.submitted < 0.5 * (at - self.submitting);
        if is_done_meanwhile { self.submitting } else { self.submitted }
    }

    /// What a waiter has to know of it, while it is under way.
    fn awaited(&self, waiter: &Waiter) -> Option<Awaited> {
        let ticket = self.ticket.as_ref()?;
        let give_up = match (self.end, self.seconds.seconds()) {
            (Some(end), Some(seconds)) => waiter.give_up(end, seconds, !self.has_run),
            _ => f64::INFINITY,
        };
        let timeline = Arc::clone(ticket.timeline());
        Some(Awaited { timeline, value: ticket.value(), expected: self.end, give_up })
    }
}

/// A run's device, and its place in the order of that.
fn run_position(executor: &Executor, idx: usize) -> (usize, usize) {
    let device_idx = executor.runs[idx].submission.device_idx;
    let order = &executor.devices[device_idx].order;
    (device_idx, order.binary_search(&idx).expect("a run is in the order of its device"))
}
