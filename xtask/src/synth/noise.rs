//! Normal noise in bf16, two billion values a second on one core.
//!
//! A counter-based generator makes 64 random bits from the place of four values in their tensor, so that any block can
//! be made by any thread. Each 16 bits choose from a table of 65,536 quantiles of the normal distribution.

/// Standard deviation, as transformers initialises a Llama.
const DEVIATION: f64 = 0.02;

/// 1.0 in bf16.
pub(super) const ONE: u16 = 0x3F80;

/// The table of quantiles.
pub(super) struct Noise {
    quantiles: Vec<u16>,
}

impl Noise {
    /// Computes the table.
    pub(super) fn new() -> Self {
        let quantile = |i: u32| {
            let p = (f64::from(i) + 0.5) / 65_536.0;
            to_bf16((normal_quantile(p) * DEVIATION) as f32)
        };
        let quantiles = (0..65_536).map(quantile).collect();
        Self { quantiles }
    }

    /// Fills `bytes` with the values from `first` on of the tensor with this `seed`; `first` is a multiple of 4.
    pub(super) fn fill(&self, seed: u64, first: u64, bytes: &mut [u8]) {
        assert!(first.is_multiple_of(4), "blocks begin at a group of four values");
        let table: &[u16; 65_536] = self.quantiles.as_slice().try_into().expect("a full table");
        let group = |index: u64| {
            let bits = mixed(seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            let value = |shift: u32| u64::from(table[usize::from((bits >> shift) as u16)]);
            value(0) | value(16) << 16 | value(32) << 32 | value(48) << 48
        };
        let mut index = first / 4;
        let mut groups = bytes.chunks_exact_mut(8);
        for eight in &mut groups {
            eight.copy_from_slice(&group(index).to_le_bytes());
            index += 1;
        }
        let rest = groups.into_remainder();
        let n_rest = rest.len();
        rest.copy_from_slice(&group(index).to_le_bytes()[..n_rest]);
    }
}

/// The seed of one tensor: FNV-1a of its name, mixed with the model's seed.
pub(super) fn tensor_seed(seed: u64, name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    mixed(hash ^ mixed(seed))
}

/// The finaliser of SplitMix64.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Rounds to the nearest bf16, ties to even; not for NaN.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

/// The value below which a part `p` of the normal distribution lies: Acklam's rational approximation, error 1e-9.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        138.357_751_867_269,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 6] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 5] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416, 1.0];
    const TAIL: f64 = 0.02425;
    if p < TAIL {
        let q = (-2.0 * p.ln()).sqrt();
        horner(&C, q) / horner(&D, q)
    } else if p <= 1.0 - TAIL {
        let q = p - 0.5;
        horner(&A, q * q) * q / horner(&B, q * q)
    } else {
        -normal_quantile(1.0 - p)
    }
}

/// The polynomial with these coefficients, the highest power first.
fn horner(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, c| sum * x + c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(bytes: &[u8]) -> Vec<f64> {
        let value = |pair: &[u8]| {
            let bits = u16::from_le_bytes([pair[0], pair[1]]);
            f64::from(f32::from_bits(u32::from(bits) << 16))
        };
        bytes.chunks_exact(2).map(value).collect()
    }

    #[test]
    fn the_noise_is_normal() {
        let mut bytes = vec![0; 2 << 20];
        Noise::new().fill(1, 0, &mut bytes);
        let values = values(&bytes);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let within = values.iter().filter(|v| v.abs() < DEVIATION).count() as f64 / n;
        assert!(mean.abs() < 1e-4, "mean {mean}");
        assert!((variance.sqrt() / DEVIATION - 1.0).abs() < 0.01, "deviation {}", variance.sqrt());
        assert!((within - 0.683).abs() < 0.005, "within one deviation {within}");
    }

    #[test]
    fn blocks_join_without_a_seam() {
        let noise = Noise::new();
        let mut whole = vec![0; 2 * 22];
        noise.fill(9, 0, &mut whole);
        let (mut left, mut right) = (vec![0; 2 * 12], vec![0; 2 * 10]);
        noise.fill(9, 0, &mut left);
        noise.fill(9, 12, &mut right);
        assert_eq!(whole, [left, right].concat());
    }

    #[test]
    fn known_quantiles() {
        assert!((normal_quantile(0.975) - 1.959_963_985).abs() < 1e-8);
        assert!((normal_quantile(0.001) + 3.090_232_306).abs() < 1e-8);
    }
}
