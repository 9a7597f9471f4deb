//! Runs the operators of a model on every device, within a budget of time.
//!
//! A part's time is the difference between a submission of several equal nodes and one of a single node, so that what a
//! submission costs is not in it. Coarse measurements come first, and what a profile has already is not measured again:
//! a run that was cut short goes on where it stopped.

use std::sync::Arc;

use hetero_core::{Backend, BackendError, DeviceKind, Graph, NodeId, Op, OpSpec, OperandOrder, Support};

use super::probe::{Probe, ProbeShape};
use super::{
    DeviceProfile, FORMAT, Identity, MeasuredOverheads, OperatorProfile, Profile, Sample, Together, operator_key,
};
use crate::sync::Clock;

/// The part of a column of measurements that repeats a node: larger ones would take more memory than a phone has.
const MOST_WEIGHT_BYTES: usize = 64 << 20;
/// Work that takes longer than this many seconds is measured once.
const LONG_SECONDS: f64 = 0.05;
/// Equal nodes of the longer submission.
const N_NODES: usize = 3;

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
    /// How often each measurement is repeated; the fastest counts.
    pub n_repeats: usize,
    /// Whether operands hold numbers. A simulated device that only keeps time never looks at them, and filling the
    /// weights of a large model takes seconds.
    pub fills_operands: bool,
    /// Goes into [`Identity::kernel_version`].
    pub kernel_version: String,
}

