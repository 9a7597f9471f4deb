//! Measuring the processors for a model: what a stored profile has is not measured again, and what is measured is kept.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_core::{Access, Backend, DType, DeviceInfo, DeviceKind, Graph, TensorDesc, WeightFormat};
use hetero_sched::SchedError;
use hetero_sched::cost::{ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::predict::{Errors, Predictor};
use hetero_sched::profile::{
    Failure, Identity, MeasureOptions, Measured, Noise, OperatorProfile, Profile, Progress, measure,
};
use hetero_sched::sync::SystemClock;

use crate::LlamaError;
use crate::backends::Activations;
use crate::config::ModelConfig;
use crate::model::{self, ModelOptions};

/// Measurements are kept at least this often, so that little is lost when the program does not come to an end.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoroughness {
    /// What plans need at least: a start is not the time for more.
    Quick,
    /// Enough to tell how good predictions are.
    Thorough,
}

/// Where measurements come from and go to.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfilingFacts {
    /// The file in which the profile is kept, when it is.
    pub file: Option<PathBuf>,
    /// Why a stored profile was not used, or the profile could not be kept.
    pub trouble: Option<String>,
    /// Measurements that the stored profile had.
    pub n_known: usize,
    /// Measurements that were made now.
    pub n_new: usize,
    /// Measurements of the stored profile that were made again, because the machine was busy when they were made.
    pub n_again: usize,
    /// Seconds that these took.
    pub seconds: f64,
    /// How much else the machine did while everything was measured that is known by now.
    pub noise: Noise,
    /// Whether everything was measured.
    pub is_complete: bool,
}

/// Processors that were measured for a model.
#[derive(Clone, Debug)]
pub struct Profiling {
    /// The processors, those that failed among them.
    pub devices: Vec<Arc<dyn Backend>>,
    /// What was measured.
    pub profile: Profile,
    /// Processors that failed.
    pub failures: Vec<Failure>,
    /// For each processor and each of its operators in the profile, how far predictions are off on measurements that
    /// were held out.
    pub errors: Vec<Vec<Errors>>,
    /// Where it comes from and goes to.
    pub facts: ProfilingFacts,
}

