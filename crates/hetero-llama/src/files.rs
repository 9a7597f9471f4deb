//! Opens the files of a model, with errors that say what each was for.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::LlamaError;

/// The largest JSON or template file that is read: the biggest tokenizers have some 30 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Opens a regular file for reading.
pub(crate) fn open(path: &Path, expected: &'static str) -> Result<File, LlamaError> {
    let file = File::open(path).map_err(|source| read_error(path, expected, source))?;
    let metadata = file.metadata().map_err(|source| read_error(path, expected, source))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "no regular file" };
        return Err(LlamaError::WrongFileKind { file: path.to_path_buf(), expected, found: found.into() });
    }
    Ok(file)
}

/// Reads a whole small file.
pub(crate) fn read(path: &Path, expected: &'static str) -> Result<Vec<u8>, LlamaError> {
    let mut bytes = Vec::new();
    // One byte past the limit shows that the file goes on, whatever its metadata say.
    open(path, expected)?
        .take(MAX_TEXT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| read_error(path, expected, source))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(LlamaError::WrongFileKind {
            file: path.to_path_buf(),
            expected,
            found: format!("more than {MAX_TEXT_BYTES} bytes"),
        });
    }
    refuse_lfs_pointer(&bytes, path, expected)?;
    Ok(bytes)
}

/// Reads a whole small file, or nothing when there is none.
pub(crate) fn read_optional(path: &Path, expected: &'static str) -> Result<Option<Vec<u8>>, LlamaError> {
    match read(path, expected) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(LlamaError::MissingFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A clone without Git LFS has this text in place of each large file.
pub(crate) fn refuse_lfs_pointer(bytes: &[u8], path: &Path, expected: &'static str) -> Result<(), LlamaError> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(LlamaError::LfsPointer { file: path.to_path_buf(), expected });
    }
    Ok(())
}

fn read_error(path: &Path, expected: &'static str, source: std::io::Error) -> LlamaError {
    let file = path.to_path_buf();
    match source.kind() {
        ErrorKind::NotFound => LlamaError::MissingFile { file, expected },
        ErrorKind::NotADirectory => LlamaError::WrongFileKind {
            file: path.parent().unwrap_or(path).to_path_buf(),
            expected: "a folder",
            found: "a file".into(),
        },
        _ => LlamaError::Read { file, source },
    }
}
