//! The options of the commands that need no model but its shape, and no device but a simulated one.

use std::path::Path;

use hetero_core::WeightFormat;
use hetero_llama::LlamaError;
use hetero_llama::config::{ModelConfig, SHAPE_NAMES};
use hetero_llama::simulate::{SimulateMode, SimulateOptions, Soc};
use hetero_llama::team::TogetherOptions;

use crate::error::CliError;
use crate::options;
use crate::together::PlanArgs;

/// Which model, on which SoC, and how its processors share the work.
#[derive(Debug, clap::Args)]
pub(crate) struct SimulatedArgs {
    /// SoC: a built-in one, or a SoC file (docs/simulator.md says how to write one)
    #[arg(long, value_name = "NAME", default_value = "snapdragon-8-gen-3")]
    pub(crate) soc: String,
    /// Model: a built-in shape, or a Hugging Face folder or its config.json
    #[arg(long, value_name = "NAME", default_value = "llama-3-8b")]
    pub(crate) shape: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate behind it
    #[arg(long, value_name = "N", default_value_t = 32)]
    decode: u32,
    /// Who computes: cpu-only, gpu-only, npu-only, layer (whole operators on GPU or NPU), tensor (operators cut between
    /// both), tensor-3 (the CPU computes too)
    #[arg(long, value_name = "MODE", default_value = "tensor")]
    pub(crate) mode: SimulateMode,
    #[command(flatten)]
    plan: PlanArgs,
    /// What linear weights are held in: f32, f16, bf16, w8g32, w4g32
    #[arg(long, value_name = "FMT", default_value = "w4g32", value_parser = options::weight_format)]
    weights: WeightFormat,
}

impl SimulatedArgs {
    /// What to simulate, without faults and without a trace.
    pub(crate) fn options(&self) -> Result<SimulateOptions, CliError> {
        Ok(SimulateOptions {
            weights: self.weights,
            prompt: self.prompt as usize,
            decode: self.decode as usize,
            mode: self.mode,
            method: self.plan.method(),
            dynamic_length: self.plan.dynamic_length(),
            objective: self.plan.objective(),
            memory_budget: self.plan.memory_budget(),
            fast_sync: self.plan.is_fast_sync(),
            ..SimulateOptions::new(Soc::load(&self.soc).map_err(LlamaError::from)?, shape(&self.shape)?)
        })
    }
}

impl SimulatedArgs {
    /// How processors of this machine would work together, with measurements kept in `profiles` or the usual place.
    pub(crate) fn together(&self, profiles: Option<&Path>) -> TogetherOptions {
        self.plan.together(Some(self.mode), profiles)
    }
}

/// A model by the name of its shape, or by its files.
fn shape(name: &str) -> Result<ModelConfig, CliError> {
    if let Some(config) = ModelConfig::shape(name) {
        return Ok(config);
    }
    let path = Path::new(name);
    let folder = match path.file_name() {
        Some(file) if file == "config.json" => path.parent().unwrap_or(Path::new("")),
        _ => path,
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !folder.exists() {
        return Err(CliError::Usage {
            message: format!("{name}: neither a shape ({}) nor a path", SHAPE_NAMES.join(", ")),
            fix: "give the name of a shape, a Hugging Face folder, or the path of its config.json".into(),
        });
    }
    Ok(options::source(Some(folder))?.config()?)
}
