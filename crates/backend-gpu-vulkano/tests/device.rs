//! What is special about a GPU on shared memory: other processors reach it directly, weights stay where they are.

use std::convert::Infallible;
use std::sync::Arc;

use backend_gpu_vulkano::{VulkanBackend, VulkanError, VulkanOptions, WeightMemory, adapters};
use hetero_conformance::gpu::{doubling, doubling_node};
use hetero_conformance::{ReferenceBackend, gpu};
use hetero_core::{
    Access, Backend, DType, DeviceId, GraphBuilder, HostTensor, NodeId, Op, OpSpec, OperandOrder, Part, Segment,
    SegmentNode, SharedTensor, StepParams, Support, Tensor, TensorDesc, WeightFormat, WeightLayout, WeightMatrix,
    WeightRows, quantize,
};
use hetero_shaders::Knobs;
use hetero_shaders::checks::Verdict;

fn open() -> VulkanBackend {
    VulkanBackend::new(&VulkanOptions::default()).unwrap_or_else(|error| panic!("{error}; {}", error.fix()))
}

/// GPU and another processor compute nodes in turn on the same tensors: what one writes, the other reads at the same address.
#[test]
fn gpu_and_another_processor_work_on_the_same_memory_without_a_copy() {
    const N_NODES: usize = 6;
    let gpu = open();
    let other = ReferenceBackend::new();
    let graph = Arc::new(doubling(N_NODES));
    let tensors: Vec<Arc<SharedTensor>> = (0..graph.values().len())
        .map(|value| SharedTensor::new(gpu.allocate(&graph.tensor_desc(hetero_core::ValueId(value))).unwrap()))
        .collect();
    let addresses =
        || -> Vec<usize> { tensors.iter().map(|tensor| tensor.tensor().host_ptr().unwrap().addr().get()).collect() };
    let before = addresses();
    for tensor in &tensors {
        assert_eq!(other.access(tensor.tensor()), Access::Direct);
        assert_eq!(gpu.access(tensor.tensor()), Access::Direct);
    }
    for step in 0..20 {
        let numbers: Vec<f32> = (0..64).map(|i| (i + step) as f32).collect();
        tensors[0].slot().row_mut::<f32>(0).copy_from_slice(&numbers);
        for node in 0..N_NODES {
            let backend: &dyn Backend = if node % 2 == 0 { &gpu } else { &other };
            let segment = Segment::new(Arc::clone(&graph), vec![doubling_node(node)]);
            let executable = backend.compile(&segment).unwrap();
            let lend = |idx: usize| {
                let value = segment.values_of(idx).next().unwrap();
                tensors[value.0].lend(segment.claim_of(idx), backend.info().id)
            };
            let bindings = hetero_core::Bindings { tensors: (0..segment.n_bindings()).map(lend).collect() };
            executable.submit(bindings, StepParams { past: 0, rows: 1 }).unwrap().wait().map(drop).unwrap();
        }
        let doubled: Vec<f32> = numbers.iter().map(|x| x * 64.0).collect();
        assert_eq!(tensors[N_NODES].view().row::<f32>(0), doubled);
    }
    assert_eq!(addresses(), before);
    assert!(gpu.complaints().is_empty(), "{:#?}", gpu.complaints());
}

#[test]
fn weights_built_in_its_memory_are_used_in_place() {
    let gpu =
        VulkanBackend::new(&VulkanOptions { weight_memory: WeightMemory::Shared, ..VulkanOptions::default() }).unwrap();
    let layout = WeightLayout::panels(WeightFormat::W4G32, 256, 256);
    let matrix = matrix(layout, WeightMatrix::allocate(&layout, &gpu).unwrap());
    for rows in [0..256, 32..96] {
        assert_eq!(gpu.load_weight(WeightRows { matrix: Arc::clone(&matrix), rows }).unwrap().own_bytes(), 0);
    }
}

/// Weights that another processor's memory holds, and such as lie where no backend has allocated anything.
#[test]
fn weights_in_ordinary_memory_are_used_in_place_and_copied_only_where_they_cannot_be_bound() {
    let gpu =
        VulkanBackend::new(&VulkanOptions { weight_memory: WeightMemory::Shared, ..VulkanOptions::default() }).unwrap();
    let layout = WeightLayout::panels(WeightFormat::W4G32, 256, 64);
    let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let host = || Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap());
    let matrix = self::matrix(layout, host());
    for rows in [0..256, 32..96] {
        assert_eq!(gpu.load_weight(WeightRows { matrix: Arc::clone(&matrix), rows }).unwrap().own_bytes(), 0);
    }
    let stored = |start| {
        let bytes = Stored { tensor: host(), start, n_bytes: layout.bytes() / 2 };
        let half = WeightLayout::panels(WeightFormat::W4G32, 128, 64);
        WeightRows::all(WeightMatrix::from_bytes("stored", half, Arc::new(bytes)))
    };
    assert_eq!(gpu.load_weight(stored(256)).unwrap().own_bytes(), 0);
    assert_eq!(gpu.load_weight(stored(1)).unwrap().own_bytes(), layout.bytes() as u64 / 2);
}

