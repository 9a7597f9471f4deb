//! Runs the program and reads what it says.

#![allow(dead_code, reason = "which tests there are depends on the features")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program with these arguments and nothing on its standard input.
pub(crate) fn hetero(arguments: &[&str]) -> Ran {
    hetero_with_input(arguments, "")
}

/// The program with these arguments and this text on its standard input.
pub(crate) fn hetero_with_input(arguments: &[&str], input: &str) -> Ran {
    let mut child = command(arguments).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that does not want it closes the pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    Ran::new(arguments, &output)
}

/// The program, not started, with pipes on all sides and without a log.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
    command.args(arguments).env_remove("RUST_LOG");
    // Tests neither read nor write what the user's runs have measured.
    command.env("HETERO_PROFILES", concat!(env!("CARGO_TARGET_TMPDIR"), "/profiles"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A run of the program that has ended.
pub(crate) struct Ran {
    /// The arguments, for messages.
    pub(crate) arguments: String,
    /// Its exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Ran {
    fn new(arguments: &[&str], output: &Output) -> Ran {
        Ran {
            arguments: arguments.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr.clone()).expect("UTF-8"),
        }
    }

    /// Standard output of a run that has to succeed.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "hetero {}\n{}", self.arguments, self.stderr);
        self.stdout
    }

    /// The one JSON document of a run that has to succeed.
    pub(crate) fn json(self) -> Value {
        let document: Value = serde_json::from_str(&self.success()).expect("one JSON document");
        assert_eq!(document["schema"], 1);
        document
    }

    /// Checks that the run has failed as it should: code, message and fix on standard error, nothing else.
    pub(crate) fn assert_failed(&self, code: i32, told: &str) {
        let Ran { arguments, stdout, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "hetero {arguments}\n{stderr}");
        assert!(stderr.contains(told), "hetero {arguments}: expected {told:?} in\n{stderr}");
        assert!(stderr.contains("error: "), "hetero {arguments}\n{stderr}");
        assert!(!stderr.contains("panicked"), "hetero {arguments}\n{stderr}");
        assert_eq!(stdout, "", "hetero {arguments}");
    }
}

/// Checks that a document has a number at each of these places, written as `/decode/seconds`.
pub(crate) fn assert_numbers(document: &Value, places: &[&str]) {
    for place in places {
        let number = document.pointer(place).and_then(Value::as_f64);
        assert!(number.is_some_and(|number| number >= 0.0), "{place} in {document:#}");
    }
}

/// Models that were compared with another engine, by name; each is some hundred kilobytes.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hetero-llama/tests/fixtures");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.join("expected.safetensors").exists()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "the fixtures are part of the repository");
    folders
}

/// A path as an argument.
pub(crate) fn argument(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A tiny model that has a chat template: a fixture with this template.
pub(crate) fn model_with_template(template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fixture = fixtures().into_iter().find(|path| path.ends_with("llama3-gqa")).expect("the fixture");
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(fixture.join(name), folder.path().join(name)).expect("a copy");
    }
    fs::write(folder.path().join("chat_template.jinja"), template).expect("writable");
    folder
}
