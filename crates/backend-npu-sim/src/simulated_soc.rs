//! A whole simulated phone: three processors, one bus, one clock.

use std::sync::Arc;

use hetero_core::{Backend, DeviceInfo, DeviceKind};
use parking_lot::Mutex;

use crate::backend::{Device, SimBackend};
use crate::clock::{ClockParams, N_PROCESSORS, VirtualClock, index_of};
use crate::fault::{FaultPlan, FaultState};
use crate::numerics::Arithmetic;
use crate::rules::GraphMemory;
use crate::soc::{Overheads, Soc};
use crate::timeline::VirtualTimeline;
use crate::trace::Trace;

/// A simulated phone. The crate's documentation has an example.
#[derive(Debug)]
pub struct SimulatedSoc {
    soc: Arc<Soc>,
    clock: Arc<VirtualClock>,
    /// CPU, GPU and NPU.
    backends: [Arc<SimBackend>; N_PROCESSORS],
}

/// How a phone is simulated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimOptions {
    /// What is computed.
    pub numerics: Numerics,
    /// What time means.
    pub time: TimeMode,
    /// How the host reaches activations.
    pub memory: MemoryMode,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// Whether what happens in virtual time is recorded for [`SimulatedSoc::trace`]: some 50 bytes for each node that
    /// runs.
    pub trace: bool,
}

/// What is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Real results.
    #[default]
    Reference,
    /// Nothing, for timing alone: outputs stay as they are, and weights are never read.
    None,
}

/// What time means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TimeMode {
    /// Simulated: a submission has finished when the clock says so, and is computed when the host learns of it.
    #[default]
    Virtual,
    /// The machine's: each processor is a thread that takes at least `scale` times the simulated time of a submission
    /// that is alone on the bus. With 0 it is as fast as it computes. Only processors are simulated, not what
    /// submitting and waiting cost, and nothing is recorded.
    Real {
        /// Real seconds for a simulated one.
        scale: f64,
    },
    /// None: everything is finished at once and costs nothing.
    Free,
}

/// How the host reaches the tensors that processors allocate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryMode {
    /// By a pointer: what phones can do, and the paper's pool of shared buffers does.
    #[default]
    Shared,
    /// By calls of a processor's driver, which copy and take the time that the SoC file says: what engines do that
    /// drive each processor by itself. Processors still reach each other's tensors; it is the engine that does not let
    /// them. For timing alone, because nothing is kept in such a tensor.
    Copied,
}

/// What a processor has done since the phone was switched on or its counts were reset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessorUsage {
    /// Which processor.
    pub kind: DeviceKind,
    /// Virtual seconds in which it had a submission; in real and free time, those that submissions would take alone.
    pub busy_seconds: f64,
    /// Bytes that it moved over the bus.
    pub bytes: f64,
    /// Arithmetic operations of nodes that have finished, with what an NPU fills up to its tiles.
    pub operations: f64,
    /// Energy: idle power over all of the time, active power while busy, and what bytes and operations take.
    pub joules: f64,
    /// Submissions so far.
    pub submissions: u64,
    /// Seconds that the host spent compiling for it.
    pub compile_seconds: f64,
}

const KINDS: [DeviceKind; N_PROCESSORS] = [DeviceKind::Cpu, DeviceKind::Gpu, DeviceKind::Npu];

