//! Runs the operators of a model on every device, within a budget of time.
//!
//! A part's time is the difference between a submission of several equal nodes and one of a single node, so that what a
//! submission costs is not in it. Coarse measurements come first, and what a profile has already is not measured again:
//! a run that was cut short goes on where it stopped.

use std::ops::ControlFlow;
use std::sync::Arc;

use hetero_core::{Backend, BackendError, Graph, OperandOrder, WeightLayout, WeightMatrix};

use super::bus::measure_bus;
use super::overheads::measure_overheads;
use super::points::{Point, Wanted, distinct_operators, points};
use super::probe::{Probe, ProbeShape};
use super::together::{Pairing, measure_slowdowns, pairings};
use super::{DeviceProfile, FORMAT, Identity, MeasuredOverheads, Profile, Sample, Together, operator_key};
use crate::SchedError;
use crate::sync::Clock;

/// The part of a column of measurements that repeats a node: larger ones would take more memory than a phone has.
pub(super) const MOST_WEIGHT_BYTES: usize = 64 << 20;
/// Work that takes longer than this many seconds is measured once.
const LONG_SECONDS: f64 = 0.05;
/// Equal nodes of the longer submission, at least.
pub(super) const N_NODES: usize = 3;
/// A measurement is repeated no more often than this.
const MOST_REPEATS: usize = 200;

/// Makes a weight matrix that is never read, from its name and layout.
pub type BlankWeight = fn(&str, WeightLayout) -> Result<Arc<WeightMatrix>, BackendError>;

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// Seconds after which no further measurement is begun.
    pub budget_seconds: f64,
    /// Numbers of positions, of which each operator is measured with those that fit its graph.
    pub rows: Vec<usize>,
    /// Positions before a step that attention is measured with.
    pub past: Vec<usize>,
    /// Shares of a linear operator's columns: one in so many.
    pub column_shares: Vec<usize>,
    /// How often each measurement is repeated at least; the fastest counts.
    pub n_repeats: usize,
    /// Seconds for which each is repeated at least: zero where time is simulated and nothing disturbs it.
    pub least_seconds: f64,
    /// Equal nodes of the longer submission, at most: the more, the less noise is left in what is over at once. At least
    /// three.
    pub n_nodes: usize,
    /// Whether operands hold numbers. A simulated device that only keeps time never looks at them, and filling the
    /// weights of a large model takes seconds.
    pub fills_operands: bool,
    /// Whether to measure what operators move over the bus that devices share; without it plans follow how devices slow
    /// each other down.
    pub measures_bus: bool,
    /// Where weights come from that hold no numbers; `None` for memory of the device, which takes time to clear.
    pub blank_weight: Option<BlankWeight>,
    /// Goes into [`Identity::kernel_version`].
    pub kernel_version: String,
}

impl Default for MeasureOptions {
    fn default() -> MeasureOptions {
        MeasureOptions {
            budget_seconds: 60.0,
            rows: vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
            past: vec![256, 1024],
            column_shares: vec![1, 4],
            n_repeats: 3,
            least_seconds: 0.0,
            n_nodes: N_NODES,
            fills_operands: true,
            measures_bus: true,
            blank_weight: None,
            kernel_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// How far measuring has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'p> {
    /// Measurements that are done, among them those that were there before.
    pub n_done: usize,
    /// All of them.
    pub n_all: usize,
    /// Seconds since this run began.
    pub seconds: f64,
    /// What was measured last.
    pub operator: &'p str,
    /// On which device.
    pub device: &'p str,
    /// Whether it was measured now, and not known from before.
    pub is_new: bool,
    /// Everything that is known by now, to be kept in case that the program does not come to an end.
    pub profile: &'p Profile,
}

/// What measuring has come to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured, now and before.
    pub profile: Profile,
    /// Whether that is everything, but for what devices have failed at or are too small for.
    pub is_complete: bool,
    /// Measurements that were made now.
    pub n_new: usize,
    /// For each device, whether there is something to predict every operator from that it computes.
    pub is_covered: Vec<bool>,
    /// Devices that failed. They were left alone from then on.
    pub failures: Vec<Failure>,
}

/// A device that failed while it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub device_idx: usize,
    /// What happened.
    pub error: BackendError,
}

