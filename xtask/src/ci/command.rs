//! A child process that is shown before it runs and whose output is kept.

use super::tally::Runner;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A command line with its environment; `Display` prints it as one would type it.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: Option<PathBuf>,
}

impl Invocation {
    /// A command line without arguments.
    pub(crate) fn new(program: &str) -> Self {
        Self { program: program.to_owned(), args: Vec::new(), env: Vec::new(), dir: None }
    }

    /// `cargo` with the words of `line` as arguments.
    pub(crate) fn cargo(line: &str) -> Self {
        Self::new("cargo").words(line)
    }

    /// Adds the words of `line`, separated by blanks.
    pub(crate) fn words(mut self, line: &str) -> Self {
        self.args.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    /// Adds one argument as it is.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Adds `-p NAME` for each package.
    pub(crate) fn packages<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            self.args.extend(["-p".to_owned(), name.to_owned()]);
        }
        self
    }

    /// Sets an environment variable for the child.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Builds into a folder of its own below cargo's, where other settings would make cargo build all again.
    pub(crate) fn target_dir(self, name: &str) -> Self {
        let folder = crate::workspace::target_dir().join(name);
        self.env("CARGO_TARGET_DIR", &folder.to_string_lossy())
    }

    /// Runs in `dir` instead of the current folder.
    pub(crate) fn dir(mut self, dir: PathBuf) -> Self {
        self.dir = Some(dir);
        self
    }

    /// The words without the environment: enough to recognise it by.
    pub(crate) fn brief(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// Whose test results this command prints.
    pub(crate) fn runner(&self) -> Runner {
        match self.args.first() {
            Some(first) if first == "nextest" => Runner::Nextest,
            _ => Runner::Libtest,
        }
    }

    /// The child as the standard library has it, without standard input.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        for (key, value) in &self.env {
            command.env(key, value);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs to the end with both output streams in one, kept in `log` and returned; `echo` shows them too.
    pub(crate) fn run_logged(&self, log: &Path, echo: bool) -> Result<Finished> {
        let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        writeln!(file, "$ {self}")?;
        let (reader, writer) = io::pipe()?;
        let mut command = self.command();
        command.env("CARGO_TERM_COLOR", "never");
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.program))?;
        // The parent's copies of the pipe's end go away with it, so that reading stops when the child does.
        drop(command);

        let mut output = String::new();
        let mut lines = BufReader::new(reader);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            file.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            if echo {
                print!("{text}");
            }
            output.push_str(&text);
            line.clear();
        }
        let status = child.wait()?;
        Ok(Finished { success: status.success(), ending: status.to_string(), output })
    }
}

/// What a child left behind.
pub(crate) struct Finished {
    /// It returned 0.
    pub(crate) success: bool,
    /// Exit code or signal in words.
    pub(crate) ending: String,
    /// Both output streams, in the order of writing.
    pub(crate) output: String,
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.dir {
            let shown = dir.strip_prefix(crate::workspace::root()).unwrap_or(dir);
            write!(f, "(cd {}) ", shown.display())?;
        }
        for (key, value) in &self.env {
            write!(f, "{key}={} ", quoted(value))?;
        }
        f.write_str(&self.brief())
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_one_would_type_it() {
        let line = Invocation::cargo("test --workspace")
            .packages(["hetero-core"])
            .arg("it's")
            .env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(line.to_string(), r"RUSTDOCFLAGS='-D warnings' cargo test --workspace -p hetero-core 'it'\''s'");
    }
}
