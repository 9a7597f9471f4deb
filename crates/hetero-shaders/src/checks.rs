//! Whether a driver computes kernels right: seen by doing so, once for each kind of operator, and remembered.
//!
//! A GPU's driver compiles the kernels, and drivers have mistakes. So an operator is offered to the scheduler only when a
//! small computation of it has given what the plain loops of `hetero-core` give. When it has not, the kernels that
//! compute it are tried without each of their variants by itself, what is newest in drivers first, and then in their
//! plain form ([`crate::Knobs`]); the log tells once what is left out. When all of that is wrong too, the device does not
//! support the operator. What was seen is kept for the driver and these kernels; so is that a process has not survived a
//! trial ([`Checks::died`]).

mod held;
mod marker;
mod self_test;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, DType, DeviceInfo, Executable, Op, OpSpec, Segment, Support, Tensor, TensorDesc,
    Weight, WeightFormat, WeightRows,
};
use parking_lot::Mutex;

pub use self::held::HeldKnobs;
use self::marker::Markers;
pub use self::marker::{Died, withdraw_markers};
use self::self_test::Trouble;
pub use self::verdict::Verdict;
use self::verdict::{parsed, written};
use crate::disk::KeptFile;
use crate::{Kernel, Knobs, Variant};

/// A GPU backend whose kernels can be held to certain variants.
pub trait Restrict: Backend {
    /// What may be used at present.
    fn knobs(&self) -> Knobs;

    /// What may be used by what is compiled from now on.
    fn hold(&self, knobs: Knobs);
}

/// A GPU backend of which only what its driver computes right is offered.
#[derive(Debug)]
pub struct Checked<B> {
    device: B,
    checks: Option<Checks>,
}

impl<B: Restrict> Checked<B> {
    /// A device held to what is remembered of it; without checks its driver is trusted.
    pub fn new(device: B, checks: Option<Checks>) -> Checked<B> {
        if let Some(checks) = &checks {
            checks.restrict(&device);
        }
        Checked { device, checks }
    }

    /// The device as it is.
    pub fn device(&self) -> &B {
        &self.device
    }

    /// What was seen so far, by what was computed.
    pub fn verdicts(&self) -> BTreeMap<String, Verdict> {
        self.checks.as_ref().map(Checks::verdicts).unwrap_or_default()
    }
}

impl<B: Restrict> Backend for Checked<B> {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn support(&self, op: &OpSpec) -> Support {
        match (self.device.support(op), &self.checks) {
            (Support::Yes, Some(checks)) => checks.support(&self.device, op),
            (support, _) => support,
        }
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
        let info = self.info();
        for node in &segment.nodes {
            let spec = segment.graph.op_spec(node.node);
            if let Support::No(reason) = self.support(&spec) {
                panic!("{spec} was placed on {} although: {reason}", info.name);
            }
            for weight in &node.weights {
                assert_eq!(weight.device(), info.id, "{:?} was loaded by another backend", weight.rows());
            }
        }
        match self.checks.as_ref().map(|checks| checks.segment(&self.device, segment)) {
            Some(Support::No(reason)) => Err(BackendError::CompileFailed { device: info.name.clone(), reason }),
            _ => self.device.compile(segment),
        }
    }
}

/// The checks of one device.
#[derive(Debug)]
pub struct Checks {
    /// For messages.
    device: String,
    file: Option<KeptFile>,
    markers: Option<Markers>,
    died: Option<Died>,
    /// Whether a variant that fails is not replaced.
    is_strict: bool,
    verdicts: Mutex<BTreeMap<String, Verdict>>,
}

impl Checks {
    /// The checks of a device, with what is remembered of its driver. Only with a file is anything remembered.
    pub fn new(device: &str, file: Option<KeptFile>, is_strict: bool) -> Checks {
        let kept = file.as_ref().and_then(KeptFile::load).unwrap_or_default();
        let verdicts = Mutex::new(parsed(&String::from_utf8_lossy(&kept)));
        let markers = file.as_ref().map(|file| Markers::beside(file.path()));
        let died = markers.as_ref().and_then(Markers::died);
        Checks { device: device.to_owned(), file, markers, died, is_strict, verdicts }
    }

    /// A trial of this driver that its process has not survived, now or in an earlier run: then the driver is not to be
    /// used. Only with a file is that known.
    pub fn died(&self) -> Option<&Died> {
        self.died.as_ref()
    }

    /// What was seen so far, by what was computed.
    pub fn verdicts(&self) -> BTreeMap<String, Verdict> {
        self.verdicts.lock().clone()
    }

    /// Holds kernels to what is remembered of them.
    pub fn restrict(&self, backend: &dyn Restrict) {
        let mut knobs = backend.knobs();
        for (case, verdict) in &*self.verdicts.lock() {
            match verdict {
                Verdict::Without { variant, .. } => knobs.add(&without(case, &[*variant])),
                Verdict::Plain { .. } => knobs.add(&plain_for(case)),
                Verdict::Right | Verdict::Wrong { .. } => {}
            }
        }
        backend.hold(knobs);
    }

    /// Whether the device computes an operator right; seen now if it is not known.
    pub fn support(&self, backend: &dyn Restrict, spec: &OpSpec) -> Support {
        self.judge(backend, &case_of(spec), || self_test::check_op(backend, spec))
    }

