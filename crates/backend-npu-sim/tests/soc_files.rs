//! SoC files: those that are built in, and what is said about bad ones.

use std::path::Path;

use backend_npu_sim::soc::{Soc, SocError};
use hetero_core::DeviceKind;
use proptest::prelude::*;

const GOOD: &str = "snapdragon-8-gen-3";

/// The good file with one piece of text replaced.
fn altered(from: &str, to: &str) -> String {
    let text = Soc::builtin_text(GOOD).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from:?} must stand in the file once");
    text.replacen(from, to, 1)
}

#[test]
fn every_built_in_system_is_sound_and_has_its_file_name() {
    for name in Soc::builtin_names() {
        let soc = Soc::builtin(name).unwrap();
        assert_eq!(soc.name, name);
        assert!(soc.bus.combined_bytes_per_second > soc.bytes_per_second(DeviceKind::Npu));
    }
    assert_eq!(Soc::builtin("no-such-phone"), None);
}

#[test]
fn numbers_are_in_si_units() {
    let text = altered("peak = { gb_per_s = 68.0", "peak = { gb_per_s = 70");
    let soc = Soc::parse(&text, Path::new("mine.toml")).unwrap();
    assert_eq!(soc.bus.peak_bytes_per_second, 70e9);
    assert_eq!(soc.gpu.overheads.wait_seconds, 400.0 * 1e-6);
    assert_eq!(soc.npu_limits.tile, 32);
    assert_eq!(soc.npu_limits.max_graph_bytes, 2048 << 20);
    assert_eq!(soc.gpu.power.joules_per_byte, 25.0 * 1e-12);
}

#[test]
fn a_bad_file_is_refused_with_file_line_key_value_range_and_fix() {
    // What is changed in a good file, and what the message must contain.
    let cases: [(&str, &str, &[&str]); 15] = [
        (
            "combined = { gb_per_s = 61.9,",
            "combined = { gb_per_s = 0.0,",
            &["bus.combined", "found 0", "0.01 to 10000"],
        ),
        (
            "combined = { gb_per_s = 61.9,",
            "combined = { gb_per_s = -5,",
            &["bus.combined", "found -5", "0.01 to 10000"],
        ),
        ("combined = { gb_per_s = 61.9,", "combined = { gb_per_s = nan,", &["bus.combined", "NaN", "0.01 to 10000"]),
        ("combined = { gb_per_s = 61.9,", "combined = { gb_per_s = inf,", &["bus.combined", "inf", "0.01 to 10000"]),
        (
            "combined = { gb_per_s = 61.9,",
            "combined = { gb_per_s = 61.9e9,",
            &["bus.combined", "61900000000", "gb_per_s"],
        ),
        (
            "combined = { gb_per_s = 61.9,",
            "combined = { gb_per_s = \"fast\",",
            &["bus.combined", "\"fast\"", "a number"],
        ),
        (
            "combined = { gb_per_s = 61.9,",
            "combined = { mb_per_s = 61900,",
            &["bus.combined", "`mb_per_s`", "`gb_per_s`"],
        ),
        ("combined = { gb_per_s = 61.9,", "combined = { ", &["bus.combined", "missing `gb_per_s`"]),
        (
            "combined = { gb_per_s = 61.9,",
            "combined = { gb_per_s = 20,",
            &["bus.combined", "found 20", "cpu.bandwidth, 42.5"],
        ),
        ("combined = { gb_per_s = 61.9,", "combined = { gb_per_s = 99,", &["bus.combined", "found 99", "bus.peak, 68"]),
        ("[bus]\npeak =", "[bus]\npeek =", &["bus", "unknown field `peek`", "`peak`"]),
        (
            "[npu.kernels.integer]\nrate =",
            "[npu.kernels.integer]\n# rate =",
            &["npu.kernels.integer", "missing field `rate`"],
        ),
        ("tile = { elements = 32,", "tile = { elements = 32.5,", &["npu_limits.tile", "32.5", "whole number"]),
        (
            "not at 14336\", confidence = \"derived\"",
            "not at 14336\", confidence = \"sure\"",
            &["npu.kernels.depth", "sure", "guess"],
        ),
        (
            "us = 90, source = \"v2 section 4.3: usleep has a granularity of 80 to 100 us\"",
            "us = 90, source = \" \"",
            &["host.sleep", "source"],
        ),
    ];
    for (from, to, expected) in cases {
        let text = altered(from, to);
        let line = text.lines().position(|line| to.lines().last().is_some_and(|to| line.contains(to)));
        let error = Soc::parse(&text, Path::new("mine.toml")).expect_err(to);
        let message = error.to_string();
        eprintln!("{message}");
        assert!(message.starts_with("mine.toml:"), "{message}");
        for piece in expected {
            assert!(message.contains(piece), "no {piece:?} in {message:?}");
        }
        // A missing field is reported where its table begins; everything else in its own line.
        if let Some(line) = line.filter(|_| !message.contains("missing field")) {
            assert!(message.starts_with(&format!("mine.toml:{}", line + 1)), "line {} in {message:?}", line + 1);
        }
    }
}

#[test]
fn a_parameter_that_is_no_table_is_refused() {
    let text = altered("max_graphs = { graphs = 1024,", "max_graphs = 1024 # {");
    let message = Soc::parse(&text, Path::new("mine.toml")).unwrap_err().to_string();
    assert!(message.contains("npu_limits.max_graphs") && message.contains("graphs = 1"), "{message}");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let message = Soc::parse("name = \"x\"\ndescription\n", Path::new("mine.toml")).unwrap_err().to_string();
    assert!(message.starts_with("mine.toml:2"), "{message}");
}

#[test]
fn an_unknown_name_lists_the_known_ones_and_a_missing_file_is_named() {
    let unknown = Soc::load("snapdragon-9").unwrap_err();
    assert!(matches!(unknown, SocError::Unknown { .. }));
    for name in Soc::builtin_names() {
        assert!(unknown.to_string().contains(name), "{unknown}");
    }
    let missing = Soc::load("no-such-folder/mine.toml").unwrap_err();
    assert!(matches!(missing, SocError::Unreadable { .. }));
    assert!(missing.to_string().contains("no-such-folder/mine.toml"), "{missing}");
    assert_eq!(Soc::load(GOOD).unwrap(), Soc::builtin(GOOD).unwrap());
}

proptest! {
    #[test]
    fn no_damaged_file_makes_the_reader_panic(at in 0.0f64..1.0, removed in 0usize..60, put in "[a-z0-9 ={}.\\[\\]\"\n#,-]{0,12}") {
        let text = Soc::builtin_text(GOOD).unwrap();
        prop_assert!(text.is_ascii(), "the text is cut at any byte");
        let start = (at * text.len() as f64) as usize;
        let end = (start + removed).min(text.len());
        let damaged = format!("{}{put}{}", &text[..start], &text[end..]);
        if let Err(error) = Soc::parse(&damaged, Path::new("mine.toml")) {
            prop_assert!(error.to_string().starts_with("mine.toml"), "{error}");
        }
    }
}