/// More than the staging buffer holds, in memory of the process and in the GPU's tensors; some of it dropped on the way.
#[test]
fn a_gpu_with_memory_of_its_own_counts_what_it_copies() {
    let options = VulkanOptions { weight_memory: WeightMemory::Separate, is_trusted: true, ..VulkanOptions::default() };
    let gpu = VulkanBackend::new(&options).unwrap();
    let layout = WeightLayout::panels(WeightFormat::F32, 4096, 1536);
    let desc = TensorDesc { rows: 1, columns: layout.bytes(), dtype: DType::U8 };
    let host = matrix(layout, Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap()));
    let own = matrix(layout, WeightMatrix::allocate(&layout, &gpu).unwrap());
    for matrix in [&host, &own] {
        for rows in [0..4096, 32..96, 4064..4096] {
            let n_bytes = (layout.bytes() / 4096 * rows.len()) as u64;
            let weight = gpu.load_weight(WeightRows { matrix: Arc::clone(matrix), rows }).unwrap();
            assert_eq!(weight.own_bytes(), n_bytes);
        }
    }
    // The rows behind the staging buffer's end and its half are where they belong: identity rows give the input back.
    let mut builder = GraphBuilder::new(1);
    let x = builder.input("x", 1536, DType::F32);
    let weight = builder.weight("matrix", layout);
    let op = Op::Linear { in_features: 1536, out_features: 4096, format: WeightFormat::F32, bias: false };
    let y = builder.node("product", op, &[x], &[weight], DType::F32);
    builder.output(y);
    let graph = Arc::new(builder.finish());
    let identity = WeightMatrix::build("identity", layout, host_memory(desc), |bytes| {
        for (panel_idx, panel) in bytes.chunks_exact_mut(layout.panel_bytes()).enumerate() {
            let mut rows = vec![0.0; 16 * 1536];
            (0..16).for_each(|row| rows[row * 1536 + (panel_idx * 16 + row) % 1536] = 1.0);
            quantize::pack_panel(&layout, &rows, panel);
        }
        Ok::<(), Infallible>(())
    });
    let identity = WeightRows::all(identity.unwrap_or_else(|never| match never {}));
    let node = SegmentNode {
        node: NodeId(0),
        part: Part::whole(1, 4096),
        weights: vec![gpu.load_weight(identity).unwrap()],
        operand_order: OperandOrder::default(),
    };
    let segment = Segment::new(Arc::clone(&graph), vec![node]);
    let executable = gpu.compile(&segment).unwrap();
    let tensors = [x, y].map(|value| SharedTensor::new(gpu.allocate(&graph.tensor_desc(value)).unwrap()));
    let numbers: Vec<f32> = (0..1536).map(|i| i as f32).collect();
    tensors[0].slot().row_mut::<f32>(0).copy_from_slice(&numbers);
    let lend = |idx: usize| {
        let value = segment.values_of(idx).next().unwrap();
        tensors[usize::from(value == y)].lend(segment.claim_of(idx), gpu.info().id)
    };
    let bindings = hetero_core::Bindings { tensors: (0..2).map(lend).collect() };
    executable.submit(bindings, StepParams { past: 0, rows: 1 }).unwrap().wait().map(drop).unwrap();
    let expected: Vec<f32> = (0..4096).map(|row| numbers[row % 1536]).collect();
    assert_eq!(tensors[1].view().row::<f32>(0), expected);
    assert!(gpu.complaints().is_empty(), "{:#?}", gpu.complaints());
}

fn host_memory(desc: TensorDesc) -> Arc<dyn Tensor> {
    Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap())
}

/// Part of a tensor as bytes of a file would be.
struct Stored {
    tensor: Arc<HostTensor>,
    start: usize,
    n_bytes: usize,
}

impl hetero_core::StoredBytes for Stored {
    fn bytes(&self) -> &[u8] {
        let start = self.tensor.host_ptr().unwrap().as_ptr().cast_const();
        // SAFETY: the tensor has `start + n_bytes` bytes, and nothing writes them.
        unsafe { std::slice::from_raw_parts(start.add(self.start), self.n_bytes) }
    }
}

