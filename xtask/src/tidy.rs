//! `cargo xtask tidy`: rules of this workspace that no compiler checks. They also run as tests of this crate.

mod changelog;
mod knobs;
mod layers;
mod text;

use crate::workspace;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const FOREIGN: &[&str] = &["target", "__pycache__", "node_modules"];

/// Runs every check and prints what it finds; an error if there is anything.
pub(crate) fn run() -> Result<()> {
    let findings = findings(&workspace::root())?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("tidy found one thing to put right"),
        n => bail!("tidy found {n} things to put right"),
    }
}

fn findings(root: &Path) -> Result<Vec<String>> {
    let metadata = workspace::metadata()?;
    let mut findings = text::check(root)?;
    findings.extend(layers::check(&metadata)?);
    findings.extend(knobs::check(root)?);
    findings.extend(changelog::check(root, &metadata)?);
    Ok(findings)
}

/// Every file of the tree that is ours and ends in `.extension`, sorted.
pub(crate) fn files_with_extension(root: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = files(root);
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files
}

/// Every file of the tree that is ours, sorted; `.ci`, `.cargo` and `.github` are, other hidden folders are not.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = match name.strip_prefix('.') {
                Some(hidden) => ["ci", "cargo", "github", "gitignore"].contains(&hidden),
                None => !FOREIGN.contains(&name.as_str()),
            };
            // A link may lead anywhere, so it is neither read nor entered.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && is_ours => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && is_ours => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// A path as findings show it.
fn shown(file: &Path, root: &Path) -> String {
    let inside = file.strip_prefix(root).unwrap_or(file);
    inside.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let findings = findings(&workspace::root()).expect("the checks themselves work");
        assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
    }
}
