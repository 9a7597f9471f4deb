//! Reads `config.json` into a [`ModelConfig`], in the forms of transformers 4 and 5.
//!
//! Whatever changes the forward pass is either understood or refused. A key left out has the value that the
//! transformers class of the model gives to it.

use std::path::Path;

use hetero_core::{DType, WeightFormat};
use serde_json::Value;

use super::json::{Object, parse_object};
use super::{
    Architecture, MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH, ModelConfig, PACKED_METHOD, PACKED_VERSION,
    Rope, RopeScaling,
};
use crate::error::LlamaError;

const SUPPORTED_ARCHITECTURES: &str =
    "one of LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, InternLM2ForCausalLM";

impl ModelConfig {
    /// Parses the bytes of a `config.json`; `file` is the name for messages.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<ModelConfig, LlamaError> {
        let map = parse_object(bytes, file, "a model configuration (a JSON object)")?;
        let object = Object::new(file, &map);
        let architecture = architecture(&object)?;
        refuse_what_changes_the_forward_pass(&object, architecture)?;

        let hidden = object.size("hidden_size", MAX_WIDTH)?;
        let intermediate = object.size("intermediate_size", MAX_WIDTH)?;
        let layers = object.size("num_hidden_layers", MAX_LAYERS)?;
        let vocab = object.size("vocab_size", MAX_VOCABULARY)?;
        let max_positions = object.size("max_position_embeddings", MAX_POSITIONS)?;
        let (heads, kv_heads, head_dim) = heads(&object, architecture, hidden)?;
        refuse_a_sliding_window(&object, architecture, max_positions)?;
        let rope = rope(&object, max_positions)?;

        let rms_norm_eps = object.optional_positive("rms_norm_eps")?.unwrap_or(1e-6);
        if rms_norm_eps >= 1.0 {
            return Err(LlamaError::bad_value(file, "rms_norm_eps", "a number between 0 and 1", rms_norm_eps));
        }

        let (attention_bias, attention_output_bias, mlp_bias) = match architecture {
            Architecture::Llama => {
                let attention = object.boolean("attention_bias", false)?;
                (attention, attention, object.boolean("mlp_bias", false)?)
            }
            Architecture::Mistral => (false, false, false),
            Architecture::Qwen2 => (true, false, false),
            Architecture::InternLm2 => {
                let attention = object.boolean("bias", true)?;
                (attention, attention, false)
            }
        };

        Ok(ModelConfig {
            architecture,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab,
            rms_norm_eps,
            max_positions,
            rope,
            tied_embeddings: object.boolean("tie_word_embeddings", false)?,
            attention_bias,
            attention_output_bias,
            mlp_bias,
            bos_token: object.token("bos_token_id", vocab)?,
            eos_tokens: object.tokens("eos_token_id", vocab)?.unwrap_or_default(),
            pad_token: pad_token(&object, vocab),
            stored_dtype: stored_dtype(&object)?,
            packed_weights: packed_weights(&object)?,
        })
    }
}

fn architecture(object: &Object<'_>) -> Result<Architecture, LlamaError> {
    if let Some(value) = object.value("architectures") {
        let first = value.as_array().and_then(|names| names.first());
        let name = first.and_then(Value::as_str).unwrap_or_default();
        return match name {
            "LlamaForCausalLM" | "LLaMAForCausalLM" => Ok(Architecture::Llama),
            "MistralForCausalLM" => Ok(Architecture::Mistral),
            "Qwen2ForCausalLM" => Ok(Architecture::Qwen2),
            "InternLM2ForCausalLM" => Ok(Architecture::InternLm2),
            _ => Err(object.unsupported("architectures", SUPPORTED_ARCHITECTURES, value)),
        };
    }
    let expected = "one of llama, mistral, qwen2, internlm2";
    match object.text("model_type")? {
        Some("llama") => Ok(Architecture::Llama),
        Some("mistral") => Ok(Architecture::Mistral),
        Some("qwen2") => Ok(Architecture::Qwen2),
        Some("internlm2") => Ok(Architecture::InternLm2),
        Some(other) => Err(LlamaError::unsupported(object.file(), "model_type", expected, other)),
        None => Err(object.absent("architectures", SUPPORTED_ARCHITECTURES)),
    }
}

