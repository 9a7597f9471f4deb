//! A small valid model folder, and ways to change one thing of it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Name, dtype and shape of a tensor.
pub(crate) type TensorShape = (String, &'static str, Vec<usize>);

pub(crate) const VOCAB: usize = 16;
pub(crate) const HIDDEN: usize = 8;
pub(crate) const INTERMEDIATE: usize = 12;

pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    })
}

/// Every tensor of the model.
pub(crate) fn tensors() -> Vec<TensorShape> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let f32 = |name: String, shape: &[usize]| (name, "F32", shape.to_vec());
    vec![
        f32("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]),
        f32(layer("input_layernorm"), &[HIDDEN]),
        f32(layer("self_attn.q_proj"), &[HIDDEN, HIDDEN]),
        f32(layer("self_attn.k_proj"), &[4, HIDDEN]),
        f32(layer("self_attn.v_proj"), &[4, HIDDEN]),
        f32(layer("self_attn.o_proj"), &[HIDDEN, HIDDEN]),
        f32(layer("post_attention_layernorm"), &[HIDDEN]),
        f32(layer("mlp.gate_proj"), &[INTERMEDIATE, HIDDEN]),
        f32(layer("mlp.up_proj"), &[INTERMEDIATE, HIDDEN]),
        f32(layer("mlp.down_proj"), &[HIDDEN, INTERMEDIATE]),
        f32("model.norm.weight".into(), &[HIDDEN]),
        f32("lm_head.weight".into(), &[VOCAB, HIDDEN]),
    ]
}

pub(crate) fn element_bytes(dtype: &str) -> usize {
    match dtype {
        "F8_E4M3" => 1,
        "F16" | "BF16" => 2,
        "F32" => 4,
        "I64" => 8,
        other => panic!("{other}"),
    }
}

/// The header of a safetensors file as JSON, and the number of data bytes behind it.
pub(crate) fn header(tensors: &[TensorShape]) -> (serde_json::Map<String, Value>, usize) {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * element_bytes(dtype);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    (header, end)
}

pub(crate) fn write_weights(path: &Path, header: &serde_json::Map<String, Value>, n_data_bytes: usize) {
    let text = Value::Object(header.clone()).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len() + n_data_bytes, 0);
    fs::write(path, bytes).expect("writable");
}

pub(crate) fn tokenizer() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "added_tokens": [],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
    })
}

pub(crate) fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(folder.join(name), content).expect("writable");
}

pub(crate) fn write_template(folder: &Path, template: &str) {
    write(folder, "tokenizer_config.json", json!({"chat_template": template}).to_string());
}

pub(crate) fn write_valid(folder: &Path) {
    write(folder, "config.json", config().to_string());
    write(folder, "tokenizer.json", tokenizer().to_string());
    write(folder, "generation_config.json", json!({"eos_token_id": 2, "do_sample": false}).to_string());
    write_template(folder, "{% for m in messages %}{{ m.content }}{% endfor %}");
    let (header, n_data_bytes) = header(&tensors());
    write_weights(&folder.join("model.safetensors"), &header, n_data_bytes);
}

pub(crate) fn change_config(folder: &Path, key: &str, value: Value) {
    let mut config = config();
    config[key] = value;
    write(folder, "config.json", config.to_string());
}

/// Changes the description of one tensor in the header and nothing else.
pub(crate) fn change_header(folder: &Path, tensor: &str, change: impl FnOnce(&mut Value)) {
    let (mut header, n_data_bytes) = header(&tensors());
    change(header.get_mut(tensor).expect("a tensor"));
    write_weights(&folder.join("model.safetensors"), &header, n_data_bytes);
}

/// Changes the list of tensors and writes a sound file of it.
pub(crate) fn change_tensors(folder: &Path, change: impl FnOnce(&mut Vec<TensorShape>)) {
    let mut tensors = tensors();
    change(&mut tensors);
    let (header, n_data_bytes) = header(&tensors);
    write_weights(&folder.join("model.safetensors"), &header, n_data_bytes);
}

/// Replaces the one weight file by an index and, where `shard` is a plain name, a shard.
pub(crate) fn split(folder: &Path, weight_map: Value) {
    fs::rename(folder.join("model.safetensors"), folder.join("shard-1.safetensors")).expect("writable");
    write(folder, "model.safetensors.index.json", json!({"metadata": {}, "weight_map": weight_map}).to_string());
}

pub(crate) fn whole_weight_map(shard: &str) -> Value {
    tensors().into_iter().map(|(name, _, _)| (name, json!(shard))).collect::<serde_json::Map<_, _>>().into()
}
