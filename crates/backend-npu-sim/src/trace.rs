//! What happened when, for `ui.perfetto.dev` and Chrome's `about:tracing`.
//!
//! The format is the Trace Event Format's JSON object with complete events (`"ph": "X"`), times in microseconds of
//! virtual time. There is one track for the host and one for each processor.

use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use crate::clock::{N_PROCESSORS, Submission};

/// Tracks in the order in which they are shown.
const TRACKS: [&str; N_PROCESSORS + 1] = ["host", "cpu", "gpu", "npu"];

/// Everything that happened on a simulated phone, one track for the host and one for each processor.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    name: String,
    nodes: Vec<NodeSpan>,
    host: Vec<HostSpan>,
}

/// How a node is called in a trace.
#[derive(Clone, Debug)]
pub(crate) struct NodeLabel {
    /// Such as `layers.3.ffn_down`.
    pub(crate) name: String,
    /// Such as `linear w4g32 14336->4096 (f16) -> f16`.
    pub(crate) operator: String,
    /// Rows and columns of its part.
    pub(crate) part: String,
}

/// What the host did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostAction {
    /// It computed or slept.
    Work,
    Compile {
        processor: usize,
    },
    Copy {
        processor: usize,
        bytes: u64,
    },
    Poll {
        processor: usize,
    },
    Submit {
        processor: usize,
        value: u64,
    },
    Wait {
        processor: usize,
        value: u64,
    },
}

/// What is written down while the clock runs.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    nodes: Vec<NodeSpan>,
    host: Vec<HostSpan>,
}

#[derive(Clone, Debug)]
struct NodeSpan {
    processor: usize,
    /// None where the submission hung before its first node.
    node_idx: Option<usize>,
    start: f64,
    end: f64,
    submission: Arc<Submission>,
}

#[derive(Clone, Copy, Debug)]
struct HostSpan {
    action: HostAction,
    start: f64,
    end: f64,
}

impl Recorder {
    /// The host did something. Looks that follow each other become one span.
    pub(crate) fn host(&mut self, action: HostAction, start: f64, end: f64) {
        match self.host.last_mut() {
            Some(last) if matches!(action, HostAction::Poll { .. }) && last.action == action && last.end == start => {
                last.end = end;
            }
            _ => self.host.push(HostSpan { action, start, end }),
        }
    }

    /// A processor ran a node.
    pub(crate) fn node(&mut self, processor: usize, node_idx: usize, start: f64, end: f64, of: &Arc<Submission>) {
        let submission = Arc::clone(of);
        self.nodes.push(NodeSpan { processor, node_idx: Some(node_idx), start, end, submission });
    }

    /// A processor hung.
    pub(crate) fn hang(&mut self, processor: usize, start: f64, end: f64, of: &Arc<Submission>) {
        self.nodes.push(NodeSpan { processor, node_idx: None, start, end, submission: Arc::clone(of) });
    }

    /// A copy of everything so far.
    pub(crate) fn trace(&self, name: &str) -> Trace {
        Trace { name: name.to_owned(), nodes: self.nodes.clone(), host: self.host.clone() }
    }
}

impl Trace {
    /// Number of events.
    pub fn n_events(&self) -> usize {
        self.nodes.len() + self.host.len()
    }

    /// The trace as JSON, the same bytes for the same calls.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        let mut events = Vec::with_capacity(self.n_events() + TRACKS.len() + 1);
        events.push(Event::metadata("process_name", 0, &self.name));
        for (track, name) in TRACKS.into_iter().enumerate() {
            events.push(Event::metadata("thread_name", track, name));
        }
        events.extend(self.host.iter().map(HostSpan::event));
        events.extend(self.nodes.iter().map(NodeSpan::event));
        serde_json::to_writer(&mut out, &File { display_time_unit: "ms", trace_events: events })?;
        out.write_all(b"\n")
    }

    /// The trace as JSON.
    pub fn to_json(&self) -> String {
        let mut bytes = Vec::new();
        self.write_json(&mut bytes).expect("memory takes all bytes");
        String::from_utf8(bytes).expect("JSON is text")
    }
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "displayTimeUnit")]
    display_time_unit: &'static str,
    #[serde(rename = "traceEvents")]
    trace_events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(rename = "cat", skip_serializing_if = "Option::is_none")]
    category: Option<&'static str>,
    ph: &'static str,
    pid: u32,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    args: Args<'a>,
}

#[derive(Default, Serialize)]
struct Args<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    past: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submission: Option<u64>,
}

impl<'a> Event<'a> {
    /// Names the process or a track.
    fn metadata(what: &'static str, track: usize, name: &'a str) -> Event<'a> {
        let args = Args { name: Some(name), ..Args::default() };
        Event { name: what, category: None, ph: "M", pid: 1, tid: track, ts: None, dur: None, args }
    }

    fn span(name: &'a str, category: &'static str, track: usize, start: f64, end: f64, args: Args<'a>) -> Event<'a> {
        let (ts, end) = (microseconds(start), microseconds(end));
        let dur = Some(round(end - ts));
        Event { name, category: Some(category), ph: "X", pid: 1, tid: track, ts: Some(ts), dur, args }
    }
}

impl HostSpan {
    fn event(&self) -> Event<'_> {
        let (name, processor, submission, bytes) = match self.action {
            HostAction::Work => ("work", None, None, None),
            HostAction::Compile { processor } => ("compile", Some(processor), None, None),
            HostAction::Copy { processor, bytes } => ("copy", Some(processor), None, Some(bytes)),
            HostAction::Poll { processor } => ("poll", Some(processor), None, None),
            HostAction::Submit { processor, value } => ("submit", Some(processor), Some(value), None),
            HostAction::Wait { processor, value } => ("wait", Some(processor), Some(value), None),
        };
        let processor = processor.map(|idx| TRACKS[idx + 1]);
        Event::span(name, "host", 0, self.start, self.end, Args { processor, submission, bytes, ..Args::default() })
    }
}

impl NodeSpan {
    fn event(&self) -> Event<'_> {
        let step = self.submission.step;
        let args = Args { rows: Some(step.rows), past: Some(step.past), ..Args::default() };
        let Some(node_idx) = self.node_idx else {
            return Event::span("hang", "fault", self.processor + 1, self.start, self.end, args);
        };
        let label = &self.submission.labels[node_idx];
        let args = Args {
            operator: Some(&label.operator),
            part: Some(&label.part),
            bytes: Some(self.submission.demands[node_idx].bytes.round() as u64),
            ..args
        };
        Event::span(&label.name, "node", self.processor + 1, self.start, self.end, args)
    }
}

/// Microseconds, to the nanosecond.
fn microseconds(seconds: f64) -> f64 {
    round(seconds * 1e6)
}

fn round(microseconds: f64) -> f64 {
    (microseconds * 1e3).round() / 1e3
}
