//! What can go wrong, how it is told, and the exit code that it becomes.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use hetero_llama::LlamaError;
use hetero_sched::SchedError;

use crate::output::note;

/// A failure of a command.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The engine's, which knows itself whether the input is at fault.
    Llama(LlamaError),
    /// Arguments that are wrong in a way that the parser of arguments does not see.
    Usage {
        /// What was expected and what was found.
        message: String,
        /// What the user can do.
        fix: String,
    },
    /// A file of the user's that cannot be read.
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A result file that cannot be made.
    Create {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A result file that could not be written to its end.
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard input cannot be read.
    Stdin(io::Error),
    /// Standard output cannot be written.
    Stdout(io::Error),
    /// The terminal cannot be read.
    Terminal(rustyline::error::ReadlineError),
    /// Whoever reads standard output has had enough, such as `head`. There is nothing more to do and nothing to tell.
    StdoutClosed,
}

impl CliError {
    /// Tells it on standard error, with its causes and its fix.
    pub(crate) fn report(&self) {
        if matches!(self, CliError::StdoutClosed) {
            return;
        }
        let mut told = self.to_string();
        note(format_args!("error: {told}"));
        let mut cause = self.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // Many messages contain that of their cause already.
            if !told.contains(&text) {
                note(format_args!("cause: {text}"));
                told.push_str(&text);
            }
            cause = inner.source();
        }
        note(format_args!("fix: {}", self.fix()));
    }

    /// The exit code that it becomes.
    pub(crate) fn exit_code(&self, strict: bool) -> u8 {
        match self {
            CliError::StdoutClosed => 0,
            CliError::Llama(LlamaError::Run(SchedError::Unsupported { .. })) if strict => 3,
            // A device that failed: without `--strict` the others would have gone on.
            CliError::Llama(LlamaError::Run(error)) if strict && error.device_idx().is_some() => 3,
            CliError::Llama(error) if error.is_bad_input() => 2,
            CliError::Usage { .. } | CliError::Read { .. } | CliError::Create { .. } => 2,
            CliError::Stdin(source) if source.kind() == io::ErrorKind::InvalidData => 2,
            _ => 1,
        }
    }

    fn fix(&self) -> String {
        match self {
            CliError::Llama(error) => error.fix(),
            CliError::Usage { fix, .. } => fix.clone(),
            CliError::Read { .. } => "check the path and its permissions; text files have to be UTF-8".into(),
            CliError::Create { .. } => "choose a path in a folder that exists and that you may write to".into(),
            CliError::Write { .. } => "check that the disk has room, then start again".into(),
            CliError::Stdin(_) => "give the text as UTF-8".into(),
            CliError::Stdout(_) => "check that the disk or the program that standard output leads to has room".into(),
            CliError::Terminal(_) => "pipe the text in instead: `echo Hello | hetero chat`".into(),
            CliError::StdoutClosed => String::new(),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Llama(error) => error.fmt(f),
            CliError::Usage { message, .. } => f.write_str(message),
            CliError::Read { file, source } => {
                write!(f, "{}: cannot be read: {source}", file.display())
            }
            CliError::Create { file, source } => {
                write!(f, "{}: cannot be written: {source}", file.display())
            }
            CliError::Write { file, source } => {
                write!(f, "{}: writing failed: {source}", file.display())
            }
            CliError::Stdin(source) => write!(f, "standard input cannot be read: {source}"),
            CliError::Stdout(source) => write!(f, "standard output cannot be written: {source}"),
            CliError::Terminal(source) => write!(f, "the terminal cannot be read: {source}"),
            CliError::StdoutClosed => f.write_str("standard output was closed"),
        }
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            CliError::Llama(error) => error.source(),
            _ => None,
        }
    }
}

impl From<LlamaError> for CliError {
    fn from(error: LlamaError) -> Self {
        CliError::Llama(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let unsupported =
            || SchedError::Unsupported { device: "npu".into(), op: "attention".into(), reason: "too long".into() };
        let error = CliError::Llama(LlamaError::Run(unsupported()));
        assert_eq!((error.exit_code(true), error.exit_code(false)), (3, 1));
        assert_eq!(CliError::Llama(LlamaError::EmptyPrompt).exit_code(true), 2);
        assert_eq!(CliError::Llama(LlamaError::Cancelled).exit_code(true), 1);
    }
}
