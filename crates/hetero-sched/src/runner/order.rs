//! In which order the graphs of a model get their plans, where memory is short.
//!
//! The first plan takes of the budget what is best for it, and the next one has to live beside it. So each of the graphs
//! is tried as the first, without running anything, and the order is taken in which all expected steps together are
//! predicted to take the least time.

use std::sync::Arc;

use hetero_core::{Graph, StepParams, WeightMatrix};

use super::planning::{Occasion, Planning};
use super::{Margin, Team, margin};
use crate::SchedError;
use crate::explain::{Explanation, explain, memory};
use crate::solver::{Inventory, Solution, SolveOptions, solve_beside};

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

/// A plan, and why it is one for a single device where errors decide that.
type Planned = (Solution, Option<Margin>);

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

    /// The plan of one of several graphs with the reasons for it, without running anything. The others live beside it,
    /// made ready in the order that [`Team::order`] says. Weights may be left out (empty) of all graphs whose weights are
    /// the same in the same order.
    ///
    /// # Panics
    /// When the team is a single device, which needs no plan, or there is no graph with this index.
    pub fn explain(&self, wanted: &[Wanted<'_>], idx: usize) -> Result<(Solution, Explanation), SchedError> {
        let costs = self.costs.as_deref().expect("a single device needs no plan");
        let order = self.order(wanted)?;
        let (solutions, all) = self.solve_in_order(order.iter().map(|&idx| &wanted[idx]))?;
        let mut solutions: Vec<_> = order.into_iter().zip(solutions).collect();
        let position = solutions.iter().position(|(its, _)| *its == idx).expect("one of the graphs");
        let (solution, margin) = solutions.swap_remove(position).1;
        let Wanted { graph, weights, first, .. } = wanted[idx];
        let planning = self.fresh(graph, weights);
        let mut explanation = explain(graph, costs, first, &planning.options(first.rows), &solution);
        let mut one = Inventory::default();
        one.pin_plan(&solution.plan, costs, &solution.prediction.n_graphs);
        explanation.margin = margin.map(|margin| margin.to_string());
        explanation.memory = memory(&one, &all, self.devices.len());
        Ok((solution, explanation))
    }

    /// Predicted seconds of all expected steps, when plans are made one after the other.
    fn seconds_in_order<'w>(&self, wanted: impl Iterator<Item = &'w Wanted<'w>> + Clone) -> Result<f64, SchedError> {
        let (solutions, _) = self.solve_in_order(wanted.clone())?;
        Ok(wanted.zip(solutions).map(|(wanted, (solution, _))| wanted.n_steps * solution.prediction.seconds).sum())
    }

    /// Plans that are made one after the other, with why one device computes everything where errors decide it, and what
    /// devices hold then.
    fn solve_in_order<'w>(
        &self,
        wanted: impl Iterator<Item = &'w Wanted<'w>>,
    ) -> Result<(Vec<Planned>, Inventory), SchedError> {
        let costs = self.costs.as_deref().expect("a single device needs no order");
        let mut held: Option<Inventory> = None;
        let mut solutions = Vec::new();
        for &Wanted { graph, weights, first, .. } in wanted {
            let planning = self.fresh(graph, weights);
            let mut inventory = planning.seen(held.as_ref());
            let options = planning.options(first.rows);
            let solve = |options: &SolveOptions| solve_beside(graph, costs, first, options, &inventory);
            let (solution, margin) = margin::choose(costs, first, &options, solve(&options)?, solve);
            inventory.pin_plan(&solution.plan, costs, &solution.prediction.n_graphs);
            held = Some(inventory);
            solutions.push((solution, margin));
        }
        Ok((solutions, held.unwrap_or_default()))
    }

    /// What the first plan of a graph is looked for with.
    fn fresh<'p>(&'p self, graph: &'p Arc<Graph>, weights: &'p [Arc<WeightMatrix>]) -> Planning<'p> {
        let (usable, occasion) = (self.usable(), Occasion::Fresh);
        Planning { team: self, costs: self.costs.as_deref(), graph, weights, graphs: None, usable, occasion }
    }
}
