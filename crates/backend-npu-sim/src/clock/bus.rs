//! Sharing of one memory bus: max-min fairness.

/// Gives each of the flows, in bytes per second, its fair share of the bus.
///
/// `wanted` is what each flow could take alone, zero for none; `combined` is what all may take together. No flow gets
/// more than it wants; what one leaves over goes to the others in equal shares (max-min fairness; Bertsekas and
/// Gallager, Data Networks, section 6.5.2).
pub(crate) fn fair_rates<const N: usize>(wanted: [f64; N], combined: f64) -> [f64; N] {
    let mut rates = [0.0; N];
    let mut left = combined;
    let mut order: [usize; N] = std::array::from_fn(|idx| idx);
    // The modest first: what they leave over is known when the others are served.
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut n_waiting = wanted.iter().filter(|&&wanted| wanted > 0.0).count();
    for idx in order {
        if wanted[idx] > 0.0 {
            rates[idx] = wanted[idx].min(left / n_waiting as f64);
            left = (left - rates[idx]).max(0.0);
            n_waiting -= 1;
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair() {
        for (wanted, combined, expected) in [
            ([40.0, 0.0, 0.0], 60.0, [40.0, 0.0, 0.0]),
            ([80.0, 0.0, 0.0], 60.0, [60.0, 0.0, 0.0]),
            ([40.0, 40.0, 0.0], 60.0, [30.0, 30.0, 0.0]),
            ([45.0, 10.0, 0.0], 60.0, [45.0, 10.0, 0.0]),
            ([45.0, 10.0, 45.0], 60.0, [25.0, 10.0, 25.0]),
            ([0.0, 0.0, 0.0], 60.0, [0.0; 3]),
        ] {
            assert_eq!(fair_rates(wanted, combined), expected, "{wanted:?}");
        }
    }
}