impl Default for MeasureOptions {
    fn default() -> MeasureOptions {
        MeasureOptions {
            budget_seconds: 60.0,
            rows: vec![1, 32, 64, 128, 256, 512, 1024],
            past: vec![256, 1024],
            column_shares: vec![1, 4],
            n_repeats: 3,
            fills_operands: true,
            kernel_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// How far measuring has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Measurements that are done, among them those that were there before.
    pub n_done: usize,
    /// All of them.
    pub n_all: usize,
    /// Seconds since this run began.
    pub seconds: f64,
    /// What was measured last.
    pub operator: String,
    /// On which device.
    pub device: String,
}

/// Measures what the graph needs on all devices, on top of what `known` has, and says whether all is done.
///
/// # Panics
/// When `known` is of other devices.
pub fn measure(
    backends: &[Arc<dyn Backend>],
    graph: &Graph,
    clock: &dyn Clock,
    options: &MeasureOptions,
    known: Option<Profile>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<(Profile, bool), BackendError> {
    let begin = clock.now();
    let is_over = || clock.now() - begin > options.budget_seconds;
    let identities: Vec<Identity> =
        backends.iter().map(|backend| Identity::of(backend.info(), &options.kernel_version)).collect();
    let mut profile = known.unwrap_or_else(|| empty(&identities));
    let known_identities = profile.devices.iter().map(|device| &device.identity);
    assert!(known_identities.eq(&identities), "a profile of other devices cannot be continued");

    let specs = distinct_operators(graph);
    let points = points(backends, &specs, graph, options);
    let n_all = points.len();
    let mut n_done = 0;
    for (device_idx, backend) in backends.iter().enumerate() {
        if profile.devices[device_idx].overheads == MeasuredOverheads::default() {
            profile.devices[device_idx].overheads = measure_overheads(&**backend, &specs, clock, options)?;
        }
    }
    for (device_idx, shape) in points {
        let key = operator_key(&shape.spec);
        if !has_sample(&profile.devices[device_idx], &key, &shape) {
            if is_over() {
                return Ok((profile, false));
            }
            let backend = &*backends[device_idx];
            let (sample, own_bytes) =
                measure_point(backend, clock, &shape, &profile.devices[device_idx].overheads, options)?;
            let per_column = own_bytes as f64 / shape.columns as f64;
            let operators = &mut profile.devices[device_idx].operators;
            match operators.iter_mut().find(|operator| operator.operator == key) {
                Some(operator) => operator.samples.push(sample),
                None => operators.push(OperatorProfile {
                    operator: key.clone(),
                    own_bytes_per_column: per_column,
                    samples: vec![sample],
                }),
            }
        }
        n_done += 1;
        let device = backends[device_idx].info().name.clone();
        progress(&Progress { n_done, n_all, seconds: clock.now() - begin, operator: key, device });
    }
    if profile.together.is_empty() && backends.len() > 1 {
        if is_over() {
            return Ok((profile, false));
        }
        profile.together = measure_together(backends, &specs, clock, options)?;
    }
    Ok((profile, true))
}

fn empty(identities: &[Identity]) -> Profile {
    let device = |identity: &Identity| DeviceProfile {
        identity: identity.clone(),
        overheads: MeasuredOverheads::default(),
        operators: Vec::new(),
    };
    Profile { format: FORMAT, devices: identities.iter().map(device).collect(), together: Vec::new() }
}

/// The operators of a graph, those with the same key once: of linear operators the one with most columns.
fn distinct_operators(graph: &Graph) -> Vec<OpSpec> {
    let mut specs: Vec<OpSpec> = Vec::new();
    for idx in 0..graph.nodes().len() {
        let spec = graph.op_spec(NodeId(idx));
        match specs.iter_mut().find(|known| operator_key(known) == operator_key(&spec)) {
            Some(known) if known.op.output_columns() < spec.op.output_columns() => *known = spec,
            Some(_) => {}
            None => specs.push(spec),
        }
    }
    specs
}

/// Everything to measure: whole operators with the fewest and most rows first, then what lies between.
fn points(
    backends: &[Arc<dyn Backend>],
    specs: &[OpSpec],
    graph: &Graph,
    options: &MeasureOptions,
) -> Vec<(usize, ProbeShape)> {
    let mut points = Vec::new();
    let mut rows: Vec<usize> = options.rows.iter().copied().filter(|&rows| rows <= graph.capacity()).collect();
    rows.push(graph.capacity().min(options.rows.iter().copied().max().unwrap_or(1)));
    rows.sort_unstable();
    rows.dedup();
    let ends = [rows[0], rows[rows.len() - 1]];
    for (device_idx, backend) in backends.iter().enumerate() {
        for spec in specs.iter().filter(|spec| backend.support(spec) == Support::Yes) {
            let whole = spec.op.output_columns();
            let is_linear = matches!(spec.op, Op::Linear { .. });
            let mut add = |importance: usize, rows, past, columns, order| {
                let shape = ProbeShape { spec: spec.clone(), rows, past, columns, order };
                points.push((importance, device_idx, shape));
            };
            for &rows in &rows {
                let inner = usize::from(!ends.contains(&rows));
                add(inner, rows, 0, whole, OperandOrder::default());
                if is_linear && backend.info().kind == DeviceKind::Npu {
                    add(inner + 1, rows, 0, whole, OperandOrder::WeightStationary);
                }
                let shares = options.column_shares.iter().filter(|&&share| is_linear && share > 1);
                for columns in shares.map(|share| (whole / share).next_multiple_of(32)).filter(|&part| part < whole) {
                    add(inner + 2, rows, 0, columns, OperandOrder::default());
                }
            }
            if let Op::Attention { context, .. } = spec.op {
                for &past in options.past.iter().filter(|&&past| past < context) {
                    add(1, 1, past, whole, OperandOrder::default());
                }
            }
        }
    }
    points.sort_by_key(|(importance, ..)| *importance);
    points.into_iter().map(|(_, device_idx, shape)| (device_idx, shape)).collect()
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
    let mut one = Probe::new(backend, clock, shape, 1, options.fills_operands)?;
    let (compile_seconds, own_bytes) = (one.compile_seconds, one.own_bytes);
    let mut single = fastest(&mut one, clock, options.n_repeats)?;
    let fixed = overheads.submit_seconds + overheads.submit_idle_seconds + overheads.poll_sync_seconds;
    let mut seconds = (single - fixed).max(0.0);
    if seconds < LONG_SECONDS && shape.weight_bytes() * N_NODES <= MOST_WEIGHT_BYTES {
        drop(one);
        let mut several = Probe::new(backend, clock, shape, N_NODES, options.fills_operands)?;
        let longer = fastest(&mut several, clock, options.n_repeats)?;
        if longer < single {
            single = longer;
        }
        let difference = (longer - single) / (N_NODES - 1) as f64;
        // Noise may make the difference vanish where the work itself is next to nothing.
        seconds = if difference > 0.0 { difference } else { seconds.min(longer / N_NODES as f64) };
    }
    let is_weight_stationary = shape.order == OperandOrder::WeightStationary;
    let ProbeShape { rows, past, columns, .. } = *shape;
    Ok((Sample { rows, past, columns, is_weight_stationary, seconds, compile_seconds }, own_bytes))
}

/// The fastest of some runs, after one to warm up.
fn fastest(probe: &mut Probe, clock: &dyn Clock, n: usize) -> Result<f64, BackendError> {
    let mut least = probe.run(clock)?;
    if least > LONG_SECONDS {
        return Ok(least);
    }
    for _ in 0..n {
        least = least.min(probe.run(clock)?);
    }
    Ok(least)
}

/// Submission and waiting, by the smallest operator that the device computes.
fn measure_overheads(
    backend: &dyn Backend,
    specs: &[OpSpec],
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<MeasuredOverheads, BackendError> {
    let size = |spec: &&OpSpec| spec.op.operations(1, 0) + spec.op.output_columns() as u64;
    let supported = specs.iter().filter(|spec| backend.support(spec) == Support::Yes);
    let Some(spec) = supported.min_by_key(size) else { return Ok(MeasuredOverheads::default()) };
    let columns = spec.op.output_columns();
    let shape = ProbeShape { spec: spec.clone(), rows: 1, past: 0, columns, order: OperandOrder::default() };
    let mut one = Probe::new(backend, clock, &shape, 1, options.fills_operands)?;
    let mut several = Probe::new(backend, clock, &shape, N_NODES, options.fills_operands)?;
    let polled = fastest(&mut one, clock, options.n_repeats)?;
    let work = ((fastest(&mut several, clock, options.n_repeats)? - polled) / (N_NODES - 1) as f64).max(0.0);
    let (mut submit, mut poll, mut blocked) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for _ in 0..options.n_repeats.max(1) {
        let begin = clock.now();
        let ticket = one.submit()?;
        submit = submit.min(clock.now() - begin);
        ticket.timeline().block_until(ticket.value())?;
        blocked = blocked.min(clock.now() - begin);
        let begin = clock.now();
        assert!(ticket.is_complete(), "a submission that was waited for is complete");
        poll = poll.min(clock.now() - begin);
        one.collect(ticket)?;
    }
    // A polling host sees the end half a look late, on average; what remains is the start of an idle device.
    Ok(MeasuredOverheads {
        submit_seconds: submit,
        submit_idle_seconds: (polled - submit - work - poll).max(0.0),
        poll_sync_seconds: poll,
        block_sync_seconds: (blocked - polled).max(0.0) + poll,
    })
}

/// Runs pairs, and all, of the devices at the same time: the largest linear operator that all of them compute.
fn measure_together(
    backends: &[Arc<dyn Backend>],
    specs: &[OpSpec],
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<Vec<Together>, BackendError> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for a in 0..backends.len() {
        sets.extend((a + 1..backends.len()).map(|b| vec![a, b]));
    }
    if backends.len() > 2 {
        sets.push((0..backends.len()).collect());
    }
    let mut together = Vec::new();
    for devices in sets {
        let is_common = |spec: &&OpSpec| {
            let is_linear = matches!(spec.op, Op::Linear { .. });
            is_linear && devices.iter().all(|&device| backends[device].support(spec) == Support::Yes)
        };
        let size = |spec: &&OpSpec| spec.op.operations(1, 0);
        // One that is not too large for several copies.
        let fits = |spec: &&OpSpec| spec.op.operations(1, 0) < (MOST_WEIGHT_BYTES / 2) as u64;
        let Some(spec) = specs.iter().filter(is_common).filter(fits).max_by_key(size) else { continue };
        for rows in [options.rows.iter().copied().min(), options.rows.iter().copied().max()].into_iter().flatten() {
            let rows = rows.min(256);
            let columns = spec.op.output_columns();
            let shape = ProbeShape { spec: spec.clone(), rows, past: 0, columns, order: OperandOrder::default() };
            let slowdowns = measure_slowdowns(backends, &devices, &shape, clock, options)?;
            together.push(Together { devices: devices.clone(), rows, slowdowns });
        }
    }
    Ok(together)
}

fn measure_slowdowns(
    backends: &[Arc<dyn Backend>],
    devices: &[usize],
    shape: &ProbeShape,
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<Vec<f64>, BackendError> {
    let mut alone = Vec::new();
    for &device in devices {
        let mut probe = Probe::new(&*backends[device], clock, shape, 1, options.fills_operands)?;
        alone.push(fastest(&mut probe, clock, options.n_repeats)?);
    }
    let longest = alone.iter().copied().fold(0.0, f64::max);
    // Equally long work for all, so that they run side by side from begin to end.
    let mut probes = Vec::new();
    for (&device, seconds) in devices.iter().zip(&mut alone) {
        let n_nodes = ((longest / *seconds).round() as usize).clamp(1, 8);
        let mut probe = Probe::new(&*backends[device], clock, shape, n_nodes, options.fills_operands)?;
        *seconds = fastest(&mut probe, clock, options.n_repeats)?;
        probes.push(probe);
    }
    let mut slowdowns = vec![f64::INFINITY; devices.len()];
    for _ in 0..options.n_repeats.max(1) {
        let mut running = Vec::new();
        for probe in &mut probes {
            let begin = clock.now();
            running.push((begin, probe.submit()?, None));
        }
        while running.iter().any(|(_, _, end)| end.is_none()) {
            for (_, ticket, end) in running.iter_mut().filter(|(_, _, end)| end.is_none()) {
                *end = ticket.is_complete().then(|| clock.now());
            }
        }
        for (idx, (begin, ticket, end)) in running.into_iter().enumerate() {
            let seconds = end.expect("all have ended") - begin;
            slowdowns[idx] = slowdowns[idx].min((seconds / alone[idx]).max(1.0));
            probes[idx].collect(ticket)?;
        }
    }
    Ok(slowdowns)
}
