//! Files that exist while a driver is tried: one that is left behind says that the process did not survive the trial.
//!
//! A marker is locked for as long as its process lives, whatever ends that, so a marker that can be locked is of a dead
//! one. What is in it is on the disk before the trial begins: a driver may take the whole machine with it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The ends of the names of markers, behind the number of the process.
const EXTENSION: &str = "trial";

/// Markers of this process.
static OWN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A trial that its process has not survived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Died {
    /// What was tried.
    pub case: String,
    /// The marker; without it the driver is tried again.
    pub file: PathBuf,
}

/// The markers of one device and driver.
#[derive(Debug)]
pub(super) struct Markers {
    /// What their names begin with, folder included.
    stem: PathBuf,
}

impl Markers {
    /// Beside what is kept for a device and driver.
    pub(super) fn beside(kept: &Path) -> Markers {
        Markers { stem: kept.with_extension("") }
    }

    /// A trial that a process has not survived, if there was one.
    pub(super) fn died(&self) -> Option<Died> {
        let name = self.stem.file_name()?.to_string_lossy().into_owned();
        let entries = fs::read_dir(self.stem.parent()?).ok()?;
        let is_marker = |path: &PathBuf| {
            let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
            file.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.'))
                && path.extension() == Some(EXTENSION.as_ref())
        };
        entries.flatten().map(|entry| entry.path()).filter(is_marker).find_map(|file| {
            // Empty when its process is just about to lock it, or died before it began.
            let case = left_in(&file).ok().flatten().filter(|case| !case.is_empty())?;
            Some(Died { case, file })
        })
    }

    /// Says that something is tried, until the marker is dropped. Where that cannot be kept, nothing is said.
    pub(super) fn set(&self, case: &str) -> Option<Marker> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.stem.with_extension(format!("{}-{number}.{EXTENSION}", std::process::id()));
        match Marker::new(path, case) {
            Ok(marker) => Some(marker),
            Err(error) => {
                tracing::debug!(%error, "no marker can be kept while a driver is tried");
                None
            }
        }
    }
}

/// What a dead process has left in a marker; `None` when the process lives.
fn left_in(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Some(text))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Something is being tried.
#[derive(Debug)]
pub(super) struct Marker {
    path: PathBuf,
    /// Keeps the lock.
    _file: File,
}

impl Marker {
    fn new(path: PathBuf, case: &str) -> io::Result<Marker> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&path)?;
        OWN.lock().push(path.clone());
        // From here on it is removed whatever goes wrong.
        let mut marker = Marker { path, _file: file.try_clone()? };
        file.lock()?;
        file.write_all(case.as_bytes())?;
        file.sync_all()?;
        marker._file = file;
        Ok(marker)
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        remove(&self.path);
        OWN.lock().retain(|own| *own != self.path);
    }
}

/// For a process that ends by its user's wish while drivers may be tried: it has not died of them.
pub fn withdraw_markers() {
    OWN.lock().drain(..).for_each(|path| remove(&path));
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "delete this file, or the GPU's driver is not used any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_has_left_counts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let markers = Markers::beside(&folder.path().join("new/gpu-verdicts-1.cache"));
        assert_eq!(markers.died(), None);
        let marker = markers.set("softmax f32").expect("a marker");
        let file = marker.path.clone();
        assert_eq!(markers.died(), None, "its process lives");
        let text = fs::read_to_string(&file).expect("the marker");
        assert_eq!(text, "softmax f32");
        drop(marker);
        assert!(!file.exists());
        // As a process leaves it that dies.
        fs::write(&file, text).expect("a file");
        assert_eq!(markers.died(), Some(Died { case: "softmax f32".to_owned(), file: file.clone() }));
        // Of another driver, or of nobody.
        assert_eq!(Markers::beside(&folder.path().join("new/gpu-verdicts-12.cache")).died(), None);
        assert_eq!(Markers::beside(&folder.path().join("new/gpu-verdicts-.cache")).died(), None);
        fs::write(&file, "").expect("a file");
        assert_eq!(markers.died(), None, "it had not begun");
    }
}
