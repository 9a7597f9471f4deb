//! Steps of lengths for which there are plans already.
//!
//! A processor that takes graphs of fixed length compiles each of them for seconds. A plan for exactly the length of each
//! prompt would have cuts of its own, and so graphs of its own. So, where a team is asked to use graphs again, a graph
//! has one plan, for as many positions as it has room for, and shorter steps are run by it too. There is a graph for each
//! of a few lengths, and [`Team::lengths`] says for which it is worth it.

use std::sync::Arc;

use hetero_core::{DeviceKind, Graph, StepParams};

use super::{Runner, Team};
use crate::SchedError;
use crate::cost::{CostModel, DeviceSet};
use crate::solver::{SolveOptions, solve};

/// Lengths of a processor of which nothing was measured: its smallest graph, and some in between.
const USUAL_LENGTHS: [usize; 2] = [32, 128];

impl Team {
    /// Asks for plans that serve shorter steps too, so that graphs of fixed length are used again: for conversations.
    /// Runners that are made from now on follow it; without this each length has the plan that is best for it.
    pub fn use_graphs_again(&self) {
        self.state().uses_graphs_again = true;
    }

    /// The numbers of positions up to `capacity`, ascending, for which a graph of that capacity is worth having: where
    /// devices take graphs of fixed length, a short step in a long graph takes as long as a full one. Always with
    /// `capacity` itself.
    pub fn lengths(&self, capacity: usize) -> Vec<usize> {
        let mut lengths: Vec<usize> = match &self.costs {
            Some(_) if !self.state().uses_graphs_again => Vec::new(),
            Some(costs) => fixed_lengths(&**costs, self.usable()).collect(),
            None if self.devices[0].info().kind == DeviceKind::Npu => USUAL_LENGTHS.into(),
            None => Vec::new(),
        };
        lengths.retain(|&rows| rows > 1 && rows < capacity);
        lengths.push(capacity);
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// Seconds that a step is predicted to take by the best plan; `None` for a single device.
    pub fn predicted_seconds(&self, graph: &Arc<Graph>, step: StepParams) -> Result<Option<f64>, SchedError> {
        let Some(costs) = &self.costs else { return Ok(None) };
        let options = SolveOptions { devices: self.usable(), ..self.options.solve.clone() };
        Ok(Some(solve(graph, &**costs, step, &options)?.prediction.seconds))
    }
}

impl Runner {
    /// The step whose plan serves a step.
    pub(super) fn planned(&self, step: StepParams) -> StepParams {
        let has_fixed_lengths = |costs: &dyn CostModel| fixed_lengths(costs, self.team.usable()).next().is_some();
        match self.costs() {
            // The positions before it change what attention takes, and neither cuts nor graphs should depend on them.
            Some(costs) if self.uses_graphs_again && step.rows > 1 && has_fixed_lengths(costs) => {
                StepParams { rows: self.graph.capacity(), past: 0 }
            }
            _ => step,
        }
    }

    /// What steps are planned with by now; `None` for a single device.
    pub(super) fn costs(&self) -> Option<&dyn CostModel> {
        match &self.adaptation {
            Some(adaptation) => Some(adaptation.costs()),
            None => self.team.costs.as_deref(),
        }
    }
}

/// The standard lengths of devices with fixed shapes.
fn fixed_lengths(costs: &dyn CostModel, usable: DeviceSet) -> impl Iterator<Item = usize> {
    let devices = costs.devices().iter().enumerate().filter(move |(idx, _)| usable.contains(*idx));
    devices.flat_map(|(_, device)| device.standard_rows.iter().copied())
}
