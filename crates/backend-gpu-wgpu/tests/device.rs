//! What is special about a GPU behind wgpu: pieces of weights, submissions, copies, errors.

use std::convert::Infallible;
use std::sync::Arc;

use backend_gpu_wgpu::{WgpuBackend, WgpuError, WgpuOptions, adapters};
use hetero_conformance::gpu::{doubling, doubling_node};
use hetero_conformance::{gpu, run};
use hetero_core::{
    Access, Backend, BackendError, Binding, Bindings, DType, DeviceId, Graph, HostTensor, Op, OpSpec, Part, Segment,
    SharedTensor, StepParams, Support, TensorDesc, WeightFormat, WeightLayout, WeightMatrix, WeightRows, quantize,
};
use hetero_shaders::Knobs;
use hetero_shaders::checks::Verdict;

fn open(options: &WgpuOptions) -> WgpuBackend {
    WgpuBackend::new(options).unwrap_or_else(|error| panic!("{error}; {}", error.fix()))
}

/// Limits so low that every matrix of the suite with some hundred rows comes in several pieces, and embeddings too.
#[test]
fn weights_in_pieces_give_the_same_results() {
    let options = WgpuOptions { max_piece_bytes: Some(40_000), ..WgpuOptions::default() };
    let backend = open(&options);
    assert_eq!(backend.info().max_tensor_bytes, Some(40_000));
    run(&backend, &gpu::of_pieces()).assert_passed();
}

#[test]
fn a_weight_of_more_than_a_binding_is_cut_and_one_row_too_large_is_an_error() {
    let backend = open(&WgpuOptions { max_piece_bytes: Some(128 << 20), ..WgpuOptions::default() });
    // 133 MiB in 4-bit weights; what is not touched takes no memory.
    let layout = WeightLayout::panels(WeightFormat::W4G32, 60_544, 4096);
    let matrix = blank(layout, &backend);
    let weight = backend.load_weight(WeightRows::all(Arc::clone(&matrix))).unwrap();
    assert_eq!(weight.own_bytes(), layout.bytes() as u64);
    let backend = open(&WgpuOptions { max_piece_bytes: Some(4096), ..WgpuOptions::default() });
    let result = backend.load_weight(WeightRows::all(matrix)).map(drop);
    assert!(matches!(result, Err(BackendError::LimitReached { allowed: 4096, needed: 36_864, .. })), "{result:?}");
}

#[test]
fn a_step_is_one_submission_and_its_results_are_read_without_another() {
    let backend = open(&WgpuOptions::default());
    let graph = Arc::new(doubling(12));
    let (segment, tensors) = ready(&backend, &graph);
    let executable = backend.compile(&segment).unwrap();
    let input = &tensors[0];
    let before = backend.n_submissions();
    for step in 0..3 {
        let numbers: Vec<f32> = (0..64).map(|i| (i + step) as f32).collect();
        input.slot().write_bytes(&Part::whole(1, 64), cast(&numbers)).unwrap();
        let ticket = executable.submit(bind(&segment, &tensors), StepParams { past: 0, rows: 1 }).unwrap();
        let mut bindings = ticket.wait().unwrap();
        let mut out = vec![0; 256];
        let last = segment.binding_idx(graph.nodes().last().unwrap().output);
        drop(bindings.tensors.drain(..).collect::<Vec<Binding>>());
        tensors[last].view().read_bytes(&Part::whole(1, 64), &mut out).unwrap();
        // Every node adds a value to itself.
        let doubled: Vec<f32> = numbers.iter().map(|x| x * 4096.0).collect();
        assert_eq!(out, cast(&doubled));
        assert_eq!(backend.n_submissions() - before, step as u64 + 1);
    }
    // An intermediate value was not asked for, so reading it is a copy of its own.
    let mut out = vec![0; 256];
    tensors[1].view().read_bytes(&Part::whole(1, 64), &mut out).unwrap();
    assert_eq!(backend.n_submissions() - before, 4);
}

#[test]
fn what_is_written_after_a_step_is_what_is_read() {
    let backend = open(&WgpuOptions::default());
    let graph = Arc::new(doubling(1));
    let (segment, tensors) = ready(&backend, &graph);
    let executable = backend.compile(&segment).unwrap();
    executable.submit(bind(&segment, &tensors), StepParams { past: 0, rows: 1 }).unwrap().wait().map(drop).unwrap();
    let ones = [1.0f32; 64];
    tensors[1].slot().write_bytes(&Part::whole(1, 64), cast(&ones)).unwrap();
    let mut out = vec![0; 256];
    tensors[1].view().read_bytes(&Part::whole(1, 64), &mut out).unwrap();
    assert_eq!(out, cast(&ones));
}

