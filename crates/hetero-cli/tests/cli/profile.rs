//! `hetero profile`, and runs that read what it keeps.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{Ran, argument, assert_numbers, fixtures, hetero};

/// A command for several processors that keeps its measurements in a folder.
fn together(command: &[&str], folder: &Path, more: &[&str]) -> Ran {
    let fixture = fixtures().into_iter().find(|path| path.ends_with("llama3-gqa")).expect("the fixture");
    let model = ["--model", argument(&fixture), "--weights", "f32", "--context", "64"];
    let devices = ["--devices", "cpu,npu-sim", "--profiles", argument(folder)];
    hetero(&[command, &model, &devices, more].concat())
}

const RUN: [&str; 6] = ["run", "Hi", "-n", "4", "--temperature", "0"];

#[test]
fn what_is_measured_is_kept_and_not_measured_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let profiles = folder.path().join("new");
    let document = together(&["profile", "--json"], &profiles, &[]).json();
    assert_eq!(document["complete"], true);
    assert_numbers(&document, &["/seconds", "/measured", "/prediction_error/median", "/prediction_error/held_out"]);
    let n_measured = document["measured"].as_u64().expect("a number");
    assert!(n_measured > 100 && document["known"] == 0, "{n_measured}");
    let file = Path::new(document["file"].as_str().expect("a path"));
    let kept: Value = serde_json::from_slice(&fs::read(file).expect("readable")).expect("JSON");
    assert_eq!(kept, document["profile"]);
    for device in document["devices"].as_array().expect("a list") {
        assert_eq!(device["failure"], Value::Null);
        assert!(!device["operators"].as_array().expect("a list").is_empty());
    }

    let again = together(&["profile", "--json"], &profiles, &[]).json();
    assert_eq!((&again["known"], &again["measured"]), (&n_measured.into(), &0.into()));
    let text = together(&["profile"], &profiles, &[]).success();
    assert!(text.contains("cpu: ") && text.contains("npu-sim: ") && text.contains("held out"), "{text}");
    let ran = together(&RUN, &profiles, &[]);
    assert!(ran.stderr.contains(&format!("{n_measured} measurements known, none made")), "{}", ran.stderr);
    ran.success();

    let fresh = together(&["profile", "--json", "--fresh"], &profiles, &[]).json();
    assert_eq!((&fresh["known"], &fresh["measured"]), (&0.into(), &n_measured.into()));
}

#[test]
fn a_run_measures_what_is_missing_and_keeps_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let begun = together(&["profile", "--json", "--budget", "1ms"], folder.path(), &[]);
    assert!(begun.stderr.contains("not complete"), "{}", begun.stderr);
    let begun = begun.json();
    assert_eq!(begun["complete"], false);
    let texts: Vec<String> = ["made in", "none made"]
        .map(|expected| {
            let ran = together(&RUN, folder.path(), &[]);
            assert!(ran.stderr.contains(expected), "{}", ran.stderr);
            ran.success()
        })
        .into();
    assert_eq!(texts[0], texts[1]);
    let whole = together(&["profile", "--json"], folder.path(), &[]).json();
    assert!(whole["known"].as_u64() > begun["known"].as_u64() && whole["measured"].as_u64() > Some(0));
    // Told to fail, a processor is not remembered.
    let other = tempfile::tempdir().expect("a temporary folder");
    together(&RUN, other.path(), &["--fault", "npu:late=1ms@every=50"]).success();
    assert_eq!(fs::read_dir(other.path()).expect("readable").count(), 0);
}

