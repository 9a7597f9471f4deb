//! One conversation: a KV cache and the means to extend it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hetero_core::{Part, RowSelection, Rows, SharedTensor, StepParams};
use hetero_sched::report::StepReport;
use hetero_sched::trace::write_chrome_json;
use hetero_sched::{Runner, SchedError, plan};

use crate::LlamaError;
use crate::graph::{self, GraphOptions, ModelGraph};
use crate::model::Model;

/// Positions of a full prefill step. Longer prompts are fed in several, so that activations stay small and a
/// cancellation is seen soon.
pub const PREFILL_CHUNK: usize = 512;

/// Positions that are in the cache in the middle of a usual conversation.
const TYPICAL_PAST: usize = 512;

/// The most logits of a step that computes those of all its positions, `[positions, vocabulary]`: 32 MiB of floats.
const MAX_LOGITS: usize = 8 << 20;

/// A sequence of tokens that a model has seen, as keys and values in memory.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    prefill: Step,
    /// For one position; the prefill step when that is for one position already.
    decode: Option<Step>,
    context: usize,
    cache_bytes: u64,
    /// The tokens in the cache.
    tokens: Vec<u32>,
    /// Logits of the last position, `[vocabulary]`; empty before the first.
    logits: Vec<f32>,
}

/// A graph made ready to run.
#[derive(Debug)]
struct Step {
    graph: ModelGraph,
    runner: Runner,
}

/// Tells a running computation to stop, from any thread.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    is_cancelled: Arc<AtomicBool>,
}

impl CancelToken {
    /// Asks to stop; seen after the current step.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

impl Session {
    /// Allocates a cache for the model's context and compiles prefill and decode.
    pub fn new(model: &Arc<Model>) -> Result<Session, LlamaError> {
        Self::with_logits(model, RowSelection::Last)
    }

    /// As [`Session::new`], for [`Session::score`]: every step computes the logits of all its positions.
    pub fn for_scoring(model: &Arc<Model>) -> Result<Session, LlamaError> {
        Self::with_logits(model, RowSelection::All)
    }

