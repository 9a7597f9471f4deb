//! The bytes of a weight file: mapped from disk, or already in memory.
//!
//! A mapped file costs no memory of its own: the pages that are read are the system's cache, and
//! [`MappedFile::advise_done`] gives them back as soon as a tensor has been consumed, so that loading a model never
//! holds two whole copies of it. This is the only file of the crate with `unsafe`.

use std::fmt::{self, Debug};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::LlamaError;
use crate::files::{self, refuse_lfs_pointer};

/// The bytes of one file, never changed while it exists.
pub struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    /// The file is kept open beside its map, so that its length can be asked again.
    Map(Mmap, File),
    /// Part of the program, such as the demo model.
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
}

impl MappedFile {
    /// Maps a file for reading. `expected` says what the file is, for messages.
    ///
    /// The file must not be changed in place while it is mapped. Replacing it (writing a new file and renaming it, as
    /// downloaders do) is fine, because the map keeps the old one.
    pub fn open(path: &Path, expected: &'static str) -> Result<MappedFile, LlamaError> {
        let file = files::open(path, expected)?;
        // SAFETY: What `Mmap::map` asks for is that nobody changes or shortens the file while the map lives. No program
        // can rule that out for a file on disk, so this is what bounds the harm, as in every engine that maps weights:
        // 1. The map is private and read-only and this process never writes to the file: only another process that
        //    rewrites the file in place can break the rule, and the documentation above forbids that to the user.
        // 2. Nothing whose value decides about memory safety is read from the map twice. The header is parsed once
        //    into owned numbers that were checked against the length of the map, which is fixed at this call; what
        //    stays in the map is tensor data, of which every bit pattern is a valid number. Changed data gives wrong
        //    numbers.
        // 3. A page beyond the end of a file that was shortened raises SIGBUS, which stops the process before anything
        //    is read. `check_length` lets the loader find that out first, before each tensor, and report it instead.
        let map =
            unsafe { Mmap::map(&file) }.map_err(|source| LlamaError::Read { file: path.to_path_buf(), source })?;
        refuse_lfs_pointer(&map, path, expected)?;
        Ok(MappedFile { path: path.to_path_buf(), bytes: Bytes::Map(map, file) })
    }

    /// Bytes that are part of the program; `name` stands for the path in messages.
    pub fn from_static(name: impl Into<PathBuf>, bytes: &'static [u8]) -> MappedFile {
        MappedFile { path: name.into(), bytes: Bytes::Static(bytes) }
    }

    /// Bytes on the heap; `name` stands for the path in messages.
    pub fn from_shared(name: impl Into<PathBuf>, bytes: Arc<[u8]>) -> MappedFile {
        MappedFile { path: name.into(), bytes: Bytes::Shared(bytes) }
    }

    /// Where the bytes come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file, as many as it had when it was opened.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Map(map, _) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }

    /// Copies the bytes from `start` on into `out` without touching the map.
    ///
    /// A page fault maps all that the system's cache holds in one piece, up to two megabytes: a prompt's rows of a large
    /// table, looked up through the map, would count half of the table as resident.
    ///
    /// # Panics
    /// When the file has not so many.
    pub fn read_at(&self, start: usize, out: &mut [u8]) {
        let mapped = &self.bytes()[start..start + out.len()];
        #[cfg(unix)]
        if let Bytes::Map(_, file) = &self.bytes {
            use std::os::unix::fs::FileExt;
            if file.read_exact_at(out, start as u64).is_ok() {
                return;
            }
        }
        // The map gives the same bytes wherever there is no positioned read, or it failed.
        out.copy_from_slice(mapped);
    }

    /// Checks that the file still has all its bytes; see the argument in [`MappedFile::open`].
    pub fn check_length(&self) -> Result<(), LlamaError> {
        let Bytes::Map(map, file) = &self.bytes else {
            return Ok(());
        };
        let metadata = file.metadata().map_err(|source| LlamaError::Read { file: self.path.clone(), source })?;
        if metadata.len() < map.len() as u64 {
            return Err(LlamaError::FileChanged {
                file: self.path.clone(),
                expected: map.len() as u64,
                found: metadata.len(),
            });
        }
        Ok(())
    }

    /// Gives the pages of a byte range back to the system. Reading them again is allowed and costs a page fault.
    ///
    /// # Panics
    /// When the range is not inside the file.
    pub fn advise_done(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.bytes().len(), "{range:?} is not inside {self:?}");
        #[cfg(unix)]
        if let Bytes::Map(map, _) = &self.bytes {
            // SAFETY: MADV_DONTNEED drops pages of this process's view. The map is of a file and was never written to,
            // so a dropped page has no content of its own: the next access reads the same bytes from the file again,
            // and references into the range stay valid. The range is inside the map by the assertion; rounding to
            // whole pages (memmap2 rounds the start down, the kernel rounds the end up) drops at most pages of
            // neighbours, for which the same holds.
            let result =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            if let Err(error) = result {
                // Only memory use is lost.
                tracing::debug!(file = %self.path.display(), %error, "pages were not given back");
            }
        }
    }
}

impl Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).expect("writable");
        let file = MappedFile::open(&path, "weights").expect("readable");
        assert_eq!(file.bytes(), content);
        file.advise_done(5_000..250_000);
        file.advise_done(0..content.len());
        file.advise_done(content.len()..content.len());
        assert_eq!(file.bytes(), content);
    }

    #[test]
    fn positioned_reads_and_the_map_agree() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..20_000u32).map(|i| (i % 253) as u8).collect();
        std::fs::write(&path, &content).expect("writable");
        let mapped = MappedFile::open(&path, "weights").expect("readable");
        let shared = MappedFile::from_shared("memory", content.as_slice().into());
        for range in [0..0, 0..1, 4_095..12_289, 19_999..20_000, 0..20_000] {
            let mut out = vec![0; range.len()];
            for file in [&mapped, &shared] {
                out.fill(0);
                file.read_at(range.start, &mut out);
                assert_eq!(out, content[range.clone()]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn reading_past_the_end_is_misuse() {
        MappedFile::from_static("memory", b"abc").read_at(2, &mut [0; 2]);
    }

    #[test]
    fn a_shortened_file_is_noticed_and_a_grown_one_keeps_its_length() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7u8; 10_000]).expect("writable");
        let file = MappedFile::open(&path, "weights").expect("readable");
        let writer = File::options().write(true).open(&path).expect("writable");

        writer.set_len(20_000).expect("writable");
        assert_eq!(file.bytes().len(), 10_000);
        file.check_length().expect("nothing is missing");

        writer.set_len(100).expect("writable");
        let error = file.check_length().expect_err("bytes are missing");
        assert!(matches!(error, LlamaError::FileChanged { expected: 10_000, found: 100, .. }));
    }

    #[test]
    #[should_panic(expected = "is not inside")]
    fn a_range_outside_is_misuse() {
        MappedFile::from_static("memory", b"abc").advise_done(1..4);
    }
}
