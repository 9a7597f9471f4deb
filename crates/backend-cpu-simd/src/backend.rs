//! The CPU as a [`Backend`].

use std::sync::Arc;

use hetero_core::{
    Access, Backend, BackendError, DType, DeviceId, DeviceInfo, DeviceKind, Executable, Op, OpSpec, Segment, Support,
    Tensor, TensorDesc, Weight, WeightRows,
};
use parking_lot::Mutex;

use crate::dispatch::Kernels;
use crate::error::CpuError;
use crate::executable::CpuExecutable;
use crate::memory::CpuTensor;
use crate::program::{Program, Scratch};
use crate::queue::Queue;
use crate::topology::performance_cores;
use crate::weight::CpuWeight;

/// How the CPU is to be used.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Worker threads; `None` means one for each performance core.
    pub threads: Option<usize>,
    /// How activations meet narrow weights.
    pub activations: ActivationMode,
}

/// How activations meet narrow weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationMode {
    /// As 8-bit integers per group of 32 beside quantised weights, as bf16 beside bf16 weights where the CPU has a
    /// fast instruction for that, as floats otherwise.
    #[default]
    Fast,
    /// As 32-bit floats.
    Float,
}

/// The CPU of this machine: a worker pool and the kernels of its best instruction set.
///
/// Tensors of every backend that the host can reach are `Direct`. Submissions are run by a thread of the backend's own.
#[derive(Debug)]
pub struct CpuBackend {
    info: DeviceInfo,
    kernels: &'static Kernels,
    activations: ActivationMode,
    queue: Arc<Queue>,
    scratch: Arc<Mutex<Scratch>>,
}

impl CpuBackend {
    /// The most worker threads that may be asked for.
    pub const MAX_THREADS: usize = 1024;

    /// Starts the worker threads.
    pub fn new(options: &CpuOptions) -> Result<CpuBackend, CpuError> {
        let kernels = Kernels::select()?;
        let threads = options.threads.unwrap_or_else(performance_cores);
        if threads == 0 || threads > Self::MAX_THREADS {
            return Err(CpuError::BadThreads { threads, limit: Self::MAX_THREADS });
        }
        let scratch = Arc::new(Mutex::new(Scratch::new(threads)));
        let queue = Queue::new(threads, Arc::clone(&scratch), "cpu")?;
        let threads_text = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        let info = DeviceInfo {
            id: DeviceId::next(),
            name: "cpu".to_owned(),
            kind: DeviceKind::Cpu,
            description: format!("{}, {}, {threads_text}", processor_name(), kernels.name),
            version: format!("{} {}", env!("CARGO_PKG_VERSION"), kernels.name),
            weight_row_alignment: 32,
            is_host_visible: true,
            max_tensor_bytes: None,
            max_segment_weight_bytes: None,
            max_graphs: None,
        };
        Ok(CpuBackend { info, kernels, activations: options.activations, queue: Arc::new(queue), scratch })
    }
}

impl Backend for CpuBackend {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn support(&self, op: &OpSpec) -> Support {
        let is = |actual: DType, expected: &[DType], what: &str| match expected.contains(&actual) {
            true => None,
            false => Some(format!("{what} in {actual}; it takes {expected:?}")),
        };
        let floats = [DType::F32, DType::F16, DType::BF16];
        let caches = [DType::F32, DType::F16];
        let first = op.inputs.first().copied().unwrap_or(DType::F32);
        let refusal = match op.op {
            Op::Embed { .. } => is(first, &[DType::U32], "ids").or(is(op.output, &[DType::F32], "output")),
            Op::CacheWrite { .. } => is(first, &[DType::F32], "keys or values").or(is(op.output, &caches, "cache")),
            Op::Attention { .. } => is(first, &[DType::F32], "queries")
                .or(is(op.inputs[1], &caches, "cache"))
                .or(is(op.inputs[2], &[op.inputs[1]], "cache of values"))
                .or(is(op.output, &[DType::F32], "output")),
            Op::Convert { .. } => is(first, &floats, "input").or(is(op.output, &floats, "output")),
            _ => op.inputs.iter().find_map(|&input| is(input, &[DType::F32], "input")).or(is(
                op.output,
                &[DType::F32],
                "output",
            )),
        };
        refusal.map_or(Support::Yes, |refusal| Support::No(format!("the CPU has no kernel for {refusal}")))
    }

    fn access(&self, tensor: &dyn Tensor) -> Access {
        match tensor.host_ptr() {
            Some(_) => Access::Direct,
            None => Access::NeedsCopy,
        }
    }

    fn allocate(&self, desc: &TensorDesc) -> Result<Arc<dyn Tensor>, BackendError> {
        Ok(Arc::new(CpuTensor::new(self.info.id, *desc)?))
    }

    fn load_weight(&self, rows: WeightRows) -> Result<Arc<dyn Weight>, BackendError> {
        Ok(Arc::new(CpuWeight::new(rows, self.info.id)?))
    }

    fn compile(&self, segment: &Segment) -> Result<Arc<dyn Executable>, BackendError> {
        for node in &segment.nodes {
            let op = segment.graph.op_spec(node.node);
            if let Support::No(reason) = self.support(&op) {
                panic!("{op} was placed on the CPU although: {reason}");
            }
        }
        let program = Program::new(segment, self.kernels, self.activations);
        self.scratch.lock().grow(&program.scratch_need());
        Ok(Arc::new(CpuExecutable::new(program, Arc::clone(&self.queue), self.info.id)))
    }
}

/// The processor's product name, as far as the system tells.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Hardware"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
