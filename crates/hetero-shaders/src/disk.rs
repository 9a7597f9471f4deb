//! Files that GPU backends keep from one run to the next: what they hold is true of one device, driver and version of the
//! kernels, and anything else is ignored.
//!
//! A file is written beside its place and then moved there, so that nobody reads half of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Features, Kernel};

/// First line of a file; the number is the version of its form.
const HEAD: &str = "hetero gpu cache 1";

/// A file that is kept for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    path: PathBuf,
    identity: String,
}

impl KeptFile {
    /// The file of some `kind` (`verdicts`, `pipelines`) in a folder. `driver` is everything about interface, device and
    /// driver that what it holds depends on; the kernels are added.
    pub fn new(folder: &Path, kind: &str, driver: &str) -> KeptFile {
        let identity = format!("{} kernels {:016x}", driver.replace(['\n', '\r'], " "), kernel_version());
        let name = format!("gpu-{kind}-{:016x}.cache", fnv(FNV_OFFSET, identity.as_bytes()));
        KeptFile { path: folder.join(name), identity }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept; `None` when there is nothing, or nothing that can be trusted, about which the log has a warning.
    pub fn load(&self) -> Option<Vec<u8>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "what was kept for a GPU cannot be read");
                return None;
            }
        };
        let held = self.head(&[]).len();
        let (head, held) = bytes.split_at_checked(held).unwrap_or((&bytes, &[]));
        if head == self.head(held).as_bytes() {
            return Some(held.to_vec());
        }
        tracing::warn!(file = %self.path.display(), "what was kept for a GPU is damaged or foreign, and ignored");
        None
    }

    /// Keeps something in the place of what was kept before. That it cannot is a warning in the log: nothing is lost but
    /// time.
    pub fn store(&self, held: &[u8]) {
        if let Err(error) = self.write(held) {
            tracing::warn!(file = %self.path.display(), %error, "nothing can be kept for a GPU");
        }
    }

    fn write(&self, held: &[u8]) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut bytes = self.head(held).into_bytes();
        bytes.extend_from_slice(held);
        fs::write(&beside, bytes)?;
        fs::rename(&beside, &self.path).inspect_err(|_| drop(fs::remove_file(&beside)))
    }

    /// What stands before the bytes, always of the same length.
    fn head(&self, held: &[u8]) -> String {
        let sum = fnv(FNV_OFFSET, held);
        format!("{HEAD}\n{}\n{:016x} {:016x}\n", self.identity, held.len(), sum)
    }
}

/// A number that changes with the source of the kernels: a hash of some of every family, formats and types among them.
fn kernel_version() -> u64 {
    static VERSION: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *VERSION.get_or_init(|| {
        let mut families = Vec::new();
        let mut hash = fnv(FNV_OFFSET, env!("CARGO_PKG_VERSION").as_bytes());
        for (idx, kernel) in Kernel::all().into_iter().enumerate() {
            let is_first = !families.contains(&kernel.family());
            if is_first {
                families.push(kernel.family());
            }
            // A prime, so that all types and formats get their turn.
            if is_first || idx % 101 == 0 {
                let features = Features { f16: true, subgroups: true, integer_dot: true, half: true };
                for features in [Features::default(), features] {
                    hash = fnv(hash, kernel.shader(features).wgsl.as_bytes());
                }
            }
        }
        hash
    })
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a with 64 bits (Fowler, Noll, Vo): the standard library's hash may change with its version.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_by_the_same_driver_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = KeptFile::new(&folder.path().join("new"), "verdicts", "vendor 1 driver 2");
        assert_eq!(file.load(), None);
        file.store(b"something");
        file.store(b"something else");
        assert_eq!(file.load().as_deref(), Some(&b"something else"[..]));
        let other = KeptFile::new(&folder.path().join("new"), "verdicts", "vendor 1 driver 3");
        assert_eq!(other.load(), None);
        assert_ne!(other.path(), file.path());
        // A file in a place that is not its own.
        fs::copy(file.path(), other.path()).expect("a copy");
        assert_eq!(other.load(), None);
    }

    #[test]
    fn damaged_files_are_ignored_and_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = KeptFile::new(folder.path(), "pipelines", "driver");
        file.store(&[7; 1000]);
        let whole = fs::read(file.path()).expect("the file");
        let mut changed = whole.clone();
        *changed.last_mut().expect("bytes") ^= 1;
        for damaged in [&whole[..whole.len() - 1], &whole[..20], &[], &changed] {
            fs::write(file.path(), damaged).expect("the file");
            assert_eq!(file.load(), None);
        }
        file.store(&[8; 10]);
        assert_eq!(file.load(), Some(vec![8; 10]));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
    }
}
