//! What can be wrong with a SoC file.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Soc;

/// Why a system could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocError {
    /// The name is neither that of a built-in system nor a path.
    Unknown {
        /// The name.
        name: String,
    },
    /// The file could not be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The file says something that cannot be.
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, counted from one, where it is known.
        line: Option<usize>,
        /// The key, its tables in front of it (`bus.combined.gb_per_s`); empty when it is not known.
        key: String,
        /// What was found, what is allowed, and what to do.
        problem: String,
    },
}

impl fmt::Display for SocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocError::Unknown { name } => write!(
                f,
                "there is no system {name:?}: give one of {}, or the path of a SoC file",
                Soc::builtin_names().join(", ")
            ),
            SocError::Unreadable { file, error } => write!(f, "cannot read the SoC file {}: {error}", file.display()),
            SocError::Invalid { file, line, key, problem } => {
                write!(f, "{}", file.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if !key.is_empty() {
                    write!(f, ": {key}")?;
                }
                // The parser's own messages have several lines.
                write!(f, ": {}", problem.trim_end().replace('\n', ", "))
            }
        }
    }
}

impl std::error::Error for SocError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SocError::Unreadable { error, .. } => Some(error),
            _ => None,
        }
    }
}
