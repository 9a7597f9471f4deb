//! How much of the memory bus operators take: each runs on its device while the other devices do nothing but move bytes.
//!
//! What the others lose is what it takes. The ballast is an addition of large tensors, of which the bytes are known; two
//! devices that run it at the same time show what the bus moves at most.

use std::sync::Arc;

use hetero_core::{Backend, BackendError, Op, OpSpec, OperandOrder, Support, Ticket};
use serde::{Deserialize, Serialize};

use super::measure::{Failure, MeasureOptions};
use super::points::Wanted;
use super::probe::{Probe, ProbeShape};
use super::{Profile, Sample, operator_key};
use crate::sync::Clock;

/// The memory bus that devices share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// Bytes per second that all devices together move at most; `None` when they do not hinder each other.
    pub bytes_per_second: Option<f64>,
    /// What operators move.
    pub traffic: Vec<Traffic>,
}

/// What an operator moves over the bus on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Index of the device.
    pub device: usize,
    /// What [`operator_key`] says.
    pub operator: String,
    /// Positions.
    pub rows: usize,
    /// Positions before them.
    pub past: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Bytes.
    pub bytes: f64,
}

/// Bytes of one addition of the ballast, and how many there are: some milliseconds on a phone.
const BALLAST_BYTES: usize = 12 << 20;
const BALLAST_NODES: usize = 16;
/// Work that is shorter is repeated until it is as long, so that the host's calls do not count.
const SHORT_SECONDS: f64 = 500e-6;
const MOST_NODES: usize = 16;
const MOST_WEIGHT_BYTES: usize = 64 << 20;
/// Numbers of rows between which traffic is a straight line: devices change kernels near 16, and the rest grows evenly.
const ROWS: [usize; 5] = [1, 16, 32, 256, 1024];
/// Differences below this share are noise.
const NOISE: f64 = 0.02;

/// The ballast of one device.
struct Ballast {
    device: usize,
    probe: Probe,
    /// Bytes that it moves, and how many in a second when it is alone.
    bytes: f64,
    rate: f64,
}

/// Measures what the profile's samples move that is not known yet, as long as `may_go_on` says so; whether all was
/// measured. Without an addition that all devices compute, the bus counts as unlimited.
pub(super) fn measure_bus(
    backends: &[Arc<dyn Backend>],
    wanted: &[Wanted],
    clock: &dyn Clock,
    options: &MeasureOptions,
    profile: &mut Profile,
    may_go_on: &mut dyn FnMut() -> bool,
) -> Result<bool, Failure> {
    if backends.len() < 2 {
        return Ok(true);
    }
    let is_addition = |spec: &&OpSpec| {
        let everywhere = backends.iter().all(|backend| backend.support(spec) == Support::Yes);
        matches!(spec.op, Op::Add { .. }) && everywhere
    };
    let Some(spec) = wanted.iter().map(|wanted| &wanted.spec).find(is_addition) else { return Ok(true) };
    if profile.bus.as_ref().is_some_and(|bus| bus.bytes_per_second.is_none()) {
        return Ok(true);
    }
    let mut ballasts = Vec::new();
    for (device, backend) in backends.iter().enumerate() {
        let ballast = Ballast::new(device, &**backend, spec, clock, options);
        ballasts.push(ballast.map_err(|error| Failure { device_idx: device, error })?);
    }
    let limit = match profile.bus.as_ref().and_then(|bus| bus.bytes_per_second) {
        Some(limit) => Some(limit),
        None => {
            let starts: Vec<f64> = profile.devices.iter().map(|device| device.overheads.start_seconds).collect();
            measure_limit(&mut ballasts, &starts, clock)?
        }
    };
    let bus = profile.bus.get_or_insert(Bus { bytes_per_second: limit, traffic: Vec::new() });
    let Some(limit) = limit else { return Ok(true) };
    let is_known = |bus: &Bus, device: usize, operator: &str, sample: &Sample| {
        bus.traffic.iter().any(|traffic| {
            (traffic.device, &*traffic.operator) == (device, operator)
                && (traffic.rows, traffic.past, traffic.columns) == (sample.rows, sample.past, sample.columns)
        })
    };
    for device in 0..backends.len() {
        let beside: Vec<usize> = (0..backends.len()).filter(|&other| other != device).collect();
        let failed = |error| Failure { device_idx: device, error };
        let alone = together(&mut ballasts, &beside, None, clock).map_err(failed)?.0;
        for operator in &profile.devices[device].operators {
            let spec = wanted.iter().map(|wanted| &wanted.spec).find(|spec| operator_key(spec) == operator.operator);
            let Some(spec) = spec else { continue };
            for sample in operator.samples.iter().filter(|sample| !sample.is_weight_stationary) {
                let is_last = operator.samples.iter().all(|other| other.rows <= sample.rows);
                let is_wanted = is_last || sample.past > 0 || ROWS.contains(&sample.rows);
                if !is_wanted || sample.seconds <= 0.0 || is_known(bus, device, &operator.operator, sample) {
                    continue;
                }
                if !may_go_on() {
                    return Ok(false);
                }
                let shape = ProbeShape {
                    spec: spec.clone(),
                    rows: sample.rows,
                    past: sample.past,
                    columns: sample.columns,
                    order: OperandOrder::default(),
                };
                let n_weights = (MOST_WEIGHT_BYTES / shape.weight_bytes().max(1)).max(1);
                let n_nodes = ((SHORT_SECONDS / sample.seconds).ceil() as usize).clamp(1, MOST_NODES.min(n_weights));
                let start = profile.devices[device].overheads.start_seconds;
                let probe = Probe::new(&*backends[device], clock, &shape, n_nodes, options);
                let mut probe = match probe {
                    Ok(probe) => probe,
                    Err(BackendError::LimitReached { .. }) => continue,
                    Err(error) => return Err(failed(error)),
                };
                let (all, own) = together(&mut ballasts, &beside, Some(&mut probe), clock).map_err(failed)?;
                let seen = Seen {
                    limit,
                    ballast_rate: beside.iter().map(|&other| ballasts[other].rate).sum(),
                    lost_seconds: all - alone,
                    ballast_seconds: all,
                    alone_seconds: sample.seconds * n_nodes as f64,
                    seconds: (own - start).max(sample.seconds * n_nodes as f64),
                };
                let bytes = seen.bytes(logical_bytes(&shape) * n_nodes as f64) / n_nodes as f64;
                bus.traffic.push(Traffic {
                    device,
                    operator: operator.operator.clone(),
                    rows: sample.rows,
                    past: sample.past,
                    columns: sample.columns,
                    bytes,
                });
            }
        }
    }
    Ok(true)
}

