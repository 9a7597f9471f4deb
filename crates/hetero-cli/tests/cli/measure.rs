//! `hetero logits`, `hetero perplexity`, `hetero bench`.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::program::{argument, assert_numbers, fixtures, hetero};

const EXACT: [&str; 4] = ["--weights", "f32", "--activations", "float"];

/// Logits `[positions, vocabulary]` and the vocabulary of a file.
fn read_logits(path: &Path) -> (Vec<f32>, usize) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
    let tensor = tensors.tensor("logits").expect("logits");
    assert_eq!(tensor.dtype(), Dtype::F32);
    let logits = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    (logits, *tensor.shape().last().expect("two dimensions"))
}

#[test]
fn logits_of_every_family_are_those_of_another_engine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for fixture in fixtures() {
        let expected_file = fixture.join("expected.safetensors");
        let (expected, vocabulary) = read_logits(&expected_file);
        let bytes = fs::read(&expected_file).expect("readable");
        let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
        let tokens = tensors.tensor("tokens").expect("tokens");
        let tokens: Vec<String> =
            tokens.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes).to_string()).collect();

        let out = folder.path().join("logits.safetensors");
        let arguments =
            ["logits", "--tokens", &tokens.join(","), "--out", argument(&out), "--model", argument(&fixture)];
        assert_eq!(hetero(&[&arguments[..], &EXACT].concat()).success(), "");
        let (actual, actual_vocabulary) = read_logits(&out);
        assert_eq!((actual.len(), actual_vocabulary), (expected.len(), vocabulary), "{}", fixture.display());
        let range = expected.iter().fold(0f32, |range, logit| range.max(logit.abs()));
        let error = actual.iter().zip(&expected).fold(0f32, |error, (a, b)| error.max((a - b).abs()));
        assert!(error <= 1e-4 * range, "{}: error {error:e} in a range of {range}", fixture.display());
    }
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [out, text_file] = ["logits", "text"].map(|name| folder.path().join(name));
    let text = "Ownership is a set of rules that govern how a program manages memory.";
    fs::write(&text_file, text).expect("writable");

    let arguments = ["logits", "--prompt", text, "--out", argument(&out), "--json"];
    let document = hetero(&[&arguments[..], &EXACT].concat()).json();
    let (logits, vocabulary) = read_logits(&out);
    let tokens: Vec<usize> = serde_json::from_value(document["tokens"].clone()).expect("token ids");
    assert_eq!(document["positions"], tokens.len());
    let loss = |(row, &token): (&[f32], &usize)| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum.ln() - f64::from(row[token])
    };
    let total: f64 = logits.chunks(vocabulary).zip(&tokens[1..]).map(loss).sum();
    let expected = (total / (tokens.len() - 1) as f64).exp();

    let arguments = ["perplexity", "--text", argument(&text_file)];
    let document = hetero(&[&arguments[..], &["--json"], &EXACT].concat()).json();
    let actual = document["perplexity"].as_f64().expect("a number");
    assert!((actual / expected - 1.0).abs() < 1e-5, "{actual} instead of {expected}");
    assert_eq!(document["tokens"], tokens.len() - 1);
    let printed = hetero(&[&arguments[..], &EXACT].concat()).success();
    assert!(printed.starts_with(&format!("perplexity {actual:.4} ")), "{printed}");
}

#[test]
fn perplexity_in_windows_scores_every_token_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text_file = folder.path().join("text");
    fs::write(&text_file, "A trait defines the functionality a type has. ".repeat(12)).expect("writable");
    let arguments = ["perplexity", "--text", argument(&text_file), "--json"];
    let whole = hetero(&arguments).json();
    let windows = hetero(&[&arguments[..], &["--window", "32", "--stride", "8"]].concat()).json();
    assert_eq!(whole["tokens"], windows["tokens"]);
    assert_eq!((&windows["window"], &windows["stride"]), (&32.into(), &8.into()));
}

/// A short measurement in one of its forms.
fn bench(more: &[&str]) -> String {
    let arguments = ["bench", "--pp", "8,4", "--tg", "2", "--depth", "0,3", "--reps", "2", "--threads", "1"];
    hetero(&[&arguments[..], more].concat()).success()
}