fn refuse_what_changes_the_forward_pass(object: &Object<'_>, architecture: Architecture) -> Result<(), LlamaError> {
    if let Some(value) = object.value("hidden_act")
        && !matches!(value.as_str(), Some("silu" | "swish"))
    {
        return Err(object.unsupported("hidden_act", "silu", value));
    }
    refuse_a_partial_rotation(object)?;
    if architecture == Architecture::Qwen2 && object.boolean("use_sliding_window", false)? {
        return Err(object.unsupported("use_sliding_window", "false", &Value::Bool(true)));
    }
    if let Some(value) = object.value("layer_types") {
        let all_full =
            value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind.as_str() == Some("full_attention")));
        if !all_full {
            return Err(object.unsupported("layer_types", "full_attention in every layer", value));
        }
    }
    Ok(())
}

fn refuse_a_partial_rotation(object: &Object<'_>) -> Result<(), LlamaError> {
    match object.value("partial_rotary_factor") {
        Some(value) if value.as_f64() != Some(1.0) => Err(object.unsupported("partial_rotary_factor", "1.0", value)),
        _ => Ok(()),
    }
}

/// Heads, key and value heads, and features of a head.
fn heads(object: &Object<'_>, architecture: Architecture, hidden: usize) -> Result<(usize, usize, usize), LlamaError> {
    let heads = object.size("num_attention_heads", MAX_WIDTH)?;
    let default_kv_heads = if architecture == Architecture::Mistral { 8 } else { heads };
    let kv_heads = object.optional_size("num_key_value_heads", MAX_WIDTH)?.unwrap_or(default_kv_heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(LlamaError::bad_value(
            object.file(),
            "num_key_value_heads",
            format!("a divisor of num_attention_heads ({heads})"),
            kv_heads,
        ));
    }
    let head_dim = match object.optional_size("head_dim", MAX_WIDTH)? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(LlamaError::bad_value(
                object.file(),
                "hidden_size",
                format!("a multiple of num_attention_heads ({heads}), as head_dim is not given"),
                hidden,
            ));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(LlamaError::bad_value(
            object.file(),
            "head_dim",
            "an even number, because RoPE turns pairs of features",
            head_dim,
        ));
    }
    // `heads` and `head_dim` are bounded apart; their product is what tensors are made of.
    if heads.checked_mul(head_dim).is_none_or(|width| width > MAX_WIDTH) {
        return Err(LlamaError::bad_value(
            object.file(),
            "num_attention_heads",
            format!("num_attention_heads x head_dim of at most {MAX_WIDTH}"),
            format!("{heads} x {head_dim}"),
        ));
    }
    Ok((heads, kv_heads, head_dim))
}

fn refuse_a_sliding_window(
    object: &Object<'_>,
    architecture: Architecture,
    max_positions: usize,
) -> Result<(), LlamaError> {
    // Qwen2 keeps a number here that its use_sliding_window switches off; the other two have no such key.
    if architecture != Architecture::Mistral {
        return Ok(());
    }
    let window = object.optional_size("sliding_window", MAX_POSITIONS)?;
    match window {
        Some(window) if window < max_positions => Err(LlamaError::unsupported(
            object.file(),
            "sliding_window",
            format!("null, or at least max_position_embeddings ({max_positions})"),
            window,
        )),
        _ => Ok(()),
    }
}

/// Reads `rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (transformers 4).
fn rope(object: &Object<'_>, max_positions: usize) -> Result<Rope, LlamaError> {
    const DEFAULT_THETA: f32 = 10_000.0;
    let outer_theta = object.optional_positive("rope_theta")?;
    if let Some(parameters) = object.object("rope_parameters", "rope_parameters.")? {
        let theta = parameters.optional_positive("rope_theta")?.or(outer_theta);
        return Ok(Rope { theta: theta.unwrap_or(DEFAULT_THETA), scaling: rope_scaling(&parameters, max_positions)? });
    }
    let scaling = match object.object("rope_scaling", "rope_scaling.")? {
        Some(scaling) => rope_scaling(&scaling, max_positions)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta: outer_theta.unwrap_or(DEFAULT_THETA), scaling })
}