#[test]
fn a_lost_device_is_an_error_everywhere_and_a_panic_nowhere() {
    let backend = open(&WgpuOptions::default());
    let graph = Arc::new(doubling(3));
    let (segment, tensors) = ready(&backend, &graph);
    let executable = backend.compile(&segment).unwrap();
    let step = StepParams { past: 0, rows: 1 };
    let under_way = executable.submit(bind(&segment, &tensors), step).unwrap();
    backend.close();
    let is_lost = |result: Result<(), BackendError>| {
        assert!(matches!(&result, Err(BackendError::DeviceLost { device, .. }) if device == "wgpu"), "{result:?}");
    };
    is_lost(under_way.wait().map(drop));
    is_lost(executable.submit(bind(&segment, &tensors), step).map(drop));
    is_lost(backend.compile(&segment).map(drop));
    is_lost(backend.allocate(&graph.tensor_desc(segment.values()[0])).map(drop));
    is_lost(tensors[0].slot().write_bytes(&Part::whole(1, 64), &[0; 256]));
    is_lost(tensors[0].view().read_bytes(&Part::whole(1, 64), &mut [0; 256]));
    let layout = WeightLayout::panels(WeightFormat::F32, 16, 32);
    is_lost(backend.load_weight(WeightRows::all(blank(layout, &backend))).map(drop));
}

#[test]
fn only_its_own_tensors_are_reached_directly() {
    let backend = open(&WgpuOptions::default());
    let other = open(&WgpuOptions::default());
    let desc = TensorDesc { rows: 2, columns: 3, dtype: DType::F32 };
    assert_eq!(backend.access(&*backend.allocate(&desc).unwrap()), Access::Direct);
    assert_eq!(backend.access(&*other.allocate(&desc).unwrap()), Access::NeedsCopy);
    assert_eq!(backend.access(&HostTensor::new(DeviceId::next(), desc).unwrap()), Access::NeedsCopy);
}

#[test]
fn what_the_driver_computes_is_tried_once_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let options = WgpuOptions { cache: Some(folder.path().to_path_buf()), ..WgpuOptions::default() };
    let op = Op::Add { features: 64 };
    let spec = OpSpec { op, inputs: vec![DType::F32, DType::F16], output: DType::F32 };
    let first = WgpuBackend::new(&options).unwrap();
    assert!(first.verdicts().is_empty());
    assert_eq!(first.support(&spec), Support::Yes);
    assert_eq!(first.verdicts().into_values().collect::<Vec<_>>(), [Verdict::Right]);
    assert_eq!(WgpuBackend::new(&options).unwrap().verdicts(), first.verdicts());
    // Kernels that may use less are others.
    let plain = WgpuBackend::new(&WgpuOptions { knobs: Knobs::plain(), ..options }).unwrap();
    assert!(plain.verdicts().is_empty());
}

#[test]
fn what_the_driver_compiles_is_kept_and_what_is_damaged_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let options = WgpuOptions { cache: Some(folder.path().to_path_buf()), is_trusted: true, ..WgpuOptions::default() };
    gpu::assert_compiled_is_kept(folder.path(), || WgpuBackend::new(&options).unwrap());
}

#[test]
fn what_does_not_fit_is_out_of_memory_and_the_gpu_goes_on() {
    gpu::assert_too_large_is_out_of_memory(&open(&WgpuOptions::default()));
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_advice() {
    let n_adapters = adapters().len();
    assert!(n_adapters > 0, "{}", WgpuError::NoAdapter.fix());
    let error = WgpuBackend::new(&WgpuOptions { adapter: Some(n_adapters), ..WgpuOptions::default() }).unwrap_err();
    assert_eq!(error, WgpuError::NoSuchAdapter { index: n_adapters, n_adapters });
    assert!(error.fix().contains("hetero devices"));
}

/// The whole graph as a segment, with a tensor for each value.
fn ready(backend: &WgpuBackend, graph: &Arc<Graph>) -> (Segment, Vec<Arc<SharedTensor>>) {
    let segment = Segment::new(Arc::clone(graph), (0..graph.nodes().len()).map(doubling_node).collect());
    let tensor = |&value: &_| SharedTensor::new(backend.allocate(&graph.tensor_desc(value)).unwrap());
    let tensors = segment.values().iter().map(tensor).collect();
    (segment, tensors)
}

fn bind(segment: &Segment, tensors: &[Arc<SharedTensor>]) -> Bindings {
    let device = DeviceId::next();
    let lend = |(idx, tensor): (usize, &Arc<SharedTensor>)| tensor.lend(segment.claim_of(idx), device);
    Bindings { tensors: tensors.iter().enumerate().map(lend).collect() }
}

fn blank(layout: WeightLayout, backend: &WgpuBackend) -> Arc<WeightMatrix> {
    let tensor = WeightMatrix::allocate(&layout, backend).unwrap();
    let built = WeightMatrix::build("blank", layout, tensor, |bytes| {
        quantize::pack_panel(&layout, &[], &mut bytes[..layout.panel_bytes()]);
        Ok::<(), Infallible>(())
    });
    built.unwrap_or_else(|never| match never {})
}

fn cast(numbers: &[f32]) -> &[u8] {
    bytemuck::cast_slice(numbers)
}
