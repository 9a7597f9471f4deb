//! Steps of lengths for which there are plans already.
//!
//! A processor that takes graphs of fixed length compiles each of them for seconds. A plan for exactly the length of each
//! prompt would have cuts of its own, and so graphs of its own. So, where a team is asked to use graphs again, a graph
//! has one plan, for as many positions as it has room for, and shorter steps are run by it too. There is a graph for each
//! of a few lengths, and [`Team::lengths`] says for which it is worth it.

use std::sync::Arc;

use hetero_core::{DeviceKind, Graph, StepParams, WeightMatrix};

use super::planning::{Occasion, Planning};
use super::{Runner, Team};
use crate::SchedError;
use crate::cost::{CostModel, DeviceSet};

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

    /// What a step by the best plan and making that plan ready are predicted to take, beside what devices hold for
    /// other graphs; `None` for a single device. `weights` stands in the order of the graph's weights.
    pub fn expect(
        &self,
        graph: &Arc<Graph>,
        weights: &[Arc<WeightMatrix>],
        step: StepParams,
    ) -> Result<Option<Expected>, SchedError> {
        let Some(costs) = self.costs.as_deref() else { return Ok(None) };
        let (usable, occasion) = (self.usable(), Occasion::Asked);
        let planning = Planning { team: self, costs: Some(costs), graph, weights, graphs: None, usable, occasion };
        let solution = planning.solve(step)?;
        // Planned as if it were prepared ahead, and then asked what that would take.
        let occasion = Occasion::NewLength;
        let prepared = Planning { occasion, ..planning }.predict_on_use(&solution.plan, step);
        let prepare_seconds = prepared.map_or(0.0, |prepared| prepared.prediction.prepare_seconds);
        Ok(Some(Expected { seconds: solution.prediction.seconds, prepare_seconds }))
    }
}

/// What a plan is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expected {
    /// Seconds of a step.
    pub seconds: f64,
    /// Seconds to compile and load what is not there, before the first one.
    pub prepare_seconds: f64,
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
