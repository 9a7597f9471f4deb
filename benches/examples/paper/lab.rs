//! Simulations, each of which is run once however many tables and figures want it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use hetero_core::{DeviceKind, OperandOrder};
use hetero_llama::config::ModelConfig;
use hetero_llama::simulate::{
    DynamicLength, Granularity, Method, SimulateMode, SimulateOptions, SimulatedPlan, Simulation, Soc, plan, simulate,
};

const SOC: &str = "snapdragon-8-gen-3";
pub(crate) const LLAMA_8B: &str = "llama-3-8b";
/// The paper's models, with the names that it gives them.
pub(crate) const MODELS: [(&str, &str); 4] = [
    (LLAMA_8B, "Llama-8B"),
    ("llama-2-7b", "Llama-7B"),
    ("llama-3.2-3b", "Llama-3B"),
    ("internlm2-1.8b", "InternLM-1.8B"),
];
/// The lengths of fixed prompts in the paper's figures.
pub(crate) const LENGTHS: [usize; 6] = [32, 64, 128, 256, 512, 1024];
/// Tokens that are generated behind each prompt where decoding is looked at.
const DECODE: usize = 32;

/// A way to run a model, and what it is called in tables and figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) mode: SimulateMode,
    pub(crate) method: Method,
}

const fn only(name: &'static str, kind: DeviceKind) -> Way {
    Way { name, mode: SimulateMode::Only(kind), method: Method::Paper }
}

pub(crate) const CPU_ONLY: Way = only("CPU only", DeviceKind::Cpu);
pub(crate) const GPU_ONLY: Way = only("GPU only", DeviceKind::Gpu);
pub(crate) const NPU_ONLY: Way = only("NPU only", DeviceKind::Npu);
pub(crate) const LAYER: Way =
    Way { name: "Hetero-layer, as the paper", mode: SimulateMode::Layer, method: Method::Paper };
pub(crate) const TENSOR: Way =
    Way { name: "Hetero-tensor, as the paper", mode: SimulateMode::Tensor, method: Method::Paper };
pub(crate) const WHOLE: Way =
    Way { name: "tensor, whole layer", mode: SimulateMode::Tensor, method: Method::WholeLayer };
pub(crate) const WHOLE_3: Way =
    Way { name: "tensor-3, whole layer", mode: SimulateMode::Tensor3, method: Method::WholeLayer };
/// All that are compared throughout.
pub(crate) const WAYS: [Way; 6] = [GPU_ONLY, NPU_ONLY, LAYER, TENSOR, WHOLE, WHOLE_3];

/// One simulation, by all that tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Case {
    pub(crate) shape: &'static str,
    pub(crate) way: Way,
    pub(crate) prompt: usize,
    pub(crate) decode: usize,
    pub(crate) dynamic_length: DynamicLength,
    pub(crate) cuts: Granularity,
    pub(crate) operand_order: Option<OperandOrder>,
    pub(crate) fast_sync: bool,
}

impl Case {
    /// Prefill and decode.
    pub(crate) fn new(shape: &'static str, way: Way, prompt: usize) -> Case {
        Case {
            shape,
            way,
            prompt,
            decode: DECODE,
            dynamic_length: DynamicLength::Tensor,
            cuts: Granularity::Tensor,
            operand_order: None,
            fast_sync: true,
        }
    }

    /// Prefill and no more than the first token.
    pub(crate) fn prefill(shape: &'static str, way: Way, prompt: usize) -> Case {
        Case { decode: 1, ..Case::new(shape, way, prompt) }
    }

    fn options(&self) -> Result<SimulateOptions> {
        let soc = Soc::builtin(SOC).context("a built-in system")?;
        let config = ModelConfig::shape(self.shape).context("a built-in shape")?;
        Ok(SimulateOptions {
            prompt: self.prompt,
            decode: self.decode,
            mode: self.way.mode,
            method: self.way.method,
            dynamic_length: self.dynamic_length,
            cuts: self.cuts,
            operand_order: self.operand_order,
            fast_sync: self.fast_sync,
            is_strict: true,
            ..SimulateOptions::new(soc, config)
        })
    }
}

/// Runs simulations and remembers them.
#[derive(Default)]
pub(crate) struct Lab {
    done: RefCell<HashMap<Case, Rc<Simulation>>>,
    /// `None` for as many as the machine has cores.
    n_threads: Option<usize>,
}

impl Lab {
    /// On so many threads.
    #[cfg(test)]
    pub(crate) fn on(n_threads: usize) -> Lab {
        Lab { n_threads: Some(n_threads), ..Lab::default() }
    }

    /// The results of cases, in their order.
    pub(crate) fn run_all(&self, cases: &[Case]) -> Result<Vec<Rc<Simulation>>> {
        let mut missing: Vec<Case> = Vec::new();
        for case in cases {
            if !self.done.borrow().contains_key(case) && !missing.contains(case) {
                missing.push(*case);
            }
        }
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let n_threads = self.n_threads.unwrap_or_else(cores).min(missing.len());
        let results = Mutex::new(Vec::with_capacity(missing.len()));
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                scope.spawn(|| {
                    while let Some(case) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = case.options().and_then(|options| Ok(simulate(&options)?));
                        results.lock().expect("no other thread panics").push((*case, result));
                    }
                });
            }
        });
        for (case, result) in results.into_inner()? {
            let result = result.with_context(|| format!("{}, {} tokens", case.way.name, case.prompt))?;
            self.done.borrow_mut().insert(case, Rc::new(result));
        }
        Ok(cases.iter().map(|case| Rc::clone(&self.done.borrow()[case])).collect())
    }

    /// The results of a table of cases, row by row.
    pub(crate) fn grid<R: Copy, C: Copy>(
        &self,
        rows: &[R],
        columns: &[C],
        case: impl Fn(R, C) -> Case,
    ) -> Result<Vec<Vec<Rc<Simulation>>>> {
        let cases: Vec<Case> = rows
            .iter()
            .flat_map(|&row| columns.iter().map(move |&column| (row, column)))
            .map(|(row, column)| case(row, column))
            .collect();
        let results = self.run_all(&cases)?;
        Ok(results.chunks(columns.len()).map(<[_]>::to_vec).collect())
    }

    /// The plan of a case's prompt, or with `is_decode` of the first token behind it.
    pub(crate) fn plan(&self, case: Case, is_decode: bool) -> Result<SimulatedPlan> {
        Ok(plan(&case.options()?, is_decode)?)
    }
}
