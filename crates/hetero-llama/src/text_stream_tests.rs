//! Streams of random tokens give the text of all tokens at once, and stop texts are found wherever pieces end.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The characters by which ByteLevel writes bytes: printable ones stand for themselves, the others follow from 256.
fn byte_level_chars() -> Vec<char> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256u32)
        .map(|byte| {
            if printable(&byte) {
                return char::from_u32(byte).expect("a character");
            }
            next += 1;
            char::from_u32(next - 1).expect("a character")
        })
        .collect()
}

fn tokenizer(decoder: Value, pieces: &[String], special: &[&str]) -> Tokenizer {
    let vocab: serde_json::Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({"id": pieces.len() + i, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "vocab": vocab, "merges": []},
    });
    let bytes = file.to_string().into_bytes();
    Tokenizer::from_bytes(&bytes, Path::new("tokenizer.json"), 1 << 20).expect("a valid tokenizer")
}

/// As Llama 3 and Qwen2: every byte is a token, and some words and halves of characters are.
fn byte_level() -> Tokenizer {
    let chars = byte_level_chars();
    let spell = |bytes: &[u8]| bytes.iter().map(|&byte| chars[usize::from(byte)]).collect::<String>();
    let mut pieces: Vec<String> = (0..=255u8).map(|byte| spell(&[byte])).collect();
    let family = "👨‍👩‍👧".as_bytes();
    for bytes in [" the".as_bytes(), b"ing", b"\n\n", &family[..2], &family[2..5], &family[5..], "ü".as_bytes()] {
        pieces.push(spell(bytes));
    }
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    tokenizer(decoder, &pieces, &["<|eot|>"])
}

/// As Llama 2: pieces with `▁` for the space, bytes as `<0x0A>`, and one leading space stripped.
fn byte_fallback() -> Tokenizer {
    let mut pieces: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    pieces.extend(["▁", "▁the", "ing", "▁▁", "a", "é", "🙂", "▁x▁"].map(String::from));
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    tokenizer(decoder, &pieces, &["<s>", "</s>"])
}

/// As files that were converted by newer scripts: Metaspace itself decides about the first space.
fn metaspace() -> Tokenizer {
    let pieces = ["▁", "▁the", "ing", "▁▁", "a", "é", "🙂", "▁x▁"].map(String::from);
    let decoder = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false});
    tokenizer(decoder, &pieces, &["<s>"])
}

fn stream(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, prompt).expect("a stream");
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).expect("text")).collect();
    pieces.push(stream.finish().expect("text"));
    pieces
}

fn check_equals_full_decode(tokenizer: &Tokenizer, ids: &[u32]) {
    let full = tokenizer.decode(ids, true).expect("text");
    assert_eq!(stream(tokenizer, &[], ids).concat(), full, "{ids:?}");
}

#[test]
fn an_emoji_over_several_tokens_comes_whole() {
    let tokenizer = byte_level();
    let ids: Vec<u32> = "a🙂!".bytes().map(u32::from).collect();
    assert_eq!(stream(&tokenizer, &[], &ids), ["a", "", "", "", "🙂", "!", ""]);
    let family = [259, 260, 261];
    assert_eq!(stream(&tokenizer, &[], &family).concat(), "👨‍👩‍👧");

    let tokenizer = byte_fallback();
    let mut ids: Vec<u32> = "🙂".bytes().map(u32::from).collect();
    ids.push(257);
    assert_eq!(stream(&tokenizer, &[], &ids), ["", "", "", "", "🙂 the", ""]);
}

#[test]
fn the_first_space_depends_on_what_stands_before() {
    for tokenizer in [byte_fallback(), metaspace()] {
        let the = tokenizer.id("▁the").expect("in the vocabulary");
        let a = tokenizer.id("a").expect("in the vocabulary");
        let bos = tokenizer.id("<s>").expect("in the vocabulary");
        assert_eq!(stream(&tokenizer, &[], &[the, the]).concat(), "the the");
        assert_eq!(stream(&tokenizer, &[bos], &[the]).concat(), "the");
        assert_eq!(stream(&tokenizer, &[bos, a], &[the]).concat(), " the");
    }
}

