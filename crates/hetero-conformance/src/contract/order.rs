//! What a backend promises about order, completion and lifetimes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Job, Probe, require};
use crate::bench::Trouble;
use crate::runner::caught;

pub(super) fn order(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let mut last = None;
    for _ in 0..5 {
        job.bench.fill(0, true);
        let ticket = job.submit()?;
        let timeline = Arc::clone(ticket.timeline());
        let value = ticket.value();
        if let Some(last) = last {
            require(value > last, "a later submission has no larger value")?;
            require(timeline.completed() >= last, "the timeline runs backwards")?;
            timeline.block_until(last)?;
        }
        timeline.block_until(value)?;
        require(timeline.completed() >= value, "`block_until` returns too early")?;
        require(ticket.is_complete(), "a ticket is not complete after `block_until`")?;
        job.finish(ticket)?;
        timeline.block_until(0)?;
        last = Some(value);
    }
    Ok(())
}

pub(super) fn in_flight(probe: &Probe<'_>) -> Result<(), Trouble> {
    let jobs = probe.jobs(8)?;
    let mut tickets = Vec::new();
    for job in &jobs {
        tickets.push(job.submit()?);
    }
    let rising = tickets.windows(2).all(|pair| pair[0].value() < pair[1].value());
    require(rising, "values of submissions do not rise")?;
    // The last has finished, so all have: submissions complete in order.
    let mut waiting = jobs.iter().zip(tickets).rev();
    if let Some((job, ticket)) = waiting.next() {
        job.finish(ticket)?;
    }
    for (job, ticket) in waiting {
        require(ticket.is_complete(), "a submission finished before an earlier one")?;
        job.finish(ticket)?;
    }
    Ok(())
}

pub(super) fn polling(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    let ticket = job.submit()?;
    let started = Instant::now();
    while !ticket.is_complete() {
        require(
            started.elapsed() < Duration::from_secs(10),
            "`completed` does not reach a submission within 10 s unless somebody waits",
        )?;
        std::thread::yield_now();
    }
    job.finish(ticket)
}

pub(super) fn dropped_ticket(probe: &Probe<'_>) -> Result<(), Trouble> {
    let job = probe.job()?;
    drop(job.submit()?);
    job.check()
}

pub(super) fn dropped_executable(probe: &Probe<'_>) -> Result<(), Trouble> {
    let mut job = probe.job()?;
    let ticket = job.submit()?;
    let other = probe.job()?;
    job.executable = Arc::clone(&other.executable);
    job.segment = other.segment.clone();
    job.finish(ticket)
}

/// Inputs come after the run was queued; what is not started leaves everything as it is, and what stands behind what
/// waits begins when that does.
pub(super) fn queued_ahead(probe: &Probe<'_>) -> Result<(), Trouble> {
    let jobs = probe.jobs(2)?;
    // Twice, because what is made for the first time may be used again; in both orders of starting.
    for is_reverse in [false, true, false, true] {
        // What the inputs are when it is queued is not what is computed with.
        jobs.iter().for_each(|job| job.bench.fill(1, true));
        let mut queued = Vec::new();
        for job in &jobs {
            match job.queue_ahead() {
                Some(run) => queued.push((job, run?)),
                // A processor that cannot, or does not want to now.
                None => return Ok(()),
            }
        }
        jobs.iter().for_each(|job| job.bench.fill(0, true));
        if is_reverse {
            queued.reverse();
        }
        let mut tickets = Vec::new();
        for (job, run) in queued {
            tickets.push((job, run.start(job.bench.bind_whole(&job.segment))?));
        }
        for (job, ticket) in tickets {
            job.finish(ticket)?;
        }
    }
    let [first, second] = &jobs[..] else { unreachable!("two jobs") };
    for is_started in [true, false, true] {
        jobs.iter().for_each(|job| job.bench.fill(0, true));
        let Some(waiting) = first.queue_ahead() else { return Ok(()) };
        let waiting = waiting?;
        let behind = second.submit()?;
        require(!behind.is_complete(), "a submission ends before one in front of it has begun")?;
        if is_started {
            let ticket = waiting.start(first.bench.bind_whole(&first.segment))?;
            require(ticket.value() < behind.value(), "a run loses its place in the queue when it is started")?;
            second.finish(behind)?;
            require(ticket.is_complete(), "a submission finished before an earlier one")?;
            first.finish(ticket)?;
        } else {
            drop(waiting);
            second.finish(behind)?;
            first.bench.check_memory(&first.before, &[], Job::STEP)?;
        }
    }
    Ok(())
}

pub(super) fn two_threads(probe: &Probe<'_>) -> Result<(), Trouble> {
    const ROUNDS: usize = 20;
    let jobs = probe.jobs(2)?;
    // Both use one executable, each with its own tensors.
    let executable = &jobs[0].executable;
    let work = |job: &Job<'_>| -> Result<Vec<u64>, Trouble> {
        let mut values = Vec::new();
        for _ in 0..ROUNDS {
            job.bench.fill(0, true);
            let bindings = job.bench.bind_whole(&job.segment);
            let ticket = executable.submit(bindings, Job::STEP)?;
            values.push(ticket.value());
            job.finish(ticket)?;
        }
        Ok(values)
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| caught(|| work(&jobs[1])));
        (caught(|| work(&jobs[0])), other.join())
    });
    let mut values = a?;
    values.extend(b.expect("panics are caught inside the thread")?);
    values.sort_unstable();
    values.dedup();
    require(values.len() == 2 * ROUNDS, "two submissions have the same value")
}