/// Tensors come and go, and the next one may lie where the last one lay.
#[test]
fn tensors_of_another_processor_are_computed_in_where_they_lie() {
    let (gpu, other) = (open(), ReferenceBackend::new());
    let graph = Arc::new(doubling(1));
    let segment = Segment::new(Arc::clone(&graph), vec![doubling_node(0)]);
    let executable = gpu.compile(&segment).unwrap();
    for step in 0..20 {
        let tensors: Vec<Arc<SharedTensor>> = (0..2)
            .map(|value| SharedTensor::new(other.allocate(&graph.tensor_desc(hetero_core::ValueId(value))).unwrap()))
            .collect();
        tensors.iter().for_each(|tensor| assert_eq!(gpu.access(tensor.tensor()), Access::Direct));
        let numbers: Vec<f32> = (0..64).map(|i| (i + step) as f32).collect();
        tensors[0].slot().row_mut::<f32>(0).copy_from_slice(&numbers);
        let lend = |idx: usize| tensors[idx].lend(segment.claim_of(idx), gpu.info().id);
        let bindings = hetero_core::Bindings { tensors: (0..2).map(lend).collect() };
        executable.submit(bindings, StepParams { past: 0, rows: 1 }).unwrap().wait().map(drop).unwrap();
        let doubled: Vec<f32> = numbers.iter().map(|x| x * 2.0).collect();
        assert_eq!(tensors[1].view().row::<f32>(0), doubled);
    }
}

/// What a driver has allocated is not memory of the process, although the host has an address of it.
#[test]
fn memory_of_another_driver_takes_a_copy() {
    let (gpu, other) = (open(), open());
    let tensor = other.allocate(&TensorDesc { rows: 1, columns: 4096, dtype: DType::F32 }).unwrap();
    assert_eq!(gpu.access(&*tensor), Access::NeedsCopy);
    assert_eq!(other.access(&*tensor), Access::Direct);
}

#[test]
fn what_the_driver_computes_is_tried_once_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let options = VulkanOptions { cache: Some(folder.path().to_path_buf()), ..VulkanOptions::default() };
    let op = Op::Add { features: 64 };
    let spec = OpSpec { op, inputs: vec![DType::F32, DType::F16], output: DType::F32 };
    let first = VulkanBackend::new(&options).unwrap();
    assert!(first.verdicts().is_empty());
    assert_eq!(first.support(&spec), Support::Yes);
    assert_eq!(first.verdicts().into_values().collect::<Vec<_>>(), [Verdict::Right]);
    assert_eq!(VulkanBackend::new(&options).unwrap().verdicts(), first.verdicts());
    // Kernels that may use less are others.
    let plain = VulkanBackend::new(&VulkanOptions { knobs: Knobs::plain(), ..options }).unwrap();
    assert!(plain.verdicts().is_empty());
}

/// What another process leaves that does not survive the trial of an operator.
#[test]
fn a_driver_that_a_process_did_not_survive_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let options = VulkanOptions { cache: Some(folder.path().to_path_buf()), ..VulkanOptions::default() };
    let spec = OpSpec { op: Op::Add { features: 64 }, inputs: vec![DType::F32, DType::F32], output: DType::F32 };
    assert_eq!(VulkanBackend::new(&options).unwrap().support(&spec), Support::Yes);
    let names = || std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let verdicts = names().find(|path| path.to_string_lossy().contains("gpu-verdicts")).unwrap();
    let mark = verdicts.with_extension("4711-0.trial");
    std::fs::write(&mark, "add f32").unwrap();
    let error = VulkanBackend::new(&options).unwrap_err();
    assert!(matches!(&error, VulkanError::Died { case, file, .. } if case == "add f32" && *file == mark), "{error}");
    assert!(error.fix().contains(&mark.display().to_string()), "{}", error.fix());
    // Other kernels are another matter, and so is a driver that is trusted.
    VulkanBackend::new(&VulkanOptions { knobs: Knobs::plain(), ..options.clone() }).unwrap();
    VulkanBackend::new(&VulkanOptions { is_trusted: true, ..options.clone() }).unwrap();
    std::fs::remove_file(&mark).unwrap();
    VulkanBackend::new(&options).unwrap();
}

#[test]
fn what_the_driver_compiles_is_kept_and_what_is_damaged_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        VulkanOptions { cache: Some(folder.path().to_path_buf()), is_trusted: true, ..VulkanOptions::default() };
    gpu::assert_compiled_is_kept(folder.path(), || VulkanBackend::new(&options).unwrap());
}

#[test]
fn what_does_not_fit_is_out_of_memory_and_the_gpu_goes_on() {
    gpu::assert_too_large_is_out_of_memory(&open());
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_advice() {
    let n_adapters = adapters().len();
    assert!(n_adapters > 0, "{}", VulkanError::NoAdapter.fix());
    let options = VulkanOptions { adapter: Some(n_adapters), ..VulkanOptions::default() };
    let error = VulkanBackend::new(&options).unwrap_err();
    assert_eq!(error, VulkanError::NoSuchAdapter { index: n_adapters, n_adapters });
    assert!(error.fix().contains("hetero devices"));
}

fn matrix(layout: WeightLayout, memory: Arc<dyn Tensor>) -> Arc<WeightMatrix> {
    let built = WeightMatrix::build("matrix", layout, memory, |bytes| {
        for panel in bytes.chunks_exact_mut(layout.panel_bytes()) {
            quantize::pack_panel(&layout, &[], panel);
        }
        Ok::<(), Infallible>(())
    });
    built.unwrap_or_else(|never| match never {})
}
