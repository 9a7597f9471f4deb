//! `hetero simulate`, and simulated processors as devices.

use std::fs;

use serde_json::Value;

use crate::program::{argument, assert_numbers, hetero};

const MODES: [&str; 3] = ["cpu-only", "gpu-only", "npu-only"];

/// A simulation of Llama-3.2-1B that is over at once.
fn simulate(more: &[&str]) -> Vec<String> {
    let base = ["simulate", "--shape", "llama-3.2-1b", "--prompt", "96", "--decode", "3"];
    base.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
}

fn run(more: &[&str]) -> crate::program::Ran {
    let arguments = simulate(more);
    hetero(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_mode_gives_the_figures_that_scripts_read() {
    for mode in MODES {
        let document = run(&["--mode", mode, "--json"]).json();
        assert_eq!(
            [&document["soc"], &document["shape"], &document["mode"]],
            ["snapdragon-8-gen-3", "llama-3.2-1b", mode]
        );
        for (phase, tokens) in [("prefill", 96), ("decode", 3)] {
            assert_eq!(document[phase]["tokens"], tokens, "{mode} {phase}");
            let fields = ["/seconds", "/tokens_per_second", "/bandwidth_gb_per_s", "/energy_joules"];
            assert_numbers(&document[phase], &fields);
            assert!(
                fields.iter().all(|field| document[phase].pointer(field).and_then(Value::as_f64) > Some(0.0)),
                "{mode} {phase}"
            );
        }
        let devices = document["devices"].as_array().expect("a list");
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0]["name"], mode.split_once('-').expect("a name").0);
        assert_eq!(devices[0]["work_share"], 1.0);
        let busy = devices[0]["busy_share"].as_f64().expect("a number");
        assert!(busy > 0.5 && busy <= 1.0 + 1e-9, "{mode}: {busy}");
    }
}

#[test]
fn the_same_simulation_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut traces = Vec::new();
    for name in ["first", "second"] {
        let trace = folder.path().join(name);
        let faults = ["--fault", "gpu:late=3x@chance=0.5,seed=7"];
        let stdout =
            run(&[&["--mode", "gpu-only", "--json", "--trace", argument(&trace)][..], &faults].concat()).success();
        traces.push((stdout, fs::read_to_string(trace).expect("readable")));
    }
    assert!(traces[0] == traces[1], "two runs differ");
    let trace: Value = serde_json::from_str(&traces[0].1).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let is_span = |event: &&Value| event["ph"] == "X";
    assert!(events.iter().filter(is_span).count() > 16 * 4, "a span for each of the model's nodes");
    assert!(events.iter().filter(is_span).all(|event| event["dur"].as_f64() >= Some(0.0)));
}

#[test]
fn a_late_processor_takes_longer() {
    let seconds = |fault: &[&str]| {
        let document = run(&[&["--mode", "gpu-only", "--json"], fault].concat()).json();
        document["prefill"]["seconds"].as_f64().expect("a number")
    };
    let (usual, late) = (seconds(&[]), seconds(&["--fault", "gpu:late=2x@1"]));
    assert!((1.8..=2.1).contains(&(late / usual)), "{late} s for {usual} s");
}

#[test]
fn a_processor_that_fails_ends_the_simulation() {
    for (fault, told) in [
        ("npu:lost@1", "npu-sim"),
        ("npu:stuck@1; timeout=50ms", "npu-sim"),
        ("npu:oom@1", "memory"),
        ("npu:compile-error@1", "npu-sim"),
    ] {
        run(&["--mode", "npu-only", "--fault", fault]).assert_failed(1, told);
    }
}

#[test]
fn bad_arguments_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let soc = folder.path().join("soc.toml");
    fs::write(&soc, "name = \"mine\"\nspeed = 3\n").expect("writable");
    for (arguments, told) in [
        (&["--mode", "tpu-only"][..], "tensor-3"),
        (&["--mode", "gpu-only", "--soc", "snapdragon-9"], "snapdragon-8-gen-3"),
        (&["--mode", "gpu-only", "--soc", argument(&soc)], "soc.toml"),
        (&["--mode", "gpu-only", "--fault", "gpu:tired@1"], "tired"),
        (&["--mode", "gpu-only", "--weights", "w3"], "w4g32"),
        (&["--objective", "speed"], "energy"),
        (&["--dynamic", "wait"], "padding"),
        (&["--mode", "gpu-only", "--trace", "/no/such/folder/trace.json"], "trace.json"),
    ] {
        run(arguments).assert_failed(2, told);
    }
    for (arguments, told) in [
        (["--shape", "llama-9"], "llama-3-8b"),
        (["--prompt", "0"], "prompt"),
        (["--prompt", "8193"], "context"),
        (["--decode", "1000000"], "context"),
    ] {
        hetero(&[&["simulate", "--mode", "gpu-only"][..], &arguments].concat()).assert_failed(2, told);
    }
}

#[test]
fn plans_make_small_what_they_are_asked_to() {
    let prefill = |objective: &str| {
        let document = run(&["--json", "--mode", "tensor-3", "--objective", objective]).json();
        ["seconds", "energy_joules"].map(|figure| document["prefill"][figure].as_f64().expect("a number"))
    };
    let [fast, thrifty] = ["time", "energy"].map(prefill);
    assert!(fast[0] <= thrifty[0] && thrifty[1] < fast[1], "by time {fast:?}, by energy {thrifty:?}");
    let mixed = prefill("0.05");
    assert!(mixed[0] <= thrifty[0] && mixed[1] <= fast[1], "{mixed:?} between {fast:?} and {thrifty:?}");
}

