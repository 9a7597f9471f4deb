//! `config.json` and `generation_config.json`, as transformers 4 writes them.

use super::shape::{Family, Shape};
use serde_json::{Value, json};

const TRANSFORMERS: &str = "4.45.0";

/// The model's configuration.
pub(super) fn model(shape: &Shape) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": shape.bos().1,
        "eos_token_id": shape.eos().1,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.positions,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": rope_scaling(shape),
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "transformers_version": TRANSFORMERS,
        "use_cache": true,
        "vocab_size": shape.vocabulary,
    });
    if shape.family == Family::InternLm2
        && let Some(fields) = config.as_object_mut()
    {
        for llama_only in ["attention_bias", "attention_dropout", "head_dim", "mlp_bias"] {
            fields.remove(llama_only);
        }
        fields.remove("pretraining_tp");
        fields.insert("architectures".to_owned(), json!(["InternLM2ForCausalLM"]));
        fields.insert("bias".to_owned(), json!(false));
        fields.insert("model_type".to_owned(), json!("internlm2"));
        fields.insert("pad_token_id".to_owned(), json!(shape.eos().1));
    }
    config
}

fn rope_scaling(shape: &Shape) -> Value {
    match (shape.rope_factor, shape.family) {
        (Some(factor), _) => json!({
            "factor": factor,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        }),
        (None, Family::InternLm2) => json!({"factor": 2.0, "type": "dynamic"}),
        (None, _) => Value::Null,
    }
}

/// The defaults of generation.
pub(super) fn generation(shape: &Shape) -> Value {
    json!({
        "bos_token_id": shape.bos().1,
        "do_sample": true,
        "eos_token_id": shape.eos().1,
        "temperature": 0.6,
        "top_p": 0.9,
        "transformers_version": TRANSFORMERS,
    })
}