    /// Whether the device computes the operators of a segment right when it has them all at once: kernels that stand for
    /// several of them are left out if it does not.
    pub fn segment(&self, backend: &dyn Restrict, segment: &Segment) -> Support {
        let specs = || segment.nodes.iter().map(|node| segment.graph.op_spec(node.node));
        let format = specs().find_map(|spec| match spec.op {
            Op::Linear { format, .. } => Some(format),
            _ => None,
        });
        let (Some(format), Some(spec)) = (format.filter(|_| segment.nodes.len() > 1), specs().next()) else {
            return Support::Yes;
        };
        let dtype = spec.output;
        self.judge(backend, &layer_case(format, dtype), || self_test::check_layer(backend, format, dtype))
    }

    fn judge(&self, backend: &dyn Restrict, case: &str, check: impl Fn() -> Result<(), Trouble>) -> Support {
        // Held for as long as it takes: nobody else compiles meanwhile what may be about to change.
        let mut verdicts = self.verdicts.lock();
        if !verdicts.contains_key(case) {
            let marker = self.markers.as_ref().and_then(|markers| markers.set(case));
            let verdict = self.see(backend, case, check);
            drop(marker);
            // Who uses a device of which nothing can be seen is told why by what fails then.
            let Some(verdict) = verdict else { return Support::Yes };
            verdicts.insert(case.to_owned(), verdict);
            if let Some(file) = &self.file {
                file.store(written(&verdicts).as_bytes());
            }
        }
        match &verdicts[case] {
            Verdict::Without { reason, .. } | Verdict::Plain { reason } if self.is_strict => {
                Support::No(wrong(case, reason))
            }
            Verdict::Right | Verdict::Without { .. } | Verdict::Plain { .. } => Support::Yes,
            Verdict::Wrong { reason } => Support::No(wrong(case, reason)),
        }
    }

    fn see(&self, backend: &dyn Restrict, case: &str, check: impl Fn() -> Result<(), Trouble>) -> Option<Verdict> {
        let device = &self.device;
        let reason = match check() {
            Ok(()) => return Some(Verdict::Right),
            Err(Trouble::Unseen) => return None,
            Err(Trouble::Wrong(reason)) => reason,
        };
        // A variant that is not to blame is given back: only what goes wrong is left out.
        let allowed = backend.knobs();
        let hold = |more: &Knobs| {
            let mut knobs = allowed.clone();
            knobs.add(more);
            backend.hold(knobs);
        };
        for variant in variants_of(case, &allowed) {
            hold(&without(case, &[variant]));
            match check() {
                Ok(()) => {
                    let left_out = variant.name();
                    tracing::warn!(device, case, reason, left_out, "the driver computes a variant of a kernel wrong");
                    return Some(Verdict::Without { variant, reason });
                }
                Err(Trouble::Unseen) => {
                    backend.hold(allowed);
                    return None;
                }
                Err(Trouble::Wrong(_)) => {}
            }
        }
        hold(&plain_for(case));
        match check() {
            Ok(()) => {
                tracing::warn!(device, case, reason, "the driver computes a kernel wrong, and its plain form is taken");
                Some(Verdict::Plain { reason })
            }
            Err(Trouble::Unseen) => {
                backend.hold(allowed);
                None
            }
            Err(Trouble::Wrong(reason)) => {
                tracing::warn!(device, case, reason, "the driver computes a kernel wrong in every form");
                Some(Verdict::Wrong { reason })
            }
        }
    }
}

fn wrong(case: &str, reason: &str) -> String {
    format!("the driver computes {case} wrong: {reason}")
}

/// What the self-test of an operator is called: all that its kernels depend on.
fn case_of(spec: &OpSpec) -> String {
    let small = self_test::small(spec);
    match small.op {
        Op::Attention { heads, kv_heads, head_dim, .. } => format!("{small} {heads}/{kv_heads}x{head_dim}"),
        Op::Rope { head_dim, .. } | Op::CacheWrite { head_dim, .. } => format!("{small} x{head_dim}"),
        Op::Convert { rows, .. } => format!("{small} {rows:?}"),
        _ => small.to_string(),
    }
}

const LAYER: &str = "layer";

fn layer_case(format: WeightFormat, dtype: DType) -> String {
    format!("{LAYER} {format} {dtype}")
}

/// The families of kernels that compute a case.
fn families_of(case: &str) -> impl Iterator<Item = &'static str> {
    let op = case.split(' ').next().unwrap_or_default();
    Kernel::FAMILIES.iter().copied().filter(move |family| op == LAYER || family.contains(op))
}

/// Variants that may be to blame when a case is wrong, in the order in which they are suspected: first what few programs
/// use of a driver.
fn variants_of(case: &str, allowed: &Knobs) -> Vec<Variant> {
    let mut all = Variant::ALL;
    all.sort_by_key(|variant| match variant {
        Variant::Matrix => 0,
        Variant::IntegerDot => 1,
        Variant::Half => 2,
        Variant::Subgroups => 3,
        Variant::F16 => 4,
        _ => 5,
    });
    let is_used =
        |variant: &Variant| families_of(case).any(|family| variant.is_of(family) && allowed.allows(family, *variant));
    // Of a layer, to be the operators by themselves is the plain form.
    all.into_iter().filter(|variant| is_used(variant) && *variant != Variant::Fused).collect()
}

/// The knobs that leave variants of the kernels of a case out.
fn without(case: &str, variants: &[Variant]) -> Knobs {
    let mut knobs = Knobs::default();
    for family in families_of(case) {
        variants.iter().for_each(|variant| knobs.forbid(family, *variant));
    }
    knobs
}

/// The knobs that hold the kernels of a case to their plain form: for a layer, every operator by itself.
fn plain_for(case: &str) -> Knobs {
    match case.split(' ').next() {
        Some(LAYER) => without(case, &[Variant::Fused]),
        _ => without(case, &Variant::ALL),
    }
}
