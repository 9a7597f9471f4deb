//! A byte-level tokenizer of the right size: 256 bytes, and fillers that read ` w123`.
//!
//! Every text can be encoded and every id decoded, which is all that a model with random weights can use.

use super::shape::Shape;
use serde_json::{Map, Value, json};

/// The pre-tokenizer's pattern of Llama 3.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";

/// `tokenizer.json` for the vocabulary of a shape.
pub(super) fn tokenizer(shape: &Shape) -> Value {
    let special = shape.special_tokens();
    // In the vocabulary as well as among the added tokens: an added token alone would get the next free id.
    let special_at = |id: usize| special.iter().find(|(_, taken)| *taken == id);
    let mut vocabulary = Map::new();
    let mut bytes = (0..=255).map(byte_symbol);
    for id in 0..shape.vocabulary {
        // U+0120 is how byte-level vocabularies write a space.
        let token = match special_at(id) {
            Some((name, _)) => (*name).to_owned(),
            None => match bytes.next() {
                Some(symbol) => symbol.to_string(),
                None => format!("\u{120}w{id}"),
            },
        };
        vocabulary.insert(token, json!(id));
    }
    let added: Vec<Value> = special
        .iter()
        .map(|(name, id)| {
            json!({
                "id": id, "content": name, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let (bos, bos_id) = shape.bos();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let bos_piece = json!({"SpecialToken": {"id": bos, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split", "pattern": {"Regex": PATTERN},
                    "behavior": "Isolated", "invert": false,
                },
                byte_level,
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos_piece, text("A")],
            "pair": [bos_piece, text("A"), bos_piece, text("B")],
            "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// `tokenizer_config.json` beside it.
pub(super) fn tokenizer_config(shape: &Shape) -> Value {
    json!({
        "bos_token": shape.bos().0,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": shape.eos().0,
        "model_max_length": shape.positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

/// The printable character that stands for a byte in a byte-level vocabulary, as in GPT-2.
fn byte_symbol(byte: u8) -> char {
    let stands_for_itself = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if stands_for_itself(byte) {
        char::from(byte)
    } else {
        let rank = (0..byte).filter(|b| !stands_for_itself(*b)).count() as u32;
        char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_vocabulary_has_every_id_once() {
        for name in crate::synth::shape::names() {
            let shape = Shape::named(name).expect("a known shape");
            let tokenizer = tokenizer(&shape);
            let vocabulary = tokenizer["model"]["vocab"].as_object().expect("a map");
            let ids: BTreeSet<u64> = vocabulary.values().filter_map(Value::as_u64).collect();
            assert_eq!(vocabulary.len(), shape.vocabulary, "{name}");
            assert_eq!(ids.len(), shape.vocabulary, "{name}");
            assert_eq!(ids.last(), Some(&(shape.vocabulary as u64 - 1)), "{name}");
            for (token, id) in shape.special_tokens() {
                assert_eq!(vocabulary[token], json!(id), "{name}");
            }
        }
    }

    #[test]
    fn bytes_have_the_symbols_of_gpt_2() {
        assert_eq!(byte_symbol(b'A'), 'A');
        assert_eq!(byte_symbol(b' '), '\u{120}');
        assert_eq!(byte_symbol(b'\n'), '\u{10a}');
    }
}
