//! The per-operator method of HeteroLLM, for comparison.
//!
//! Each operator gets the least of
//!
//! ```text
//! max(T_GPU(part 1), T_NPU(part 2)) + T_sync + T_copy     cut by weight rows, by positions, or by rows of a padded step
//! T_GPU(all)
//! T_NPU(all) + T_sync + T_copy
//! ```
//!
//! (section 4.4 of arXiv 2501.14794 v2). Memory is shared, so `T_copy` is nothing. `T_NPU` is a latency, with what
//! submitting to the idle NPU and starting it takes, as the paper's table 3 has it. `T_sync` is the longer
//! `sync_seconds` of the two; where the NPU does not finish before the GPU runs dry, submitting to the idle GPU comes on
//! top, and where it does, the GPU's queue does without (section 4.3: decoding hides the NPU's time under the GPU's).
//! Linear operators are divided, everything else runs on the GPU.

use hetero_core::DeviceKind;

use super::search::Search;
use super::state::Cut;
use super::steady::Choices;

impl Search<'_> {
    /// Choices for all nodes and the state after them, or `None` when some node has no candidate.
    pub(crate) fn solve_as_paper(&mut self) -> Option<Choices> {
        let problem = self.pool.problem;
        let devices = self.pool.devices.clone();
        let of_kind =
            |kind: DeviceKind| devices.iter().copied().find(|&device| self.pool.costs.devices()[device].kind == kind);
        let gpu = of_kind(DeviceKind::Gpu).unwrap_or(devices[0]);
        let npu = of_kind(DeviceKind::Npu).filter(|&npu| npu != gpu);
        let mut chosen = Vec::with_capacity(problem.templates.len());
        for template in 0..problem.templates.len() {
            chosen.push(self.decide_alone(template, gpu, npu)?);
        }
        Some(problem.works.iter().map(|work| chosen[work.template]).collect())
    }

    fn decide_alone(&mut self, template: usize, gpu: usize, npu: Option<usize>) -> Option<usize> {
        let known = &self.pool.problem.templates[template];
        let mut cuts = vec![Cut::Whole(gpu as u8)];
        if let (Some(npu), true) = (npu, known.is_linear) {
            let pair = |device: usize| device == gpu || device == npu;
            let is_of_paper =
                |cut: &Cut| cut.devices().iter().all(pair) && !matches!(cut, Cut::Corner(..) | Cut::Columns(..));
            cuts.extend(self.pool.fixed_cuts(template).iter().map(|&(cut, _)| cut).filter(is_of_paper));
            if self.pool.options.granularity.cuts_columns() && known.column_step > 0 {
                cuts.extend(self.weight_cuts(template, gpu, npu));
            }
        }
        let mut best: Option<(f64, usize)> = None;
        for cut in cuts {
            let Some(idx) = self.pool.find(template, cut) else { continue };
            let candidate = self.pool.candidate(template, idx);
            let on = |device: usize| -> f64 {
                let pieces = candidate.pieces.iter().filter(|piece| piece.device == device);
                pieces.map(|piece| piece.seconds).sum()
            };
            let seconds = match npu.filter(|&npu| cut.devices().contains(npu)) {
                Some(npu) => {
                    let formula = self.formula(gpu, npu);
                    formula.seconds(on(gpu), on(npu))
                }
                None => on(gpu),
            };
            if best.is_none_or(|(least, _)| seconds < least) {
                best = Some((seconds, idx));
            }
        }
        if best.is_none() {
            // What the GPU cannot compute goes to the first device that can.
            let others = self.pool.devices.clone();
            return others.into_iter().find_map(|device| self.pool.find(template, Cut::Whole(device as u8)));
        }
        best.map(|(_, idx)| idx)
    }

    /// The constants of the formula.
    fn formula(&self, gpu: usize, npu: usize) -> Formula {
        let [gpu, npu] = [gpu, npu].map(|device| self.overheads[device]);
        Formula {
            launch: npu.submit + npu.idle + npu.start,
            sync: gpu.sync.max(npu.sync),
            resubmit: gpu.submit,
            run_dry: gpu.submit + gpu.idle,
        }
    }

    /// Cuts of weight rows in the ratios that the options name, or at the multiples of the alignment on both sides of where
    /// the two processors take equally long, and of where the NPU finishes just before the GPU runs dry: of all
    /// multiples one of these is the best, because one processor's time grows with its columns and the other's falls.
    fn weight_cuts(&self, template: usize, gpu: usize, npu: usize) -> Vec<Cut> {
        let known = &self.pool.problem.templates[template];
        let (columns, step) = (known.columns, known.column_step);
        let gpu_columns: Vec<usize> = if self.pool.options.paper_ratios.is_empty() {
            let both = [gpu, npu].into_iter().collect();
            let formula = self.formula(gpu, npu);
            let is_gpu_shorter = |n: usize, lead: f64| {
                let seconds = |device: usize, columns: [usize; 2]| {
                    self.pool.seconds(known, device, [0, known.rows], columns, both)
                };
                match (seconds(gpu, [0, n * step]), seconds(npu, [n * step, columns])) {
                    (Some(gpu), Some(npu)) => gpu < formula.launch + npu + lead,
                    _ => true,
                }
            };
            let last = (columns - 1) / step;
            let meeting = |lead: f64| {
                let (mut low, mut high) = (1, last + 1);
                while low < high {
                    let middle = low.midpoint(high);
                    if is_gpu_shorter(middle, lead) { low = middle + 1 } else { high = middle }
                }
                [low - 1, low]
            };
            let around = [meeting(0.0), meeting(formula.sync + formula.resubmit)].into_iter().flatten();
            around.filter(|n| (1..=last).contains(n)).map(|n| n * step).collect()
        } else {
            let to_step = |[gpu, npu]: [usize; 2]| (columns * gpu / (gpu + npu) + step / 2) / step * step;
            self.pool.options.paper_ratios.iter().copied().map(to_step).filter(|&at| at > 0 && at < columns).collect()
        };
        gpu_columns.into_iter().map(|at| Cut::columns([gpu, npu], at)).collect()
    }
}

/// The constants of the formula for a GPU and an NPU, in seconds.
#[derive(Clone, Copy, Debug)]
struct Formula {
    /// From submitting to the NPU until it works.
    launch: f64,
    sync: f64,
    /// Of submitting to the GPU, into a queue that has work and into one that has run empty.
    resubmit: f64,
    run_dry: f64,
}

impl Formula {
    /// Seconds of an operator of which the parts take so many on the GPU and on the NPU.
    fn seconds(&self, on_gpu: f64, on_npu: f64) -> f64 {
        let npu = self.launch + on_npu;
        let is_hidden = npu + self.sync + self.resubmit <= on_gpu;
        on_gpu.max(npu) + self.sync + if is_hidden { 0.0 } else { self.run_dry }
    }
}
