//! config.json and generation_config.json: whatever is accepted can be computed with.
#![no_main]

use std::path::Path;

use hetero_llama::config::{ModelConfig, rope_frequencies};
use hetero_llama::generation_config::GenerationConfig;
use hetero_llama::sampler::SamplerConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ModelConfig::parse(bytes, Path::new("config.json")) {
        assert!(config.layers > 0 && config.vocab > 0 && config.max_positions > 0);
        assert!(config.heads.is_multiple_of(config.kv_heads) && config.head_dim.is_multiple_of(2));
        assert!(config.parameter_count() >= (config.vocab * config.hidden) as u64);
        assert!(config.eos_tokens.iter().all(|&token| (token as usize) < config.vocab));
        let frequencies = rope_frequencies(&config);
        assert_eq!(frequencies.len(), config.head_dim / 2);
        assert!(!frequencies.iter().any(|frequency| frequency.is_nan()));
    }
    let shape = ModelConfig::shape("llama-2-7b").expect("a known shape");
    if let Ok(generation) = GenerationConfig::parse(bytes, Path::new("generation_config.json"), &shape) {
        SamplerConfig::new(generation.sampler_options()).expect("what is parsed is in range");
    }
});
