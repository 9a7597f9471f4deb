//! Checkpoints of each naming whose elements say which row they stand in.

use std::path::Path;

use serde_json::{Map, json};

use super::*;
use crate::weights::MappedFile;

fn config(architecture: &str, has_bias: bool) -> ModelConfig {
    // 2 key heads with 3 query heads each, 4 features a head.
    let config = json!({
        "architectures": [architecture], "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 7, "max_position_embeddings": 32,
        "bias": has_bias, "attention_bias": has_bias, "mlp_bias": has_bias,
    });
    ModelConfig::parse(config.to_string().as_bytes(), Path::new("config.json")).expect("valid")
}

/// A checkpoint of f32 tensors. Every element of a row is the number of the row, and of a vector its own number.
fn checkpoint(tensors: &[(String, Vec<usize>)]) -> Checkpoint {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        let columns = if shape.len() == 2 { shape[1] } else { 1 };
        for row in 0..shape[0] {
            data.extend((row as f32).to_le_bytes().repeat(columns));
        }
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    Checkpoint::from_file(MappedFile::from_shared("memory", bytes.into())).expect("valid")
}

fn first_elements(matrix: &Matrix) -> Vec<f32> {
    let mut row = vec![0.0; matrix.columns];
    let rows = 0..matrix.rows;
    rows.map(|i| {
        matrix.read_row_f32(i, &mut row);
        row[0]
    })
    .collect()
}

fn range(rows: std::ops::Range<usize>) -> impl Iterator<Item = f32> {
    rows.map(|row| row as f32)
}

fn intern_lm2(has_bias: bool) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.tok_embeddings.weight".to_owned(), vec![7, 24]),
        ("model.norm.weight".to_owned(), vec![24]),
        ("output.weight".to_owned(), vec![7, 24]),
    ];
    for layer in 0..2 {
        let mut add =
            |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("attention_norm.weight", &[24]);
        add("ffn_norm.weight", &[24]);
        add("attention.wqkv.weight", &[40, 24]);
        add("attention.wo.weight", &[24, 24]);
        add("feed_forward.w1.weight", &[10, 24]);
        add("feed_forward.w3.weight", &[10, 24]);
        add("feed_forward.w2.weight", &[24, 10]);
        if has_bias {
            add("attention.wqkv.bias", &[40]);
            add("attention.wo.bias", &[24]);
        }
    }
    tensors
}

#[test]
fn packed_projections_are_taken_apart_by_head() {
    let tensors = ModelTensors::resolve(&checkpoint(&intern_lm2(true)), &config("InternLM2ForCausalLM", true));
    let layer = &tensors.expect("complete").layers[1];
    // A key head's group has (3 + 2) * 4 = 20 rows: 12 of queries, 4 of the key, 4 of the value.
    let queries: Vec<f32> = range(0..12).chain(range(20..32)).collect();
    let keys: Vec<f32> = range(12..16).chain(range(32..36)).collect();
    let values: Vec<f32> = range(16..20).chain(range(36..40)).collect();
    for (linear, expected) in [(&layer.query, queries), (&layer.key, keys), (&layer.value, values)] {
        assert_eq!(first_elements(&linear.matrix), expected);
        assert_eq!(linear.bias.as_ref().expect("a bias").read_f32(), expected);
    }
    assert!(layer.attention_output.bias.is_some() && layer.gate.bias.is_none());
}

#[test]
fn a_stored_bias_is_never_left_out() {
    let error = ModelTensors::resolve(&checkpoint(&intern_lm2(true)), &config("InternLM2ForCausalLM", false));
    assert!(matches!(error, Err(LlamaError::UnexpectedTensor { .. })), "{error:?}");
    let error = ModelTensors::resolve(&checkpoint(&intern_lm2(false)), &config("InternLM2ForCausalLM", true));
    assert!(matches!(error, Err(LlamaError::MissingTensor { .. })), "{error:?}");
}

fn hugging_face(biased: &[&str]) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![7, 24]),
        ("model.norm.weight".to_owned(), vec![24]),
        ("lm_head.weight".to_owned(), vec![7, 24]),
    ];
    let linear = [
        ("self_attn.q_proj", [24, 24]),
        ("self_attn.k_proj", [8, 24]),
        ("self_attn.v_proj", [8, 24]),
        ("self_attn.o_proj", [24, 24]),
        ("mlp.gate_proj", [10, 24]),
        ("mlp.up_proj", [10, 24]),
        ("mlp.down_proj", [24, 10]),
    ];
    for layer in 0..2 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{norm}.weight"), vec![24]));
        }
        for (name, shape) in linear {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            if biased.iter().any(|part| name.contains(part)) {
                tensors.push((format!("model.layers.{layer}.{name}.bias"), shape[..1].to_vec()));
            }
        }
    }
    tensors
}

#[test]
fn each_family_has_its_biases() {
    let families: [(&str, bool, &[&str]); 4] = [
        ("LlamaForCausalLM", false, &[]),
        ("LlamaForCausalLM", true, &["proj"]),
        ("MistralForCausalLM", false, &[]),
        ("Qwen2ForCausalLM", false, &["q_proj", "k_proj", "v_proj"]),
    ];
    for (architecture, has_bias, biased) in families {
        let tensors = ModelTensors::resolve(&checkpoint(&hugging_face(biased)), &config(architecture, has_bias));
        let tensors = tensors.unwrap_or_else(|error| panic!("{architecture}: {error}"));
        let layer = &tensors.layers[0];
        assert_eq!(layer.key.bias.is_some(), !biased.is_empty());
        assert_eq!(layer.attention_output.bias.is_some(), has_bias);
        assert_eq!(layer.down.bias.is_some(), has_bias);
        assert_eq!(first_elements(&layer.key.matrix), range(0..8).collect::<Vec<f32>>());
        assert_eq!(tensors.final_norm.read_f32(), range(0..24).collect::<Vec<f32>>());
    }
}
