//! The frequencies of rotary position encoding, computed as transformers computes them.

use super::{ModelConfig, RopeScaling};

/// The angle in radians by which each pair of features turns per position: `[head_dim / 2]`.
///
/// In f32 throughout and in the order of transformers' `modeling_rope_utils`, because at position 100,000 a
/// difference in the last bit of a frequency is a visible difference of angle.
pub fn rope_frequencies(config: &ModelConfig) -> Vec<f32> {
    let head_dim = config.head_dim;
    (0..head_dim / 2)
        .map(|pair_idx| {
            let exponent = (2 * pair_idx) as f32 / head_dim as f32;
            let frequency = 1.0 / config.rope.theta.powf(exponent);
            scale(frequency, config.rope.scaling)
        })
        .collect()
}

fn scale(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let original = original_max_positions as f32;
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rope;
    use super::*;

    fn frequencies(head_dim: usize, rope: Rope) -> Vec<f32> {
        let shape = ModelConfig::shape("llama-3-8b").expect("a known shape");
        rope_frequencies(&ModelConfig { head_dim, rope, ..shape })
    }

    fn assert_close(actual: f32, expected: f64) {
        let error = (f64::from(actual) / expected - 1.0).abs();
        assert!(error < 4e-7, "{actual} is not {expected}: off by {error:e}");
    }

    #[test]
    fn plain_frequencies_are_powers_of_theta() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None };
        let frequencies = frequencies(8, rope);
        assert_eq!(frequencies.len(), 4);
        for (frequency, expected) in frequencies.into_iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert_close(frequency, expected);
        }
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 4.0 } };
        for (frequency, expected) in frequencies(8, rope).into_iter().zip([0.25, 0.025, 0.0025, 0.00025]) {
            assert_close(frequency, expected);
        }
    }

    /// The formula of the Llama 3.1 release, written a second time in f64 and in the release's own form: by wavelength
    /// bounds and a ramp. The three regions all occur with 64 pairs.
    #[test]
    fn llama3_scaling_follows_the_release() {
        let rope = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8192,
            },
        };
        let scaled = frequencies(128, rope);
        let mut regions = [0; 3];
        for (i, &frequency) in scaled.iter().enumerate() {
            let plain = 500_000f64.powf(-(2.0 * i as f64) / 128.0);
            let turns = 8192.0 * plain / std::f64::consts::TAU;
            let expected = if turns > 4.0 {
                regions[0] += 1;
                plain
            } else if turns < 1.0 {
                regions[1] += 1;
                plain / 8.0
            } else {
                regions[2] += 1;
                let ramp = (turns - 1.0) / 3.0;
                plain / 8.0 * (1.0 - ramp) + plain * ramp
            };
            let error = (f64::from(frequency) / expected - 1.0).abs();
            assert!(error < 2e-6, "pair {i}: {frequency} is not {expected}");
        }
        assert_eq!(regions.iter().sum::<usize>(), 64);
        assert!(regions.iter().all(|&n_pairs| n_pairs > 0), "{regions:?}");
    }

    /// Three values worked out by hand for theta 500,000 and 128 features.
    /// Pair 0 turns fast and is kept; pair 63 has a wavelength of 2.56 million tokens and is divided by 8;
    /// pair 32 turns by 500000^-0.5 a token, 8192 of them 1.84 times round: a ramp of 0.2813.
    #[test]
    fn llama3_scaling_at_known_pairs() {
        let rope = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8192,
            },
        };
        let scaled = frequencies(128, rope);
        assert_eq!(scaled[0], 1.0);
        assert_close(scaled[32], 5.248_461_6e-4);
        assert_close(scaled[63], 3.068_926e-7);
    }
}
