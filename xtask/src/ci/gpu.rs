//! GPUs without a GPU: tests on Mesa's software driver, with Vulkan's validation layers.

use super::Run;
use super::command::Invocation;
use super::needs::Need;
use anyhow::Result;

/// The GPU backends. Their tests need a driver, so they are a step of their own.
pub(super) const BACKENDS: &[&str] = &["backend-gpu-vulkano", "backend-gpu-wgpu"];

/// Where Debian says which library the driver is.
const DRIVER: &str = if cfg!(target_arch = "aarch64") {
    "/usr/share/vulkan/icd.d/lvp_icd.aarch64.json"
} else {
    "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"
};

/// What the tests need.
pub(super) const NEEDS: &[Need] = &[
    Need::File { path: DRIVER, package: "mesa-vulkan-drivers" },
    Need::File {
        path: "/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json",
        package: "vulkan-validationlayers",
    },
];

/// Words that leave the backends out of a command for the workspace.
pub(super) fn excluded() -> String {
    BACKENDS.iter().map(|name| format!("--exclude {name} ")).collect()
}

/// The backends, a model on each, and the kernels as SPIR-V.
pub(super) fn tests(run: &mut Run) -> Result<()> {
    // In one command, for which everything is compiled once. One suite makes hundreds of pipelines, so it is not ended
    // after some minutes as tests of the workspace are.
    let line = Invocation::cargo(
        "test --no-fail-fast --lib --test conformance --test device --test fused --test ahead --test gpu",
    )
    .packages(BACKENDS.iter().copied().chain(["hetero-llama"]))
    .words("--features hetero-llama/gpu-vulkano,hetero-llama/gpu-wgpu,hetero-llama/npu-sim -- --show-output");
    run.check_tests(on_software(line))?;
    // The other tests of the kernels need no driver and no feature.
    run.check_tests(Invocation::cargo("test -p hetero-shaders --all-features --test shaders spirv")).map(drop)
}

/// Hides the machine's own GPU, so that the results are the same everywhere.
fn on_software(line: Invocation) -> Invocation {
    line.env("VK_ICD_FILENAMES", DRIVER).env("VK_DRIVER_FILES", DRIVER)
}
