//! The changelog's newest entry is the version that the manifest names, or what is not yet released.

use anyhow::{Context, Result};
use cargo_metadata::Metadata;
use std::fs;
use std::path::Path;

/// Compares `CHANGELOG.md` with the version of the workspace.
pub(super) fn check(root: &Path, metadata: &Metadata) -> Result<Option<String>> {
    let text = fs::read_to_string(root.join("CHANGELOG.md")).context("cannot read CHANGELOG.md")?;
    let version = metadata
        .workspace_packages()
        .first()
        .map(|package| package.version.to_string())
        .context("the workspace has no packages")?;
    Ok(finding(&text, &version))
}

fn finding(changelog: &str, version: &str) -> Option<String> {
    let top = changelog.lines().find_map(|line| line.strip_prefix("## [")).and_then(|rest| rest.split(']').next());
    match top {
        Some(top) if top == "Unreleased" || top == version => None,
        Some(top) => Some(format!("CHANGELOG.md: its newest entry is {top}, the workspace is {version}")),
        None => Some("CHANGELOG.md: has no entry of the form `## [version]`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entry_is_compared() {
        assert_eq!(finding("# Log\n\n## [Unreleased]\n", "1.0.0"), None);
        assert_eq!(finding("## [1.0.0] - 2026-01-01\n## [0.9.0]\n", "1.0.0"), None);
        assert!(finding("## [0.9.0]\n", "1.0.0").is_some());
        assert!(finding("# Log\n", "1.0.0").is_some());
    }
}