/// Measures the processors that the options choose for a model, without its weights. `watch` sees each measurement and
/// may end it: what was measured until then is kept.
///
/// # Errors
/// Processors that cannot be opened or, with [`crate::team::TogetherOptions::is_strict`], fail.
pub fn profile(
    config: &ModelConfig,
    options: &ModelOptions,
    thoroughness: Thoroughness,
    watch: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Profiling, LlamaError> {
    let devices = model::open(options)?;
    // What a table is stored in does not change what it costs to read some of its rows.
    let mut graph_options = model::graph_options("the model", config, options, WeightFormat::Bf16)?;
    graph_options.context = options.context.unwrap_or(config.max_positions).clamp(1, config.max_positions);
    let graph = model::prefill_graph(config, graph_options).graph;
    let (measured, facts) = known_and_missing(&devices, &graph, options, thoroughness, watch)?;
    let error_of = |operator: &OperatorProfile, kind: DeviceKind| {
        Predictor::fit(&operator.samples, kind).map_or_else(Errors::default, |predictor| predictor.errors())
    };
    let errors = measured.profile.devices.iter().zip(&devices).map(|(profile, device)| {
        profile.operators.iter().map(|operator| error_of(operator, device.info().kind)).collect()
    });
    let errors = errors.collect();
    Ok(Profiling { devices, errors, profile: measured.profile, failures: measured.failures, facts })
}

/// Costs of the operators of a graph.
pub(crate) fn costs(
    profile: &Profile,
    devices: &[Arc<dyn Backend>],
    graph: &Graph,
    options: &ProfiledOptions,
) -> ProfiledCosts {
    let infos: Vec<DeviceInfo> = devices.iter().map(|device| device.info().clone()).collect();
    ProfiledCosts::new(profile, &infos, graph, options)
}

/// The number of the memory that each device computes in beside the first, which allocates what can be shared.
pub(crate) fn memories(devices: &[Arc<dyn Backend>]) -> Result<Vec<usize>, LlamaError> {
    let desc = TensorDesc { rows: 1, columns: 1, dtype: DType::F32 };
    let shared = devices[0].allocate(&desc).map_err(SchedError::from)?;
    let reaches = |device: &Arc<dyn Backend>| device.access(&*shared) == Access::Direct;
    Ok(devices.iter().enumerate().map(|(idx, device)| if reaches(device) { 0 } else { idx }).collect())
}

/// What the stored profile has, and what had to be measured besides.
pub(crate) fn known_and_missing(
    devices: &[Arc<dyn Backend>],
    graph: &Graph,
    options: &ModelOptions,
    thoroughness: Thoroughness,
    watch: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<(Measured, ProfilingFacts), LlamaError> {
    let begin = Instant::now();
    let measuring = measuring(graph.capacity(), options, thoroughness);
    let identities: Vec<Identity> =
        devices.iter().map(|device| Identity::of(device.info(), &measuring.kernel_version)).collect();
    let folder = options.together.profiles.as_ref();
    let mut trouble = None;
    let known = match folder.filter(|_| !options.together.measures_anew).map(|folder| folder.load(&identities)) {
        None => None,
        Some(Ok(known)) => known,
        Some(Err(error)) => {
            tracing::warn!(%error, "a stored profile is not used");
            trouble = Some(format!("{}, so everything is measured anew", with_causes(&error)));
            None
        }
    };
    // Processors that were told to fail are not worth remembering.
    let folder = folder.filter(|_| options.devices.faults.is_none());
    let n_known = known.as_ref().map_or(0, |known| known.n_samples() + known.together.len());
    let mut kept = Instant::now();
    let mut keep_and_watch = |progress: &Progress<'_>| {
        if let Some(folder) = folder.filter(|_| progress.is_new && kept.elapsed() > KEEP_EVERY) {
            // Whether it can be kept at all is told at the end.
            let _ = folder.save(progress.profile);
            kept = Instant::now();
        }
        watch(progress)
    };
    let measured = measure(devices, graph, &SystemClock::new(), &measuring, known, &mut keep_and_watch);
    for failure in &measured.failures {
        let device = &devices[failure.device_idx].info().name;
        tracing::warn!(device, error = %failure.error, "a device failed while it was measured");
    }
    let mut file = folder.map(|folder| folder.file_of(&identities));
    let is_changed = measured.n_new + measured.n_again > 0 || n_known == 0;
    let kept = folder.filter(|_| is_changed).map_or(Ok(()), |folder| folder.save(&measured.profile).map(drop));
    if let Err(error) = kept {
        tracing::warn!(%error, "the profile is not kept");
        trouble = Some(format!("{}, so the profile is not kept", with_causes(&error)));
        file = None;
    }
    let facts = ProfilingFacts {
        file,
        trouble,
        n_known,
        n_new: measured.n_new,
        n_again: measured.n_again,
        noise: measured.profile.noise(),
        seconds: begin.elapsed().as_secs_f64(),
        is_complete: measured.is_complete,
    };
    if let Some(failure) = measured.failures.first().filter(|_| options.together.is_strict) {
        return Err(failed(failure));
    }
    Ok((measured, facts))
}

/// A processor's failure as an error.
pub(crate) fn failed(failure: &Failure) -> LlamaError {
    let Failure { device_idx, error } = failure.clone();
    LlamaError::Run(hetero_sched::SchedError::Device { device_idx, error })
}

fn measuring(capacity: usize, options: &ModelOptions, thoroughness: Thoroughness) -> MeasureOptions {
    let least = MeasureOptions {
        budget_seconds: options.together.budget_seconds,
        // Somebody waits for the start, and the next one goes on from there.
        extra_seconds: [10.0, 2.0],
        // The ends of the range, and what prompts are cut into for processors that take fixed lengths.
        rows: vec![1, capacity.min(32), capacity.min(128), capacity],
        past: vec![512],
        column_shares: vec![1],
        n_repeats: 2,
        least_seconds: 2e-3,
        most_seconds: 15e-3,
        again_seconds: 0.5,
        n_nodes: 16,
        fills_operands: true,
        // Each operator beside a ballast on all other devices: for who has the time.
        measures_bus: false,
        blank_weight: None,
        kernel_version: kernel_version(options.devices.activations),
    };
    let mut rows = vec![1, 2, 4, 8, 16, 32, 64, 128, 256, capacity];
    rows.retain(|&rows| rows <= capacity);
    match thoroughness {
        Thoroughness::Quick => least,
        Thoroughness::Thorough => MeasureOptions {
            rows,
            past: vec![512, 2048],
            column_shares: vec![1, 4],
            n_repeats: 3,
            least_seconds: 20e-3,
            most_seconds: 200e-3,
            again_seconds: f64::INFINITY,
            extra_seconds: [f64::INFINITY; 2],
            measures_bus: true,
            ..least
        },
    }
}

/// What computes: this version of the program, how it keeps activations, and the system's kernel.
fn kernel_version(activations: Activations) -> String {
    // Other systems than Linux do not say it in a file, and their drivers have versions of their own.
    let system = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let system = system.map_or_else(|_| std::env::consts::OS.to_owned(), |release| release.trim().to_owned());
    format!("{}, activations {activations}, {system}", env!("CARGO_PKG_VERSION"))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
