//! In which order the graphs of a model get their plans, where memory is short.
//!
//! The first plan takes of the budget what is best for it, and the next one has to live beside it. So each of the graphs
//! is tried as the first, without running anything, and the order is taken in which all expected steps together are
//! predicted to take the least time.

use std::sync::Arc;

use hetero_core::{Graph, StepParams, WeightMatrix};

use super::Team;
use super::planning::{Occasion, Planning};
use crate::SchedError;
use crate::solver::solve_beside;

/// A graph that is going to be made ready.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The graph.
    pub graph: &'a Arc<Graph>,
    /// In the order of its weights.
    pub weights: &'a [Arc<WeightMatrix>],
    /// The step that it is made ready for.
    pub first: StepParams,
    /// How many such steps are expected, in proportion to those of the others.
    pub n_steps: f64,
}

impl Team {
    /// The order, as indices of `wanted`, in which runners of several graphs should be made, so that their plans are
    /// good together; as given where nothing is short.
    ///
    /// # Errors
    /// When in no order there are plans for all of them.
    pub fn order(&self, wanted: &[Wanted<'_>]) -> Result<Vec<usize>, SchedError> {
        let as_given: Vec<usize> = (0..wanted.len()).collect();
        let Some(costs) = self.costs.as_deref() else { return Ok(as_given) };
        let is_short = self.options.solve.memory_budget.is_some()
            || costs.devices().iter().any(|device| device.max_graphs.is_some());
        if !is_short || wanted.len() < 2 {
            return Ok(as_given);
        }
        let mut best: Option<(f64, Vec<usize>)> = None;
        let mut first_error = None;
        for first in 0..wanted.len() {
            let rest = as_given.iter().copied().filter(|&idx| idx != first);
            let order: Vec<usize> = std::iter::once(first).chain(rest).collect();
            match self.seconds_in_order(order.iter().map(|&idx| &wanted[idx])) {
                // A gain that rounding may have made is none.
                Ok(seconds) if best.as_ref().is_none_or(|(least, _)| seconds < *least * (1.0 - 1e-9)) => {
                    best = Some((seconds, order));
                }
                Ok(_) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match (best, first_error) {
            (Some((_, order)), _) => Ok(order),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(as_given),
        }
    }

    /// Predicted seconds of all expected steps, when plans are made one after the other.
    fn seconds_in_order<'w>(&self, wanted: impl Iterator<Item = &'w Wanted<'w>>) -> Result<f64, SchedError> {
        let costs = self.costs.as_deref().expect("a single device needs no order");
        let mut held = None;
        let mut seconds = 0.0;
        for &Wanted { graph, weights, first, n_steps } in wanted {
            let (usable, occasion) = (self.usable(), Occasion::Fresh);
            let planning = Planning { team: self, costs: Some(costs), graph, weights, graphs: None, usable, occasion };
            let mut inventory = planning.seen(held.as_ref());
            let solution = solve_beside(graph, costs, first, &planning.options(first.rows), &inventory)?;
            inventory.pin_plan(&solution.plan, costs, &solution.prediction.n_graphs);
            held = Some(inventory);
            seconds += n_steps * solution.prediction.seconds;
        }
        Ok(seconds)
    }
}
