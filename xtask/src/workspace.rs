//! Where the workspace is and what `cargo metadata` says of it.

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::env;
use std::path::{Path, PathBuf};

/// The folder of the root manifest.
pub(crate) fn root() -> PathBuf {
    let manifest_dir =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir.parent().map_or_else(|| manifest_dir.clone(), Path::to_path_buf)
}

/// The folder that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    let root = root();
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The workspace's own packages and their direct dependencies.
pub(crate) fn metadata() -> Result<Metadata> {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().context("cargo metadata failed")
}

/// Names of the packages that run the conformance suite: those with it among their dev-dependencies.
pub(crate) fn conformance_consumers(metadata: &Metadata) -> Vec<String> {
    let uses_suite = |package: &&Package| {
        package
            .dependencies
            .iter()
            .any(|dependency| dependency.kind == DependencyKind::Development && dependency.name == "hetero-conformance")
    };
    metadata.workspace_packages().into_iter().filter(uses_suite).map(|package| package.name.to_string()).collect()
}
