//! `hetero run`.

use serde_json::Value;

use crate::program::{argument, assert_numbers, fixtures, hetero, hetero_with_input, model_with_template};

const PROMPT: &str = "A trait is";

/// The best continuation of the prompt.
fn greedy(more: &[&str]) -> Value {
    hetero(&[&["run", PROMPT, "-n", "24", "--temperature", "0", "--json"], more].concat()).json()
}

fn text(document: &Value) -> &str {
    document["text"].as_str().expect("a text")
}

/// What is printed for a document: prompt and text, ended by a line feed.
fn printed(document: &Value) -> String {
    let whole = format!("{PROMPT}{}", text(document));
    if whole.ends_with('\n') { whole } else { whole + "\n" }
}

#[test]
fn the_document_has_what_scripts_read() {
    let document = greedy(&[]);
    let figures = ["tokens", "seconds", "tokens_per_second"];
    for part in ["prefill", "decode"] {
        assert_numbers(&document, &figures.map(|figure| format!("/{part}/{figure}")).each_ref().map(String::as_str));
    }
    assert_numbers(&document, &["/time_to_first_token_seconds"]);
    assert_eq!(document["tokens"].as_array().map(Vec::len), Some(24));
    assert_eq!(document["decode"]["tokens"], 23);
    assert_eq!(document["prefill"]["tokens"], document["prompt_tokens"]);
    assert_eq!(document["finish_reason"], "max_tokens");
    assert_eq!(document["devices"], serde_json::json!([{"name": "cpu", "share": 1.0}]));
    if cfg!(target_os = "linux") {
        assert_numbers(&document, &["/peak_resident_bytes"]);
    }
}

#[test]
fn text_goes_to_standard_output_and_figures_to_standard_error() {
    let ran = hetero(&["run", PROMPT, "-n", "24", "--temperature", "0"]);
    assert_eq!(ran.stdout, printed(&greedy(&[])));
    for figure in ["model    demo-model", "context  1024", "prefill", "decode", "first token", "cpu 100 %"] {
        assert!(ran.stderr.contains(figure), "expected {figure:?} in\n{}", ran.stderr);
    }
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let arguments = ["run", "-n", "24", "--temperature", "0", "--json"];
    let piped = hetero_with_input(&arguments, &format!("{PROMPT}\n")).json();
    assert_eq!(text(&piped), text(&greedy(&[])));
}

#[test]
fn the_seed_decides() {
    let sample = |seed: &str| {
        let document = hetero(&["run", PROMPT, "-n", "32", "--temperature", "1", "--seed", seed, "--json"]).json();
        text(&document).to_owned()
    };
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
}

#[test]
fn a_stop_text_ends_the_text_before_it() {
    let whole = greedy(&[]);
    let whole = text(&whole);
    let (middle, _) = whole.char_indices().nth(whole.chars().count() / 2).expect("some text");
    let stop: String = whole[middle..].chars().take(3).collect();
    let document = greedy(&["--stop", "never in a text \u{1}", "--stop", &stop]);
    assert_eq!(document["finish_reason"], "stop_text");
    assert_eq!(text(&document), whole.split(&stop).next().expect("a beginning"));
}

#[test]
fn generation_ends_where_the_context_does() {
    let ran = hetero(&["run", PROMPT, "-n", "100", "--temperature", "0", "--context", "16"]);
    assert!(ran.stderr.contains("the context of 16 tokens is full"), "{}", ran.stderr);
    let document = greedy(&["--context", "16"]);
    assert_eq!(document["finish_reason"], "context_full");
    assert_eq!(ran.success(), printed(&document));
}

#[test]
fn no_tokens_may_be_asked_for() {
    let document = hetero(&["run", PROMPT, "-n", "0", "--json"]).json();
    assert_eq!((text(&document), &document["tokens"]), ("", &serde_json::json!([])));
}

#[test]
fn weights_may_be_held_in_every_format() {
    let floats = greedy(&["--weights", "f32", "--activations", "float"]);
    for format in ["f16", "bf16", "w8g32"] {
        let document = greedy(&["--weights", format, "--activations", "float"]);
        // The best token is so far ahead that small errors do not matter at first.
        assert_eq!(document["tokens"][0], floats["tokens"][0], "{format}");
    }
    assert_eq!(greedy(&["--weights", "w4g32"])["tokens"].as_array().map(Vec::len), Some(24));
}

#[test]
fn strict_is_content_when_everything_runs_where_it_should() {
    greedy(&["--strict", "--devices", "cpu", "--threads", "1"]);
}

#[test]
fn a_chat_template_is_used_unless_the_prompt_is_to_be_raw() {
    let model = model_with_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [reply]");
    let arguments = ["run", "Hi", "-n", "4", "--show-prompt", "--model", argument(model.path())];
    let templated = hetero(&arguments);
    assert!(templated.stderr.contains("[user] Hi [reply]"), "{}", templated.stderr);
    assert!(!templated.success().starts_with("Hi"));
    let raw = hetero(&[&arguments[..], &["--raw"]].concat());
    assert!(!raw.stderr.contains("[user]"), "{}", raw.stderr);
    assert!(raw.success().starts_with("Hi"));
}

#[test]
fn a_quantised_copy_gives_the_text_of_weights_quantised_while_loading() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("model");
    let written = hetero(&["quantize", "--weights", "w8g32", "--out", argument(&out), "--json"]).json();
    assert_numbers(&written, &["/stored_bytes", "/written_bytes"]);
    let packed = greedy(&["--model", argument(&out)]);
    assert_eq!(text(&packed), text(&greedy(&["--weights", "w8g32"])));
    hetero(&["quantize", "--weights", "w8g32", "--out", argument(&out)]).assert_failed(2, "fix: ");
}

#[test]
fn every_family_runs() {
    for fixture in fixtures() {
        let document = hetero(&["run", "abc", "-n", "3", "--json", "--model", argument(&fixture)]).json();
        let n_tokens = document["tokens"].as_array().map_or(0, Vec::len);
        assert!(n_tokens == 3 || document["finish_reason"] == "end_of_sequence", "{}", fixture.display());
    }
}
