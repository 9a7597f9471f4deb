//! When the submissions of the last steps ran, and what the host did meanwhile.

use std::io::{self, Write};

use serde_json::{Value, json};

/// The last submissions and the last doings of the host, as many as there is room for.
///
/// The room is allocated beforehand, so that recording does not disturb what it records. Without room nothing is
/// recorded, and no time is asked for.
#[derive(Debug, Default)]
pub struct Trace {
    submissions: Ring<TraceEvent>,
    host: Ring<HostEvent>,
}

/// One submission. Times are seconds by the executor's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceEvent {
    /// On which device.
    pub device_idx: usize,
    /// Which of the executor's plans it was part of, counted from 1.
    pub plan: u64,
    /// Which of the plan's submissions.
    pub run_idx: usize,
    /// Its first node.
    pub name: &'static str,
    /// The decoder layer of that.
    pub layer: Option<usize>,
    /// How many parts of nodes it computed.
    pub n_nodes: usize,
    /// When the host had submitted it.
    pub submitted: f64,
    /// When its device began with it: reckoned from what came before, not seen.
    pub start: f64,
    /// When the host saw that it had ended; for one that was not looked at before a later one had ended, when it was
    /// expected to end.
    pub end: f64,
    /// Seconds that it was predicted to take, if it was.
    pub predicted: Option<f64>,
}

/// Something that the host did. Times are seconds by the executor's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostEvent {
    /// What.
    pub doing: Doing,
    /// When it began.
    pub start: f64,
    /// When it had ended.
    pub end: f64,
}

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// A whole step, of so many positions behind so many others.
    Step {
        /// Positions of the step.
        rows: usize,
        /// Positions before it.
        past: usize,
    },
    /// It looked for a plan.
    Plan,
    /// It made a plan ready: weights loaded, segments compiled.
    Prepare,
    /// It gave a device one of the plan's submissions before its inputs existed.
    QueueAhead {
        /// Which.
        run_idx: usize,
    },
    /// It submitted one of the plan's submissions, or let one begin that was queued ahead.
    Submit {
        /// Which.
        run_idx: usize,
    },
    /// It waited for a device.
    Wait,
}

/// What is kept of one kind of event.
#[derive(Debug)]
struct Ring<E> {
    /// A ring once it is full; the oldest is at `next`.
    events: Vec<E>,
    room: usize,
    next: usize,
}

impl Trace {
    /// Room for so many submissions, and for what the host does with them; with none nothing is recorded.
    pub fn new(room: usize) -> Trace {
        // Each submission is submitted and at most waited for, and a step has at least one.
        Trace { submissions: Ring::new(room), host: Ring::new(3 * room) }
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.submissions.room > 0
    }

    pub(crate) fn add(&mut self, event: TraceEvent) {
        self.submissions.add(event);
    }

    pub(crate) fn add_host(&mut self, event: HostEvent) {
        self.host.add(event);
    }

    /// The recorded submissions in the order in which they were seen to end.
    pub fn events(&self) -> impl Iterator<Item = &TraceEvent> {
        self.submissions.events()
    }

    /// The recorded doings of the host in the order in which they ended.
    pub fn host_events(&self) -> impl Iterator<Item = &HostEvent> {
        self.host.events()
    }
}

/// Writes recordings by one clock in the format that Chrome and Perfetto show (Trace Event Format): one track for the
/// host and one for each device, times in microseconds. Each recording has a name, which becomes the category of its
/// events.
///
/// # Panics
/// When a device has no name.
pub fn write_chrome_json(out: &mut dyn Write, device_names: &[String], traces: &[(&str, &Trace)]) -> io::Result<()> {
    let mut separator = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
    let mut put = |event: Value| {
        out.write_all(separator.as_bytes())?;
        separator = ",\n";
        serde_json::to_writer(&mut *out, &event).map_err(io::Error::from)
    };
    put(json!({ "ph": "M", "pid": 1, "name": "process_name", "args": { "name": "hetero" } }))?;
    for (tid, name) in ["host"].into_iter().chain(device_names.iter().map(String::as_str)).enumerate() {
        put(json!({ "ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": { "name": name } }))?;
        put(json!({ "ph": "M", "pid": 1, "tid": tid, "name": "thread_sort_index", "args": { "sort_index": tid } }))?;
    }
    for (category, trace) in traces {
        for event in trace.host_events() {
            let (name, args) = event.doing.described();
            put(json!({
                "ph": "X", "pid": 1, "tid": 0, "cat": category, "name": name,
                "ts": event.start * 1e6, "dur": (event.end - event.start) * 1e6, "args": args,
            }))?;
        }
        for event in trace.events() {
            assert!(event.device_idx < device_names.len(), "device {} has no name", event.device_idx);
            let name = match event.layer {
                Some(layer) => format!("layers.{layer}.{}", event.name),
                None => event.name.to_owned(),
            };
            put(json!({
                "ph": "X", "pid": 1, "tid": event.device_idx + 1, "cat": category, "name": name,
                "ts": event.start * 1e6, "dur": (event.end - event.start) * 1e6,
                "args": {
                    "plan": event.plan,
                    "submission": event.run_idx,
                    "nodes": event.n_nodes,
                    "submitted_us": event.submitted * 1e6,
                    "predicted_us": event.predicted.map(|seconds| seconds * 1e6),
                },
            }))?;
        }
    }
    out.write_all(b"\n]}\n")
}