#[test]
fn a_profile_that_does_not_fit_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let document = together(&["profile", "--json", "--budget", "1ms"], folder.path(), &[]).json();
    let file = Path::new(document["file"].as_str().expect("a path"));
    let sound = fs::read_to_string(file).expect("readable");
    let version = document["profile"]["devices"][0]["identity"]["version"].as_str().expect("a version").to_owned();
    for (text, reason) in [
        (sound[..sound.len() / 2].to_owned(), "is damaged"),
        (sound.replace(&format!("{version:?}"), "\"0.0.1\""), "is of version 0.0.1"),
        (sound.replacen("\"format\": ", "\"format\": 9", 1), "has format 9"),
    ] {
        fs::write(file, text).expect("writable");
        let ran = together(&RUN, folder.path(), &[]);
        assert!(ran.stderr.contains(reason) && ran.stderr.contains("measured anew"), "{reason}: {}", ran.stderr);
        ran.success();
        let ran = together(&RUN, folder.path(), &[]);
        assert!(ran.stderr.contains("none made"), "what was measured anew is kept: {}", ran.stderr);
    }
}

#[test]
fn a_folder_that_cannot_be_written_costs_the_profile_and_not_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "in the way").expect("writable");
    let ran = together(&RUN, &file, &[]);
    assert!(ran.stderr.contains("not kept"), "{}", ran.stderr);
    ran.success();
}

#[test]
fn a_processor_that_fails_while_it_is_measured_is_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let expected = together(&RUN, folder.path(), &["--mode", "cpu-only"]).success();
    for (fault, reason) in [
        ("npu:lost@5", "npu-sim is lost"),
        ("npu:compile-error@3", "npu-sim failed to compile"),
        ("npu:oom@2", "out of memory"),
        ("npu:stuck@4; timeout=50ms", "npu-sim"),
    ] {
        let other = tempfile::tempdir().expect("a temporary folder");
        let ran = together(&RUN, other.path(), &["--fault", fault]);
        assert_eq!(ran.stderr.matches("lost     npu-sim").count(), 1, "{fault}: {}", ran.stderr);
        assert_eq!(ran.success(), expected, "{fault}");
        together(&RUN, other.path(), &["--fault", fault, "--strict"]).assert_failed(3, reason);
        let document = together(&["profile", "--json", "--budget", "1s"], other.path(), &["--fault", fault]).json();
        let failure = document["devices"][1]["failure"].as_str().unwrap_or_default();
        assert!(failure.contains(reason), "{fault}: {failure}");
        assert_eq!(document["devices"][0]["failure"], Value::Null);
    }
}

#[test]
fn every_mode_writes_the_same_text() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |more: &[&str]| {
        let devices = ["--devices", "cpu,gpu-sim,npu-sim", "--activations", "float"];
        let fixture = fixtures().into_iter().find(|path| path.ends_with("llama3-gqa")).expect("the fixture");
        let model = ["--model", argument(&fixture), "--weights", "f32", "--context", "64"];
        hetero(&[&RUN[..], &model, &devices, &["--profiles", argument(folder.path())], more].concat())
    };
    let expected = run(&["--mode", "cpu-only"]).success();
    for mode in ["gpu-only", "npu-only", "layer", "tensor", "tensor-3"] {
        let ran = run(&["--mode", mode]);
        let last = ran.stderr.lines().last().unwrap_or_default();
        assert_eq!(last.contains("cpu "), mode == "tensor-3", "{mode}: who took part: {last}");
        assert_eq!(ran.success(), expected, "{mode}");
    }
    for more in [&["--method", "paper"][..], &["--no-fast-sync"], &["--mode", "tensor", "--objective", "energy"]] {
        assert_eq!(run(more).success(), expected, "{more:?}");
    }
    run(&["--objective", "0.3"]).assert_failed(2, "objective");
}

