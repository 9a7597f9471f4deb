//! The steps, in the order in which they fail cheapest.

use super::command::Invocation;
use super::needs::Need;
use super::{Run, Step, arm, gpu, readme};
use crate::workspace;
use anyhow::Result;

const CLIPPY: Need = Need::Component { command: "clippy", component: "clippy" };

/// Every step.
pub(super) const ALL: &[Step] = &[
    Step {
        name: "fmt",
        about: "rustfmt finds nothing to change",
        needs: &[Need::Component { command: "fmt", component: "rustfmt" }],
        run: |run| run.check(Invocation::cargo("fmt --all --check")).map(drop),
    },
    Step {
        name: "clippy",
        about: "no lint fires in any target",
        needs: &[CLIPPY],
        run: |run| {
            let line = "clippy --workspace --all-targets -- -D warnings";
            run.check(Invocation::cargo(line)).map(drop)
        },
    },
    Step {
        name: "docs",
        about: "the documentation builds without a warning",
        needs: &[],
        run: |run| {
            let line = Invocation::cargo("doc --no-deps --workspace");
            run.check(line.env("RUSTDOCFLAGS", "-D warnings")).map(drop)
        },
    },
    Step { name: "tests", about: "unit, integration and documentation tests", needs: &[], run: tests },
    Step {
        name: "gpu",
        about: "the GPU backends, their kernels, and models on them, with Mesa's software driver",
        needs: gpu::NEEDS,
        run: gpu::tests,
    },
    Step { name: "isa", about: "the CPU kernels again, held to each narrower instruction set", needs: &[], run: isa },
    Step {
        name: "readme",
        about: "the README's commands work with the release binary",
        needs: &[Need::Program { program: "bash", package: "bash" }],
        run: readme::run,
    },
    Step {
        name: "features",
        about: "no lint fires without default features, with each feature alone, and with all",
        needs: &[CLIPPY],
        run: features,
    },
    Step {
        name: "aarch64",
        about: "the Arm kernels under emulation, on three models of CPU",
        needs: arm::EMULATION_NEEDS,
        run: arm::emulated_tests,
    },
    Step {
        name: "android",
        about: "the libraries, GPU backends among them, compile for Android and for Linux on Arm",
        needs: arm::COMPILE_NEEDS,
        run: arm::compile_check,
    },
    Step {
        name: "miri",
        about: "hetero-core, alone and shared by threads, has no undefined behaviour that miri can see",
        needs: &[Need::Nightly, Need::NightlyMiri],
        run: |run| {
            let flags = "-Zmiri-strict-provenance -Zmiri-symbolic-alignment-check";
            for tests in ["-p hetero-core --tests", "-p hetero-sched --test rights"] {
                let line = Invocation::cargo("+nightly miri test").words(tests);
                run.check_tests(line.target_dir("miri").env("MIRIFLAGS", flags))?;
            }
            Ok(())
        },
    },
    Step {
        name: "loom",
        about: "what waits in hetero-sched holds in every interleaving of threads",
        needs: &[],
        run: |run| {
            let line = Invocation::cargo("test -p hetero-sched --test loom --release");
            run.check_tests(line.target_dir("loom").env("RUSTFLAGS", "--cfg loom")).map(drop)
        },
    },
    Step {
        name: "deny",
        about: "licences, sources and banned crates among the dependencies",
        needs: &[Need::CargoTool { command: "deny", package: "cargo-deny" }],
        // Advisories come from the network, so they are not part of a check that must repeat.
        run: |run| {
            // The packages of all platforms, which a build for this one does not fetch.
            run.check(Invocation::cargo("fetch --quiet"))?;
            let line = "deny --offline --all-features check bans licenses sources";
            run.check(Invocation::cargo(line)).map(drop)
        },
    },
    Step {
        name: "fuzz-check",
        about: "the fuzz targets compile",
        needs: &[Need::Program { program: "c++", package: "g++" }],
        run: fuzz_check,
    },
];

fn tests(run: &mut Run) -> Result<()> {
    let nextest = Need::CargoTool { command: "nextest", package: "cargo-nextest" };
    if nextest.is_met() {
        let line = Invocation::cargo("nextest run --workspace --no-fail-fast --no-tests=pass")
            .words(&gpu::excluded())
            .words("--config-file .ci/nextest.toml")
            .words("--status-level=all --final-status-level=fail --success-output=immediate");
        run.check_tests(line)?;
    } else {
        let line = Invocation::cargo("test --workspace --all-targets --no-fail-fast").words(&gpu::excluded());
        run.check_tests(line.words("-- --show-output"))?;
    }
    let line = Invocation::cargo("test --workspace --doc --no-fail-fast").words(&gpu::excluded());
    run.check_tests(line).map(drop)
}

/// Instruction sets that `HETERO_CPU_ISA` takes on this machine, and whether the CPU has each.
fn instruction_sets() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    let sets = vec![
        ("scalar", true),
        (
            "avx2",
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
        ),
    ];
    #[cfg(target_arch = "aarch64")]
    let sets = vec![("scalar", true), ("neon", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let sets = vec![("scalar", true)];
    sets
}

fn isa(run: &mut Run) -> Result<()> {
    for (name, present) in instruction_sets() {
        if present {
            let line = "test -p backend-cpu-simd --tests --no-fail-fast -- --show-output";
            let compiled = run.check_tests(Invocation::cargo(line).env("HETERO_CPU_ISA", name))?;
            if !compiled {
                break;
            }
        } else {
            run.skip_part(name, "this CPU does not have it");
        }
    }
    Ok(())
}

/// Reads the features from the manifests, so that a new feature is checked from its first day.
fn features(run: &mut Run) -> Result<()> {
    let mut lines = Vec::new();
    for package in run.metadata.workspace_packages() {
        let mut names: Vec<&str> = package.features.keys().map(String::as_str).collect();
        names.retain(|name| *name != "default");
        if names.is_empty() {
            continue;
        }
        let base = format!("clippy -p {} --all-targets", package.name);
        lines.push(format!("{base} --no-default-features"));
        for name in &names {
            lines.push(format!("{base} --no-default-features --features {name}"));
        }
        lines.push(format!("{base} --all-features"));
    }
    for line in lines {
        run.check(Invocation::cargo(&line).words("-- -D warnings"))?;
    }
    Ok(())
}

fn fuzz_check(run: &mut Run) -> Result<()> {
    let folder = workspace::root().join("fuzz");
    if !folder.join("Cargo.toml").exists() {
        run.skip_step("there are no fuzz targets yet");
        return Ok(());
    }
    let line = Invocation::cargo("check --all-targets").dir(folder);
    run.check(line.target_dir("fuzz")).map(drop)
}
