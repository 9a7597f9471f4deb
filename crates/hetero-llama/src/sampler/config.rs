//! The options of sampling, and what is left of them once their ranges are checked.

use crate::error::LlamaError;

/// How a token is chosen, as a user gives it. Anything can stand here; [`SamplerConfig::new`] checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 always takes the best token.
    pub temperature: f32,
    /// Only the so many best tokens are chosen from; 0 for all.
    pub top_k: usize,
    /// Only the best tokens that together have this probability are chosen from; 1 for all.
    pub top_p: f32,
    /// Only tokens that have at least this share of the best one's probability are chosen from; 0 for all.
    pub min_p: f32,
    /// Makes tokens that have come before less likely; 1 for no change.
    pub repeat_penalty: f32,
    /// The number of last tokens that the penalty looks at; 0 for all.
    pub repeat_window: usize,
    /// Where the random numbers start. The same seed and the same logits give the same tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// Pure sampling: every token by its probability.
    fn default() -> Self {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_window: 0,
            seed: 0,
        }
    }
}

/// Options whose ranges are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    options: SamplerOptions,
}

impl SamplerConfig {
    /// Checks the options.
    pub fn new(options: SamplerOptions) -> Result<SamplerConfig, LlamaError> {
        let SamplerOptions { temperature, top_p, min_p, repeat_penalty, .. } = options;
        let check = |option, value: f32, is_right: bool, expected| {
            // A NaN is in no range, so each test is written for what is right.
            if is_right {
                return Ok(());
            }
            Err(LlamaError::BadOption { option, expected, found: value.to_string() })
        };
        check("temperature", temperature, (0.0..=100.0).contains(&temperature), "a number from 0 to 100")?;
        check("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "a number above 0 and up to 1")?;
        check("min-p", min_p, (0.0..=1.0).contains(&min_p), "a number from 0 to 1")?;
        check("repeat-penalty", repeat_penalty, (0.01..=100.0).contains(&repeat_penalty), "a number from 0.01 to 100")?;
        Ok(SamplerConfig { options })
    }

    /// Always the best token.
    pub fn greedy() -> SamplerConfig {
        SamplerConfig { options: SamplerOptions { temperature: 0.0, ..SamplerOptions::default() } }
    }

    /// The options, all in their ranges.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_name_their_option() {
        let default = SamplerOptions::default;
        let cases = [
            ("temperature", SamplerOptions { temperature: f32::NAN, ..default() }),
            ("temperature", SamplerOptions { temperature: -0.1, ..default() }),
            ("temperature", SamplerOptions { temperature: f32::INFINITY, ..default() }),
            ("top-p", SamplerOptions { top_p: 1.01, ..default() }),
            ("top-p", SamplerOptions { top_p: 0.0, ..default() }),
            ("top-p", SamplerOptions { top_p: f32::NAN, ..default() }),
            ("min-p", SamplerOptions { min_p: -1.0, ..default() }),
            ("repeat-penalty", SamplerOptions { repeat_penalty: 0.0, ..default() }),
            ("repeat-penalty", SamplerOptions { repeat_penalty: f32::NAN, ..default() }),
        ];
        for (name, options) in cases {
            let error = SamplerConfig::new(options).expect_err("out of range");
            assert!(matches!(error, LlamaError::BadOption { option, .. } if option == name), "{error}");
            assert!(error.is_bad_input());
        }
        assert!(SamplerConfig::new(default()).is_ok());
    }
}
