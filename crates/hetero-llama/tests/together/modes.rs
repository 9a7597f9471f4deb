//! Every way in which processors can share a model, with plans that do cut these small models.
//!
//! On a phone, starting a processor takes longer than all of a small model, and every plan would be for one processor.
//! So plans are made for a phone on which starting and waiting cost nothing and whose processors gain by sharing, and they
//! are run in real time by threads that compute.

use std::sync::Arc;

use backend_npu_sim::soc::Overheads;
use backend_npu_sim::{FaultPlan, Numerics, SimOptions, SimulatedSoc, Soc, TimeMode, blank_weight};
use hetero_core::{Backend, DeviceInfo, DeviceKind};
use hetero_llama::simulate::{DynamicLength, Method, PhoneClock};
use hetero_sched::cost::{DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::solver::Granularity;
use hetero_sched::sync::{WaitOptions, WaitPolicy};
use hetero_sched::{ExecutorOptions, SolveOptions, Synchronisation, Team, TeamOptions};

use crate::subject::Subject;

/// A way in which processors share a model.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    /// The first allocates what they share.
    pub(crate) devices: &'static [DeviceKind],
    granularity: Granularity,
    method: Method,
    dynamic_length: DynamicLength,
    synchronisation: Synchronisation,
    policy: WaitPolicy,
}

use DeviceKind::{Cpu, Gpu, Npu};

const TENSOR: Mode = Mode {
    name: "tensor",
    devices: &[Gpu, Npu],
    granularity: Granularity::Tensor,
    method: Method::WholeLayer,
    dynamic_length: DynamicLength::Tensor,
    synchronisation: Synchronisation::Fast,
    policy: WaitPolicy::Predicted,
};
const PAPER: Mode = Mode { name: "tensor, as the paper", method: Method::Paper, ..TENSOR };

/// All of them.
pub(crate) const MODES: [Mode; 14] = [
    Mode { name: "gpu-only", devices: &[Gpu], ..TENSOR },
    Mode { name: "npu-only", devices: &[Npu], ..TENSOR },
    Mode { name: "cpu-only", devices: &[Cpu], ..TENSOR },
    Mode { name: "layer", granularity: Granularity::Layer, ..TENSOR },
    Mode { name: "layer, as the paper", granularity: Granularity::Layer, ..PAPER },
    TENSOR,
    PAPER,
    Mode { name: "tensor-3", devices: &[Gpu, Npu, Cpu], ..TENSOR },
    Mode { name: "tensor of CPU and NPU", devices: &[Cpu, Npu], ..TENSOR },
    Mode { name: "padding", dynamic_length: DynamicLength::Padding, ..PAPER },
    Mode { name: "online", dynamic_length: DynamicLength::Online, ..PAPER },
    Mode { name: "pipe", dynamic_length: DynamicLength::Pipe, ..PAPER },
    Mode { name: "without fast sync", synchronisation: Synchronisation::PerCrossing, ..TENSOR },
    Mode { name: "polling throughout", policy: WaitPolicy::Spin, devices: &[Gpu, Npu, Cpu], ..TENSOR },
];

impl Mode {
    /// The processors as a team, and the phone that the simulated ones are of. A CPU among several is the machine's.
    pub(crate) fn team(&self, subject: &Subject, faults: Option<&str>) -> (Arc<Team>, Arc<SimulatedSoc>) {
        let faults = faults.map_or_else(FaultPlan::default, |text| FaultPlan::parse(text).expect("a plan of faults"));
        let time = TimeMode::Real { scale: 0.0 };
        let phone = SimulatedSoc::new(even_phone(), SimOptions { time, faults, ..SimOptions::default() });
        let executor = ExecutorOptions {
            synchronisation: self.synchronisation,
            wait: WaitOptions { policy: self.policy, ..WaitOptions::default() },
            ..ExecutorOptions::default()
        };
        if let [kind] = self.devices {
            return (Team::single(phone.backend(*kind), executor), phone);
        }
        let device = |&kind: &DeviceKind| match kind {
            Cpu => Arc::clone(&subject.alone.devices()[0]),
            _ => phone.backend(kind),
        };
        let devices: Vec<Arc<dyn Backend>> = self.devices.iter().map(device).collect();
        let solve = SolveOptions {
            granularity: self.granularity,
            method: self.method,
            dynamic_length: self.dynamic_length,
            ..SolveOptions::new(DeviceSet::first(devices.len()))
        };
        let team = Team::new(devices, self.costs(subject), TeamOptions { solve, executor, is_strict: false });
        (team, phone)
    }

