//! Where columns are cut so that devices finish together: from a few points of how each one's time grows with its columns.

use crate::cost::DeviceSet;

use super::candidates::{Pool, pairs};
use super::problem::{Template, least_common_multiple};
use super::state::Cut;

impl Pool<'_> {
    /// The columns of the first of two devices with which both finish a node together, or the whole chain that it
    /// begins, when the first can start so many seconds after the second (negative: before it); rounded down and up to
    /// the alignment.
    pub(crate) fn balanced_columns(
        &mut self,
        template: usize,
        devices: [usize; 2],
        is_chain: bool,
        head_start: f64,
    ) -> Option<[usize; 2]> {
        let known = self.balances[template].iter().position(|b| b.devices == devices && b.is_chain == is_chain);
        let idx = known.unwrap_or_else(|| {
            let balance = self.balance(template, devices, is_chain);
            self.balances[template].push(balance);
            self.balances[template].len() - 1
        });
        let balance = &self.balances[template][idx];
        let gap = |seconds: [f64; 2]| seconds[0] + head_start - seconds[1];
        let points = &balance.points;
        let after = points.iter().position(|&(_, seconds)| gap(seconds) >= 0.0).unwrap_or(points.len());
        if after == 0 || after == points.len() {
            // One device alone is faster than any cut.
            return None;
        }
        let ((x0, s0), (x1, s1)) = (points[after - 1], points[after]);
        let (g0, g1) = (gap(s0), gap(s1));
        let at = x0 + (x1 - x0) * -g0 / (g1 - g0).max(f64::MIN_POSITIVE);
        let columns = self.problem.templates[template].columns;
        let last = (columns - 1) / balance.step * balance.step;
        let down = ((at / balance.step as f64) as usize * balance.step).min(last);
        Some([down.max(balance.step).min(last), (down + balance.step).min(last)])
    }

    /// Cuts of columns between three devices that finish together when each starts at its time, from the rate that
    /// each has for a third of the columns; rounded to the alignment both ways.
    pub(crate) fn balanced_three(&self, template: usize, starts: &[f64]) -> Vec<Cut> {
        let template = &self.problem.templates[template];
        let step = template.column_step;
        let third = (template.columns / 3).next_multiple_of(step);
        let mut cuts = Vec::new();
        for (position, &a) in self.devices.iter().enumerate() {
            for (b, c) in pairs(&self.devices[position + 1..]) {
                let devices = [a, b, c];
                let all = devices.into_iter().collect();
                let rate = |device| {
                    let seconds = self.seconds(template, device, [0, template.rows], [0, third], all)?;
                    Some(third as f64 / seconds.max(f64::MIN_POSITIVE))
                };
                let [Some(ra), Some(rb), Some(rc)] = devices.map(rate) else { continue };
                let rates = [ra, rb, rc];
                let begun: f64 = devices.iter().zip(rates).map(|(&device, rate)| starts[device] * rate).sum();
                let end = (template.columns as f64 + begun) / rates.iter().sum::<f64>();
                let columns = [0, 1].map(|i| ((end - starts[devices[i]]) * rates[i] / step as f64).max(0.0) as usize);
                for (more_a, more_b) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let first = (columns[0] + more_a) * step;
                    let second = first + (columns[1] + more_b) * step;
                    if first > 0 && second > first && second < template.columns {
                        cuts.push(Cut::Columns(devices.map(|device| device as u8), [first as u32, second as u32]));
                    }
                }
            }
        }
        cuts
    }

    fn balance(&self, template: usize, [a, b]: [usize; 2], is_chain: bool) -> Balance {
        let head = &self.problem.templates[template];
        let both = DeviceSet::one(a).with(b);
        let whole =
            |member: &Template, device| self.seconds(member, device, [0, member.rows], [0, member.columns], both);
        let chain = head.chain.iter().map(|&member| &self.problem.templates[member]);
        let mut members: Vec<&Template> =
            chain.take_while(|member| whole(member, a).is_some() && whole(member, b).is_some()).collect();
        members.truncate(if is_chain { members.len() } else { 1 });
        let step = members.iter().map(|member| member.column_step).fold(1, least_common_multiple);
        let mut balance = Balance { devices: [a, b], is_chain, step, points: Vec::new() };
        if members.is_empty() || head.column_step == 0 || step >= head.columns || (is_chain && members.len() == 1) {
            return balance;
        }
        let n_points = self.options.effort.balance_points.min(head.columns / step).max(2);
        for point in 0..=n_points {
            let at = (head.columns * point / n_points).next_multiple_of(step).min(head.columns);
            let sum = |device: usize, columns: [usize; 2]| -> f64 {
                let seconds = members.iter().map(|member| {
                    self.seconds(member, device, [0, member.rows], columns, both).unwrap_or(f64::INFINITY)
                });
                seconds.sum()
            };
            let seconds = [sum(a, [0, at]), sum(b, [at, head.columns])];
            if balance.points.last().is_none_or(|(last, _)| *last < at as f64) {
                balance.points.push((at as f64, seconds));
            }
        }
        balance
    }
}

/// How the work of a chain of nodes grows with its columns, on two devices.
#[derive(Debug)]
pub(super) struct Balance {
    devices: [usize; 2],
    is_chain: bool,
    /// Columns may be cut at multiples of this.
    step: usize,
    /// Columns of the first device, ascending, and seconds of both devices for them and for the rest; empty when one
    /// of them cannot compute the node.
    points: Vec<(f64, [f64; 2])>,
}
