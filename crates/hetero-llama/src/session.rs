//! One conversation: a KV cache and the means to extend it.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hetero_core::{Part, RowSelection, Rows, StepParams};
use hetero_sched::report::StepReport;
use hetero_sched::trace::write_chrome_json;
use hetero_sched::{Expected, Runner, SchedError, State, Wanted, plan};

use crate::LlamaError;
use crate::chunking::{Length, next_tokens, worth_having};
use crate::graph::{self, GraphOptions, ModelGraph};
use crate::model::Model;

/// Positions of a full prefill step. Longer prompts are fed in several, so that activations stay small and a
/// cancellation is seen soon.
pub const PREFILL_CHUNK: usize = 512;

/// Positions that are in the cache in the middle of a usual conversation.
const TYPICAL_PAST: usize = 512;

/// Steps of one token for each full prefill step: those of a usual reply.
const TOKENS_OF_A_REPLY: f64 = 256.0;

/// The most logits of a step that computes those of all its positions, `[positions, vocabulary]`: 32 MiB of floats.
const MAX_LOGITS: usize = 8 << 20;

/// A sequence of tokens that a model has seen, as keys and values in memory.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    /// For several positions: one for each length that is worth a graph of its own, ascending. Those that are not the
    /// longest are made ready when they are needed first.
    prefill: Vec<Prefill>,
    /// For one position; `None` where prefill is for one position already.
    decode: Option<Step>,
    /// Of the graphs that are still to be made ready.
    options: GraphOptions,
    /// Keys and values, which all graphs share.
    state: Arc<State>,
    context: usize,
    /// The tokens in the cache.
    tokens: Vec<u32>,
    /// Logits of the last position, `[vocabulary]`; empty before the first.
    logits: Vec<f32>,
}