fn rope_scaling(object: &Object<'_>, max_positions: usize) -> Result<RopeScaling, LlamaError> {
    let expected = "one of default, linear, dynamic, llama3";
    refuse_a_partial_rotation(object)?;
    let (key, kind) = match (object.text("rope_type")?, object.text("type")?) {
        (Some(kind), _) => ("rope_type", kind),
        (None, Some(kind)) => ("type", kind),
        (None, None) => return Err(object.absent("rope_type", expected)),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        // Dynamic NTK changes the base only for sequences longer than max_position_embeddings, and no session here
        // goes past it.
        "dynamic" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: object.positive("factor")? }),
        "llama3" => {
            let low_freq_factor = object.positive("low_freq_factor")?;
            let high_freq_factor = object.positive("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                return Err(LlamaError::bad_value(
                    object.file(),
                    object.path("high_freq_factor"),
                    format!("a number above low_freq_factor ({low_freq_factor})"),
                    high_freq_factor,
                ));
            }
            Ok(RopeScaling::Llama3 {
                factor: object.positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_positions: object
                    .optional_size("original_max_position_embeddings", MAX_POSITIONS)?
                    .unwrap_or(max_positions),
            })
        }
        other => Err(LlamaError::unsupported(object.file(), object.path(key), expected, other)),
    }
}

/// Nothing here fills a batch, so a padding token that the vocabulary lacks (many configurations have -1) is no error.
fn pad_token(object: &Object<'_>, vocab: usize) -> Option<u32> {
    object.token("pad_token_id", vocab).ok().flatten()
}

/// The format of a checkpoint that hetero itself has quantised; see [`crate::packed`].
fn packed_weights(object: &Object<'_>) -> Result<Option<WeightFormat>, LlamaError> {
    let Some(value) = object.value("quantization_config") else {
        return Ok(None);
    };
    let method = value.get("quant_method");
    if method.and_then(Value::as_str) != Some(PACKED_METHOD) {
        return Err(object.unsupported(
            "quantization_config",
            "weights in f32, f16 or bf16 (no quantization_config), or as `hetero quantize` writes them",
            method.unwrap_or(value),
        ));
    }
    if value.get("version").and_then(Value::as_u64) != Some(PACKED_VERSION) {
        let expected = format!("version {PACKED_VERSION} of the format of `hetero quantize`");
        return Err(object.unsupported("quantization_config", &expected, value));
    }
    let weights = value.get("weights").and_then(Value::as_str);
    let format = weights.and_then(|weights| weights.parse().ok());
    match format {
        Some(format) => Ok(Some(format)),
        None => Err(object.bad("quantization_config.weights", "f32, f16, bf16, w8g32 or w4g32", value)),
    }
}

