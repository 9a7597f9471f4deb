//! Drivers that compute wrong are found out, held to what they compute right, and remembered.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hetero_conformance::ReferenceBackend;
use hetero_core::{
    Access, Backend, BackendError, Binding, Bindings, DType, DeviceInfo, Executable, Op, OpSpec, Segment, Support,
    Tensor, TensorDesc, Weight, WeightFormat, WeightRows, reference,
};
use hetero_shaders::checks::{Checks, Restrict, Verdict};
use hetero_shaders::disk::KeptFile;
use hetero_shaders::{Knobs, Variant};

/// A device that computes an operator wrong.
#[derive(Debug)]
struct Driver {
    device: ReferenceBackend,
    knobs: Arc<Mutex<Knobs>>,
    n_compiled: AtomicUsize,
}

impl Driver {
    /// One that computes operators of a name wrong where it may use what `is_wrong` says.
    fn new(op: &'static str, is_wrong: impl Fn(&Knobs) -> bool + Send + Sync + 'static) -> Driver {
        let knobs = Arc::new(Mutex::new(Knobs::default()));
        let held = Arc::clone(&knobs);
        let device = ReferenceBackend::with_kernel(move |segment: &Segment, bindings: &mut Bindings, step| {
            reference::run_segment(segment, bindings, step);
            if segment.graph.nodes()[0].op.name() == op && is_wrong(&held.lock().expect("knobs")) {
                let output = segment.binding_idx(segment.graph.nodes()[0].output);
                let output: &mut Binding = &mut bindings.tensors[output];
                output.write_f32(0, 17, &[0.25]);
            }
        });
        Driver { device, knobs, n_compiled: AtomicUsize::new(0) }
    }

    /// One that computes everything right.
    fn right() -> Driver {
        Driver::new("", |_| false)
    }

    /// Ends the process when it is to compute.
    fn deadly() -> Driver {
        let device = ReferenceBackend::with_kernel(|_: &Segment, _: &mut Bindings, _| std::process::abort());
        Driver { device, ..Driver::right() }
    }

    fn allows(&self, family: &'static str, variant: Variant) -> bool {
        self.knobs.lock().expect("knobs").allows(family, variant)
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
    fn knobs(&self) -> Knobs {
        self.knobs.lock().expect("knobs").clone()
    }

    fn hold(&self, knobs: Knobs) {
        *self.knobs.lock().expect("knobs") = knobs;
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
    let (driver, checks) = (Driver::right(), Checks::new("gpu", None, false));
    for features in [64, 4096] {
        assert_eq!(checks.support(&driver, &spec(Op::Softmax { features }, 1)), Support::Yes);
    }
    assert_eq!(driver.n_compiled.load(Ordering::Relaxed), 1);
    assert_eq!(checks.verdicts().into_values().collect::<Vec<_>>(), [Verdict::Right]);
}

#[test]
fn every_operator_and_format_has_a_test_that_the_loops_pass() {
    let (driver, checks) = (Driver::right(), Checks::new("gpu", None, false));
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

/// A driver whose softmax is right without subgroups and 16-bit floats only.
fn softmax_with_anything_is_wrong() -> Driver {
    let variants = [Variant::Subgroups, Variant::F16];
    Driver::new("softmax", move |knobs| variants.iter().any(|variant| knobs.allows("softmax", *variant)))
}

#[test]
fn what_only_plain_kernels_compute_is_left_to_them_and_the_driver_is_remembered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = || Some(KeptFile::new(folder.path(), "verdicts", "driver 1"));
    let is_plain = |driver: &Driver| {
        let softmax = [Variant::Subgroups, Variant::F16].map(|variant| driver.allows("softmax", variant));
        assert!(driver.allows("attention", Variant::Subgroups), "it is right");
        softmax == [false; 2]
    };
    let driver = softmax_with_anything_is_wrong();
    assert_eq!(Checks::new("gpu", file(), false).support(&driver, &softmax()), Support::Yes);
    assert!(is_plain(&driver));
    // The next run takes the plain form at once, and tries nothing.
    let (driver, checks) = (softmax_with_anything_is_wrong(), Checks::new("gpu", file(), false));
    checks.restrict(&driver);
    assert!(is_plain(&driver));
    assert_eq!(checks.support(&driver, &softmax()), Support::Yes);
    assert_eq!(driver.n_compiled.load(Ordering::Relaxed), 0);
    assert!(matches!(checks.verdicts().into_values().next(), Some(Verdict::Plain { reason }) if reason.contains("17")));
    // Who is strict is not content with it, and a new driver is tried again.
    assert!(matches!(Checks::new("gpu", file(), true).support(&driver, &softmax()), Support::No(_)));
    let other = Checks::new("gpu", Some(KeptFile::new(folder.path(), "verdicts", "driver 2")), false);
    assert!(other.verdicts().is_empty());
}

#[test]
fn a_variant_that_is_wrong_is_left_out_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = || Some(KeptFile::new(folder.path(), "verdicts", "driver"));
    let linear = Op::Linear { in_features: 64, out_features: 64, format: WeightFormat::F16, bias: false };
    for wrong in [Variant::Matrix, Variant::Subgroups, Variant::F16] {
        let driver = || Driver::new("linear", move |knobs| knobs.allows("linear_tiled", wrong));
        let (tried, checks) = (driver(), Checks::new("gpu", file(), false));
        assert_eq!(checks.support(&tried, &spec(linear.clone(), 1)), Support::Yes);
        // Then the next run, which does not try it again.
        let (remembering, remembered) = (driver(), Checks::new("gpu", file(), false));
        remembered.restrict(&remembering);
        assert_eq!(remembered.support(&remembering, &spec(linear.clone(), 1)), Support::Yes);
        assert_eq!(remembering.n_compiled.load(Ordering::Relaxed), 0);
        for driver in [tried, remembering] {
            for variant in [Variant::Matrix, Variant::Subgroups, Variant::F16, Variant::Fused] {
                assert_eq!(driver.allows("linear_tiled", variant), variant != wrong, "{variant:?} when {wrong:?} is");
            }
            assert!(driver.allows("attention", wrong), "it is right there");
        }
        let verdict = remembered.verdicts().into_values().next();
        assert!(matches!(verdict, Some(Verdict::Without { variant, .. }) if variant == wrong), "{verdict:?}");
        assert!(matches!(
            Checks::new("gpu", file(), true).support(&driver(), &spec(linear.clone(), 1)),
            Support::No(_)
        ));
        std::fs::remove_file(file().expect("a file").path()).expect("the file");
    }
}

#[test]
fn what_is_wrong_in_every_form_is_not_supported_and_the_reason_says_where() {
    let (driver, checks) = (Driver::new("softmax", |_| true), Checks::new("gpu", None, false));
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
    assert_eq!(checks(folder.path()).support(&Driver::right(), &spec(Op::Add { features: 8 }, 2)), Support::Yes);
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
