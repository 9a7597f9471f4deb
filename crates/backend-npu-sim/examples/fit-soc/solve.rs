//! The search: Nelder and Mead's simplex inside bounds, without chance, so that it ends at the same point every time.

use anyhow::{Context, Result};
use argmin::core::{CostFunction, Executor};
use argmin::solver::neldermead::NelderMead;

/// The least point of `cost` that the simplex finds from `start`, each coordinate within its bounds.
pub(crate) fn minimum(
    start: &[f64],
    bounds: &[(f64, f64)],
    max_iterations: u64,
    cost: impl Fn(&[f64]) -> f64,
) -> Result<Vec<f64>> {
    let origin: Vec<f64> = start.iter().zip(bounds).map(|(&value, &bounds)| to_line(value, bounds)).collect();
    let mut simplex = vec![origin.clone()];
    for idx in 0..origin.len() {
        let mut corner = origin.clone();
        corner[idx] += 0.5;
        simplex.push(corner);
    }
    let problem = Bounded { bounds, cost };
    let solver = NelderMead::new(simplex).with_sd_tolerance(1e-10).context("the tolerance is allowed")?;
    let mut result = Executor::new(problem, solver)
        .configure(|state| state.max_iters(max_iterations))
        .run()
        .map_err(|error| anyhow::anyhow!("the search failed: {error}"))?;
    let best = result.state.take_best_param().context("the search ended without a point")?;
    Ok(best.iter().zip(bounds).map(|(&x, &bounds)| from_line(x, bounds)).collect())
}

struct Bounded<'a, F> {
    bounds: &'a [(f64, f64)],
    cost: F,
}

impl<F: Fn(&[f64]) -> f64> CostFunction for Bounded<'_, F> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, point: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        let values: Vec<f64> = point.iter().zip(self.bounds).map(|(&x, &bounds)| from_line(x, bounds)).collect();
        Ok((self.cost)(&values))
    }
}

/// From between the bounds to the whole line, by the logistic function's inverse.
fn to_line(value: f64, (least, most): (f64, f64)) -> f64 {
    // A start on a bound would lie at infinity.
    let share = ((value - least) / (most - least)).clamp(1e-3, 1.0 - 1e-3);
    (share / (1.0 - share)).ln()
}

fn from_line(x: f64, (least, most): (f64, f64)) -> f64 {
    least + (most - least) / (1.0 + (-x).exp())
}