#[test]
fn devices_lists_a_simulated_soc_on_request() {
    let names = |arguments: &[&str]| -> Vec<String> {
        let document = hetero(arguments).json();
        let devices = document["devices"].as_array().expect("a list").clone();
        devices.iter().map(|device| device["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert!(!names(&["devices", "--json"]).iter().any(|name| name.ends_with("-sim")));
    let listed = names(&["devices", "--json", "--soc", "laptop-generic"]);
    assert!(
        ["npu-sim", "gpu-sim", "cpu-sim"].iter().all(|name| listed.iter().any(|listed| listed == name)),
        "{listed:?}"
    );
    hetero(&["devices", "--soc", "nothing"]).assert_failed(2, "laptop-generic");
}

/// The modes in which processors share the work are faster than any of them alone, and survive one of them.
#[test]
fn processors_that_share_the_work_are_faster_and_survive_each_other() {
    let seconds = |more: &[&str]| {
        let document = run(&[&["--json"], more].concat()).json();
        let busy = document["devices"].as_array().expect("a list").len();
        (document["prefill"]["seconds"].as_f64().expect("a number"), busy)
    };
    let alone = MODES.map(|mode| seconds(&["--mode", mode]).0).into_iter().fold(f64::INFINITY, f64::min);
    for mode in ["layer", "tensor", "tensor-3"] {
        for method in ["whole-layer", "paper"] {
            let (together, n_devices) = seconds(&["--mode", mode, "--method", method]);
            assert!(together < alone, "{mode}, {method}: {together} s, alone {alone} s");
            assert!(n_devices >= 2, "{mode}, {method}");
        }
    }
    let with_fast_sync = seconds(&["--mode", "tensor"]).0;
    let without = seconds(&["--mode", "tensor", "--no-fast-sync"]).0;
    assert!(with_fast_sync < without, "{with_fast_sync} s, without fast synchronisation {without} s");

    let lost = run(&["--mode", "tensor", "--fault", "npu:lost@20"]);
    assert_eq!(lost.code, Some(0), "{}", lost.stderr);
    assert!(lost.stderr.contains("lost     npu-sim"), "{}", lost.stderr);
    let strict = run(&["--mode", "tensor", "--fault", "npu:lost@20", "--strict"]);
    strict.assert_failed(3, "npu-sim");
}

#[cfg(all(feature = "cpu-simd", feature = "demo-model"))]
#[test]
fn a_simulated_processor_writes_the_text_of_the_cpu() {
    let run = |devices: &str, more: &[&str]| {
        let arguments = ["run", "A trait is", "-n", "12", "--temperature", "0", "--weights", "f32", "--activations"];
        let chosen = ["float", "--context", "64", "--devices", devices];
        hetero(&[&arguments[..], &chosen, more].concat())
    };
    let expected = run("cpu", &[]).success();
    for device in ["gpu-sim", "npu-sim"] {
        assert_eq!(run(device, &[]).success(), expected, "{device}");
    }
    let lost = run("npu-sim", &["--fault", "npu:lost@3"]);
    assert_eq!(lost.code, Some(1), "{}", lost.stderr);
    assert!(expected.starts_with(lost.stdout.trim_end()), "what was written before stays: {:?}", lost.stdout);
    assert!(lost.stderr.contains("error: device npu-sim is lost"), "{}", lost.stderr);
    // Who computes how much follows from measured times; what is computed does not, whoever goes away in the middle.
    for devices in ["cpu,npu-sim", "cpu,gpu-sim,npu-sim"] {
        assert_eq!(run(devices, &[]).success(), expected, "{devices}");
    }
    for nth in ["300", "700"] {
        assert_eq!(run("cpu,npu-sim", &["--fault", &format!("npu:lost@{nth}+")]).success(), expected, "lost at {nth}");
    }
    run("npu-sim", &["--fault", "npu:lost"]).assert_failed(2, "npu:lost");
    run("cpu,npu-sim", &["--soc", "none"]).assert_failed(2, "laptop-generic");
}

#[test]
fn a_plan_covers_every_operator_and_says_why() {
    let arguments = ["plan", "--shape", "llama-3.2-1b", "--prompt", "96"];
    let document = hetero(&[&arguments[..], &["--json"]].concat()).json();
    assert!(document["predicted_seconds"].as_f64() > Some(0.0));
    let ops = document["ops"].as_array().expect("a list");
    let down: Vec<&Value> = ops.iter().filter(|op| op["op"] == "ffn_down").collect();
    assert_eq!(down.len(), 16, "one for each layer");
    for (layer, op) in down.into_iter().enumerate() {
        assert_eq!(op["layer"], layer);
        assert!(op["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        let parts = op["parts"].as_array().expect("a list");
        let area = |part: &Value| {
            let length = |range: &Value| range[1].as_u64().expect("an end") - range[0].as_u64().expect("a start");
            length(&part["rows"]) * length(&part["positions"])
        };
        assert_eq!(parts.iter().map(area).sum::<u64>(), 2048 * 128, "all of 2048 columns, room for 128 positions");
        let slowest = parts.iter().filter_map(|part| part["predicted_us"].as_f64()).fold(0.0, f64::max);
        assert_eq!(op["predicted_us"].as_f64(), Some(slowest));
    }
    let short = hetero(&arguments).success();
    let explained = hetero(&[&arguments[..], &["--explain"]].concat()).success();
    assert!(short.contains("gpu-sim") && short.contains("npu-sim") && !short.contains("  not "), "{short}");
    assert!(explained.contains("  not "), "{explained}");
    assert!(hetero(&[&arguments[..], &["--decode-step"]].concat()).success() != short);
    hetero(&["plan", "--mode", "gpu-only"]).assert_failed(2, "nothing to plan");
}
