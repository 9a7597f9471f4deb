//! Drivers that compute wrong are found out, held to what they compute right, and remembered.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hetero_conformance::ReferenceBackend;
use hetero_core::{
    Access, Backend, BackendError, Binding, Bindings, DType, DeviceInfo, Executable, Op, OpSpec, Segment, Support,
    Tensor, TensorDesc, Weight, WeightFormat, WeightRows, reference,
};
use hetero_shaders::checks::{Checks, Restrict, Verdict};
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Knobs, Variant};

/// A device that computes softmax wrong: always, or unless its kernels are held to their plain form.
#[derive(Debug)]
struct Driver {
    device: ReferenceBackend,
    is_plain: Arc<AtomicBool>,
    n_compiled: AtomicUsize,
}

impl Driver {
    fn new(is_wrong: bool, is_plain_right: bool) -> Driver {
        let is_plain = Arc::new(AtomicBool::new(false));
        let plain = Arc::clone(&is_plain);
        let device = ReferenceBackend::with_kernel(move |segment: &Segment, bindings: &mut Bindings, step| {
            reference::run_segment(segment, bindings, step);
            let is_softmax = segment.graph.nodes().iter().any(|node| matches!(node.op, Op::Softmax { .. }));
            if is_softmax && is_wrong && !(is_plain_right && plain.load(Ordering::Relaxed)) {
                let output = segment.binding_idx(segment.graph.nodes()[0].output);
                let output: &mut Binding = &mut bindings.tensors[output];
                output.write_f32(0, 17, &[0.25]);
            }
        });
        Driver { device, is_plain, n_compiled: AtomicUsize::new(0) }
    }
}

impl Driver {
    /// Ends the process when it is to compute.
    fn deadly() -> Driver {
        let device = ReferenceBackend::with_kernel(|_: &Segment, _: &mut Bindings, _| std::process::abort());
        Driver { device, ..Driver::new(false, false) }
    }
}

impl Backend for Driver {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn support(&self, op: &OpSpec) -> Support {
        self.device.support(op)
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        self.device.access(tensor)
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        self.device.allocate(desc)
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        self.device.load_weight(rows)
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        self.n_compiled.fetch_add(1, Ordering::Relaxed);
        self.device.compile(segment)
    }
}

impl Restrict for Driver {
    fn restrict(&self, knobs: &Knobs) {
        assert!(!knobs.allows("softmax", Variant::Subgroups) && knobs.allows("attention", Variant::Subgroups));
        self.is_plain.store(true, Ordering::Relaxed);
    }
}

fn spec(op: Op, n_inputs: usize) -> OpSpec {
    OpSpec { op, inputs: vec![DType::F32; n_inputs], output: DType::F32 }
}

fn softmax() -> OpSpec {
    spec(Op::Softmax { features: 4096 }, 1)
}

#[test]
fn an_operator_that_is_right_is_tried_once() {
    let (driver, checks) = (Driver::new(false, false), Checks::new("gpu", None, false));
    for features in [64, 4096] {
        assert_eq!(checks.support(&driver, &spec(Op::Softmax { features }, 1)), Support::Yes);
    }
    assert_eq!(driver.n_compiled.load(Ordering::Relaxed), 1);
    assert_eq!(checks.verdicts().into_values().collect::<Vec<_>>(), [Verdict::Right]);
}

#[test]
fn every_operator_and_format_has_a_test_that_the_loops_pass() {
    let (driver, checks) = (Driver::new(false, false), Checks::new("gpu", None, false));
    let (heads, kv_heads, head_dim, context) = (32, 8, 64, 4096);
    let frequencies: Arc<[f32]> = (0..32).map(|pair| 0.8f32.powi(pair)).collect();
    let mut specs = vec![
        OpSpec { inputs: vec![DType::U32], ..spec(Op::Embed { vocabulary: 1000, features: 64 }, 1) },
        spec(Op::RmsNorm { features: 64, epsilon: 1e-5 }, 1),
        spec(Op::Rope { heads, head_dim, frequencies }, 1),
        spec(Op::CacheWrite { kv_heads, head_dim, context }, 1),
        spec(Op::Attention { heads, kv_heads, head_dim, context, scale: 0.1 }, 3),
        spec(Op::Swiglu { features: 64 }, 2),
        spec(Op::Add { features: 64 }, 2),
        spec(Op::Convert { rows: hetero_core::RowSelection::Last, features: 64 }, 1),
    ];
    for format in WeightFormat::ALL {
        for bias in [false, true] {
            specs.push(spec(Op::Linear { in_features: 4096, out_features: 4096, format, bias }, 1));
        }
    }
    for spec in &specs {
        assert_eq!(checks.support(&driver, spec), Support::Yes, "{spec}");
    }
    assert_eq!(checks.verdicts().len(), specs.len());
}