/// What was seen of an operator beside the ballast.
struct Seen {
    limit: f64,
    /// What the ballast moves in a second when it has the bus for itself, without a limit.
    ballast_rate: f64,
    /// By which the ballast took longer, and how long it took.
    lost_seconds: f64,
    ballast_seconds: f64,
    /// How long the operator takes alone, and took here.
    alone_seconds: f64,
    seconds: f64,
}

impl Seen {
    /// Bytes of the operator. `logical` is what it has to move at least; that counts where the bus had room for both.
    fn bytes(&self, logical: f64) -> f64 {
        let overlap = self.seconds.min(self.ballast_seconds);
        let ballast_rate = self.ballast_rate.min(self.limit);
        let lost = self.lost_seconds.max(0.0) * ballast_rate;
        if lost < NOISE * ballast_rate * overlap {
            let room = (self.limit - ballast_rate).max(0.0);
            return logical.min(room * self.alone_seconds);
        }
        let rate = self.limit - (ballast_rate - lost / overlap);
        // The share of the operator that was done beside the ballast.
        let share = 1.0 - (self.seconds - overlap).max(0.0) / self.alone_seconds;
        rate.max(0.0) * overlap / share.clamp(0.05, 1.0)
    }
}

impl Ballast {
    fn new(
        device: usize,
        backend: &dyn Backend,
        spec: &OpSpec,
        clock: &dyn Clock,
        options: &MeasureOptions,
    ) -> Result<Ballast, BackendError> {
        let columns = spec.op.output_columns();
        let of_rows = |rows| ProbeShape { spec: spec.clone(), rows, past: 0, columns, order: OperandOrder::default() };
        let rows = (BALLAST_BYTES / logical_bytes(&of_rows(1)) as usize).max(1);
        let shape = of_rows(rows);
        let bytes = logical_bytes(&shape);
        let mut one = Probe::new(backend, clock, &shape, 1, options)?;
        let mut probe = Probe::new(backend, clock, &shape, BALLAST_NODES, options)?;
        let mut least = [f64::INFINITY; 2];
        // The first run is to warm up.
        for _ in 0..=options.n_repeats.max(1) {
            least = [least[0].min(one.run(clock)?), least[1].min(probe.run(clock)?)];
        }
        let seconds = (least[1] - least[0]).max(least[1] * 0.5) / (BALLAST_NODES - 1) as f64;
        Ok(Ballast { device, probe, bytes: bytes * BALLAST_NODES as f64, rate: bytes / seconds })
    }
}

