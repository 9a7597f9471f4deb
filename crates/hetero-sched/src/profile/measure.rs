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
use super::repeat::{LONG_SECONDS, repeat_probe, repeat_two};
use super::together::{Pairing, measure_slowdowns, pairings};
use super::{DeviceProfile, FORMAT, Identity, MeasuredOverheads, Profile, Sample, Together, operator_key};
use crate::SchedError;
use crate::sync::Clock;

/// The part of a column of measurements that repeats a node: larger ones would take more memory than a phone has.
pub(super) const MOST_WEIGHT_BYTES: usize = 64 << 20;
/// Work that takes longer than this many seconds is not even run to warm up.
const VERY_LONG_SECONDS: f64 = 0.5;
/// Equal nodes of the longer submission, at least.
pub(super) const N_NODES: usize = 3;
/// A measurement of which the fastest runs differ by more than this part, or half of the runs take so much longer than
/// the fastest, was made while the machine did something else.
pub(super) const NOISE: f64 = 0.3;
/// A measurement that may be off by more than this factor says nothing, however much more it is.
const MOST_ERROR: f64 = 10.0;

/// Makes a weight matrix that is never read, from its name and layout.
pub type BlankWeight = fn(&str, WeightLayout) -> Result<Arc<WeightMatrix>, BackendError>;

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// Seconds after which no further measurement is begun.
    pub budget_seconds: f64,
    /// Seconds after which no further measurement is begun that plans can do without, where something was missing that they
    /// cannot do without, and where nothing was.
    pub extra_seconds: [f64; 2],
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
    /// Seconds for which each is repeated at most until the fastest runs agree; zero where all runs are alike.
    pub most_seconds: f64,
    /// Seconds after which no measurement that was disturbed, now or before, is made again.
    pub again_seconds: f64,
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

impl MeasureOptions {
    /// Everything, once: for simulated devices that only keep time, which is virtual, so that nothing disturbs it and it
    /// costs nothing.
    pub fn in_virtual_time() -> MeasureOptions {
        MeasureOptions {
            budget_seconds: f64::INFINITY,
            n_repeats: 1,
            fills_operands: false,
            ..MeasureOptions::default()
        }
    }
}