#[test]
fn what_only_plain_kernels_compute_is_left_to_them_and_the_driver_is_remembered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = || Some(KeptFile::new(folder.path(), "verdicts", "driver 1"));
    let driver = Driver::new(true, true);
    assert_eq!(Checks::new("gpu", file(), false).support(&driver, &softmax()), Support::Yes);
    assert!(driver.is_plain.load(Ordering::Relaxed));
    // The next run takes the plain form at once, and tries nothing.
    let (driver, checks) = (Driver::new(true, true), Checks::new("gpu", file(), false));
    checks.restrict(&driver);
    assert!(driver.is_plain.load(Ordering::Relaxed));
    assert_eq!(checks.support(&driver, &softmax()), Support::Yes);
    assert_eq!(driver.n_compiled.load(Ordering::Relaxed), 0);
    assert!(matches!(checks.verdicts().into_values().next(), Some(Verdict::Plain { reason }) if reason.contains("17")));
    // Who is strict is not content with it, and a new driver is tried again.
    assert!(matches!(Checks::new("gpu", file(), true).support(&driver, &softmax()), Support::No(_)));
    let other = Checks::new("gpu", Some(KeptFile::new(folder.path(), "verdicts", "driver 2")), false);
    assert!(other.verdicts().is_empty());
}

#[test]
fn what_is_wrong_in_every_form_is_not_supported_and_the_reason_says_where() {
    let (driver, checks) = (Driver::new(true, false), Checks::new("gpu", None, false));
    let Support::No(reason) = checks.support(&driver, &softmax()) else { panic!("it is wrong") };
    assert!(reason.contains("softmax") && reason.contains("0.25 in the place of"), "{reason}");
    assert_eq!(checks.support(&driver, &spec(Op::Add { features: 8 }, 2)), Support::Yes);
}

/// Set in a process that is to die while a driver is tried: the folder of what is kept.
const DIE_IN: &str = "TRIAL_DIES_IN";

/// This program, to be started once more: by an emulator where one runs it, since the system would not know how.
fn this_program() -> Command {
    let path = std::env::current_exe().expect("this program");
    let runner = match cfg!(all(target_arch = "aarch64", target_os = "linux", target_env = "gnu")) {
        true => std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").unwrap_or_default(),
        false => String::new(),
    };
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(path) };
    let mut command = Command::new(emulator);
    command.args(words).arg(path);
    command
}

/// A driver that takes the process with it.
#[test]
fn a_driver_that_a_process_did_not_survive_is_told_of() {
    let checks =
        |folder: &std::path::Path| Checks::new("gpu", Some(KeptFile::new(folder, "verdicts", "driver")), false);
    if let Some(folder) = std::env::var_os(DIE_IN) {
        let driver = Driver::deadly();
        checks(folder.as_ref()).support(&driver, &softmax());
        unreachable!("the driver is deadly");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(checks(folder.path()).died(), None);
    // What is survived leaves no mark.
    assert_eq!(
        checks(folder.path()).support(&Driver::new(false, false), &spec(Op::Add { features: 8 }, 2)),
        Support::Yes
    );
    assert_eq!(checks(folder.path()).died(), None);
    let mut child = this_program();
    child.args(["--exact", "a_driver_that_a_process_did_not_survive_is_told_of"]).env(DIE_IN, folder.path());
    let output = child.output().expect("the process ends");
    assert!(!output.status.success());
    let died = checks(folder.path()).died().cloned().expect("the mark of the dead");
    assert!(died.case.contains("softmax"), "{died:?}");
    // What was seen before is not lost, and whoever deletes the mark has it tried again.
    assert_eq!(checks(folder.path()).verdicts().len(), 1);
    std::fs::remove_file(&died.file).expect("the mark");
    assert_eq!(checks(folder.path()).died(), None);
}
