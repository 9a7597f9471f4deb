//! Kernels as SPIR-V words, translated by naga when they are asked for: a fraction of a millisecond each.

use naga::back::spv::{self, Capability};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::{Features, Kernel};

/// A kernel that naga refuses, which is a mistake in this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kernel} is no valid shader: {reason}")]
pub struct InvalidShader {
    /// The kernel.
    pub kernel: String,
    /// What naga said.
    pub reason: String,
}

/// The SPIR-V words of a kernel, version 1.3, entry point `main`.
///
/// Without the checks that naga adds for untrusted shaders: these are ours, their loops end and their indices are bounded
/// by [`crate::Params`].
pub fn words(kernel: Kernel, features: Features) -> Result<Vec<u32>, InvalidShader> {
    let refused = |reason: String| InvalidShader { kernel: kernel.to_string(), reason };
    let source = kernel.shader(features).wgsl;
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| refused(error.emit_to_string(&source)))?;
    let is_matrices = matches!(kernel, Kernel::LinearMatrices { .. });
    let mut capabilities =
        Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP;
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, is_matrices);
    let mut allowed = allowed(kernel.features(features));
    if is_matrices {
        allowed.extend([Capability::CooperativeMatrixKHR, Capability::VulkanMemoryModel]);
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| refused(error.emit_to_string(&source)))?;
    let options = spv::Options {
        lang_version: (1, 3),
        // With all of them, naga would take 8-bit integers to unpack words.
        capabilities: Some(allowed),
        flags: spv::WriterFlags::empty(),
        force_loop_bounding: false,
        emit_int_div_checks: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        use_storage_input_output_16: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { entry_point: "main".to_owned(), shader_stage: naga::ShaderStage::Compute };
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|error| refused(error.to_string()))
}

/// What a shader may ask of a device: no more than backends look for.
fn allowed(features: Features) -> naga::FastHashSet<Capability> {
    let mut allowed = vec![Capability::Shader, Capability::Matrix];
    if features.f16 {
        allowed.push(Capability::Float16);
        allowed.push(Capability::StorageBuffer16BitAccess);
        allowed.push(Capability::UniformAndStorageBuffer16BitAccess);
    }
    if features.subgroups {
        allowed.push(Capability::GroupNonUniform);
        allowed.push(Capability::GroupNonUniformArithmetic);
        allowed.push(Capability::GroupNonUniformShuffle);
    }
    if features.integer_dot {
        allowed.push(Capability::DotProduct);
        allowed.push(Capability::DotProductInput4x8BitPacked);
    }
    allowed.into_iter().collect()
}