    fn with_logits(model: &Arc<Model>, logits: RowSelection) -> Result<Session, LlamaError> {
        let context = model.context();
        let chunk = match logits {
            RowSelection::Last => PREFILL_CHUNK,
            RowSelection::All => (MAX_LOGITS / model.config().vocab).clamp(16, PREFILL_CHUNK),
        };
        let options = GraphOptions { capacity: chunk.min(context), logits, ..model.graph_options() };
        let prefill = graph::build(model.config(), &options);
        let state = prefill.allocate_state(&*model.devices()[0]).map_err(SchedError::from)?;
        let cache_bytes = state.iter().map(|tensor| tensor.desc().bytes() as u64).sum();
        let decode = (options.capacity > 1).then(|| {
            let options = GraphOptions { capacity: 1, ..options };
            make_ready(model, graph::build(model.config(), &options), &state)
        });
        Ok(Session {
            prefill: make_ready(model, prefill, &state)?,
            decode: decode.transpose()?,
            model: Arc::clone(model),
            context,
            cache_bytes,
            tokens: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The most tokens that the cache has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Logits of the last position, `[vocabulary]`; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Forgets all tokens but the first `n_tokens`.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.tokens.truncate(n_tokens);
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// For each of the model's devices, its share of the arithmetic so far; before the first step, that of a full
    /// prefill step.
    pub fn device_shares(&self) -> Vec<f64> {
        let mut operations = vec![0.0; self.model.devices().len()];
        for (_, step) in self.steps() {
            operations.iter_mut().zip(step.runner.operations()).for_each(|(sum, of_step)| *sum += of_step);
        }
        if operations.iter().all(|&of_device| of_device == 0.0) {
            return self.prefill.runner.executor().plan().shares(operations.len());
        }
        plan::shares(&operations)
    }

    /// What was predicted for prefill and decode and what was measured, by the name of the phase. Empty unless
    /// [`crate::team::TogetherOptions::n_traced`] asks for recording.
    pub fn reports(&self) -> Vec<(&'static str, StepReport)> {
        self.steps().filter_map(|(name, step)| Some((name, step.runner.report()?))).collect()
    }

    /// Writes what was recorded for Perfetto or chrome://tracing: a track for the host and one for each device, in real
    /// time.
    pub fn write_trace(&self, out: &mut dyn Write) -> io::Result<()> {
        let names: Vec<String> = self.model.devices().iter().map(|device| device.info().name.clone()).collect();
        let traces: Vec<_> = self.steps().map(|(name, step)| (name, step.runner.executor().trace())).collect();
        write_chrome_json(out, &names, &traces)
    }

    /// The graphs by the names of their phases.
    fn steps(&self) -> impl Iterator<Item = (&'static str, &Step)> {
        [("prefill", &self.prefill)].into_iter().chain(self.decode.as_ref().map(|decode| ("decode", decode)))
    }

    /// Appends tokens to the sequence; afterwards [`Session::logits`] are those of the last of them.
    ///
    /// Stops between steps when cancelled, with [`LlamaError::Cancelled`]; what was appended until then stays.
    pub fn feed(&mut self, tokens: &[u32], cancel: &CancelToken) -> Result<(), LlamaError> {
        self.run(tokens, cancel, |_, _| {})
    }

    /// Appends tokens and gives the logits of each position to `visit(position, logits)`.
    ///
    /// # Panics
    /// When the session was not made by [`Session::for_scoring`].
    pub fn score(
        &mut self,
        tokens: &[u32],
        cancel: &CancelToken,
        visit: impl FnMut(usize, &[f32]),
    ) -> Result<(), LlamaError> {
        let logits = self.prefill.graph.graph.value(self.prefill.graph.logits);
        assert_eq!(logits.rows, Rows::Positions, "only a session for scoring has the logits of all positions");
        self.run(tokens, cancel, visit)
    }

    fn run(
        &mut self,
        tokens: &[u32],
        cancel: &CancelToken,
        mut visit: impl FnMut(usize, &[f32]),
    ) -> Result<(), LlamaError> {
        let needed = self.tokens.len() + tokens.len();
        if needed > self.context {
            return Err(LlamaError::ContextFull { needed, context: self.context });
        }
        let vocabulary = self.model.config().vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(LlamaError::TokenOutOfRange { token, vocabulary });
        }
        for chunk in tokens.chunks(self.prefill.graph.graph.capacity()) {
            if cancel.is_cancelled() {
                return Err(LlamaError::Cancelled);
            }
            let past = self.tokens.len();
            let step = match &mut self.decode {
                Some(decode) if chunk.len() == 1 => decode,
                _ => &mut self.prefill,
            };
            let written = Part::whole(chunk.len(), 1);
            let tokens = bytemuck::cast_slice(chunk);
            step.runner.tensor(step.graph.tokens).slot().write_bytes(&written, tokens).map_err(SchedError::from)?;
            let params = StepParams { past, rows: chunk.len() };
            step.runner.step(params, &|| cancel.is_cancelled()).map_err(|error| match error {
                SchedError::Cancelled => LlamaError::Cancelled,
                error => error.into(),
            })?;
            let logits = step.runner.tensor(step.graph.logits).view();
            let n_rows = match step.graph.graph.value(step.graph.logits).rows {
                Rows::Fixed(n_rows) => n_rows,
                Rows::Positions => chunk.len(),
            };
            // Row by row into the same memory, so that the last is what stays.
            self.logits.resize(vocabulary, 0.0);
            for row in 0..n_rows {
                let part = Part { rows: row..row + 1, columns: 0..vocabulary };
                let row_bytes = bytemuck::cast_slice_mut(&mut self.logits);
                logits.read_bytes(&part, row_bytes).map_err(SchedError::from)?;
                if step.graph.graph.value(step.graph.logits).rows == Rows::Positions {
                    visit(past + row, &self.logits);
                }
            }
            self.tokens.extend_from_slice(chunk);
        }
        Ok(())
    }
}

fn make_ready(model: &Model, graph: ModelGraph, state: &[Arc<SharedTensor>]) -> Result<Step, LlamaError> {
    let weights = model.weights().for_graph(&graph);
    let rows = graph.graph.capacity();
    // A plan for decoding may have to last for the whole conversation, so it is made for the middle of one.
    let past = if rows == 1 { (model.context() / 2).min(TYPICAL_PAST) } else { 0 };
    let first = StepParams { past, rows };
    let runner = Runner::new(model.team(), &graph.graph, &weights, state, first)?;
    Ok(Step { graph, runner })
}
