//! The options of every command that loads a model, and the loading.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use hetero_core::WeightFormat;
use hetero_llama::config::{ModelConfig, SHAPE_NAMES};
use hetero_llama::loader::LoadStage;
use hetero_llama::profiling::ProfilingFacts;
use hetero_llama::{Activations, DeviceOptions, DeviceSelection, Model, ModelOptions, ModelSource};

use crate::demo;
use crate::error::CliError;
use crate::output::{bytes_text, note};
use crate::progress;
use crate::together::{self, TogetherArgs};

/// Which model, where it runs, and in which precision.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Hugging Face folder of the model: config.json, *.safetensors, tokenizer.json [default: the demo model]
    #[arg(long = "model", value_name = "PATH")]
    path: Option<PathBuf>,
    /// Processors that may be used, such as `cpu`, with commas between; `auto` for every usable one
    #[arg(long, value_name = "LIST", default_value = "auto")]
    devices: DeviceSelection,
    /// What linear weights are held in: f32, f16, bf16, w8g32, w4g32; `auto` for as stored if quantised, else w4g32
    /// above a billion parameters and bf16 below
    #[arg(long, value_name = "FMT", default_value = "auto")]
    weights: Weights,
    /// How exactly activations are kept: `auto` for the fastest way measured as harmless, `float` for 32-bit floats
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = activations)]
    activations: Activations,
    /// CPU worker threads [default: one for each performance core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// The SoC that `npu-sim`, `gpu-sim` and `cpu-sim` are of: a built-in one or a SoC file [default: snapdragon-8-gen-3]
    #[cfg(feature = "npu-sim")]
    #[arg(long, value_name = "NAME")]
    soc: Option<String>,
    /// What goes wrong on simulated processors, such as `npu:late=10x@3` or `npu:lost@5`
    #[cfg(feature = "npu-sim")]
    #[arg(long, value_name = "LIST")]
    fault: Option<String>,
    /// Fail with exit code 3 if anything would not run on the processors asked for
    #[arg(long)]
    pub(crate) strict: bool,
    /// Length of the KV cache in tokens [default: what the command needs, up to the model's limit and the memory]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    together: TogetherArgs,
}

impl ModelArgs {
    /// What to call the model: the name of its folder.
    pub(crate) fn name(&self) -> String {
        let Some(path) = &self.path else {
            return "demo-model".to_owned();
        };
        let full = path.canonicalize();
        let name = full.as_deref().unwrap_or(path).file_name();
        name.map_or_else(|| path.display().to_string(), |name| Path::new(name).display().to_string())
    }

    /// Loads the model. `needed` is the context in tokens that is enough for the command, `None` for as much as
    /// possible; `--context` overrides it.
    pub(crate) fn load(&self, needed: Option<usize>) -> Result<Arc<Model>, CliError> {
        self.load_with(needed, |_| {})
    }

