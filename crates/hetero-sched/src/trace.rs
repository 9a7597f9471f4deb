//! When the submissions of the last steps ran.

use serde_json::{Value, json};

/// The last submissions, as many as there is room for.
///
/// The room is allocated beforehand, so that recording does not disturb what it records.
#[derive(Debug, Default)]
pub struct Trace {
    /// A ring once it is full; the oldest is at `next`.
    events: Vec<TraceEvent>,
    room: usize,
    next: usize,
}

/// One submission. Times are seconds by the executor's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceEvent {
    /// On which device.
    pub device_idx: usize,
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
}

impl Trace {
    /// Room for so many submissions; with none nothing is recorded.
    pub fn new(room: usize) -> Trace {
        Trace { events: Vec::with_capacity(room), room, next: 0 }
    }

    pub(crate) fn add(&mut self, event: TraceEvent) {
        if self.events.len() < self.room {
            self.events.push(event);
        } else if self.room > 0 {
            self.events[self.next] = event;
            self.next = (self.next + 1) % self.room;
        }
    }

    /// The recorded submissions in the order in which they were seen to end.
    pub fn events(&self) -> impl Iterator<Item = &TraceEvent> {
        let (newer, older) = self.events.split_at(self.next);
        older.iter().chain(newer)
    }

    /// The recording in the format that Chrome and Perfetto show (Trace Event Format): one track for each device,
    /// times in microseconds.
    ///
    /// # Panics
    /// When a device has no name.
    pub fn to_chrome_json(&self, device_names: &[String]) -> Value {
        let track = |(idx, name): (usize, &String)| json!({ "ph": "M", "pid": 1, "tid": idx, "name": "thread_name", "args": { "name": name } });
        let mut events: Vec<Value> = device_names.iter().enumerate().map(track).collect();
        events.extend(self.events().map(|event| {
            assert!(event.device_idx < device_names.len(), "device {} has no name", event.device_idx);
            let name = match event.layer {
                Some(layer) => format!("layers.{layer}.{}", event.name),
                None => event.name.to_owned(),
            };
            json!({
                "ph": "X", "pid": 1, "tid": event.device_idx, "name": name,
                "ts": event.start * 1e6, "dur": (event.end - event.start) * 1e6,
                "args": {
                    "submission": event.run_idx,
                    "nodes": event.n_nodes,
                    "submitted_us": event.submitted * 1e6,
                },
            })
        }));
        json!({ "traceEvents": events, "displayTimeUnit": "ms" })
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
            run_idx: idx,
            name: "norm",
            layer: Some(3),
            n_nodes: 2,
            submitted: time,
            start,
            end,
        }
    }

    #[test]
    fn the_last_events_are_kept() {
        let mut trace = Trace::new(3);
        (0..5).for_each(|idx| trace.add(event(idx)));
        assert_eq!(trace.events().map(|event| event.run_idx).collect::<Vec<_>>(), [2, 3, 4]);
        let mut off = Trace::new(0);
        off.add(event(0));
        assert_eq!(off.events().count(), 0);
    }

    #[test]
    fn the_export_has_a_track_for_each_device() {
        let mut trace = Trace::new(1);
        trace.add(event(2));
        let json = trace.to_chrome_json(&["npu".to_owned(), "gpu".to_owned()]);
        let events = json["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(events[1]["args"]["name"], "gpu");
        assert_eq!(events[2]["name"], "layers.3.norm");
        assert_eq!((events[2]["ts"].as_f64(), events[2]["dur"].as_f64()), (Some(2.5e6), Some(0.5e6)));
    }
}