fn stored_dtype(object: &Object<'_>) -> Result<Option<DType>, LlamaError> {
    let expected = "one of float32, float16, bfloat16";
    for key in ["dtype", "torch_dtype"] {
        let Some(name) = object.text(key)? else {
            continue;
        };
        return match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Ok(Some(DType::F32)),
            "float16" => Ok(Some(DType::F16)),
            "bfloat16" => Ok(Some(DType::BF16)),
            "auto" => Ok(None),
            _ => Err(LlamaError::unsupported(object.file(), key, expected, name)),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Parses `changes` laid over a valid small Llama; a null takes the key away.
    fn parse(changes: Value) -> Result<ModelConfig, LlamaError> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160,
            "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 256,
            "max_position_embeddings": 512,
        });
        for (key, value) in changes.as_object().expect("an object") {
            config[key] = value.clone();
        }
        ModelConfig::parse(config.to_string().as_bytes(), Path::new("config.json"))
    }

    #[track_caller]
    fn check_refusal(changes: Value, key: &str, unsupported: bool) {
        let error = parse(changes).expect_err("must be refused");
        assert_eq!(matches!(error, LlamaError::Unsupported { .. }), unsupported, "{error}");
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        assert!(error.is_bad_input() && !error.fix().is_empty());
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let config = parse(json!({})).expect("valid");
        assert_eq!((config.kv_heads, config.head_dim), (8, 8));
        assert_eq!(config.rms_norm_eps, 1e-6);
        assert_eq!(config.rope.theta, 10_000.0);
        assert!(!config.tied_embeddings && !config.attention_bias && !config.mlp_bias);
        assert!(config.eos_tokens.is_empty());
    }

    #[test]
    fn both_forms_of_llama_3_1_rope_are_one() {
        let old = parse(json!({
            "rope_theta": 5e5, "torch_dtype": "bfloat16", "eos_token_id": [3, 4],
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 128, "rope_type": "llama3"},
        }));
        let new = parse(json!({
            "dtype": "bfloat16", "eos_token_id": [3, 4],
            "rope_parameters": {"rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 128, "rope_type": "llama3"},
        }));
        let old = old.expect("valid");
        assert_eq!(old, new.expect("valid"));
        assert_eq!(old.stored_dtype, Some(DType::BF16));
        assert!(matches!(old.rope.scaling, RopeScaling::Llama3 { original_max_positions: 128, .. }));
    }

    #[test]
    fn families_differ_in_their_biases() {
        let biases = |changes| {
            let config = parse(changes).expect("valid");
            (config.attention_bias, config.attention_output_bias, config.mlp_bias)
        };
        assert_eq!(biases(json!({"attention_bias": true, "mlp_bias": true})), (true, true, true));
        assert_eq!(biases(json!({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 16})), (true, false, false));
        assert_eq!(
            biases(json!({"architectures": ["InternLM2ForCausalLM"], "bias": false,
                          "rope_scaling": {"type": "dynamic", "factor": 2.0}})),
            (false, false, false)
        );
        assert_eq!(
            biases(json!({"architectures": null, "model_type": "mistral", "sliding_window": null})),
            (false, false, false)
        );
    }

    #[test]
    fn what_would_change_the_forward_pass_is_refused() {
        let unsupported = [
            (json!({"architectures": ["GPT2LMHeadModel"]}), "architectures"),
            (json!({"architectures": null, "model_type": "gemma"}), "model_type"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"quantization_config": {"quant_method": "awq"}}), "quantization_config"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 2.0}}), "rope_scaling.type"),
            (json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_parameters.rope_type"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"architectures": ["MistralForCausalLM"], "sliding_window": 128}), "sliding_window"),
            (json!({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true}), "use_sliding_window"),
            (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
            (json!({"torch_dtype": "float64"}), "torch_dtype"),
        ];
        for (changes, key) in unsupported {
            check_refusal(changes, key, true);
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let impossible = [
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"num_attention_heads": 6}), "hidden_size"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"head_dim": 7}), "head_dim"),
            (json!({"hidden_size": -64}), "hidden_size"),
            (json!({"hidden_size": "64"}), "hidden_size"),
            (json!({"hidden_size": 1u64 << 40}), "hidden_size"),
            (json!({"vocab_size": u64::MAX}), "vocab_size"),
            (json!({"num_attention_heads": 1 << 16, "head_dim": 1 << 16}), "num_attention_heads"),
            (json!({"rms_norm_eps": -1e-5}), "rms_norm_eps"),
            (json!({"rms_norm_eps": 2.0}), "rms_norm_eps"),
            (json!({"rms_norm_eps": 1e-300}), "rms_norm_eps"),
            (json!({"rope_theta": 0}), "rope_theta"),
            (json!({"rope_theta": 1e300}), "rope_theta"),
            (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
            (json!({"rope_scaling": {"factor": 2.0}}), "rope_scaling.rope_type"),
            (json!({"rope_scaling": 2.0}), "rope_scaling"),
            (json!({"eos_token_id": 256}), "eos_token_id"),
            (json!({"eos_token_id": [1, "x"]}), "eos_token_id"),
            (json!({"bos_token_id": -1}), "bos_token_id"),
            (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
            (json!({"intermediate_size": null}), "intermediate_size"),
        ];
        for (changes, key) in impossible {
            check_refusal(changes, key, false);
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bytes in [&b"{"[..], b"[1]", b"", b"\xff\xfe", b"{\"rope_theta\": NaN}"] {
            let error = ModelConfig::parse(bytes, Path::new("config.json")).expect_err("refused");
            assert!(matches!(error, LlamaError::Json { .. }), "{error}");
        }
    }
}
