//! Standard output, standard error, and files that are there as a whole or not at all.
//!
//! The printing macros of the standard library panic when nobody reads what they print; these functions do not.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Writes to standard output and flushes, so that text appears as it is made.
pub(crate) fn write_stdout(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let result = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::StdoutClosed,
        _ => CliError::Stdout(error),
    })
}

/// Writes a line to standard error. When nobody reads it, nothing is lost that could be told elsewhere.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A number of bytes for people, in powers of ten.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A time for people.
pub(crate) fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}

/// A file that takes its name only when it is complete, so that nobody finds half of it.
pub(crate) struct OutputFile {
    writer: BufWriter<File>,
    /// The name that the user gave, for messages.
    asked: PathBuf,
    /// What the finished file is called; `None` when there is nothing to rename, such as for a pipe.
    rename: Option<Rename>,
}

struct Rename {
    from: PathBuf,
    to: PathBuf,
    is_done: bool,
}

impl OutputFile {
    /// Begins a file. What has the name now stays until [`OutputFile::finish`]; devices and pipes are written directly.
    pub(crate) fn create(path: &Path) -> Result<OutputFile, CliError> {
        let error = |source| CliError::Create { file: path.to_path_buf(), source };
        // A link stays a link: what it leads to is replaced.
        let to = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let metadata = fs::metadata(&to);
        if metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err(error(io::ErrorKind::IsADirectory.into()));
        }
        let is_special = metadata.is_ok_and(|metadata| !metadata.is_file());
        let Some(name) = to.file_name() else {
            return Err(error(io::ErrorKind::InvalidFilename.into()));
        };
        let (file, rename) = if is_special {
            (OpenOptions::new().write(true).open(&to).map_err(error)?, None)
        } else {
            let mut part = name.to_os_string();
            part.push(format!(".{}.part", std::process::id()));
            let from = to.with_file_name(part);
            let file = OpenOptions::new().write(true).create_new(true).open(&from).map_err(error)?;
            (file, Some(Rename { from, to, is_done: false }))
        };
        Ok(OutputFile { writer: BufWriter::new(file), asked: path.to_path_buf(), rename })
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        let result = self.writer.flush().and_then(|()| match &mut self.rename {
            Some(rename) => rename.finish(),
            None => Ok(()),
        });
        result.map_err(|source| self.write_error(source))
    }

    /// An error of writing to it.
    pub(crate) fn write_error(&self, source: io::Error) -> CliError {
        CliError::Write { file: self.asked.clone(), source }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Rename {
    fn finish(&mut self) -> io::Result<()> {
        fs::rename(&self.from, &self.to)?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Rename {
    fn drop(&mut self) {
        if !self.is_done {
            // An incomplete file is of no use; when it cannot be removed either, its name says what it is.
            let _ = fs::remove_file(&self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_three_digits() {
        assert_eq!(bytes_text(0), "0 kB");
        assert_eq!(bytes_text(264_000), "264 kB");
        assert_eq!(bytes_text(10_957_216), "11 MB");
        assert_eq!(bytes_text(1_649_267_442), "1.6 GB");
    }

    #[test]
    fn an_unfinished_file_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("result");
        fs::write(&path, "old").expect("writable");
        let mut file = OutputFile::create(&path).expect("writable");
        file.write_all(b"new").expect("writable");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("readable"), "old");
        let mut file = OutputFile::create(&path).expect("writable");
        file.write_all(b"new").expect("writable");
        file.finish().expect("writable");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "new");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
}
