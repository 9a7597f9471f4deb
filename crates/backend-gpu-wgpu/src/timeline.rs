//! How completion is counted: wgpu calls back when a submission has finished, whenever somebody polls.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hetero_core::{BackendError, Timeline};
use parking_lot::Mutex;
use wgpu::{PollError, PollType, SubmissionIndex};

use crate::error::backend_error;

/// The count of finished submissions of a GPU.
#[derive(Debug)]
pub(crate) struct GpuTimeline {
    device: wgpu::Device,
    name: String,
    /// Set by wgpu's callbacks, on the thread that polls.
    completed: Arc<AtomicU64>,
    pending: Mutex<VecDeque<(u64, SubmissionIndex)>>,
    /// Why the GPU is of no further use.
    failure: Arc<Mutex<Option<BackendError>>>,
}

impl GpuTimeline {
    pub(crate) fn new(device: wgpu::Device, name: String) -> GpuTimeline {
        let failure: Arc<Mutex<Option<BackendError>>> = Arc::default();
        device.set_device_lost_callback({
            let (failure, name) = (Arc::clone(&failure), name.clone());
            move |_, message| {
                let error = BackendError::DeviceLost { device: name.clone(), reason: message };
                failure.lock().get_or_insert(error);
            }
        });
        device.on_uncaptured_error({
            let (failure, name) = (Arc::clone(&failure), name.clone());
            Arc::new(move |error: wgpu::Error| {
                failure.lock().get_or_insert(backend_error(&name, &error, 0));
            })
        });
        GpuTimeline { device, name, completed: Arc::default(), pending: Mutex::default(), failure }
    }

    /// Says that submission `value` is under way; called in the order of the values, right after it was submitted.
    pub(crate) fn add(&self, queue: &wgpu::Queue, value: u64, index: SubmissionIndex) {
        let completed = Arc::clone(&self.completed);
        // Release: whoever reads this count sees what the submission wrote.
        queue.on_submitted_work_done(move || {
            completed.fetch_max(value, Ordering::Release);
        });
        let mut pending = self.pending.lock();
        let completed = self.completed.load(Ordering::Acquire);
        while pending.pop_front_if(|(value, _)| *value <= completed).is_some() {}
        pending.push_back((value, index));
    }

    /// Why the GPU is of no further use, if it is.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        self.failure.lock().clone()
    }

    /// Polls wgpu, which calls back what has finished; whether it was within the time given.
    pub(crate) fn poll(&self, poll: PollType) -> Result<bool, BackendError> {
        // wgpu panics when the driver reports an error to a poll, after it has said that the device is lost.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(poll)));
        match polled {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(PollError::Timeout)) => Ok(false),
            Ok(Err(error @ PollError::WrongSubmissionIndex(..))) => {
                Err(BackendError::Failed { device: self.name.clone(), reason: error.to_string() })
            }
            Err(_) => {
                let reason = "the driver failed while it was asked for progress".to_owned();
                let lost = BackendError::DeviceLost { device: self.name.clone(), reason };
                Err(self.failure.lock().get_or_insert(lost).clone())
            }
        }
    }

    fn block(&self, value: u64, timeout: Option<Duration>) -> Result<bool, BackendError> {
        if self.completed.load(Ordering::Acquire) < value {
            let pending = self.pending.lock();
            let found = pending.iter().find(|(pending, _)| *pending >= value).map(|(_, index)| index.clone());
            drop(pending);
            // It may have been taken from the list just now.
            if self.completed.load(Ordering::Acquire) < value {
                let submission_index = found.unwrap_or_else(|| panic!("nothing is under way that could reach {value}"));
                let wait = PollType::Wait { submission_index: Some(submission_index), timeout };
                if !self.poll(wait)? {
                    return self.failure().map_or(Ok(false), Err);
                }
                // Another thread that polls may be about to call back.
                while self.completed.load(Ordering::Acquire) < value {
                    if let Some(error) = self.failure() {
                        return Err(error);
                    }
                    std::thread::yield_now();
                }
            }
        }
        self.failure().map_or(Ok(true), Err)
    }
}

impl Timeline for GpuTimeline {
    fn completed(&self) -> u64 {
        if !self.pending.lock().is_empty() {
            // A failure is told to whoever waits.
            let _ = self.poll(PollType::Poll);
        }
        let completed = self.completed.load(Ordering::Acquire);
        let mut pending = self.pending.lock();
        while pending.pop_front_if(|(value, _)| *value <= completed).is_some() {}
        completed
    }

    fn block_until(&self, value: u64) -> Result<(), BackendError> {
        self.block(value, None).map(drop)
    }

    fn block_for(&self, value: u64, timeout: Duration) -> Result<bool, BackendError> {
        self.block(value, Some(timeout))
    }
}
