//! Checks on the text of files: openings, lengths, blanks at line ends, words that only mean something on one machine.

use super::{files, shown};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// A Rust file longer than this has two subjects.
const MAX_LINES: usize = 500;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Kinds of file that are written by hand.
const WRITTEN: &[&str] = &["md", "py", "rs", "sh", "toml", "wgsl", "yml"];

/// Where a tab is never meant.
const WITHOUT_TABS: &[&str] = &["md", "py", "rs", "toml", "wgsl", "yml"];

/// Paths of somebody's machine; in two parts, so that this file does not contain them.
const MACHINE_PATHS: &[(&str, &str)] =
    &[("/wo", "rk/"), ("/ho", "me/"), ("/ro", "ot/"), ("/Us", "ers/"), (".cargo/re", "gistry")];

/// Checks every written file under `root`.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root) {
        let name = shown(&file, root);
        let kind = file.extension().map_or(String::new(), |extension| extension.to_string_lossy().into_owned());
        if !WRITTEN.contains(&kind.as_str()) && !name.starts_with(".ci/") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
        findings.extend(check_text(&name, &kind, &text));
    }
    for (name, _) in LONGER {
        if !root.join(name).exists() {
            findings.push(format!("{name}: in the list of longer files, but gone"));
        }
    }
    Ok(findings)
}

fn check_text(name: &str, kind: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if kind == "rs" {
        if !text.starts_with("//!") {
            findings.push(format!("{name}:1: does not open with `//!` and what the file is for"));
        }
        let n_lines = text.lines().count();
        if n_lines > MAX_LINES && !LONGER.iter().any(|(longer, _)| *longer == name) {
            findings.push(format!("{name}: {n_lines} lines, over {MAX_LINES}: split it by subject"));
        }
    }
    if kind == "toml" && name.ends_with("Cargo.toml") && text.contains("version.workspace = true") {
        let inherits = text.contains("[lints]\nworkspace = true");
        if !inherits {
            findings.push(format!("{name}: does not inherit the workspace's lints"));
        }
    }
    for (index, line) in text.split('\n').enumerate() {
        let at = format!("{name}:{}", index + 1);
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(format!("{at}: blank or carriage return at the end of the line"));
        }
        if line.contains('\t') && WITHOUT_TABS.contains(&kind) {
            findings.push(format!("{at}: tab"));
        }
        for (start, end) in MACHINE_PATHS {
            let path = format!("{start}{end}");
            if line.contains(&path) {
                findings.push(format!("{at}: `{path}` exists on one machine only"));
            }
        }
    }
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(format!("{name}: does not end with exactly one newline"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, text: &str, expected: &str) {
        let findings = check_text(&format!("a.{kind}"), kind, text).join("\n");
        assert_eq!(findings, expected);
    }

    #[test]
    fn each_rule_finds_its_breach() {
        check("rs", "//! Fine.\n", "");
        check("rs", "fn a() {}\n", "a.rs:1: does not open with `//!` and what the file is for");
        check("md", "a \nb\n", "a.md:1: blank or carriage return at the end of the line");
        check("md", "a\tb\n", "a.md:1: tab");
        check("md", "a", "a.md: does not end with exactly one newline");
        let (start, end) = MACHINE_PATHS[0];
        let path = format!("{start}{end}");
        let expected = format!("a.md:1: `{path}` exists on one machine only");
        check("md", &format!("{path}\n"), &expected);
    }

    #[test]
    fn a_long_file_is_found() {
        let text = "//! Long.\n".repeat(MAX_LINES + 1);
        check("rs", &text, "a.rs: 501 lines, over 500: split it by subject");
    }
}
