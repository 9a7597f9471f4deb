//! Submissions that wait for the host: queued before their inputs exist, begun by a signal.
//!
//! Such a submission waits for a timeline semaphore of its lane, which only the host signals. So `vkQueueSubmit`, with
//! all that a driver does in it, is over before the inputs are there, and beginning costs one `vkSignalSemaphore`.
//!
//! - **What it reads.** A submission makes visible what the host wrote before it was queued, and this one was queued
//!   long before; a barrier behind the wait does the same for what was written until the signal.
//! - **Taking it back.** Its dispatches are indirect: numbers of workgroups lie in a buffer of the lane, which the host
//!   writes before it queues the submission. Zeros there, and the submission ends without running a shader.
//! - **Semaphores.** One for each lane, because lanes may be started in another order than they were queued in; the one
//!   that all submissions raise when they end still rises in the order of the queue.

use std::collections::HashMap;

use hetero_core::{BackendError, StepParams};
use vulkano::buffer::{BufferUsage, Subbuffer};
use vulkano::command_buffer::DispatchIndirectCommand;
use vulkano::sync::semaphore::{Semaphore, SemaphoreSignalInfo};

use crate::error::checked_error;
use crate::placement::Purpose;
use crate::queue::Gpu;
use crate::recording::Recorded;

/// Whether work is queued before its inputs exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ahead {
    /// Where that may gain something: on all but software, which has no host to save calls for. It computes on the cores
    /// that the caller's threads need, and takes as long to begin either way.
    #[default]
    Detected,
    /// On every device, as tests do.
    Always,
    /// Never: for comparison, and for drivers that cannot.
    Never,
}

/// What holds back the submissions of a lane.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Commands by what their workgroups go by.
    pub(crate) recorded: HashMap<(u32, u32), Held>,
    /// A [`DispatchIndirectCommand`] for each dispatch of a recording.
    pub(crate) workgroups: Subbuffer<[DispatchIndirectCommand]>,
    semaphore: Semaphore,
    /// What the last submission waits for.
    value: u64,
    /// The step of the submission that is held back, while there is one.
    waiting: Option<StepParams>,
}

/// Commands whose dispatches read how many workgroups they have.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) commands: Recorded,
    pub(crate) workgroups: Vec<[u32; 2]>,
}

impl Gate {
    /// For recordings of at most so many dispatches.
    pub(crate) fn new(gpu: &Gpu, n_dispatches: usize) -> Result<Gate, BackendError> {
        let bytes = (n_dispatches.max(1) * size_of::<DispatchIndirectCommand>()) as u64;
        let workgroups =
            gpu.buffer(bytes, BufferUsage::INDIRECT_BUFFER, Purpose::Parameters)?.slice(0..bytes).reinterpret();
        let semaphore = gpu.timeline_semaphore().map_err(|error| checked_error(&gpu.info.name, error, 0))?;
        Ok(Gate { recorded: HashMap::new(), workgroups, semaphore, value: 0, waiting: None })
    }

    /// Queues the commands of `recorded` with this key, for a step: the count at which they have finished.
    ///
    /// The caller keeps the gate until then.
    pub(crate) fn queue(&mut self, gpu: &Gpu, recorded_for: (u32, u32), step: StepParams) -> Result<u64, BackendError> {
        let Held { commands, workgroups } = &self.recorded[&recorded_for];
        gpu.write(self.workgroups.as_bytes(), |memory| {
            for (bytes, [x, y]) in memory.chunks_exact_mut(size_of::<DispatchIndirectCommand>()).zip(workgroups) {
                bytes.copy_from_slice(bytemuck::bytes_of(&[*x, *y, 1]));
            }
        })?;
        let value = gpu.submit_behind(commands, (&self.semaphore, self.value + 1))?;
        self.value += 1;
        self.waiting = Some(step);
        Ok(value)
    }

    /// The step of the submission that is held back.
    pub(crate) fn waiting(&self) -> Option<StepParams> {
        self.waiting
    }

    /// Lets the submission begin.
    pub(crate) fn open(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        let info = SemaphoreSignalInfo { value: self.value, ..SemaphoreSignalInfo::default() };
        // SAFETY: the value is above all that this semaphore has had, and nobody else signals it: `queue` raises it by one
        // for each submission, and a lane has no other while one is waiting.
        unsafe { self.semaphore.signal(info) }.map_err(|error| checked_error(&gpu.info.name, error, 0))?;
        self.waiting = None;
        Ok(())
    }

    /// Lets the submission end without having done anything.
    pub(crate) fn take_back(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        // It has not begun, so nobody reads them, and the barrier behind its wait lets it see what is written now.
        gpu.write(self.workgroups.as_bytes(), |memory| memory.fill(0))?;
        self.open(gpu)
    }
}
