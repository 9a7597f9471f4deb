//! Every environment variable of ours is documented, and every documented one exists.

use super::{files, shown};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const PREFIX: &str = "HETERO_";

/// Where variables are documented.
const PAGES: &[&str] = &["docs/testing.md", "README.md"];

/// Compares the sources with the pages.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut used = BTreeMap::new();
    for file in files(root) {
        let name = shown(&file, root);
        let is_source = [".rs", ".py", ".sh"].iter().any(|kind| name.ends_with(kind));
        if is_source || name.starts_with(".ci/") {
            for knob in knobs_in(&fs::read_to_string(&file)?) {
                used.entry(knob).or_insert_with(|| name.clone());
            }
        }
    }
    let mut documented = BTreeMap::new();
    for page in PAGES {
        if let Ok(text) = fs::read_to_string(root.join(page)) {
            for knob in knobs_in(&text) {
                documented.entry(knob).or_insert_with(|| (*page).to_owned());
            }
        }
    }
    Ok(differences(&used, &documented))
}

fn differences(used: &BTreeMap<String, String>, documented: &BTreeMap<String, String>) -> Vec<String> {
    let unknown = used.iter().filter(|(knob, _)| !documented.contains_key(*knob));
    let gone = documented.iter().filter(|(knob, _)| !used.contains_key(*knob));
    unknown
        .map(|(knob, file)| format!("{file}: {knob} is not documented in docs/testing.md"))
        .chain(gone.map(|(knob, page)| format!("{page}: {knob} is read by no source file")))
        .collect()
}

/// Names that begin with the prefix and go on in capitals.
fn knobs_in(text: &str) -> Vec<String> {
    let mut knobs = Vec::new();
    for (at, _) in text.match_indices(PREFIX) {
        let rest = &text[at + PREFIX.len()..];
        let end =
            rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).unwrap_or(rest.len());
        if end > 0 {
            knobs.push(format!("{PREFIX}{}", &rest[..end]));
        }
    }
    knobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_both_ways() {
        // Built from parts, so that this file does not itself use the variable.
        let knob = format!("{PREFIX}{}", "LEVEL");
        assert_eq!(knobs_in(&format!("env({knob}=3)")), [knob.as_str()]);
        let one = BTreeMap::from([(knob.clone(), "a.rs".to_owned())]);
        let none = BTreeMap::new();
        assert_eq!(differences(&one, &one), [""; 0]);
        assert_eq!(differences(&one, &none).len(), 1);
        assert_eq!(differences(&none, &one).len(), 1);
    }
}
