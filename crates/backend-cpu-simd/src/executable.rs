//! A compiled segment and its submission.

use std::sync::Arc;

use hetero_core::{BackendError, Bindings, DeviceId, Executable, StepCheck, StepParams, Ticket, Timeline};

use crate::program::Program;
use crate::queue::Queue;

/// A program together with the queue that runs it.
#[derive(Debug)]
pub(crate) struct CpuExecutable {
    check: StepCheck,
    program: Arc<Program>,
    queue: Arc<Queue>,
    device: DeviceId,
}

impl CpuExecutable {
    pub(crate) fn new(program: Program, queue: Arc<Queue>, device: DeviceId) -> CpuExecutable {
        let check = StepCheck::new(program.segment());
        CpuExecutable { check, program: Arc::new(program), queue, device }
    }
}

impl Executable for CpuExecutable {
    fn submit(&self, mut bindings: Bindings, step: StepParams) -> Result<Ticket, BackendError> {
        self.check.check(&bindings, step);
        bindings.hand_over(self.device);
        let tensors = self.program.raw_tensors(&bindings);
        let value = self.queue.submit(Arc::clone(&self.program), tensors, step);
        let timeline: Arc<dyn Timeline> = Arc::clone(self.queue.timeline()) as Arc<dyn Timeline>;
        Ok(Ticket::new(timeline, value, bindings))
    }
}
