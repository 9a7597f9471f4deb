//! Units for small matrices, of which vulkano does not ask by itself.

use ash::vk;
use hetero_shaders::MatrixUnit;
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;
use vulkano::shader::ShaderStages;

/// The unit for small matrices of 16-bit floats that adds in f32, the largest where there are several.
pub(crate) fn matrix_unit(device: &PhysicalDevice) -> Option<MatrixUnit> {
    let (features, properties) = (device.supported_features(), device.properties());
    let computes = |stages: ShaderStages| stages.contains(ShaderStages::COMPUTE);
    let is_there = device.supported_extensions().khr_cooperative_matrix
        && features.cooperative_matrix
        && features.vulkan_memory_model
        && features.vulkan_memory_model_device_scope
        && properties.cooperative_matrix_supported_stages.is_some_and(computes);
    if !is_there {
        return None;
    }
    let units = units(device)?;
    let fits = units.iter().filter(|unit| {
        let is_square = unit.m_size == unit.n_size && unit.n_size == unit.k_size && matches!(unit.m_size, 8 | 16);
        let reads = [unit.a_type, unit.b_type] == [vk::ComponentTypeKHR::FLOAT16; 2];
        let adds = [unit.c_type, unit.result_type] == [vk::ComponentTypeKHR::FLOAT32; 2];
        is_square && reads && adds && unit.scope == vk::ScopeKHR::SUBGROUP
    });
    let size = fits.map(|unit| unit.m_size).max()?;
    // What a pipeline has that asks for no other.
    Some(MatrixUnit { size, subgroup: properties.subgroup_size? })
}

/// What the driver lists; nothing when it does not answer.
fn units(device: &PhysicalDevice) -> Option<Vec<vk::CooperativeMatrixPropertiesKHR<'static>>> {
    let ask = device.instance().fns().khr_cooperative_matrix.get_physical_device_cooperative_matrix_properties_khr;
    let mut count = 0;
    // SAFETY: the device has the extension, so the function is its own; without an array only the count is written.
    unsafe { ask(device.handle(), &mut count, std::ptr::null_mut()) }.result().ok()?;
    let mut units = vec![vk::CooperativeMatrixPropertiesKHR::default(); count as usize];
    // SAFETY: the array has room for as many as `count` says.
    unsafe { ask(device.handle(), &mut count, units.as_mut_ptr()) }.result().ok()?;
    units.truncate(count as usize);
    Some(units)
}
