//! What starting work on a device, waiting for it and copying cost.

use hetero_core::{Backend, BackendError, DType, OpSpec, OperandOrder, Part, SharedTensor, Support, TensorDesc};

use super::MeasuredOverheads;
use super::measure::{MOST_WEIGHT_BYTES, MeasureOptions, N_NODES};
use super::points::Wanted;
use super::probe::{Probe, ProbeShape};
use super::repeat::{fastest, repeat, repeat_probe};
use crate::sync::Clock;

/// What copying is measured with: more than caches near a core hold.
const COPY_BYTES: usize = 8 << 20;
/// And what it takes however little it is.
const LITTLE_BYTES: usize = 64;
/// What is under way must take so many times as long as submitting something behind it.
const LONGER: f64 = 2.0;
/// And is made of so many nodes at most.
const MOST_FRONT_NODES: usize = 64;

/// Submission and waiting, by the smallest operator that the device computes.
pub(super) fn measure_overheads(
    backend: &dyn Backend,
    wanted: &[Wanted],
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<MeasuredOverheads, BackendError> {
    let size = |spec: &&OpSpec| spec.op.operations(1, 0) + spec.op.output_columns() as u64;
    let supported = wanted.iter().map(|wanted| &wanted.spec).filter(|spec| backend.support(spec) == Support::Yes);
    let Some(spec) = supported.min_by_key(size) else { return Ok(MeasuredOverheads::default()) };
    let columns = spec.op.output_columns();
    let shape = ProbeShape { spec: spec.clone(), rows: 1, past: 0, columns, order: OperandOrder::default() };
    let mut one = Probe::new(backend, clock, &shape, 1, options)?;
    let mut several = Probe::new(backend, clock, &shape, N_NODES, options)?;
    let runs = repeat_probe(&mut one, clock, options)?;
    let (polled, error_seconds) = (runs.fastest(), runs.error_seconds());
    let work = ((fastest(&mut several, clock, options)? - polled) / (N_NODES - 1) as f64).max(0.0);
    let [submit_idle, poll, blocked] = repeat(clock, options, |[submit_idle, poll, blocked]| {
        let begin = clock.now();
        let ticket = one.submit()?;
        submit_idle.add(clock.now() - begin);
        ticket.timeline().block_until(ticket.value())?;
        blocked.add(clock.now() - begin);
        let begin = clock.now();
        assert!(ticket.is_complete(), "a submission that was waited for is complete");
        poll.add(clock.now() - begin);
        one.collect(ticket)
    })?;
    let [submit_idle, poll, blocked] = [submit_idle, poll, blocked].map(|repeated| repeated.fastest());
    drop(several);
    let [copy_seconds, copy_seconds_per_byte] = measure_copy(backend, clock, options)?;
    let (submit, start) = measure_queued(backend, wanted, &mut one, [work, polled - work], clock, options)?;
    let submit = submit.min(submit_idle);
    // A polling host sees the end half a look late, on average; what remains is the start of an idle device.
    Ok(MeasuredOverheads {
        submit_seconds: submit,
        submit_idle_seconds: (polled - submit - work - poll - start).max(0.0),
        start_seconds: start,
        poll_sync_seconds: poll,
        block_sync_seconds: (blocked - polled).max(0.0) + poll,
        copy_seconds,
        copy_seconds_per_byte,
        error_seconds,
    })
}

/// Seconds of the host for a submission behind one that is under way, and of the device between the two. Known are the
/// seconds of the submission's own work, and what one that nothing is under way before takes besides.
fn measure_queued(
    backend: &dyn Backend,
    wanted: &[Wanted],
    behind: &mut Probe,
    [behind_seconds, idle_seconds]: [f64; 2],
    clock: &dyn Clock,
    options: &MeasureOptions,
) -> Result<(f64, f64), BackendError> {
    // The largest operator that is not too large, so that the device is still at it.
    let size = |spec: &&OpSpec| spec.op.operations(1, 0);
    let fits = |spec: &&OpSpec| size(spec) < (MOST_WEIGHT_BYTES / 2) as u64 && backend.support(spec) == Support::Yes;
    let specs = wanted.iter().map(|wanted| &wanted.spec);
    let Some(spec) = specs.filter(fits).max_by_key(size) else { return Ok((f64::INFINITY, 0.0)) };
    let columns = spec.op.output_columns();
    let shape = ProbeShape { spec: spec.clone(), rows: 1, past: 0, columns, order: OperandOrder::default() };
    let mut n_nodes = 1;
    loop {
        let mut front = Probe::new(backend, clock, &shape, n_nodes, options)?;
        let alone = fastest(&mut front, clock, options)?;
        let [submit, both] = repeat(clock, options, |[submit, both]| {
            let begin = clock.now();
            let before = front.submit()?;
            let queued = clock.now();
            let ticket = behind.submit()?;
            submit.add(clock.now() - queued);
            while !ticket.is_complete() {
                std::hint::spin_loop();
            }
            both.add(clock.now() - begin);
            front.collect(before)?;
            behind.collect(ticket)
        })?;
        let submit = submit.fastest();
        // If the queue runs empty before the other submission gets there, an idle device is what was measured.
        let is_long = alone - idle_seconds >= LONGER * submit;
        if is_long || n_nodes >= MOST_FRONT_NODES {
            return Ok((submit, (both.fastest() - alone - behind_seconds).max(0.0)));
        }
        n_nodes *= 4;
    }
}

/// Seconds of the host to copy out of a tensor of the device or into it, and for each byte besides.
fn measure_copy(backend: &dyn Backend, clock: &dyn Clock, options: &MeasureOptions) -> Result<[f64; 2], BackendError> {
    let of_bytes = |columns: usize| -> Result<f64, BackendError> {
        let tensor = SharedTensor::new(backend.allocate(&TensorDesc { rows: 1, columns, dtype: DType::U8 })?);
        let (part, mut copy) = (Part::whole(1, columns), vec![0; columns]);
        // The first run maps the memory.
        let [copied] = repeat(clock, options, |[copied]| {
            let begin = clock.now();
            tensor.view().read_bytes(&part, &mut copy)?;
            tensor.slot().write_bytes(&part, &copy)?;
            copied.add(clock.now() - begin);
            Ok(())
        })?;
        Ok(copied.fastest() / 2.0)
    };
    let (little, much) = (of_bytes(LITTLE_BYTES)?, of_bytes(COPY_BYTES)?);
    Ok([little, (much - little).max(0.0) / (COPY_BYTES - LITTLE_BYTES) as f64])
}
