//! Where operators are cut, whatever the state of the search is: at every alignment where there are few, at standard
//! numbers of positions, and where devices balance.

use crate::cost::DeviceSet;

use super::candidates::{Pool, pairs};
use super::problem::Template;
use super::state::{Cut, MAX_PARTS};
use super::{DynamicLength, Granularity};

/// With at most so many positions where columns (or rows) may be cut, all are tried; with more, those that balance the
/// devices.
pub(crate) const FEW_CUTS: usize = 8;

/// At how many sums of standard numbers rows are cut at most for more than two devices where timing takes long.
const PRESSED_ROW_CUTS: usize = 2;

/// As [`FEW_CUTS`], for rows on devices of fixed shapes.
const FEW_ROW_CUTS: usize = 2;

/// Positions between cuts of rows, where a device does not have its own standard numbers: the tile of NPUs.
pub(crate) const ROW_STEP: usize = 32;

impl Pool<'_> {
    /// The cuts that are tried for a template; some may turn out to be impossible.
    pub(super) fn list_fixed_cuts(&self, template: usize) -> Vec<Cut> {
        let template = &self.problem.templates[template];
        let mut cuts: Vec<Cut> = self.devices.iter().map(|&device| Cut::Whole(device as u8)).collect();
        let cuts_rows = template.cuts_rows && template.rows > 1 && template.tensor_rows >= template.rows;
        let dynamic = self.options.dynamic_length;
        if cuts_rows && matches!(dynamic, DynamicLength::Pipe | DynamicLength::Tensor) {
            let fixed_shape = |device: &&usize| !self.costs.devices()[**device].standard_rows.is_empty();
            cuts.extend(self.devices.iter().filter(fixed_shape).map(|&device| Cut::Chunks(device as u8)));
        }
        if self.options.granularity == Granularity::Layer {
            return cuts;
        }
        for (a, b) in pairs(&self.devices) {
            let n_positions = (template.columns - 1).checked_div(template.column_step).unwrap_or(0);
            if (1..=FEW_CUTS).contains(&n_positions) {
                let positions = (1..=n_positions).map(|i| i * template.column_step);
                cuts.extend(positions.clone().map(|at| Cut::columns([a, b], at)));
                for &c in self.devices.iter().filter(|&&c| c > b) {
                    let devices = [a, b, c].map(|device| device as u8);
                    cuts.extend(positions.clone().flat_map(|first| {
                        let later = positions.clone().filter(move |&second| second > first);
                        later.map(move |second| Cut::Columns(devices, [first as u32, second as u32]))
                    }));
                }
            }
            if cuts_rows && dynamic == DynamicLength::Tensor {
                self.list_row_cuts(template, [a, b], &mut cuts);
            }
        }
        cuts
    }

    /// Cuts of rows: standard numbers on a device that wants them, the rest on the other.
    fn list_row_cuts(&self, template: &Template, [a, b]: [usize; 2], cuts: &mut Vec<Cut>) {
        let is_fixed = |device: usize| !self.costs.devices()[device].standard_rows.is_empty();
        let [a, b] = if is_fixed(b) && !is_fixed(a) { [b, a] } else { [a, b] };
        let devices = [a as u8, b as u8];
        let rows = template.rows;
        if is_fixed(a) {
            let (full, balanced) = if (rows - 1) / ROW_STEP <= FEW_ROW_CUTS {
                ((1..=(rows - 1) / ROW_STEP).map(|i| i * ROW_STEP).collect(), Vec::new())
            } else {
                (self.full_sums(a, rows), self.balanced_sums(template, [a, b]))
            };
            for &at in &full {
                cuts.extend(self.corner_cuts(template, [a, b], at));
            }
            let mut sums = [full, balanced].concat();
            sums.sort_unstable();
            sums.dedup();
            cuts.extend(sums.into_iter().map(|at| Cut::Rows(devices, at as u32)));
        } else if (rows - 1) / ROW_STEP <= FEW_CUTS {
            cuts.extend((1..=(rows - 1) / ROW_STEP).map(|i| Cut::Rows(devices, (i * ROW_STEP) as u32)));
        } else if let Some(at) = self.balanced_rows(template, [a, b]) {
            cuts.extend(
                [at, at + ROW_STEP]
                    .into_iter()
                    .filter(|&at| at > 0 && at < rows)
                    .map(|at| Cut::Rows(devices, at as u32)),
            );
        }
    }

    /// The numbers of positions below `rows` that a device of fixed shapes computes without padding in few pieces: the
    /// largest standard number that fits, then with the next one that fits into the rest, and so on.
    fn full_sums(&self, device: usize, rows: usize) -> Vec<usize> {
        let standard = &self.costs.devices()[device].standard_rows;
        let mut sums = Vec::new();
        let mut sum = 0;
        while sums.len() < MAX_PARTS - 2 {
            let Some(&next) = standard.iter().rev().find(|&&next| next > 1 && sum + next < rows) else { break };
            sum += next;
            sums.push(sum);
        }
        sums
    }

    /// Sums of standard numbers with which the first device, of fixed shapes, finishes a little before the second,
    /// which computes the rest: the closest one in few pieces, what it is without its last piece, and with twice that.
    fn balanced_sums(&self, template: &Template, [a, b]: [usize; 2]) -> Vec<usize> {
        let standard = &self.costs.devices()[a].standard_rows;
        let both = DeviceSet::one(a).with(b);
        let columns = [0, template.columns];
        let n_sums = if self.is_hurried() && self.is_pressed() { PRESSED_ROW_CUTS } else { usize::MAX };
        let n_sums = self.options.effort.balanced_row_cuts.min(n_sums);
        let mut sums: Vec<usize> = Vec::new();
        let (mut sum, mut spent) = (0, 0.0);
        for &size in standard.iter().rev().filter(|&&size| size > 1) {
            let end = sum + size;
            if end >= template.rows || sums.len() >= MAX_PARTS - 2 {
                continue;
            }
            let first = self.seconds(template, a, [sum, end], columns, both);
            let rest = self.seconds(template, b, [end, template.rows], columns, both);
            let (Some(first), Some(rest)) = (first, rest) else { return sums };
            if spent + first <= rest {
                (sum, spent) = (end, spent + first);
                sums.push(sum);
            } else if sums.len() + 1 >= n_sums || size == standard[0].max(ROW_STEP) {
                // One step too far may still be the best, beside other work.
                sums.push(end);
                break;
            }
        }
        let surplus = sums.len().saturating_sub(n_sums);
        sums.drain(..surplus);
        sums
    }

    /// For standard numbers of positions on the first device: as many of their columns that it finishes with the
    /// second, which computes the rest of the columns and of the rows.
    fn corner_cuts(&self, template: &Template, [a, b]: [usize; 2], at: usize) -> Vec<Cut> {
        let both = DeviceSet::one(a).with(b);
        let step = template.column_step;
        // Beside linear operators and attention, others take such a cut over from what they read; where all is tried, so is
        // this.
        if step == 0 || !(template.is_linear || template.mixes_rows || self.problem.layers.is_none()) {
            return Vec::new();
        }
        let n_steps = (template.columns - 1) / step;
        let corner = |n: usize| Cut::Corner([a as u8, b as u8], at as u32, (n * step) as u32);
        if n_steps <= FEW_CUTS && self.problem.layers.is_none() {
            return (1..=n_steps).map(corner).collect();
        }
        let gap = |n: usize| -> Option<f64> {
            let columns = n * step;
            let first = self.seconds(template, a, [0, at], [0, columns], both)?;
            let beside = self.seconds(template, b, [0, at], [columns, template.columns], both)?;
            let below = self.seconds(template, b, [at, template.rows], [0, template.columns], both)?;
            Some(first - beside - below)
        };
        // The gap grows with the first device's columns, nearly in proportion; the cut is where it changes its sign.
        let (Some(mut below), Some(mut above)) = (gap(0), gap(n_steps)) else { return Vec::new() };
        let (mut low, mut high) = (if above < 0.0 { n_steps - 1 } else { 0 }, n_steps);
        for round in 1.. {
            if high - low <= 1 {
                break;
            }
            // Aiming at the sign's change is there after few rounds, and with halving the range now and then always.
            let share = if round % 3 == 0 { 0.5 } else { below / (below - above) };
            let at = (low + ((high - low) as f64 * share) as usize).clamp(low + 1, high - 1);
            match gap(at) {
                Some(gap) if gap < 0.0 => (low, below) = (at, gap),
                Some(gap) => (high, above) = (at, gap),
                None => return Vec::new(),
            }
        }
        [low, high].into_iter().filter(|n| (1..=n_steps).contains(n)).map(corner).collect()
    }

    /// The number of rows, a multiple of [`ROW_STEP`], below which the first of two devices that take any number
    /// finishes before the second.
    fn balanced_rows(&self, template: &Template, [a, b]: [usize; 2]) -> Option<usize> {
        let both = DeviceSet::one(a).with(b);
        let columns = [0, template.columns];
        let (mut low, mut high) = (0, (template.rows - 1) / ROW_STEP);
        while low < high {
            let middle = (low + high).div_ceil(2);
            let at = middle * ROW_STEP;
            let first = self.seconds(template, a, [0, at], columns, both)?;
            let second = self.seconds(template, b, [at, template.rows], columns, both)?;
            if first <= second { low = middle } else { high = middle - 1 }
        }
        Some(low * ROW_STEP)
    }
}