/// Measures what the graph needs on all devices, on top of what `known` has. `watch` sees each measurement and may end
/// it; a device that fails is left out of the rest.
///
/// # Panics
/// When `known` is of other devices.
pub fn measure(
    backends: &[Arc<dyn Backend>],
    graph: &Graph,
    clock: &dyn Clock,
    options: &MeasureOptions,
    known: Option<Profile>,
    watch: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Measured {
    let identities: Vec<Identity> =
        backends.iter().map(|backend| Identity::of(backend.info(), &options.kernel_version)).collect();
    let profile = known.unwrap_or_else(|| empty(&identities));
    let known_identities = profile.devices.iter().map(|device| &device.identity);
    assert!(known_identities.eq(&identities), "a profile of other devices cannot be continued");

    let wanted = distinct_operators(graph);
    let points = points(backends, &wanted, graph, options);
    let pairings = pairings(backends, &wanted, options);
    let mut run = Run {
        backends,
        clock,
        options,
        begin: clock.now(),
        n_all: points.len() + pairings.len(),
        n_done: 0,
        measured: Measured {
            profile,
            is_complete: true,
            n_new: 0,
            is_covered: vec![true; backends.len()],
            failures: Vec::new(),
        },
        watch,
    };
    run.measure_overheads(&wanted);
    for point in points {
        run.measure_point(point);
    }
    for pairing in pairings {
        run.measure_pairing(pairing);
    }
    run.measure_bus(&wanted);
    run.measured
}

/// Measures everything that the graph needs, on devices none of which may fail.
///
/// # Errors
/// The failure of a device.
pub fn measure_all(
    backends: &[Arc<dyn Backend>],
    graph: &Graph,
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<Profile, SchedError> {
    let measured = measure(backends, graph, clock, options, None, &mut |_| ControlFlow::Continue(()));
    match measured.failures.into_iter().next() {
        None => Ok(measured.profile),
        Some(Failure { device_idx, error }) => Err(SchedError::Device { device_idx, error }),
    }
}

/// A run of measurements.
struct Run<'r> {
    backends: &'r [Arc<dyn Backend>],
    clock: &'r dyn Clock,
    options: &'r MeasureOptions,
    begin: f64,
    n_all: usize,
    n_done: usize,
    measured: Measured,
    watch: &'r mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
}

impl Run<'_> {
    /// Whether a device can be measured, and there is still time for it.
    fn may_go_on(&mut self, device_idx: usize) -> bool {
        let has_failed = self.measured.failures.iter().any(|failure| failure.device_idx == device_idx);
        let is_over = self.clock.now() - self.begin > self.options.budget_seconds;
        if is_over && !has_failed {
            self.measured.is_complete = false;
        }
        // After the watcher has ended it, everything counts as over.
        !has_failed && !is_over && self.measured.is_complete
    }

    fn fail(&mut self, device_idx: usize, error: BackendError) {
        self.measured.is_covered[device_idx] = false;
        self.measured.failures.push(Failure { device_idx, error });
    }

    fn tell(&mut self, device: &str, operator: &str, is_new: bool) {
        self.n_done += 1;
        self.measured.n_new += usize::from(is_new);
        let progress = Progress {
            n_done: self.n_done,
            n_all: self.n_all,
            seconds: self.clock.now() - self.begin,
            operator,
            device,
            is_new,
            profile: &self.measured.profile,
        };
        if (self.watch)(&progress).is_break() {
            self.measured.is_complete = false;
        }
    }

    fn measure_overheads(&mut self, wanted: &[Wanted]) {
        for (device_idx, backend) in self.backends.iter().enumerate() {
            if self.measured.profile.devices[device_idx].overheads == MeasuredOverheads::default() {
                match measure_overheads(&**backend, wanted, self.clock, self.options) {
                    Ok(overheads) => self.measured.profile.devices[device_idx].overheads = overheads,
                    Err(error) => self.fail(device_idx, error),
                }
            }
        }
    }

    fn measure_point(&mut self, Point { device_idx, shape, is_essential }: Point) {
        let key = operator_key(&shape.spec);
        let device = &self.measured.profile.devices[device_idx];
        let is_known = has_sample(device, &key, &shape);
        if !is_known {
            let overheads = device.overheads;
            if !self.may_go_on(device_idx) {
                self.measured.is_covered[device_idx] &= !is_essential;
                return;
            }
            match measure_point(&*self.backends[device_idx], self.clock, &shape, &overheads, self.options) {
                Ok((sample, own_bytes)) => {
                    let per_column = own_bytes as f64 / shape.columns as f64;
                    self.measured.profile.devices[device_idx].add(&key, sample, per_column);
                }
                // It is too small for this, and may do others.
                Err(BackendError::LimitReached { .. }) => {}
                Err(error) => return self.fail(device_idx, error),
            }
        }
        let device = self.backends[device_idx].info().name.clone();
        self.tell(&device, &key, !is_known);
    }

    fn measure_bus(&mut self, wanted: &[Wanted]) {
        let is_wanted = self.options.measures_bus && self.measured.failures.is_empty();
        if !is_wanted || !self.measured.is_complete {
            return;
        }
        let Run { backends, clock, options, begin, measured, watch, n_done, n_all } = self;
        let before = measured.profile.clone();
        let mut may_go_on = || {
            let seconds = clock.now() - *begin;
            let (n_done, n_all) = (*n_done, *n_all);
            let (operator, device, profile) = ("memory bus", "all", &before);
            let progress = Progress { n_done, n_all, seconds, operator, device, is_new: false, profile };
            seconds <= options.budget_seconds && watch(&progress).is_continue()
        };
        match measure_bus(backends, wanted, *clock, options, &mut measured.profile, &mut may_go_on) {
            Ok(is_complete) => measured.is_complete = is_complete,
            Err(Failure { device_idx, error }) => self.fail(device_idx, error),
        }
    }

    fn measure_pairing(&mut self, Pairing { devices, shape }: Pairing) {
        let is_same = |known: &Together| known.devices == devices && known.rows == shape.rows;
        let is_known = self.measured.profile.together.iter().any(is_same);
        if !is_known {
            if !devices.iter().all(|&device_idx| self.may_go_on(device_idx)) {
                return;
            }
            match measure_slowdowns(self.backends, &devices, &shape, self.clock, self.options) {
                Ok(slowdowns) => {
                    let rows = shape.rows;
                    self.measured.profile.together.push(Together { devices: devices.clone(), rows, slowdowns });
                }
                Err(Failure { error: BackendError::LimitReached { .. }, .. }) => {}
                Err(Failure { device_idx, error }) => return self.fail(device_idx, error),
            }
        }
        let names: Vec<&str> = devices.iter().map(|&idx| self.backends[idx].info().name.as_str()).collect();
        self.tell(&names.join(" and "), &operator_key(&shape.spec), !is_known);
    }
}