#[test]
fn special_and_unknown_tokens_have_no_text() {
    let tokenizer = byte_level();
    let eot = tokenizer.id("<|eot|>").expect("in the vocabulary");
    // A special token inside of a character must not break it.
    let [a, b] = [0xc3, 0xbc];
    assert_eq!(stream(&tokenizer, &[], &[a, eot, b, 999_999]).concat(), "ü");
}

#[test]
fn an_incomplete_character_is_shown_at_the_end_only() {
    let tokenizer = byte_level();
    assert_eq!(stream(&tokenizer, &[], &[0x61, 0xf0, 0x9f]), ["a", "", "", "\u{fffd}"]);
}

#[test]
fn endless_invalid_bytes_cost_bounded_work() {
    for tokenizer in [byte_level(), byte_fallback()] {
        let mut stream = TextStream::new(&tokenizer, &[]).expect("a stream");
        let mut n_chars = 0;
        for _ in 0..10_000 {
            n_chars += stream.push(0xff).expect("text").chars().count();
            assert!(stream.window.len() <= MAX_WINDOW_TOKENS + MAX_HELD_TOKENS);
        }
        assert!(n_chars > 9_000, "{n_chars} were shown");
    }
}

#[test]
fn text_after_a_stop_text_is_cut() {
    let mut stop = StopStrings::new(&["</s>".into(), String::new(), "User:".into()]);
    assert_eq!(stop.push("Hello <"), "Hello ");
    assert_eq!(stop.push("b> Us"), "<b> ");
    assert_eq!(stop.push("ed <"), "Used ");
    assert_eq!(stop.push("/s> more"), "");
    assert!(stop.is_stopped());
    assert_eq!(stop.push("x"), "");
    assert_eq!(stop.finish(), "");
}

#[test]
fn held_text_is_shown_when_nothing_follows() {
    let mut stop = StopStrings::new(&["abc".into()]);
    assert_eq!(stop.push("xab"), "x");
    assert!(!stop.is_stopped());
    assert_eq!(stop.finish(), "ab");
}

proptest! {
    #[test]
    fn streamed_text_is_decoded_text(ids in prop::collection::vec(0u32..270, 0..60)) {
        for tokenizer in [byte_level(), byte_fallback(), metaspace()] {
            check_equals_full_decode(&tokenizer, &ids);
        }
    }

    #[test]
    fn streamed_words_are_decoded_words(ids in prop::collection::vec(250u32..270, 0..200)) {
        for tokenizer in [byte_level(), byte_fallback()] {
            check_equals_full_decode(&tokenizer, &ids);
        }
    }

    #[test]
    fn streamed_unicode_is_whole(text in "\\PC{0,40}") {
        let tokenizer = byte_level();
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let pieces = stream(&tokenizer, &[], &ids);
        prop_assert_eq!(pieces.concat(), text);
    }

    /// The shown text is the same for every division into pieces, and ends where the naive search says.
    #[test]
    fn stop_texts_do_not_see_borders(
        text in "[abü]{0,24}",
        stops in prop::collection::vec("[abü]{1,4}", 0..4),
        cuts in prop::collection::vec(0usize..30, 0..6),
    ) {
        let naive_end = text.char_indices().map(|(i, c)| i + c.len_utf8()).find_map(|end| {
            let starts = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
            starts.map(|stop| end - stop.len()).min()
        });
        let mut matcher = StopStrings::new(&stops);
        let mut shown = String::new();
        let mut start = 0;
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        for cut in cuts {
            shown.push_str(&matcher.push(&text[start..cut]));
            start = cut;
        }
        prop_assert_eq!(matcher.is_stopped(), naive_end.is_some());
        shown.push_str(&matcher.finish());
        prop_assert_eq!(&shown, &text[..naive_end.unwrap_or(text.len())]);
    }
}