#[test]
fn what_was_predicted_stands_beside_what_was_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = folder.path().join("trace.json");
    let explained = ["--explain", "--trace", argument(&trace)];
    let ran = together(&RUN, folder.path(), &explained);
    for told in ["prefill  1 step of ", "decode   3 steps of 1 position", "works predicted", "submission"] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    ran.success();
    let written: Value = serde_json::from_slice(&fs::read(&trace).expect("readable")).expect("JSON");
    let events = written["traceEvents"].as_array().expect("a list");
    let named = |key: &str, name: &str| events.iter().filter(|event| event[key] == name).count();
    let tracks: Vec<&Value> =
        events.iter().filter(|e| e["name"] == "thread_name").map(|e| &e["args"]["name"]).collect();
    assert_eq!(tracks, ["host", "cpu", "npu-sim"]);
    assert_eq!(named("name", "step"), 4, "one of prefill, three of decode");
    let spans = || events.iter().filter(|event| event["ph"] == "X");
    let of_devices = spans().filter(|event| event["tid"] != 0).count();
    assert_eq!(named("name", "submit"), of_devices);
    assert!(spans().all(|event| event["dur"].as_f64() >= Some(0.0)));

    let document = together(&RUN, folder.path(), &["--explain", "--json"]).json();
    let phases = document["explain"]["phases"].as_array().expect("a list");
    assert_eq!(phases.iter().map(|phase| &phase["phase"]).collect::<Vec<_>>(), ["prefill", "decode"]);
    for phase in phases {
        assert_numbers(phase, &["/rows", "/n_steps", "/step/predicted", "/step/measured"]);
        assert!(!phase["segments"].as_array().expect("a list").is_empty());
    }
    let plain = together(&RUN, folder.path(), &["--json"]).json();
    assert_eq!(plain["explain"], Value::Null);
    assert_eq!(plain["tokens"], document["tokens"]);
    let share: f64 = plain["devices"].as_array().expect("a list").iter().filter_map(|d| d["share"].as_f64()).sum();
    assert!((share - 1.0).abs() < 1e-9, "{share}");
}

#[test]
fn a_plan_for_this_machine_follows_from_what_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fixture = fixtures().into_iter().find(|path| path.ends_with("llama3-gqa")).expect("the fixture");
    let plan = |more: &[&str]| {
        let shape = ["plan", "--shape", argument(&fixture), "--weights", "f32", "--prompt", "40"];
        let devices = ["--devices", "cpu,npu-sim", "--profiles", argument(folder.path())];
        hetero(&[&shape[..], &devices, more].concat())
    };
    let first = plan(&["--json"]);
    assert!(first.stderr.contains("made in"), "{}", first.stderr);
    let document = first.json();
    assert!(document["predicted_seconds"].as_f64() > Some(0.0));
    let ops = document["ops"].as_array().expect("a list");
    let devices = ops.iter().flat_map(|op| op["parts"].as_array().expect("a list")).map(|part| &part["device"]);
    assert!(devices.clone().all(|device| device == "cpu" || device == "npu-sim"));
    let explained = plan(&["--explain", "--decode-step"]);
    assert!(explained.stderr.contains("none made"), "{}", explained.stderr);
    assert!(explained.success().contains("  not "), "the alternatives are told");
    plan(&["--devices", "cpu"]).assert_failed(2, "cannot be used multiple times");
    hetero(&["plan", "--devices", "cpu"]).assert_failed(2, "two processors");
    hetero(&["plan", "--devices", "tpu"]).assert_failed(2, "tpu");
    hetero(&["plan", "--profiles", "x"]).assert_failed(2, "--devices");
}

#[test]
fn bad_options_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |more: &[&str]| together(&RUN, folder.path(), more);
    run(&["--mode", "tpu-only"]).assert_failed(2, "tensor-3");
    run(&["--mode", "gpu-only"]).assert_failed(2, "a GPU");
    run(&["--mode", "tensor-3"]).assert_failed(2, "three processors");
    run(&["--method", "guess"]).assert_failed(2, "whole-layer");
    run(&["--objective", "speed"]).assert_failed(2, "energy");
    run(&["--objective", "energy"]).assert_failed(2, "cpu");
    run(&["--trace", "/no/such/folder/trace.json"]).assert_failed(2, "trace.json");
    for arguments in [&["--budget", "0s"][..], &["--budget", "soon"], &["--shape", "llama-9"], &["--devices", "tpu"]] {
        hetero(&[&["profile"][..], arguments].concat()).assert_failed(2, arguments[1].trim_end_matches("0s"));
    }
    hetero(&["profile", "--shape", "llama-3.2-1b", "--model", "model"]).assert_failed(2, "--model");
    hetero(&["run", "Hi", "--mode", "tensor", "--devices", "cpu"]).assert_failed(2, "two processors");
}