fn empty(identities: &[Identity]) -> Profile {
    let device = |identity: &Identity| DeviceProfile {
        identity: identity.clone(),
        overheads: MeasuredOverheads::default(),
        operators: Vec::new(),
    };
    Profile { format: FORMAT, devices: identities.iter().map(device).collect(), together: Vec::new(), bus: None }
}

fn has_sample(device: &DeviceProfile, key: &str, shape: &ProbeShape) -> bool {
    let is_weight_stationary = shape.order == OperandOrder::WeightStationary;
    device.operator(key).is_some_and(|operator| {
        operator.samples.iter().any(|sample| {
            (sample.rows, sample.past, sample.columns, sample.is_weight_stationary)
                == (shape.rows, shape.past, shape.columns, is_weight_stationary)
        })
    })
}

fn measure_point(
    backend: &dyn Backend,
    clock: &dyn Clock,
    shape: &ProbeShape,
    overheads: &MeasuredOverheads,
    options: &MeasureOptions,
) -> Result<(Sample, u64), BackendError> {
    let mut one = Probe::new(backend, clock, shape, 1, options)?;
    let (compile_seconds, own_bytes) = (one.compile_seconds, one.own_bytes);
    let mut single = one.run(clock)?;
    let fixed = overheads.submit_seconds + overheads.submit_idle_seconds + overheads.poll_sync_seconds;
    let most_nodes = match shape.weight_bytes() {
        0 => options.n_nodes,
        bytes => options.n_nodes.min(MOST_WEIGHT_BYTES / bytes),
    };
    let seconds = if single > LONG_SECONDS || most_nodes < N_NODES {
        single = single.min(fastest(&mut one, clock, options)?);
        (single - fixed).max(0.0)
    } else {
        // What takes long shows among a few; what is over at once needs many to be seen beside the noise.
        let n_nodes = if single > LONG_SECONDS / 10.0 { N_NODES } else { most_nodes };
        let mut several = Probe::new(backend, clock, shape, n_nodes, options)?;
        let [shorter, longer] = fastest_of_two([&mut one, &mut several], clock, options)?;
        let difference = (longer - shorter) / (n_nodes - 1) as f64;
        // Noise may make the difference vanish where the work itself is next to nothing. A node takes its share of all
        // at most.
        let most = longer / n_nodes as f64;
        if difference > 0.0 { difference.min(most) } else { most }
    };
    let is_weight_stationary = shape.order == OperandOrder::WeightStationary;
    let ProbeShape { rows, past, columns, .. } = *shape;
    Ok((Sample { rows, past, columns, is_weight_stationary, seconds, compile_seconds }, own_bytes))
}

/// The fastest of some runs, after one to warm up.
pub(super) fn fastest(probe: &mut Probe, clock: &dyn Clock, options: &MeasureOptions) -> Result<f64, BackendError> {
    let begin = clock.now();
    let mut least = probe.run(clock)?;
    if least > LONG_SECONDS {
        return Ok(least);
    }
    for n_done in 0..MOST_REPEATS {
        if n_done >= options.n_repeats && clock.now() - begin >= options.least_seconds {
            break;
        }
        least = least.min(probe.run(clock)?);
    }
    Ok(least)
}

/// The fastest runs of two that take turns, so that what disturbs the one disturbs the other.
fn fastest_of_two(
    [one, other]: [&mut Probe; 2],
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<[f64; 2], BackendError> {
    let begin = clock.now();
    let mut least = [one.run(clock)?, other.run(clock)?];
    for n_done in 0..MOST_REPEATS {
        if n_done >= options.n_repeats && clock.now() - begin >= options.least_seconds {
            break;
        }
        least = [least[0].min(one.run(clock)?), least[1].min(other.run(clock)?)];
    }
    Ok(least)
}
