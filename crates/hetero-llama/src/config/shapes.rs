//! The shapes of well-known models, for planning and simulating without a checkpoint.

use super::{Architecture, ModelConfig, Rope, RopeScaling};

/// The names that [`ModelConfig::shape`] knows.
pub const SHAPE_NAMES: [&str; 5] = ["llama-3-8b", "llama-2-7b", "llama-3.2-3b", "llama-3.2-1b", "internlm2-1.8b"];

impl ModelConfig {
    /// The configuration of a well-known model as its publisher gives it, or `None` for another name.
    ///
    /// ```
    /// let config = hetero_llama::config::ModelConfig::shape("llama-3-8b").unwrap();
    /// assert_eq!(config.parameter_count(), 8_030_261_248);
    /// ```
    pub fn shape(name: &str) -> Option<ModelConfig> {
        let llama_3_8b = ModelConfig {
            architecture: Architecture::Llama,
            hidden: 4096,
            intermediate: 14336,
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            vocab: 128_256,
            rms_norm_eps: 1e-5,
            max_positions: 8192,
            rope: Rope { theta: 500_000.0, scaling: RopeScaling::None },
            tied_embeddings: false,
            attention_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            bos_token: Some(128_000),
            eos_tokens: vec![128_001],
            pad_token: None,
            stored_dtype: Some(hetero_core::DType::BF16),
            packed_weights: None,
        };
        let llama_3_2 = ModelConfig {
            max_positions: 131_072,
            rope: Rope {
                theta: 500_000.0,
                scaling: RopeScaling::Llama3 {
                    factor: 32.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_positions: 8192,
                },
            },
            tied_embeddings: true,
            ..llama_3_8b.clone()
        };
        Some(match name {
            "llama-3-8b" => llama_3_8b,
            "llama-2-7b" => ModelConfig {
                intermediate: 11008,
                kv_heads: 32,
                vocab: 32_000,
                max_positions: 4096,
                rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
                bos_token: Some(1),
                eos_tokens: vec![2],
                stored_dtype: Some(hetero_core::DType::F16),
                ..llama_3_8b
            },
            "llama-3.2-3b" => ModelConfig { hidden: 3072, intermediate: 8192, layers: 28, heads: 24, ..llama_3_2 },
            "llama-3.2-1b" => ModelConfig { hidden: 2048, intermediate: 8192, layers: 16, head_dim: 64, ..llama_3_2 },
            "internlm2-1.8b" => ModelConfig {
                architecture: Architecture::InternLm2,
                hidden: 2048,
                intermediate: 8192,
                layers: 24,
                heads: 16,
                vocab: 92_544,
                max_positions: 32_768,
                rope: Rope { theta: 1_000_000.0, scaling: RopeScaling::None },
                bos_token: Some(1),
                eos_tokens: vec![2],
                pad_token: Some(2),
                ..llama_3_8b
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let count = |name| ModelConfig::shape(name).map(|config| config.parameter_count());
        assert_eq!(count("llama-3-8b"), Some(8_030_261_248));
        assert_eq!(count("llama-2-7b"), Some(6_738_415_616));
        assert_eq!(count("llama-3.2-3b"), Some(3_212_749_824));
        assert_eq!(count("llama-3.2-1b"), Some(1_235_814_400));
        assert_eq!(count("internlm2-1.8b"), Some(1_889_110_016));
        assert_eq!(count("gpt-2"), None);
        assert!(SHAPE_NAMES.iter().all(|name| count(name).is_some()));
    }
}