impl Default for MeasureOptions {
    fn default() -> MeasureOptions {
        MeasureOptions {
            budget_seconds: 60.0,
            extra_seconds: [f64::INFINITY; 2],
            rows: vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
            past: vec![256, 1024],
            column_shares: vec![1, 4],
            n_repeats: 3,
            least_seconds: 0.0,
            most_seconds: 0.0,
            again_seconds: 0.0,
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
    /// Measurements that were made now for the first time.
    pub n_new: usize,
    /// Measurements that were made again, because the machine was busy when they were made first.
    pub n_again: usize,
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
        extra_seconds: 0.0,
        has_skipped: false,
        measured: Measured {
            profile,
            is_complete: true,
            n_new: 0,
            n_again: 0,
            is_covered: vec![true; backends.len()],
            failures: Vec::new(),
        },
        watch,
    };
    run.measure_overheads(&wanted);
    let is_missing = |point: &&Point| {
        let device = &run.measured.profile.devices[point.device_idx];
        point.is_essential && sample_of(device, &operator_key(&point.shape.spec), &point.shape).is_none()
    };
    run.extra_seconds = options.extra_seconds[usize::from(!points.iter().any(|point| is_missing(&point)))];
    for point in &points {
        run.measure_point(point);
    }
    for pairing in pairings {
        run.measure_pairing(pairing);
    }
    run.measure_again(&points, &wanted);
    run.measure_bus(&wanted);
    run.measured.is_complete &= !run.has_skipped;
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
    /// See [`MeasureOptions::extra_seconds`].
    extra_seconds: f64,
    /// Whether a measurement was left out because of that.
    has_skipped: bool,
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

    fn measure_point(&mut self, point: &Point) {
        let &Point { device_idx, ref shape, is_essential } = point;
        let key = operator_key(&shape.spec);
        let device = &self.measured.profile.devices[device_idx];
        let is_known = sample_of(device, &key, shape).is_some();
        if !is_known {
            let overheads = device.overheads;
            if !is_essential && self.clock.now() - self.begin > self.extra_seconds {
                self.has_skipped = true;
                return;
            }
            if !self.may_go_on(device_idx) {
                self.measured.is_covered[device_idx] &= !is_essential;
                return;
            }
            match measure_point(&*self.backends[device_idx], self.clock, shape, &overheads, self.options) {
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

    /// Makes measurements again that were disturbed, those first that are least certain, and keeps the better ones. By
    /// now, or at the next start, what disturbed them may be over.
    fn measure_again(&mut self, points: &[Point], wanted: &[Wanted]) {
        let begin = self.clock.now();
        let mut disturbed: Vec<(f64, &Point)> = Vec::new();
        for point in points {
            let device = &self.measured.profile.devices[point.device_idx];
            let sample = sample_of(device, &operator_key(&point.shape.spec), &point.shape);
            disturbed.extend(sample.filter(|sample| sample.is_noisy()).map(|sample| (sample.noise(), point)));
        }
        disturbed.sort_by(|a, b| b.0.total_cmp(&a.0));
        if !disturbed.is_empty() {
            self.measure_overheads_again(wanted, begin);
        }
        for (_, point) in disturbed {
            if !self.has_time_for_more(begin) {
                return;
            }
            let Point { device_idx, shape, .. } = point;
            let device = &mut self.measured.profile.devices[*device_idx];
            let backend = &*self.backends[*device_idx];
            let Ok((again, _)) = measure_point(backend, self.clock, shape, &device.overheads, self.options) else {
                continue;
            };
            device.improve(&operator_key(&shape.spec), again);
            self.measured.n_again += 1;
        }
    }

    fn measure_overheads_again(&mut self, wanted: &[Wanted], begin: f64) {
        for device_idx in 0..self.backends.len() {
            let known = self.measured.profile.devices[device_idx].overheads;
            if known.error_seconds <= NOISE * known.seconds() || !self.has_time_for_more(begin) {
                continue;
            }
            let again = measure_overheads(&*self.backends[device_idx], wanted, self.clock, self.options);
            if let Ok(again) = again
                && again.error_seconds < known.error_seconds
            {
                self.measured.profile.devices[device_idx].overheads = again;
            }
        }
    }

    /// Whether there is time to make measurements again, of which the first began at `begin`.
    fn has_time_for_more(&self, begin: f64) -> bool {
        let now = self.clock.now();
        let is_over = now - begin >= self.options.again_seconds || now - self.begin > self.options.budget_seconds;
        !is_over && self.measured.is_complete && self.measured.failures.is_empty()
    }

    fn measure_bus(&mut self, wanted: &[Wanted]) {
        let is_wanted = self.options.measures_bus && self.measured.failures.is_empty();
        if !is_wanted || !self.measured.is_complete {
            return;
        }
        let Run { backends, clock, options, begin, measured, watch, n_done, n_all, .. } = self;
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

fn sample_of<'p>(device: &'p DeviceProfile, key: &str, shape: &ProbeShape) -> Option<&'p Sample> {
    let is_weight_stationary = shape.order == OperandOrder::WeightStationary;
    device.operator(key)?.samples.iter().find(|sample| {
        (sample.rows, sample.past, sample.columns, sample.is_weight_stationary)
            == (shape.rows, shape.past, shape.columns, is_weight_stationary)
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
    let (seconds, error_seconds, spread) = if single > VERY_LONG_SECONDS {
        // Starting anew and finding nothing in caches does not show in it, and a second run would cost as much again.
        ((single - fixed).max(0.0), 0.0, 0.0)
    } else if single > LONG_SECONDS || most_nodes < N_NODES {
        let repeated = repeat_probe(&mut one, clock, options)?;
        single = single.min(repeated.fastest());
        ((single - fixed).max(0.0), repeated.error_seconds(), repeated.spread())
    } else {
        // What takes long shows among a few; what is over at once needs many to be seen beside the noise.
        let n_nodes = if single > LONG_SECONDS / 10.0 { N_NODES } else { most_nodes };
        let mut several = Probe::new(backend, clock, shape, n_nodes, options)?;
        let [of_one, of_several] = repeat_two([&mut one, &mut several], clock, options)?;
        let (shorter, longer) = (of_one.fastest(), of_several.fastest());
        let difference = (longer - shorter) / (n_nodes - 1) as f64;
        let error_seconds = (of_one.error_seconds() + of_several.error_seconds()) / (n_nodes - 1) as f64;
        // Noise may make the difference vanish where the work itself is next to nothing. A node takes its share of all
        // at most.
        let most = longer / n_nodes as f64;
        let seconds = if difference > 0.0 { difference.min(most) } else { most };
        (seconds, error_seconds, of_one.spread().max(of_several.spread()))
    };
    let error = if seconds > 0.0 { (error_seconds / seconds).min(MOST_ERROR) } else { 0.0 };
    let is_weight_stationary = shape.order == OperandOrder::WeightStationary;
    let ProbeShape { rows, past, columns, .. } = *shape;
    let spread = spread.min(MOST_ERROR);
    Ok((Sample { rows, past, columns, is_weight_stationary, seconds, compile_seconds, error, spread }, own_bytes))
}