/// What the two fastest devices together move at most, or `None` when both are as fast as alone.
fn measure_limit(ballasts: &mut [Ballast], starts: &[f64], clock: &dyn Clock) -> Result<Option<f64>, Failure> {
    ballasts.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let [first, second, ..] = ballasts else { return Ok(None) };
    let of = |device_idx: usize| move |error| Failure { device_idx, error };
    let ticket = first.probe.submit().map_err(of(first.device))?;
    let first_begin = clock.now() + starts[first.device];
    let other = second.probe.submit().map_err(of(second.device))?;
    let begin = clock.now() + starts[second.device];
    let ends = watch(&[&ticket, &other], clock);
    first.probe.collect(ticket).map_err(of(first.device))?;
    second.probe.collect(other).map_err(of(second.device))?;
    // Whichever ends last goes on alone, at its own rate.
    let (early, late, rate) =
        if ends[0] < ends[1] { (ends[0], ends[1], second.rate) } else { (ends[1], ends[0], first.rate) };
    let alone = (late - early) * rate + (begin - first_begin).max(0.0) * first.rate;
    let bytes = first.bytes + second.bytes - alone;
    let limit = bytes / (early - begin);
    ballasts.sort_by_key(|ballast| ballast.device);
    let sum = {
        let mut rates: Vec<f64> = ballasts.iter().map(|ballast| ballast.rate).collect();
        rates.sort_by(|a, b| b.total_cmp(a));
        rates[0] + rates[1]
    };
    Ok((limit < 0.95 * sum).then_some(limit))
}

/// Runs the ballast of some devices and, beside it, a probe: seconds until the last ballast has ended, and of the probe.
fn together(
    ballasts: &mut [Ballast],
    beside: &[usize],
    probe: Option<&mut Probe>,
    clock: &dyn Clock,
) -> Result<(f64, f64), BackendError> {
    let begin = clock.now();
    let mut tickets = Vec::new();
    for &device in beside {
        tickets.push(ballasts[device].probe.submit()?);
    }
    let mut probe_begin = begin;
    let mut probe = probe;
    if let Some(probe) = &mut probe {
        tickets.push(probe.submit()?);
        probe_begin = clock.now();
    }
    let ends = watch(&tickets.iter().collect::<Vec<_>>(), clock);
    let last = ends[..beside.len()].iter().copied().fold(begin, f64::max);
    let own = ends.get(beside.len()).map_or(0.0, |end| end - probe_begin);
    for (idx, ticket) in tickets.into_iter().enumerate() {
        match (beside.get(idx), &mut probe) {
            (Some(&device), _) => ballasts[device].probe.collect(ticket)?,
            (None, Some(probe)) => probe.collect(ticket)?,
            (None, None) => unreachable!("a ticket of nobody"),
        }
    }
    Ok((last - begin, own))
}

/// When each of some submissions has finished.
fn watch(tickets: &[&Ticket], clock: &dyn Clock) -> Vec<f64> {
    let mut ends = vec![None; tickets.len()];
    while ends.iter().any(Option::is_none) {
        for (ticket, end) in tickets.iter().zip(&mut ends).filter(|(_, end)| end.is_none()) {
            *end = ticket.is_complete().then(|| clock.now());
        }
    }
    ends.into_iter().map(|end| end.expect("all have ended")).collect()
}

/// Bytes of the operands of a shape, each read or written once.
fn logical_bytes(shape: &ProbeShape) -> f64 {
    let spec = &shape.spec;
    let inputs = spec.op.input_columns().into_iter().zip(&spec.inputs);
    let (mut fixed, mut per_row) = (shape.weight_bytes(), shape.columns * spec.output.size());
    for (idx, (columns, dtype)) in inputs.enumerate() {
        match spec.op {
            Op::Attention { kv_heads, head_dim, .. } if idx > 0 => {
                fixed += (shape.past + shape.rows) * kv_heads * head_dim * dtype.size();
            }
            _ => per_row += columns * dtype.size(),
        }
    }
    if let Op::Embed { features, .. } = spec.op {
        per_row += features * 2;
    }
    (fixed + shape.rows * per_row) as f64
}