#[test]
fn a_measurement_has_what_scripts_read() {
    let document: Value = serde_json::from_str(&bench(&["--output", "json"])).expect("one JSON document");
    assert_eq!(document["schema"], 1);
    assert_eq!(document["model"], "demo-model");
    assert_eq!(document["weights"], "bf16");
    assert_eq!(document["threads"], 1);
    assert_numbers(&document, &["/load_seconds", "/compile_seconds"]);
    let results = document["results"].as_array().expect("results");
    let names: Vec<(&str, u64)> = results
        .iter()
        .map(|result| (result["test"].as_str().expect("a name"), result["depth"].as_u64().expect("a depth")))
        .collect();
    assert_eq!(names, [("pp8", 0), ("pp4", 0), ("tg2", 0), ("pp8", 3), ("pp4", 3), ("tg2", 3)]);
    for result in results {
        assert_numbers(result, &["/tokens", "/tokens_per_second/median"]);
        let rate = |name: &str| result["tokens_per_second"][name].as_f64().expect("a number");
        assert!(0.0 < rate("min") && rate("min") <= rate("median") && rate("median") <= rate("max"), "{result}");
        assert_eq!(result["devices"], serde_json::json!([{"name": "cpu", "share": 1.0}]));
    }
}

#[test]
fn a_measurement_can_be_lines_or_a_table() {
    let lines = bench(&["--output", "jsonl"]);
    for line in lines.lines() {
        let document: Value = serde_json::from_str(line).expect("a JSON document");
        assert_eq!((&document["schema"], &document["threads"]), (&1.into(), &1.into()));
        assert_numbers(&document, &["/tokens", "/depth", "/tokens_per_second/median"]);
    }
    assert_eq!(lines.lines().count(), 6);
    for (form, separator, n_lines) in [("csv", ',', 7), ("md", '|', 8)] {
        let table = bench(&["--output", form]);
        let columns: Vec<usize> = table.lines().map(|line| line.matches(separator).count()).collect();
        assert_eq!(columns, vec![columns[0]; n_lines], "{table}");
    }
}

#[test]
fn a_measurement_longer_than_the_context_is_cut_and_says_so() {
    let ran = hetero(&["bench", "--pp", "64", "--tg", "0", "--reps", "1", "--context", "40", "--json"]);
    assert!(ran.stderr.contains("cut      pp64 at depth 0 to 40 tokens"), "{}", ran.stderr);
    assert_eq!(ran.json()["results"][0]["test"], "pp40");
}

/// The stored figures were computed with transformers, the quantised ones on dequantised weights.
#[test]
fn perplexity_of_the_demo_model_is_that_of_another_engine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model");
    let stored = fs::read(folder.join("perplexity.json")).expect("the figures beside the model");
    let stored: Value = serde_json::from_slice(&stored).expect("JSON");
    let text = folder.join("held-out.txt");
    let perplexity = |weights: &str, activations: &str| {
        let arguments = ["perplexity", "--text", argument(&text), "--model", argument(&folder), "--json"];
        let options = ["--weights", weights, "--activations", activations];
        let document = hetero(&[&arguments[..], &options].concat()).json();
        assert_eq!(document["tokens"], stored["scored_tokens"]);
        document["perplexity"].as_f64().expect("a number")
    };
    let float = ["bf16", "w8g32", "w4g32"].map(|weights| (weights, perplexity(weights, "float")));
    for (weights, actual) in float {
        // Held without loss, bf16 weights are what f32 arithmetic on the stored weights gives.
        let name = if weights == "bf16" { "f32" } else { weights };
        let expected = stored["perplexity"][name].as_f64().expect("a number");
        assert!((actual / expected - 1.0).abs() < 1e-4, "{weights}: {actual} and not {expected}");
    }
    let [(_, bf16), (_, w8g32), (_, w4g32)] = float;
    assert!(w8g32 / bf16 < 1.005 && w4g32 / bf16 < 1.08, "{bf16} {w8g32} {w4g32}");
    // What `--activations auto` is allowed to cost.
    let narrow = perplexity("w4g32", "auto");
    assert!((narrow / w4g32 - 1.0).abs() < 2e-3, "{narrow} and not {w4g32}");
}
