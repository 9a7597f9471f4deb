//! Bad arguments and bad files: exit code 2, a message, a fix, and nothing on standard output.

use std::fs;

use crate::program::{argument, fixtures, hetero, hetero_with_input};

/// Checks the exit code, what is told, and that there is a fix.
fn check(arguments: &[&str], told: &str) {
    let ran = hetero(arguments);
    ran.assert_failed(2, told);
    assert!(ran.stderr.contains("fix: "), "hetero {}\n{}", ran.arguments, ran.stderr);
}

#[test]
fn bad_values_are_refused() {
    check(&["run", ""], "prompt");
    check(&["run", "Hi", "--threads", "0"], "threads");
    check(&["run", "Hi", "--devices", "tpu"], "device `tpu`");
    check(&["run", "Hi", "--devices", ""], "device");
    check(&["run", "Hi", "--temperature", "-1"], "temperature");
    check(&["run", "Hi", "--temperature", "nan"], "temperature");
    check(&["run", "Hi", "--top-p", "0"], "top-p");
    check(&["run", "Hi", "--context", "0"], "context");
    check(&["run", "Hi", "--context", "100000"], "context");
    check(&["run", "one two three four five", "--context", "4"], "prompt");
    check(&["bench", "--depth", "100000", "--reps", "1"], "context");
    check(&["bench", "--pp", "0", "--tg", "0"], "tests");
}

#[test]
fn arguments_that_do_not_parse_are_refused() {
    for arguments in [
        &["run", "Hi", "--no-such-option"][..],
        &["run", "Hi", "--weights", "w3"],
        &["run", "Hi", "--activations", "double"],
        &["run", "Hi", "-n", "-1"],
        &["run", "Hi", "--seed", "x"],
        &["bench", "--reps", "0"],
        &["bench", "--output", "xml"],
        &["bench", "--pp", "1,x"],
        &["logits", "--tokens", "1,x", "--out", "x"],
        &["logits", "--tokens", "", "--out", "x"],
        &["logits", "--tokens", "1"],
        &["logits", "--out", "x"],
        &["logits", "--tokens", "1", "--prompt", "Hi", "--out", "x"],
        &["perplexity"],
        &["quantize", "--weights", "auto", "--out", "x"],
        &["no-such-command"],
    ] {
        hetero(arguments).assert_failed(2, "error: ");
    }
}

#[test]
fn bad_paths_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| argument(&folder.path().join(name)).to_owned();
    fs::write(path("model.gguf"), "GGUF").expect("writable");
    fs::write(path("latin-1"), b"\xe4\xf6").expect("writable");
    fs::write(path("empty"), "").expect("writable");
    check(&["run", "Hi", "--model", &path("nowhere")], "config.json");
    check(&["run", "Hi", "--model", argument(folder.path())], "config.json");
    check(&["run", "Hi", "--model", &path("model.gguf")], "GGUF files are not supported yet");
    check(&["perplexity", "--text", &path("nowhere")], "nowhere");
    check(&["perplexity", "--text", &path("latin-1")], "UTF-8");
    check(&["perplexity", "--text", &path("empty")], "two tokens");
    check(&["perplexity", "--text", "Cargo.toml", "--window", "5000"], "windows");
    check(&["perplexity", "--text", "Cargo.toml", "--stride", "0"], "windows");
    check(&["logits", "--tokens", "1", "--out", &path("nowhere/logits")], "nowhere");
    check(&["logits", "--tokens", "1", "--out", argument(folder.path())], "cannot be written");
    check(&["logits", "--tokens", "1,4096", "--out", &path("logits")], "4096");
    check(&["quantize", "--weights", "w4g32", "--model", &path("nowhere"), "--out", &path("out")], "config.json");
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("readable").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn more_tokens_than_the_model_takes_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("logits");
    let tokens = vec!["1"; 1025].join(",");
    check(&["logits", "--tokens", &tokens, "--out", argument(&out)], "context");
    assert!(!out.exists());
}

#[test]
fn a_prompt_that_is_no_text_is_refused() {
    let mut child = crate::program::command(&["run"]).spawn().expect("the program starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"\xff\xfe").expect("a reader");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    hetero_with_input(&["run"], "").assert_failed(2, "prompt");
}

#[test]
fn damaged_weights_are_refused() {
    let fixture = fixtures().into_iter().find(|path| path.ends_with("llama3-gqa")).expect("the fixture");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(fixture.join(name), folder.path().join(name)).expect("a copy");
    }
    let weights = fs::read(fixture.join("model.safetensors")).expect("readable");
    fs::write(folder.path().join("model.safetensors"), &weights[..weights.len() / 2]).expect("writable");
    check(&["run", "Hi", "--model", argument(folder.path())], "model.safetensors");
}