    /// As [`ModelArgs::load`]; `change` has the last word about the options.
    pub(crate) fn load_with(
        &self,
        needed: Option<usize>,
        change: impl FnOnce(&mut ModelOptions),
    ) -> Result<Arc<Model>, CliError> {
        let source = source(self.path.as_deref())?;
        let needed = match needed {
            Some(needed) => Some(needed.clamp(1, source.config()?.max_positions)),
            None => None,
        };
        let mut options = self.options(needed);
        change(&mut options);
        let bar = progress::bytes("loading");
        let mut measuring = None;
        let result = Model::load(source, &options, &mut |progress| {
            let bar = match progress.stage {
                LoadStage::Weights => &bar,
                LoadStage::Measuring => measuring.get_or_insert_with(|| {
                    bar.finish_and_clear();
                    progress::count("measuring", progress.total as usize, "operators")
                }),
            };
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        measuring.into_iter().for_each(|bar| bar.finish_and_clear());
        Ok(result?)
    }

    /// How a model is loaded, with this context unless `--context` overrides it.
    pub(crate) fn options(&self, context: Option<usize>) -> ModelOptions {
        ModelOptions {
            devices: self.device_options(),
            together: self.together.options(self.strict),
            weights: self.weights.0,
            context: self.context.or(context),
        }
    }

    /// What the model is made of, or a built-in shape.
    pub(crate) fn config(&self, shape: Option<&str>) -> Result<ModelConfig, CliError> {
        let Some(name) = shape else { return Ok(source(self.path.as_deref())?.config()?) };
        ModelConfig::shape(name).ok_or_else(|| CliError::Usage {
            message: format!("shape {name}: expected one of {}", SHAPE_NAMES.join(", ")),
            fix: "give the name of a shape, or a model's folder with `--model`".into(),
        })
    }

    /// Tells on standard error what was loaded and what it runs on.
    pub(crate) fn tell_facts(&self, model: &Model) {
        let facts = model.facts();
        note(format_args!(
            "model    {}: {:.1} M parameters, {} weights, {}",
            self.name(),
            facts.parameters as f64 / 1e6,
            facts.weights,
            bytes_text(facts.weight_bytes),
        ));
        let lowered =
            facts.context_lowered_from.map_or_else(String::new, |limit| format!(" (lowered from {limit} by memory)"));
        note(format_args!("context  {} tokens{lowered}, cache {}", facts.context, bytes_text(facts.cache_bytes)));
        for device in model.devices() {
            note(format_args!("device   {}: {}", device.info().name, device.info().description));
        }
        if let Some(profiling) = &facts.profiling {
            tell_profiling(profiling);
        }
    }

    /// CPU worker threads that the model runs on.
    pub(crate) fn n_threads(&self) -> usize {
        self.device_options().n_threads()
    }

    fn device_options(&self) -> DeviceOptions {
        let options = DeviceOptions {
            devices: self.devices.clone(),
            threads: self.threads,
            activations: self.activations,
            gpu_kernels: together::gpu_kernels(),
            cache: self.together.cache(),
            is_strict: self.strict,
            ..Default::default()
        };
        #[cfg(feature = "npu-sim")]
        let options = DeviceOptions { soc: self.soc.clone(), faults: self.fault.clone(), ..options };
        options
    }
}

/// Tells on standard error where the measurements of processors come from.
pub(crate) fn tell_profiling(facts: &ProfilingFacts) {
    let ProfilingFacts { file, trouble, n_known, n_new, n_again, seconds, noise, is_complete } = facts;
    if let Some(trouble) = trouble {
        note(format_args!("profile  {trouble}"));
    }
    let known = match n_known {
        0 => String::new(),
        n => format!("{n} measurements known, "),
    };
    let new = match (n_new, n_again) {
        (0, 0) => "none made".to_owned(),
        (n, 0) => format!("{n} made in {seconds:.1} s"),
        (0, again) => format!("none made, {again} made again in {seconds:.1} s"),
        (n, again) => format!("{n} made in {seconds:.1} s, {again} of all made again"),
    };
    let missing = if *is_complete { "" } else { ", others are missing" };
    let kept = file.as_ref().map_or_else(|| ", not kept".to_owned(), |file| format!(", kept in {}", file.display()));
    note(format_args!("profile  {known}{new}{missing}{kept}"));
    if noise.is_busy() {
        note(format_args!(
            "profile  the machine was busy: spread {:.0} %; measure again with `hetero profile` when it is idle",
            100.0 * noise.spread
        ));
    }
}

/// Where a model's files are: in a folder, or in the program itself.
pub(crate) fn source(path: Option<&Path>) -> Result<ModelSource, CliError> {
    match path {
        Some(path) => Ok(ModelSource::Folder(path.to_path_buf())),
        None => demo::source(),
    }
}

/// A weight format by its name.
pub(crate) fn weight_format(name: &str) -> Result<WeightFormat, String> {
    let known = WeightFormat::ALL.map(|format| format.to_string()).join(", ");
    name.parse().map_err(|_| format!("expected one of {known}"))
}

/// A weight format, or `None` for `auto`.
#[derive(Clone, Copy, Debug)]
struct Weights(Option<WeightFormat>);

impl FromStr for Weights {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Weights(None)),
            name => weight_format(name).map(|format| Weights(Some(format))).map_err(|error| format!("{error}, auto")),
        }
    }
}

fn activations(name: &str) -> Result<Activations, String> {
    let known = [Activations::Auto, Activations::Float];
    let found = known.into_iter().find(|activations| activations.to_string() == name);
    found.ok_or_else(|| "expected auto or float".to_owned())
}