impl Doing {
    /// Name and details.
    fn described(self) -> (&'static str, Value) {
        match self {
            Doing::Step { rows, past } => ("step", json!({ "rows": rows, "past": past })),
            Doing::Plan => ("plan", json!({})),
            Doing::Prepare => ("prepare", json!({})),
            Doing::QueueAhead { run_idx } => ("queue ahead", json!({ "submission": run_idx })),
            Doing::Submit { run_idx } => ("submit", json!({ "submission": run_idx })),
            Doing::Wait => ("wait", json!({})),
        }
    }
}

impl<E> Ring<E> {
    fn new(room: usize) -> Ring<E> {
        Ring { events: Vec::with_capacity(room), room, next: 0 }
    }

    fn add(&mut self, event: E) {
        if self.events.len() < self.room {
            self.events.push(event);
        } else if self.room > 0 {
            self.events[self.next] = event;
            self.next = (self.next + 1) % self.room;
        }
    }

    /// Oldest first.
    fn events(&self) -> impl Iterator<Item = &E> {
        let (newer, older) = self.events.split_at(self.next);
        older.iter().chain(newer)
    }
}

impl<E> Default for Ring<E> {
    fn default() -> Self {
        Ring::new(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(idx: usize) -> TraceEvent {
        let time = idx as f64;
        let (start, end) = (time + 0.5, time + 1.0);
        TraceEvent {
            device_idx: 0,
            plan: 1,
            run_idx: idx,
            name: "norm",
            layer: Some(3),
            n_nodes: 2,
            submitted: time,
            start,
            end,
            predicted: Some(0.25),
        }
    }

    #[test]
    fn the_last_events_are_kept() {
        let mut trace = Trace::new(3);
        (0..5).for_each(|idx| trace.add(event(idx)));
        assert_eq!(trace.events().map(|event| event.run_idx).collect::<Vec<_>>(), [2, 3, 4]);
        let mut off = Trace::new(0);
        off.add(event(0));
        off.add_host(HostEvent { doing: Doing::Wait, start: 0.0, end: 1.0 });
        assert_eq!((off.events().count(), off.host_events().count(), off.is_on()), (0, 0, false));
    }

    #[test]
    fn the_export_has_a_track_for_the_host_and_for_each_device() {
        let mut trace = Trace::new(1);
        trace.add(event(2));
        trace.add_host(HostEvent { doing: Doing::Step { rows: 1, past: 7 }, start: 2.0, end: 3.0 });
        let mut bytes = Vec::new();
        let names = ["npu".to_owned(), "gpu".to_owned()];
        write_chrome_json(&mut bytes, &names, &[("decode", &trace), ("prefill", &Trace::default())]).unwrap();
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let tracks: Vec<&Value> = events.iter().filter(|event| event["name"] == "thread_name").collect();
        assert_eq!(tracks.iter().map(|event| &event["args"]["name"]).collect::<Vec<_>>(), ["host", "npu", "gpu"]);
        let spans: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!((&spans[0]["name"], &spans[0]["args"]["past"]), (&json!("step"), &json!(7)));
        assert_eq!((&spans[1]["name"], &spans[1]["cat"]), (&json!("layers.3.norm"), &json!("decode")));
        assert_eq!((spans[1]["ts"].as_f64(), spans[1]["dur"].as_f64()), (Some(2.5e6), Some(0.5e6)));
        assert_eq!((spans[1]["tid"].as_u64(), spans[1]["args"]["predicted_us"].as_f64()), (Some(1), Some(0.25e6)));
    }
}
