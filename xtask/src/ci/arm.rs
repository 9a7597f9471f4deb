//! Arm on any machine: tests under qemu's user-mode emulation, and a compile of what has no emulator.
//!
//! Linker and runner are settings of the child process and not of `.cargo/config.toml`, where they would also apply
//! on a real Arm machine.

use super::Run;
use super::command::Invocation;
use super::needs::Need;
use crate::workspace;
use anyhow::Result;

const LINUX: &str = "aarch64-unknown-linux-gnu";

/// The Rust targets that libraries are compiled for without being tested on them: Android phones, and Linux on Arm,
/// where a GPU has no emulator.
pub(super) const COMPILED: [&str; 2] = ["aarch64-linux-android", LINUX];

/// What compiling needs.
pub(super) const COMPILE_NEEDS: &[Need] = &[Need::Target(COMPILED[0]), Need::Target(COMPILED[1])];

/// Crates whose tests run under emulation beside the users of the conformance suite.
const EMULATED: &[&str] = &["hetero-core", "hetero-sched"];

/// Crates that contain no foreign code, so that they compile for Android without its NDK and for Arm without its linker.
const PURE_RUST: &[&str] = &[
    "hetero-core",
    "hetero-shaders",
    "backend-cpu-simd",
    "backend-gpu-vulkano",
    "backend-gpu-wgpu",
    "hetero-sched",
    "hetero-llama",
];

/// What the emulated tests need.
pub(super) const EMULATION_NEEDS: &[Need] = &[
    Need::Program { program: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu" },
    Need::Program { program: "qemu-aarch64", package: "qemu-user" },
    Need::File { path: "/usr/aarch64-linux-gnu/lib/libc.so.6", package: "libc6-dev-arm64-cross" },
    Need::Target(LINUX),
];

/// A CPU that qemu can be, and the features beyond NEON that its tests must find.
struct Model {
    name: &'static str,
    features: &'static str,
}

/// Armv8.0 (wrong gating dies of an illegal instruction), a phone of 2019, and everything.
const MODELS: [Model; 3] = [
    Model { name: "cortex-a53", features: "" },
    Model { name: "neoverse-n1", features: "dotprod,fp16" },
    Model { name: "max", features: "dotprod,fp16,i8mm,fhm,bf16" },
];

/// Kernel tests on the three models, the other crates on the richest.
pub(super) fn emulated_tests(run: &mut Run) -> Result<()> {
    for model in &MODELS {
        let compiled = run.check_tests(emulated(model).packages(["backend-cpu-simd"]))?;
        if !compiled {
            // The other models would repeat the compiler's message.
            break;
        }
    }
    let consumers = workspace::conformance_consumers(&run.metadata);
    let mut names: Vec<&str> = EMULATED.to_vec();
    names.extend(consumers.iter().map(String::as_str));
    // The model crate brings a tokenizer, 45 s of compiling, and no Arm code of its own. Neither has the simulator,
    // whose plain loops take minutes under emulation. A GPU has no emulator here.
    names.retain(|name| !["backend-cpu-simd", "backend-npu-sim", "hetero-llama"].contains(name));
    names.retain(|name| !super::gpu::BACKENDS.contains(name));
    names.sort_unstable();
    names.dedup();
    let [.., richest] = &MODELS;
    run.check_tests(emulated(richest).packages(names)).map(drop)
}

fn emulated(model: &Model) -> Invocation {
    // Both -L and LD_LIBRARY_PATH: where arm64 libraries are also installed by multi-arch, the loader of one libc
    // would otherwise find the other libc and spin for ever.
    // What hangs ends; the longest of the tests takes seven minutes under emulation, and other machines are slower.
    let runner = format!(
        "timeout 1200 qemu-aarch64 -cpu {} -L /usr/aarch64-linux-gnu \
         -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib",
        model.name
    );
    Invocation::cargo("test --tests --no-fail-fast --target")
        .arg(LINUX)
        .target_dir("arm")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", &runner)
        .env("ARM_REQUIRE", model.features)
}

/// Type-checks the libraries, GPU backends among them, for Android and for Linux on Arm, where no test runs of those.
pub(super) fn compile_check(run: &mut Run) -> Result<()> {
    for target in COMPILED {
        let line = Invocation::cargo("check --target").arg(target).packages(PURE_RUST.iter().copied());
        let line = line.words("--features hetero-llama/gpu-vulkano,hetero-llama/gpu-wgpu");
        run.check(line.target_dir("arm"))?;
    }
    Ok(())
}
