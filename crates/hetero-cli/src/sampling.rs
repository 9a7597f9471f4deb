//! Options of how tokens are chosen, over what the model's makers advise.

use std::hash::{BuildHasher, RandomState};

use hetero_llama::Model;
use hetero_llama::sampler::SamplerConfig;

use crate::error::CliError;
use crate::output::note;

/// How tokens are chosen. What is not given is taken from the model's generation_config.json.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling (defaults from the model's generation_config.json)")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 always takes the best token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose from the K best tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose from the best tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose from tokens that have at least this share of the best one's probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Makes tokens that have come before less likely; 1 for no change
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Start of the random numbers; the same seed gives the same text [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// End the text before this text; may be given several times
    #[arg(long, value_name = "STR")]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// The makers' settings with these options over them.
    pub(crate) fn config(&self, model: &Model) -> Result<SamplerConfig, CliError> {
        let mut options = model.generation_config().sampler_options();
        options.temperature = self.temperature.unwrap_or(options.temperature);
        options.top_k = self.top_k.unwrap_or(options.top_k);
        options.top_p = self.top_p.unwrap_or(options.top_p);
        options.min_p = self.min_p.unwrap_or(options.min_p);
        options.repeat_penalty = self.repeat_penalty.unwrap_or(options.repeat_penalty);
        options.seed = self.seed.unwrap_or_else(random_seed);
        let is_greedy = options.temperature == 0.0;
        let config = SamplerConfig::new(options)?;
        let narrows = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some() || self.seed.is_some();
        if is_greedy && narrows && self.temperature.is_none() {
            note(
                "sampling the model's makers want the best token always; give --temperature for the other options to count",
            );
        }
        Ok(config)
    }
}

/// Short enough to be typed again.
fn random_seed() -> u64 {
    RandomState::new().hash_one(0) % 1_000_000
}