    /// What the processors cost, measured once for all modes that have them.
    fn costs(&self, subject: &Subject) -> Arc<ProfiledCosts> {
        let mut known = subject.costs.lock().expect("no test panics while it measures");
        Arc::clone(known.entry(self.devices).or_insert_with(|| Arc::new(self.measure(subject))))
    }

    /// Measures in virtual time, in which the machine's load does not show.
    fn measure(&self, subject: &Subject) -> ProfiledCosts {
        let options = SimOptions { numerics: Numerics::None, time: TimeMode::Virtual, ..SimOptions::default() };
        let phone = SimulatedSoc::new(even_phone(), options);
        let devices: Vec<Arc<dyn Backend>> = self.devices.iter().map(|&kind| phone.backend(kind)).collect();
        let infos: Vec<DeviceInfo> = devices.iter().map(|device| device.info().clone()).collect();
        let prefill = subject.prefill();
        let measuring = MeasureOptions { blank_weight: Some(blank_weight), ..MeasureOptions::in_virtual_time() };
        let clock = PhoneClock(phone);
        let profile = measure_all(&devices, &prefill.graph, &clock, &measuring).expect("a profile");
        let options = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
        ProfiledCosts::new(&profile, &infos, &prefill.graph, &options)
    }

    /// One of the simulated processors, by the name that faults have for it.
    pub(crate) fn victim(&self, choice: usize) -> DeviceKind {
        let simulated: Vec<DeviceKind> = self.devices.iter().copied().filter(|&kind| kind != Cpu).collect();
        simulated[choice % simulated.len()]
    }

    /// Asserts that each processor had a part in what was computed. `shares` are those of the last prompt's plan.
    pub(crate) fn check_work(&self, phone: &SimulatedSoc, shares: &[f64]) {
        let usage = phone.usage();
        let operations = |is_counted: &dyn Fn(DeviceKind) -> bool| -> f64 {
            usage.iter().filter(|usage| is_counted(usage.kind)).map(|usage| usage.operations).sum()
        };
        // Whole operators that are not products are little work.
        let least = if self.granularity == Granularity::Layer { 0.0 } else { 0.01 };
        for (&kind, &planned) in self.devices.iter().zip(shares) {
            let is_simulated = kind != Cpu || self.devices.len() == 1;
            let share = if is_simulated { operations(&|other| other == kind) / operations(&|_| true) } else { planned };
            assert!(share > least, "{}: the {kind} did {:.1} % of the work", self.name, 100.0 * share);
        }
    }
}

/// A phone on which nothing but computing takes time, and whose processors are about as fast as one another; the NPU is
/// a little ahead, so that whole operators are worth giving to it.
fn even_phone() -> Soc {
    let mut soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    let free = |overheads: &mut Overheads| {
        *overheads = Overheads {
            submit_seconds: 0.0,
            submit_idle_seconds: 0.0,
            wait_seconds: 0.0,
            poll_seconds: 0.0,
            start_seconds: 0.0,
            copy_seconds: 0.0,
            copy_bytes_per_second: 1e12,
        }
    };
    free(&mut soc.cpu.overheads);
    free(&mut soc.gpu.overheads);
    free(&mut soc.npu.overheads);
    for node_seconds in [&mut soc.cpu.node_seconds, &mut soc.gpu.node_seconds, &mut soc.npu.node_seconds] {
        *node_seconds = 0.0;
    }
    // Small operators take as long as their bytes do.
    soc.bus.peak_bytes_per_second = 200e9;
    soc.bus.combined_bytes_per_second = 200e9;
    soc.cpu.bytes_per_second = 40e9;
    soc.gpu.bytes_per_second = 40e9;
    soc.npu.bytes_per_second = 60e9;
    soc.npu.kernels.float.stall_rows = 0.0;
    soc
}
