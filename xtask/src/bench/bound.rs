//! How many bytes a processor must at least read to decode one token.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// Bytes of one key or value in the cache (f16).
const KV_BYTES: f64 = 2.0;

/// Bytes read for one token at this many positions, from the model's `config.json`; `None` where that is not known.
pub(super) fn bytes_per_token(model: &Path, weights: &str, positions: u64) -> Option<f64> {
    let text = fs::read_to_string(model.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    bytes_of_config(&config, weights, positions)
}

fn bytes_of_config(config: &Value, weights: &str, positions: u64) -> Option<f64> {
    let field = |name: &str| config[name].as_f64();
    let hidden = field("hidden_size")?;
    let heads = field("num_attention_heads")?;
    let head_size = field("head_dim").unwrap_or(hidden / heads);
    let kv = field("num_key_value_heads").unwrap_or(heads) * head_size;
    let query = heads * head_size;
    let attention = 2.0 * hidden * query + 2.0 * hidden * kv;
    let feed_forward = 3.0 * hidden * field("intermediate_size")?;
    let layers = field("num_hidden_layers")?;
    // The output weight is read whole, of the embedding one row.
    let values = layers * (attention + feed_forward) + hidden * field("vocab_size")?;
    let cache = 2.0 * layers * kv * positions as f64 * KV_BYTES;
    Some(values * bytes_per_value(weights)? + cache)
}

/// Bytes of one weight: a group of 32 has one f16 scale.
fn bytes_per_value(weights: &str) -> Option<f64> {
    match weights {
        "f32" => Some(4.0),
        "f16" | "bf16" => Some(2.0),
        "w8g32" => Some(34.0 / 32.0),
        "w4g32" => Some(18.0 / 32.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_llama_of_a_billion_parameters() {
        let config = json!({
            "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128_256,
        });
        let bytes = bytes_of_config(&config, "w4g32", 0).expect("all fields");
        // All parameters but the 33 norms of 2,048 values.
        let values = 1_235_814_400.0 - 33.0 * 2048.0;
        assert_eq!(bytes, values * 18.0 / 32.0);
        let deep = bytes_of_config(&config, "w4g32", 1000).expect("all fields");
        assert_eq!(deep - bytes, 2.0 * 16.0 * 512.0 * 1000.0 * 2.0);
        assert_eq!(bytes_of_config(&config, "q9", 0), None);
    }
}
