//! The evaluation is the same on every run, whatever the number of threads, and a page that is not is found out.

use std::collections::BTreeMap;
use std::path::Path;

use crate::lab::Lab;
use crate::{Section, decode, write};

/// The smallest section that has a table, sentences and a figure.
const SECTIONS: [Section; 1] = [decode::write];

#[test]
fn two_runs_write_the_same_bytes() {
    let [first, second] = [1, 3].map(|n_threads| {
        let docs = tempfile::tempdir().expect("a folder");
        write(&Lab::on(n_threads), &SECTIONS, docs.path()).expect("a page");
        files(docs.path())
    });
    assert_eq!(first.len(), 2, "a page and a figure");
    assert!(first.values().all(|bytes| bytes.len() > 1000), "empty files are easily equal");
    assert!(first == second, "the two runs differ");
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string().replace(&folder.display().to_string(), ""), {
                std::fs::read(&path).expect("a file")
            });
        }
    }
    found
}
