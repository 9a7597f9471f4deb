//! What a step would take if one operator were computed otherwise.

use std::sync::Arc;

use hetero_core::{Graph, Part, StepParams};

use crate::cost::CostModel;
use crate::explain::Alternative;
use crate::plan::PlacedPart;

use super::candidates::{Pool, pairs};
use super::problem::Problem;
use super::search::Search;
use super::state::{Candidate, Cut, Piece};
use super::weighting::Weighting;
use super::{Inventory, Solution, SolveOptions};

/// Tries other choices in a plan that was found.
#[derive(Debug)]
pub(crate) struct Alternatives<'a> {
    costs: &'a dyn CostModel,
    options: &'a SolveOptions,
    inventory: Inventory,
    graph: Arc<Graph>,
    problem: Problem,
    /// The candidates of the plan, by node.
    chosen: Vec<Candidate>,
}

/// Another choice for an operator.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) parts: Vec<(PlacedPart, f64)>,
    /// Its times; the parts are not filled in.
    pub(crate) summary: Alternative,
}

impl<'a> Alternatives<'a> {
    pub(crate) fn new(
        graph: &Arc<Graph>,
        costs: &'a dyn CostModel,
        step: StepParams,
        options: &'a SolveOptions,
        solution: &Solution,
    ) -> Alternatives<'a> {
        let placements = solution.plan.placements();
        assert_eq!(placements.len(), graph.nodes().len(), "a solution of another graph");
        let problem = Problem::new(graph, costs, step.rows, step.past);
        let inventory = Inventory::default();
        let chosen = Pool::new(&problem, graph, costs, options, &inventory).of_plan(&solution.plan);
        let chosen = chosen.expect("a plan that was solved");
        Alternatives { costs, options, inventory, graph: Arc::clone(graph), problem, chosen }
    }

    /// The nodes that are decided, each with the number of layers that it stands for: 0 outside of layers. Where memory
    /// is short, layers may be computed in two ways.
    pub(crate) fn distinct_nodes(&self) -> Vec<(usize, usize)> {
        let in_layers = |node: usize| self.problem.layers.as_ref().is_some_and(|layers| node < layers.end());
        let mut distinct: Vec<(usize, usize)> = Vec::new();
        for node in 0..self.chosen.len() {
            match distinct.iter_mut().find(|(first, _)| self.is_alike(*first, node)) {
                Some((_, n_layers)) => *n_layers += 1,
                None => {
                    let starts_layers = self.problem.layers.as_ref().is_some_and(|layers| node >= layers.first.start);
                    distinct.push((node, usize::from(starts_layers && in_layers(node))));
                }
            }
        }
        distinct
    }

    /// Whether two nodes are the same one of their layers, and computed alike.
    fn is_alike(&self, a: usize, b: usize) -> bool {
        let template = |node: usize| self.problem.works[node].template;
        template(a) == template(b) && self.chosen[a].pieces == self.chosen[b].pieces
    }

    /// Everything else that could be done at a node, and what it would take.
    pub(crate) fn of(&mut self, node: usize) -> Vec<Other> {
        let template = self.problem.works[node].template;
        let mut pool = Pool::new(&self.problem, &self.graph, self.costs, self.options, &self.inventory);
        let mut cuts: Vec<Cut> = pool.fixed_cuts(template).iter().map(|&(cut, _)| cut).collect();
        for (a, b) in pairs(&pool.devices.clone()) {
            for is_chain in [true, false] {
                let balanced = pool.balanced_columns(template, [a, b], is_chain, 0.0);
                cuts.extend(balanced.into_iter().flatten().map(|at| Cut::columns([a, b], at)));
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut candidates = Vec::new();
        for cut in cuts {
            candidates.extend(pool.find(template, cut).map(|idx| pool.candidate(template, idx).clone()));
        }
        let weighting = Weighting::new(self.options.objective, self.options.preparation, self.costs.idle_watts(), 0.0);
        let mut search = Search::new(pool, weighting);
        let same = |work: usize| self.is_alike(work, node);
        let others = candidates.into_iter().map(|candidate| {
            let walked = (0..self.chosen.len()).map(|work| if same(work) { &candidate } else { &self.chosen[work] });
            let summary = Alternative {
                parts: Vec::new(),
                operator_seconds: candidate.longest(),
                step_seconds: search.seconds_of(walked),
            };
            let parts = candidate.pieces.iter().map(|piece| (placed(piece), piece.seconds)).collect();
            Other { parts, summary }
        });
        others.collect()
    }
}

/// The part of a plan that a piece becomes.
pub(super) fn placed(piece: &Piece) -> PlacedPart {
    let [rows, columns] = [piece.rows, piece.columns].map(|[start, end]| start as usize..end as usize);
    PlacedPart { device_idx: piece.device, part: Part { rows, columns }, operand_order: piece.order }
}
