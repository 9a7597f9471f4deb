//! How much slower devices are when they work at the same time.

use std::sync::Arc;

use hetero_core::{Backend, Op, OpSpec, OperandOrder, Support};

use super::measure::{Failure, MOST_WEIGHT_BYTES, MeasureOptions};
use super::points::Wanted;
use super::probe::{Probe, ProbeShape};
use super::repeat::fastest;
use crate::sync::Clock;

/// Devices run together at no more rows than this.
const MOST_ROWS_TOGETHER: usize = 256;

/// Devices that run an operator at the same time.
pub(super) struct Pairing {
    pub(super) devices: Vec<usize>,
    pub(super) shape: ProbeShape,
}

/// Pairs, and all, of the devices, with the largest linear operator that all of them compute.
pub(super) fn pairings(backends: &[Arc<dyn Backend>], wanted: &[Wanted], options: &MeasureOptions) -> Vec<Pairing> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for a in 0..backends.len() {
        sets.extend((a + 1..backends.len()).map(|b| vec![a, b]));
    }
    if backends.len() > 2 {
        sets.push((0..backends.len()).collect());
    }
    let mut rows: Vec<usize> = [options.rows.iter().min(), options.rows.iter().max()]
        .into_iter()
        .flatten()
        .map(|&rows| rows.min(MOST_ROWS_TOGETHER))
        .collect();
    rows.dedup();
    let mut pairings = Vec::new();
    for devices in sets {
        let is_common = |spec: &&OpSpec| {
            let is_linear = matches!(spec.op, Op::Linear { .. });
            is_linear && devices.iter().all(|&device| backends[device].support(spec) == Support::Yes)
        };
        let size = |spec: &&OpSpec| spec.op.operations(1, 0);
        // One that is not too large for several copies.
        let fits = |spec: &&OpSpec| spec.op.operations(1, 0) < (MOST_WEIGHT_BYTES / 2) as u64;
        let specs = wanted.iter().map(|wanted| &wanted.spec);
        let Some(spec) = specs.filter(is_common).filter(fits).max_by_key(size) else { continue };
        for &rows in &rows {
            let columns = spec.op.output_columns();
            let shape = ProbeShape { spec: spec.clone(), rows, past: 0, columns, order: OperandOrder::default() };
            pairings.push(Pairing { devices: devices.clone(), shape });
        }
    }
    pairings
}

/// By how much longer each of the devices takes when all of them run at the same time.
pub(super) fn measure_slowdowns(
    backends: &[Arc<dyn Backend>],
    devices: &[usize],
    shape: &ProbeShape,
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<Vec<f64>, Failure> {
    let failed = |device_idx: usize| move |error| Failure { device_idx, error };
    let mut alone = Vec::new();
    for &device in devices {
        let mut probe = Probe::new(&*backends[device], clock, shape, 1, options).map_err(failed(device))?;
        alone.push(fastest(&mut probe, clock, options).map_err(failed(device))?);
    }
    let longest = alone.iter().copied().fold(0.0, f64::max);
    // Equally long work for all, so that they run side by side from begin to end.
    let mut probes = Vec::new();
    for (&device, seconds) in devices.iter().zip(&mut alone) {
        let n_nodes = ((longest / *seconds).round() as usize).clamp(1, 8);
        let mut probe = Probe::new(&*backends[device], clock, shape, n_nodes, options).map_err(failed(device))?;
        *seconds = fastest(&mut probe, clock, options).map_err(failed(device))?;
        probes.push(probe);
    }
    let mut slowdowns = vec![f64::INFINITY; devices.len()];
    let first = clock.now();
    for n_done in 0.. {
        if n_done >= options.n_repeats.max(1) && clock.now() - first >= options.least_seconds {
            break;
        }
        let mut running = Vec::new();
        for (probe, &device) in probes.iter_mut().zip(devices) {
            let begin = clock.now();
            running.push((begin, probe.submit().map_err(failed(device))?, None));
        }
        while running.iter().any(|(_, _, end)| end.is_none()) {
            for (_, ticket, end) in running.iter_mut().filter(|(_, _, end)| end.is_none()) {
                *end = ticket.is_complete().then(|| clock.now());
            }
            // The devices may be threads of this machine, and they may need the core.
            std::thread::yield_now();
        }
        for (idx, (begin, ticket, end)) in running.into_iter().enumerate() {
            let seconds = end.expect("all have ended") - begin;
            slowdowns[idx] = slowdowns[idx].min((seconds / alone[idx]).max(1.0));
            probes[idx].collect(ticket).map_err(failed(devices[idx]))?;
        }
    }
    Ok(slowdowns)
}
