//! Every kernel in every variant is valid, without a GPU, and binds what it says.

use hetero_shaders::{Columns, Features, Kernel, Params, Step};
use naga::proc::Layouter;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, TypeInner};

const VARIANTS: [Features; 5] = [
    Features { f16: false, subgroups: false, integer_dot: false, half: false },
    Features { f16: false, subgroups: true, integer_dot: true, half: false },
    Features { f16: true, subgroups: false, integer_dot: false, half: false },
    Features { f16: true, subgroups: true, integer_dot: true, half: false },
    Features { f16: true, subgroups: true, integer_dot: true, half: true },
];

/// Bytes of workgroup memory that every device has: WebGPU's default limit.
const WORKGROUP_BYTES: u32 = 16_384;

/// Bytes of workgroup memory of the devices that get large tiles.
const LARGE_WORKGROUP_BYTES: u32 = 24_576;

/// Storage buffers that every device of today binds: WebGPU's default limit.
const STORAGE_BUFFERS: usize = 8;

/// The variants that a kernel has.
fn variants(kernel: Kernel) -> impl Iterator<Item = Features> {
    VARIANTS.into_iter().filter(move |features| !features.half || kernel.features(*features).half)
}

fn checked(kernel: Kernel, features: Features) -> (Module, ModuleInfo) {
    let source = kernel.shader(features).wgsl;
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{kernel} {features:?}: {}\n{source}", error.emit_to_string(&source)));
    // Packed halves are read by every device that matters; it is a matter of instructions and not of storage.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let is_matrices = matches!(kernel, Kernel::LinearMatrices { .. });
    let features = kernel.features(features);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, is_matrices);
    capabilities.set(Capabilities::SHADER_FLOAT16, features.f16);
    capabilities.set(Capabilities::SUBGROUP, features.subgroups);
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    let info = info.unwrap_or_else(|error| panic!("{kernel} {features:?}: {}", error.emit_to_string(&source)));
    (module, info)
}

#[test]
fn every_variant_is_valid_with_no_more_than_its_features() {
    for kernel in Kernel::all() {
        for features in variants(kernel) {
            let (module, _) = checked(kernel, features);
            let entry = &module.entry_points[0];
            assert_eq!((module.entry_points.len(), entry.name.as_str()), (1, "main"), "{kernel}");
            let n_invocations: u32 = entry.workgroup_size.iter().product();
            assert!(n_invocations <= 256, "{kernel}: {n_invocations} invocations");
        }
    }
}

#[test]
fn bindings_and_workgroup_memory_are_as_promised() {
    let known = Kernel::bindings(STORAGE_BUFFERS as u32);
    for kernel in Kernel::all() {
        for features in variants(kernel) {
            let (module, _) = checked(kernel, features);
            let mut layouter = Layouter::default();
            layouter.update(module.to_ctx()).expect("a valid module has sizes");
            let mut bindings = Vec::new();
            let mut workgroup_bytes = 0;
            for (_, variable) in module.global_variables.iter() {
                match variable.space {
                    AddressSpace::WorkGroup => workgroup_bytes += layouter[variable.ty].size,
                    AddressSpace::Private => {}
                    _ => {
                        let binding = variable.binding.expect("buffers are bound");
                        assert_eq!(binding.group, 0);
                        bindings.push(binding.binding);
                    }
                }
            }
            bindings.sort_unstable();
            let n_bound = kernel.n_outputs() + kernel.n_inputs();
            assert!(n_bound <= STORAGE_BUFFERS, "{kernel}: {n_bound} storage buffers");
            let expected: Vec<u32> = (0..2 + n_bound as u32).collect();
            assert_eq!(bindings, expected, "{kernel}");
            assert!(known.contains(&[kernel.n_outputs(), kernel.n_inputs()]), "{kernel}");
            let is_large = matches!(kernel, Kernel::LinearTiled { tile, .. } if tile.columns > 64);
            let most = match kernel {
                // `Limits::matrix_rows` looks for them.
                Kernel::LinearMatrices { rows, .. } => 8_192 + rows * 384,
                _ if is_large => LARGE_WORKGROUP_BYTES,
                _ => WORKGROUP_BYTES,
            };
            assert!(workgroup_bytes <= most, "{kernel}: {workgroup_bytes} bytes of workgroup memory");
        }
    }
}

#[test]
fn uniform_blocks_are_laid_out_as_in_rust() {
    let kernel = Kernel::all()[0];
    let (module, _) = checked(kernel, Features::default());
    let members = |name: &str| -> Vec<(String, u32)> {
        let mut types = module.types.iter().filter(|(_, ty)| ty.name.as_deref() == Some(name));
        let Some((_, ty)) = types.next() else { panic!("no struct {name}") };
        let TypeInner::Struct { members, .. } = &ty.inner else { panic!("{name} is no struct") };
        members.iter().map(|member| (member.name.clone().unwrap_or_default(), member.offset)).collect()
    };
    macro_rules! offsets {
        ($ty:ty, $($field:ident),*) => {
            vec![$((stringify!($field).to_owned(), std::mem::offset_of!($ty, $field) as u32)),*]
        };
    }
    let params = offsets!(
        Params,
        first_row,
        end_row,
        fixed_rows,
        first_column,
        n_columns,
        input_columns,
        output_columns,
        group_heads,
        head_dim,
        context,
        first_table_row,
        n_table_rows,
        panel_lines,
        last_row_only,
        scale,
        epsilon,
        others
    );
    assert_eq!(members("Params"), params);
    assert_eq!(size_of::<Params>(), 96);
    assert_eq!(members("Columns"), offsets!(Columns, first, count, total, bias));
    assert_eq!(members("Step")[..2], offsets!(Step, past, rows));
    assert_eq!(members("Step")[2].1, std::mem::offset_of!(Step, most_keys) as u32);
    assert_eq!((members("Step").len(), size_of::<Step>()), (4, 16));
}

#[test]
fn workgroups_cover_the_rows_in_use_and_no_more() {
    let kernel = Kernel::Softmax { input: hetero_shaders::Element::F32, output: hetero_shaders::Element::F32 };
    let params = Params { first_row: 3, end_row: 9, n_columns: 100, ..Params::default() };
    let step = |rows| Step { rows, ..Step::default() };
    assert_eq!(kernel.workgroups(&params, &step(20)), Some([1, 6]));
    assert_eq!(kernel.workgroups(&params, &step(5)), Some([1, 2]));
    assert_eq!(kernel.workgroups(&params, &step(3)), None);
    let fixed = Params { fixed_rows: 9, ..params };
    assert_eq!(kernel.workgroups(&fixed, &step(1)), Some([1, 6]));
}

#[test]
#[cfg(feature = "spirv")]
fn every_variant_becomes_spirv() {
    for kernel in Kernel::all() {
        for features in variants(kernel) {
            let words = hetero_shaders::spirv::words(kernel, features).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(words[0], 0x0723_0203, "{kernel}: the magic number of SPIR-V");
        }
    }
}