/// Prefill steps of up to so many positions.
#[derive(Debug)]
struct Prefill {
    length: Length,
    /// `None` until it is needed.
    step: Option<Step>,
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
        let longest = graph::build(model.config(), &options);
        let state = longest.allocate_state(&*model.devices()[0]).map_err(SchedError::from)?;
        let mut prefill = Vec::new();
        for capacity in model.team().lengths(options.capacity) {
            let graph = graph::build(model.config(), &GraphOptions { capacity, ..options });
            let (weights, step) = (model.weights().for_graph(&graph), StepParams { past: 0, rows: capacity });
            let expected = model.team().expect(&graph.graph, &weights, step)?;
            // Of a single device nothing is known; only proportions count.
            let expected = expected.unwrap_or(Expected { seconds: capacity as f64, prepare_seconds: 0.0 });
            prefill.push(Prefill { length: Length::new(capacity, expected), step: None });
        }
        let decode =
            (options.capacity > 1).then(|| graph::build(model.config(), &GraphOptions { capacity: 1, ..options }));
        let (longest, decode) = make_both_ready(model, longest, decode, &state)?;
        let last = prefill.last_mut().expect("the longest");
        (last.step, last.length.prepare_seconds) = (Some(longest), 0.0);
        Ok(Session {
            prefill,
            decode,
            options,
            state,
            model: Arc::clone(model),
            context,
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

    /// Bytes of the KV cache, in all memories that processors have it in.
    pub fn cache_bytes(&self) -> u64 {
        self.state.bytes()
    }

    /// For each of the model's devices, its share of the arithmetic so far; before the first step, that of a full
    /// prefill step.
    pub fn device_shares(&self) -> Vec<f64> {
        let mut operations = vec![0.0; self.model.devices().len()];
        for (_, step) in self.steps() {
            operations.iter_mut().zip(step.runner.operations()).for_each(|(sum, of_step)| *sum += of_step);
        }
        if operations.iter().all(|&of_device| of_device == 0.0) {
            return self.longest().runner.executor().plan().shares(operations.len());
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
        let prefill = self.prefill.iter().filter_map(|prefill| Some(("prefill", prefill.step.as_ref()?)));
        prefill.chain(self.decode.as_ref().map(|decode| ("decode", decode)))
    }

    /// The prefill step for most positions.
    fn longest(&self) -> &Step {
        self.prefill.last().and_then(|prefill| prefill.step.as_ref()).expect("made ready at once")
    }

    /// The graph for so many positions, made ready if it has not been yet.
    fn step_for(&mut self, n_tokens: usize) -> Result<&mut Step, LlamaError> {
        let Session { model, prefill, decode, options, state, .. } = self;
        if let Some(decode) = decode.as_mut().filter(|_| n_tokens == 1) {
            return Ok(decode);
        }
        let fitting = prefill.iter_mut().find(|prefill| prefill.length.capacity >= n_tokens);
        let prefill = fitting.expect("steps are no longer than the longest graph");
        let step = match prefill.step.take() {
            Some(step) => step,
            None => {
                let options = GraphOptions { capacity: prefill.length.capacity, ..*options };
                make_ready(model, graph::build(model.config(), &options), state)?
            }
        };
        prefill.length.prepare_seconds = 0.0;
        Ok(prefill.step.insert(step))
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
        let logits = self.longest().graph.graph.value(self.longest().graph.logits);
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
        let lengths = worth_having(tokens.len(), self.prefill.iter_mut().map(|prefill| &mut prefill.length));
        let mut rest = Cow::Borrowed(tokens);
        let mut n_done = 0;
        let mut n_visited = self.tokens.len();
        while n_done < rest.len() {
            let n_tokens = next_tokens(rest.len() - n_done, &lengths);
            let chunk = &rest[n_done..n_done + n_tokens];
            if cancel.is_cancelled() {
                return Err(LlamaError::Cancelled);
            }
            match self.step(chunk, cancel, &mut n_visited, &mut visit) {
                Ok(()) => n_done += n_tokens,
                // What a lost device had of the cache is computed again by those that go on.
                Err(LlamaError::Run(SchedError::StateLost { kept })) if kept < self.tokens.len() => {
                    tracing::warn!(positions = self.tokens.len() - kept, "computing again what a lost device knew");
                    rest = Cow::Owned([&self.tokens[kept..], &rest[n_done..]].concat());
                    n_done = 0;
                    self.tokens.truncate(kept);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends the tokens of one step.
    fn step(
        &mut self,
        chunk: &[u32],
        cancel: &CancelToken,
        n_visited: &mut usize,
        visit: &mut impl FnMut(usize, &[f32]),
    ) -> Result<(), LlamaError> {
        let vocabulary = self.model.config().vocab;
        let past = self.tokens.len();
        // Given back below; after an error there are none.
        let mut last_logits = std::mem::take(&mut self.logits);
        let step = self.step_for(chunk.len())?;
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
        last_logits.resize(vocabulary, 0.0);
        for row in 0..n_rows {
            let part = Part { rows: row..row + 1, columns: 0..vocabulary };
            let row_bytes = bytemuck::cast_slice_mut(&mut last_logits);
            logits.read_bytes(&part, row_bytes).map_err(SchedError::from)?;
            let is_new = past + row >= *n_visited;
            if is_new && step.graph.graph.value(step.graph.logits).rows == Rows::Positions {
                visit(past + row, &last_logits);
            }
        }
        self.logits = last_logits;
        self.tokens.extend_from_slice(chunk);
        *n_visited = (*n_visited).max(self.tokens.len());
        Ok(())
    }
}

/// Makes the longest graph ready and, where there is one, that for a single position, so that their plans are good
/// together.
fn make_both_ready(
    model: &Model,
    longest: ModelGraph,
    decode: Option<ModelGraph>,
    state: &Arc<State>,
) -> Result<(Step, Option<Step>), LlamaError> {
    let Some(decode) = decode else { return Ok((make_ready(model, longest, state)?, None)) };
    let [of_longest, of_decode] = [&longest, &decode].map(|graph| model.weights().for_graph(graph));
    let first = first_step(model, &decode);
    let replies = Wanted { graph: &decode.graph, weights: &of_decode, first, n_steps: TOKENS_OF_A_REPLY };
    let first = first_step(model, &longest);
    let prompts = Wanted { graph: &longest.graph, weights: &of_longest, first, n_steps: 1.0 };
    let is_decode_first = model.team().order(&[replies, prompts])?[0] == 0;
    if is_decode_first {
        let decode = make_ready(model, decode, state)?;
        return Ok((make_ready(model, longest, state)?, Some(decode)));
    }
    let longest = make_ready(model, longest, state)?;
    Ok((longest, Some(make_ready(model, decode, state)?)))
}

/// The step that a graph is made ready for.
fn first_step(model: &Model, graph: &ModelGraph) -> StepParams {
    let rows = graph.graph.capacity();
    // A plan for decoding may have to last for the whole conversation, so it is made for the middle of one.
    let past = if rows == 1 { (model.context() / 2).min(TYPICAL_PAST) } else { 0 };
    StepParams { past, rows }
}

fn make_ready(model: &Model, graph: ModelGraph, state: &Arc<State>) -> Result<Step, LlamaError> {
    let weights = model.weights().for_graph(&graph);
    let runner = Runner::new(model.team(), &graph.graph, &weights, state, first_step(model, &graph))?;
    Ok(Step { graph, runner })
}
