//! The allowed edges between the workspace's crates, held against `cargo metadata`.
//!
//! Crates are layers and arrows point down only. A new edge is the rarest kind of change: it is made here first, and
//! `docs/architecture.md` says why.

use anyhow::Result;
use cargo_metadata::{Dependency, DependencyKind, Metadata, Package};

/// What one crate may depend on among ours.
struct Layer {
    name: &'static str,
    /// Dependencies of what ships.
    normal: &'static [&'static str],
    /// Dependencies of its tests, in addition.
    tests: &'static [&'static str],
}

const CORE: &str = "hetero-core";
const SUITE: &[&str] = &["hetero-conformance"];
const GPU: &[&str] = &[CORE, "hetero-shaders"];

/// Every crate of the workspace, from the bottom up.
const LAYERS: &[Layer] = &[
    layer(CORE, &[], &[]),
    layer("hetero-conformance", &[CORE], &[]),
    layer("hetero-shaders", &[CORE], SUITE),
    layer("backend-cpu-simd", &[CORE], SUITE),
    layer("backend-gpu-vulkano", GPU, SUITE),
    layer("backend-gpu-wgpu", GPU, SUITE),
    layer("backend-npu-qnn", &[CORE], SUITE),
    layer("backend-npu-sim", &[CORE], SUITE),
    layer("hetero-sched", &[CORE], SUITE),
    layer(
        "hetero-llama",
        &[
            CORE,
            "hetero-sched",
            "backend-cpu-simd",
            "backend-gpu-vulkano",
            "backend-gpu-wgpu",
            "backend-npu-qnn",
            "backend-npu-sim",
        ],
        SUITE,
    ),
    layer("hetero-cli", &[CORE, "hetero-llama", "hetero-sched"], &[]),
    layer(
        "benches",
        &[
            CORE,
            "hetero-llama",
            "hetero-sched",
            "backend-cpu-simd",
            "backend-gpu-vulkano",
            "backend-gpu-wgpu",
            "backend-npu-qnn",
            "backend-npu-sim",
        ],
        SUITE,
    ),
    // The chores work while the engine does not compile.
    layer("xtask", &[], &[]),
];

const fn layer(name: &'static str, normal: &'static [&'static str], tests: &'static [&'static str]) -> Layer {
    Layer { name, normal, tests }
}

/// Checks every edge between workspace crates.
pub(super) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let packages = metadata.workspace_packages();
    let ours: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            findings.push(format!("{name}: in no layer of xtask/src/tidy/layers.rs"));
            continue;
        };
        for dependency in &package.dependencies {
            if ours.contains(&dependency.name.as_str()) {
                findings.extend(check_edge(layer, package, dependency));
            }
        }
    }
    Ok(findings)
}

fn check_edge(layer: &Layer, package: &Package, dependency: &Dependency) -> Option<String> {
    let target = dependency.name.as_str();
    let for_tests = dependency.kind == DependencyKind::Development;
    let allowed = layer.normal.contains(&target) || (for_tests && layer.tests.contains(&target));
    if !allowed {
        let edge = if for_tests { " in its tests" } else { "" };
        return Some(format!("{}: may not depend on {target}{edge}", package.name));
    }
    // Backends are features of the library, so that any subset compiles.
    let must_be_optional = layer.name == "hetero-llama" && target.starts_with("backend-") && !for_tests;
    (must_be_optional && !dependency.optional)
        .then(|| format!("{}: {target} must be an optional dependency", package.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_down() {
        for (index, layer) in LAYERS.iter().enumerate() {
            for target in layer.normal.iter().chain(layer.tests) {
                let below = LAYERS[..index].iter().any(|lower| lower.name == *target);
                assert!(below, "{} -> {target} does not point down", layer.name);
            }
        }
    }

    #[test]
    fn the_suite_does_not_ship() {
        for layer in LAYERS {
            assert!(!layer.normal.contains(&"hetero-conformance"), "{}", layer.name);
        }
    }
}