impl SimulatedSoc {
    /// Switches a phone on, at time zero.
    ///
    /// # Panics
    /// When the scale of real time is negative or not finite, or something is to be computed in memory that keeps
    /// nothing ([`MemoryMode::Copied`] with [`Numerics::Reference`]).
    pub fn new(soc: Soc, options: SimOptions) -> Arc<SimulatedSoc> {
        let real_scale = match options.time {
            TimeMode::Real { scale } => {
                assert!(scale >= 0.0 && scale.is_finite(), "time cannot go {scale} times as slow");
                Some(scale)
            }
            TimeMode::Virtual | TimeMode::Free => None,
        };
        let keeps_tensors = options.memory == MemoryMode::Shared;
        assert!(keeps_tensors || options.numerics == Numerics::None, "copied memory is for timing alone");
        let overheads = KINDS.map(|kind| match options.time {
            TimeMode::Free => free(),
            _ => soc.overheads(kind).clone(),
        });
        let clock = Arc::new(VirtualClock::new(ClockParams {
            combined_bytes_per_second: soc.bus.combined_bytes_per_second,
            watchdog_seconds: options.faults.timeout.as_secs_f64(),
            shortest_sleep_seconds: if options.time == TimeMode::Free { 0.0 } else { soc.host.sleep_seconds },
            overheads,
            is_traced: options.trace,
            real_scale,
        }));
        let soc = Arc::new(soc);
        let backend = |kind: DeviceKind| {
            let info = DeviceInfo { is_host_visible: keeps_tensors, ..Device::info(&soc, kind) };
            let timeout = options.faults.timeout;
            let timeline = VirtualTimeline::new(Arc::clone(&clock), index_of(kind), &info.name, timeout);
            let limits = (kind == DeviceKind::Npu).then(|| soc.npu_limits.clone());
            Arc::new(SimBackend {
                device: Arc::new(Device {
                    idx: index_of(kind),
                    soc: Arc::clone(&soc),
                    clock: Arc::clone(&clock),
                    timeline: Arc::new(timeline),
                    time: options.time,
                    memory: options.memory,
                    arithmetic: match options.numerics {
                        Numerics::Reference => Some(Arithmetic { kind, tile: soc.npu_limits.tile }),
                        Numerics::None => None,
                    },
                    faults: Mutex::new(FaultState::new(&options.faults, kind)),
                    graphs: limits.map(|limits| GraphMemory::new(&info.name, limits)),
                    queue: Mutex::new(None),
                    info,
                }),
            })
        };
        Arc::new(SimulatedSoc { backends: KINDS.map(backend), clock, soc })
    }

    /// What is simulated.
    pub fn soc(&self) -> &Soc {
        &self.soc
    }

    /// One of its processors: `cpu-sim`, `gpu-sim` or `npu-sim`.
    pub fn backend(&self, kind: DeviceKind) -> Arc<dyn Backend> {
        Arc::<SimBackend>::clone(&self.backends[index_of(kind)])
    }

    /// The clock of the host that drives it.
    pub fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    /// What CPU, GPU and NPU have done until now.
    pub fn usage(&self) -> Vec<ProcessorUsage> {
        let (seconds, counts) = self.clock.counts();
        let usage = |kind: DeviceKind| {
            let counts = &counts[index_of(kind)];
            let power = self.soc.power(kind);
            let (busy_seconds, bytes, operations) = (counts.work.busy_seconds, counts.work.bytes, counts.operations);
            ProcessorUsage {
                kind,
                busy_seconds,
                bytes,
                operations,
                joules: power.idle_watts * seconds
                    + power.active_watts * busy_seconds
                    + power.joules_per_byte * bytes
                    + power.joules_per_operation * operations,
                submissions: counts.submissions,
                compile_seconds: counts.compile_seconds,
            }
        };
        KINDS.map(usage).to_vec()
    }

    /// Counts from now on; the clock goes on as it was.
    pub fn reset_usage(&self) {
        self.clock.reset_counts();
    }

    /// Everything that has happened in virtual time, when [`SimOptions::trace`] asks for recording.
    pub fn trace(&self) -> Trace {
        self.clock.trace(&self.soc.name)
    }
}

/// Driving that costs nothing.
fn free() -> Overheads {
    Overheads {
        submit_seconds: 0.0,
        submit_idle_seconds: 0.0,
        wait_seconds: 0.0,
        poll_seconds: 0.0,
        start_seconds: 0.0,
        copy_seconds: 0.0,
        copy_bytes_per_second: f64::INFINITY,
    }
}
