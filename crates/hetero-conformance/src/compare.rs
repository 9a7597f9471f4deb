//! How far from the oracle a result may be.

use hetero_core::{DType, Part};

use crate::sentinel::Image;

/// How far from the oracle a result may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest `sqrt(sum of squared differences / sum of squared expected values)` over all results of a run.
    pub normalised: f64,
    /// Largest difference of one result, as a share of the largest expected value in its row.
    pub largest: f64,
}

impl Tolerance {
    /// A normalised error, and eight times it for each single result: what an even spread of errors allows.
    pub const fn normalised(normalised: f64) -> Tolerance {
        Tolerance { normalised, largest: 8.0 * normalised }
    }

    /// Several times as much.
    const fn times(self, factor: f64) -> Tolerance {
        Tolerance { normalised: self.normalised * factor, largest: self.largest * factor }
    }
}

/// The table of tolerances: what a correct float implementation with f32 accumulation stays within.
///
/// A backend that computes otherwise by design, such as with activations in int8, says so in its
/// [`crate::Expectations`].
pub fn default_tolerance(op: &str, precision: DType) -> Tolerance {
    let base = match precision {
        // 2048 terms in another order move a sum of f32 by some 1e-6; approximate exp, sin and division by as much.
        DType::F32 => Tolerance { normalised: 1e-5, largest: 1e-4 },
        // Half a unit in the last place is 2^-11; a sum beside a rounding boundary falls to either side, one unit.
        DType::F16 => Tolerance { normalised: 5e-4, largest: 2e-3 },
        // The same with 2^-8.
        DType::BF16 => Tolerance { normalised: 4e-3, largest: 1.6e-2 },
        DType::U8 | DType::U32 => Tolerance { normalised: 0.0, largest: 0.0 },
    };
    match op {
        // Differences of a node go through all nodes after it.
        "mlp" | "attention_block" | "shared_input" | "gate_up" => base.times(4.0),
        "decoder" => base.times(8.0),
        _ => base,
    }
}

/// How results differ from the oracle's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Difference {
    pub(crate) normalised: f64,
    pub(crate) largest: f64,
    /// Where the largest is: row, column, expected, found.
    worst: Option<(usize, usize, f32, f32)>,
}

impl Difference {
    /// An error message when it is more than tolerated.
    pub(crate) fn check(&self, tolerance: Tolerance) -> Result<(), String> {
        if self.normalised <= tolerance.normalised && self.largest <= tolerance.largest {
            return Ok(());
        }
        let Tolerance { normalised, largest } = tolerance;
        let mut message = format!(
            "wrong: normalised error {:.2e} (tolerated {normalised:.2e}), largest {:.2e} of its row (tolerated {largest:.2e})",
            self.normalised, self.largest
        );
        if let Some((row, column, expected, found)) = self.worst {
            message += &format!(": {found} instead of {expected} at [{row}, {column}]");
        }
        Err(message)
    }
}

/// Measures some parts of a result against the oracle's. `floor` is the magnitude of a typical result.
pub(crate) fn compare(expected: &Image, found: &Image, parts: &[Part], floor: f64) -> Result<Difference, String> {
    let (mut squared, mut squared_expected, mut n) = (0.0, 0.0, 0usize);
    for part in parts {
        for row in part.rows.clone() {
            for column in part.columns.clone() {
                let (x, y) = (expected.value(row, column), found.value(row, column));
                if !x.is_finite() {
                    return Err(format!("the case is wrong: the oracle says {x} at [{row}, {column}]"));
                }
                if !y.is_finite() {
                    return Err(format!("not finite or not written: {y} instead of {x} at [{row}, {column}]"));
                }
                squared += (f64::from(x) - f64::from(y)).powi(2);
                squared_expected += f64::from(x).powi(2);
                n += 1;
            }
        }
    }
    let typical = (squared_expected / n.max(1) as f64).sqrt().max(floor);
    let mut difference =
        Difference { normalised: ratio((squared / n.max(1) as f64).sqrt(), typical), ..Difference::default() };
    for part in parts {
        for row in part.rows.clone() {
            let in_row = part.columns.clone();
            let largest = in_row
                .clone()
                .fold(0.0f64, |largest, column| largest.max(f64::from(expected.value(row, column)).abs()));
            // A row of values that cancelled out is no measure of the error that its sums have.
            let scale = largest.max(0.1 * typical);
            for column in in_row {
                let (x, y) = (expected.value(row, column), found.value(row, column));
                let share = ratio((f64::from(x) - f64::from(y)).abs(), scale);
                if share > difference.largest {
                    difference.largest = share;
                    difference.worst = Some((row, column, x, y));
                }
            }
        }
    }
    Ok(difference)
}

/// The first element of some parts whose bits are not the oracle's.
pub(crate) fn compare_bits(expected: &Image, found: &Image, parts: &[Part]) -> Result<(), String> {
    for part in parts {
        for row in part.rows.clone() {
            for column in part.columns.clone() {
                let idx = row * expected.desc.columns + column;
                if expected.bits[idx] != found.bits[idx] {
                    return Err(format!(
                        "wrong: {} (bits {:#x}) instead of exactly {} (bits {:#x}) at [{row}, {column}]",
                        found.value(row, column),
                        found.bits[idx],
                        expected.value(row, column),
                        expected.bits[idx],
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Nothing is no part of nothing; something is too large a part of it.
fn ratio(x: f64, y: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x / y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentinel::number;
    use hetero_core::TensorDesc;

    fn image(values: &[f32]) -> Image {
        let desc = TensorDesc { rows: 1, columns: values.len(), dtype: DType::F32 };
        Image::from_fn(desc, |_, column| number(DType::F32, values[column]))
    }

    fn difference(expected: &[f32], found: &[f32]) -> Result<Difference, String> {
        let part = Part::whole(1, expected.len());
        compare(&image(expected), &image(found), &[part], 0.0)
    }

    #[test]
    fn one_wrong_element_among_many_is_seen_by_the_largest_difference() {
        let expected = [1.0; 10_000];
        let mut found = expected;
        found[77] = 1.001;
        let difference = difference(&expected, &found).unwrap();
        let tolerance = default_tolerance("linear", DType::F32);
        assert!(difference.normalised < 2e-5 && difference.largest > 9e-4);
        assert!(difference.check(tolerance).unwrap_err().contains("[0, 77]"));
    }

    #[test]
    fn anything_instead_of_zero_is_wrong() {
        let found = difference(&[0.0, 0.0], &[0.0, 1e-30]).unwrap();
        assert!(found.check(Tolerance::normalised(0.5)).is_err());
        let found = difference(&[0.0, 0.0], &[0.0, -0.0]).unwrap();
        assert!(found.check(Tolerance::normalised(0.0)).is_ok());
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        for x in [f32::NAN, f32::INFINITY] {
            assert!(difference(&[1.0], &[x]).unwrap_err().contains("not finite"));
        }
    }
}
