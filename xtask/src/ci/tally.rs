//! Reads counts, ignored tests and named skips from the output of `cargo test` and `cargo nextest`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who ran the tests, and so whose lines count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Runner {
    /// `cargo test`.
    Libtest,
    /// `cargo nextest`, which runs one libtest a test: the result lines of those are part of the output, and would
    /// count every test twice.
    Nextest,
}

/// Numbers of tests, and what was left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    /// Tests that ran and passed.
    pub(crate) passed: usize,
    /// Tests that ran and failed.
    pub(crate) failed: usize,
    /// Name of each ignored test or skipped part, and the reason.
    pub(crate) skips: BTreeSet<(String, String)>,
}

impl Tally {
    /// Counts what a test runner printed; `reasons` explains the ignored tests, see [`ignore_reasons`].
    pub(crate) fn of(runner: Runner, output: &str, reasons: &BTreeMap<String, String>) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            let line = line.trim();
            if !tally.read_skip(line) {
                match runner {
                    Runner::Libtest => tally.read_libtest(line, reasons),
                    Runner::Nextest => tally.read_nextest(line, reasons),
                }
            }
        }
        tally
    }

    /// Adds another tally to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skips.extend(other.skips);
    }

    /// Printed by a test that found its precondition missing, whoever runs it.
    fn read_skip(&mut self, line: &str) -> bool {
        let Some(rest) = line.strip_prefix("SKIPPED ") else {
            return false;
        };
        let (name, reason) = rest.split_once(':').unwrap_or((rest, "no reason given"));
        self.skip(name, reason);
        true
    }

    fn read_libtest(&mut self, line: &str, reasons: &BTreeMap<String, String>) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            // `ok. 12 passed; 0 failed; 1 ignored; ...`
            self.passed += count_before(rest, "passed");
            self.failed += count_before(rest, "failed");
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, ending)) = rest.split_once(" ... ignored")
        {
            // `test tests::name ... ignored, the reason`
            let reason = ending.strip_prefix(',').map(str::trim);
            self.skip(name, reason.unwrap_or_else(|| reason_of(name, reasons)));
        }
    }

    fn read_nextest(&mut self, line: &str, reasons: &BTreeMap<String, String>) {
        if line.starts_with("Summary [") {
            // `Summary [ 0.1s] 12 tests run: 11 passed (1 slow), 1 failed, 2 skipped`
            let counts = line.split_once("run:").map_or("", |(_, counts)| counts);
            self.passed += count_before(counts, "passed");
            self.failed += count_before(counts, "failed")
                + count_before(counts, "timed out")
                + count_before(counts, "exec failed");
        } else if let Some(name) = line.strip_prefix("SKIP [") {
            // `SKIP [   ] (1/9) hetero-core::graph tests::name`
            let name = name.rsplit(' ').next().unwrap_or(name);
            self.skip(name, reason_of(name, reasons));
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        self.skips.insert((name.trim().to_owned(), reason.trim().to_owned()));
    }
}

fn reason_of<'a>(test: &str, reasons: &'a BTreeMap<String, String>) -> &'a str {
    let function = test.rsplit("::").next().unwrap_or(test);
    reasons.get(function).map_or("ignored without a reason", String::as_str)
}

/// The number that stands before `word`: 12 in `12 passed`.
fn count_before(text: &str, word: &str) -> usize {
    let Some(at) = text.find(word) else { return 0 };
    let number = text[..at].split_whitespace().next_back();
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Reasons of `#[ignore = "reason"]` in the sources, by the name of the test function.
pub(crate) fn ignore_reasons(files: &[PathBuf]) -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    for text in files.iter().filter_map(|file| read(file)) {
        let mut pending = None;
        for line in text.lines().map(str::trim) {
            if let Some(reason) = line.strip_prefix("#[ignore = \"") {
                pending = reason.strip_suffix("\"]").map(str::to_owned);
            } else if let Some((_, name)) = line.split_once("fn ")
                && let Some(reason) = pending.take()
            {
                let name = name.split(['(', '<']).next().unwrap_or(name);
                reasons.insert(name.to_owned(), reason);
            }
        }
    }
    reasons
}

fn read(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(name: &str, reason: &str) -> (String, String) {
        (name.to_owned(), reason.to_owned())
    }

    #[test]
    fn libtest_output_is_counted() {
        let output = "running 3 tests\n\
            test a ... ok\n\
            test slow::b ... ignored, takes an hour\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
            test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let tally = Tally::of(Runner::Libtest, output, &BTreeMap::new());
        assert_eq!((tally.passed, tally.failed), (7, 1));
        assert_eq!(tally.skips, BTreeSet::from([skip("slow::b", "takes an hour")]));
    }

    #[test]
    fn nextest_output_is_counted() {
        let output = "    SKIP [         ] (---) hetero-core tests::slow\n\
            PASS [   0.001s] (1/12) hetero-core tests::quick\n\
            test tests::quick ... ok\n\
            test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out\n\
            SKIPPED avx512: this CPU has no avx512f\n\
            ------------\n\
            Summary [   0.005s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 1 skipped\n";
        let reasons = BTreeMap::from([("slow".to_owned(), "takes an hour".to_owned())]);
        let tally = Tally::of(Runner::Nextest, output, &reasons);
        assert_eq!((tally.passed, tally.failed), (10, 2));
        let expected = [skip("avx512", "this CPU has no avx512f"), skip("tests::slow", "takes an hour")];
        assert_eq!(tally.skips, BTreeSet::from(expected));
    }
}
