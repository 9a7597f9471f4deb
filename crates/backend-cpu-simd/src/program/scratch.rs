//! Working memory of a device, made when segments are compiled and used by every run.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::kernels::{AttentionScratch, QuantizedRows};

/// Working memory that all programs of a device share, because they run one after the other.
#[derive(Debug)]
pub(crate) struct Scratch {
    quantized: Vec<i8>,
    quantized_scales: Vec<f32>,
    quantized_corrections: Vec<i32>,
    bf16: Vec<u16>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The frequencies for which `cos` and `sin` hold this run's positions.
    rotation: Option<Arc<[f32]>>,
    /// One for each worker; its lock is never contended.
    attention: Vec<Mutex<AttentionScratch>>,
    max_head_dim: usize,
}

/// How much working memory a program needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScratchNeed {
    /// Elements of quantised activations, columns filled up to a multiple of 32.
    pub(crate) quantized: usize,
    /// Elements of bf16 activations, columns filled up to a multiple of 32.
    pub(crate) bf16: usize,
    /// Angles: positions times half of a head.
    pub(crate) angles: usize,
    /// The widest head of attention.
    pub(crate) head_dim: usize,
}

impl ScratchNeed {
    /// Enough for both.
    pub(crate) fn max(self, other: ScratchNeed) -> ScratchNeed {
        ScratchNeed {
            quantized: self.quantized.max(other.quantized),
            bf16: self.bf16.max(other.bf16),
            angles: self.angles.max(other.angles),
            head_dim: self.head_dim.max(other.head_dim),
        }
    }
}

/// The tables of a rotation, `[positions, head_dim / 2]`.
#[derive(Clone, Copy)]
pub(crate) struct Angles {
    pub(crate) cos: *mut f32,
    pub(crate) sin: *mut f32,
    /// Whether they hold this run's positions already.
    pub(crate) is_filled: bool,
}

impl Scratch {
    /// Nothing yet, for `n_threads` workers.
    pub(crate) fn new(n_threads: usize) -> Scratch {
        Scratch {
            quantized: Vec::new(),
            quantized_scales: Vec::new(),
            quantized_corrections: Vec::new(),
            bf16: Vec::new(),
            cos: Vec::new(),
            sin: Vec::new(),
            rotation: None,
            attention: (0..n_threads).map(|_| Mutex::new(AttentionScratch::new(0))).collect(),
            max_head_dim: 0,
        }
    }

    /// Makes room for another program.
    pub(crate) fn grow(&mut self, need: &ScratchNeed) {
        fn at_least<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
            if buffer.len() < len {
                buffer.resize(len, T::default());
            }
        }
        at_least(&mut self.quantized, need.quantized);
        at_least(&mut self.quantized_scales, need.quantized / 32);
        at_least(&mut self.quantized_corrections, need.quantized / 32);
        at_least(&mut self.bf16, need.bf16);
        at_least(&mut self.cos, need.angles);
        at_least(&mut self.sin, need.angles);
        if self.max_head_dim < need.head_dim {
            self.max_head_dim = need.head_dim;
            for scratch in &mut self.attention {
                *scratch.get_mut() = AttentionScratch::new(need.head_dim);
            }
        }
    }

    /// Forgets what belongs to the positions of the last run.
    pub(crate) fn begin_run(&mut self) {
        self.rotation = None;
    }

    /// Room for quantised activations `[positions, k]`.
    pub(crate) fn quantized(&mut self, positions: usize, k: usize) -> QuantizedRows {
        let n_scales = QuantizedRows::n_scales(positions, k);
        assert!(n_scales <= self.quantized_scales.len(), "`grow` was not asked for [{positions}, {k}]");
        QuantizedRows {
            values: self.quantized.as_mut_ptr(),
            scales: self.quantized_scales.as_mut_ptr(),
            corrections: self.quantized_corrections.as_mut_ptr(),
            positions,
            k,
        }
    }

    /// Room for bf16 activations of so many elements.
    pub(crate) fn bf16(&mut self, n_elements: usize) -> *mut u16 {
        assert!(n_elements <= self.bf16.len(), "`grow` was not asked for {n_elements} bf16 elements");
        self.bf16.as_mut_ptr()
    }

    /// The tables of a rotation for `positions` rows, which the caller fills unless they are filled.
    pub(crate) fn angles(&mut self, frequencies: &Arc<[f32]>, positions: usize) -> Angles {
        assert!(positions * frequencies.len() <= self.cos.len(), "`grow` was not asked for {positions} positions");
        let is_filled = self.rotation.as_ref().is_some_and(|filled| Arc::ptr_eq(filled, frequencies));
        self.rotation = Some(Arc::clone(frequencies));
        Angles { cos: self.cos.as_mut_ptr(), sin: self.sin.as_mut_ptr(), is_filled }
    }

    /// The workers' scratch of attention.
    pub(crate) fn attention(&self) -> &[Mutex<AttentionScratch>] {
        &self.attention
    }
}
