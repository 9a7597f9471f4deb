//! Plans that fit: into the bytes that devices may hold as copies of weights, and into the number of graphs that they
//! hold compiled.
//!
//! The best plan of all comes first. Where it does not fit, bytes and graphs get a price that is raised until a plan
//! does and then lowered as far as one still does; devices are left out; and of the decoder layers as many as possible
//! are computed as the best plan does, the others as the best plan that fits.

use hetero_core::{NodeId, OpSpec, Part, StepParams};

use crate::cost::{ClassId, CostModel, DeviceCosts, DeviceSet, MAX_DEVICES, PartShape};
use crate::plan::{PlacedPart, Plan};

use super::problem::Layers;
use super::weighting::Weighting;
use super::{Inventory, Solution, SolveError, SolveOptions, predict_beside};

/// Steps of the search for a price.
const N_PRICES: usize = 10;

/// What a plan has to fit into, and what it is measured with.
pub(super) struct Constraints<'a> {
    pub(super) costs: &'a dyn CostModel,
    pub(super) step: StepParams,
    pub(super) options: &'a SolveOptions,
    pub(super) inventory: &'a Inventory,
    /// The layers that are alike.
    pub(super) layers: Option<&'a Layers>,
}

/// What is tried: costs, the price of a byte, options.
pub(super) type Attempt<'a> = &'a dyn Fn(&dyn CostModel, f64, &SolveOptions) -> Result<Solution, SolveError>;

/// The best plan that fits so far, and how close others came.
#[derive(Default)]
struct Found {
    best: Option<(f64, Solution)>,
    least_bytes: Option<u64>,
    least_graphs: [Option<usize>; MAX_DEVICES],
}

impl Constraints<'_> {
    /// Whether a plan fits, beside what plans of other graphs need.
    pub(super) fn allow(&self, solution: &Solution) -> bool {
        self.fits_memory(solution) && self.crowded(solution).is_empty()
    }

    fn fits_memory(&self, solution: &Solution) -> bool {
        self.options.memory_budget.is_none_or(|budget| solution.prediction.resident_bytes <= budget)
    }

    /// The devices for which a plan has too many graphs.
    fn crowded(&self, solution: &Solution) -> DeviceSet {
        let has_too_many = |device: &usize| {
            let room = self.room(*device);
            room.is_some_and(|room| solution.prediction.n_graphs[*device] > room)
        };
        (0..self.costs.devices().len()).filter(has_too_many).collect()
    }

    /// How many graphs of a device a plan may have.
    fn room(&self, device: usize) -> Option<usize> {
        let most = self.costs.devices()[device].max_graphs?;
        Some(most.saturating_sub(self.inventory.pinned_graphs(device)))
    }

    /// The best plan that fits, given the best one, which does not.
    pub(super) fn best(&self, over: Solution, attempt: Attempt<'_>) -> Result<Solution, SolveError> {
        let mut found = Found::default();
        let mut overs = Vec::new();
        self.consider(Ok(self.reused(over.clone())), &mut found);
        if !self.fits_memory(&over) {
            // Without any further copy: what fits every budget, where it is possible at all.
            let none = SolveOptions { memory_budget: Some(0), ..self.options.clone() };
            self.consider(attempt(self.costs, 0.0, &none), &mut found);
            let value = over.prediction.seconds.max(over.prediction.joules);
            let most = 16.0 * value / over.prediction.own_bytes.max(1) as f64;
            let try_price = |price| attempt(self.costs, price, self.options);
            let try_reused = |price| Ok(self.reused(try_price(price)?));
            let fits = |solution: &Solution| self.fits_memory(solution);
            // Cut parts take longer, so that it may be better to do without.
            self.try_prices(most, &try_price, &fits, &mut found, &mut overs);
            self.try_prices(most, &try_reused, &fits, &mut found, &mut overs);
        }
        let crowded = self.crowded(&over);
        if !crowded.is_empty() {
            let priced = |price: f64| {
                let costs = Priced::new(self.costs, |idx, device| {
                    device.start_seconds += if crowded.contains(idx) { price } else { 0.0 };
                });
                let solution = attempt(&costs, 0.0, self.options)?;
                Ok(self.predict(&solution.plan).unwrap_or(solution))
            };
            let most = over.prediction.seconds;
            self.try_prices(most, &priced, &|solution| self.crowded(solution).is_empty(), &mut found, &mut overs);
        }
        for devices in self.fewer_devices() {
            self.consider(attempt(self.costs, 0.0, &SolveOptions { devices, ..self.options.clone() }), &mut found);
        }
        overs.push(self.reused(over));
        if let (Some(layers), Some((_, base))) = (self.layers, found.best.clone()) {
            for over in &overs {
                self.mix(layers, over, &base, &mut found);
            }
        }
        match found.best.take() {
            Some((_, solution)) => Ok(solution),
            None => Err(self.error(&found)),
        }
    }

    /// The same plan with parts cut where that lets them use rows that are pinned: a device that has the last quarter of a
    /// matrix for decoding and computes the last half of it in a prompt loads one more quarter.
    fn reused(&self, solution: Solution) -> Solution {
        let (plan, inventory) = (&solution.plan, self.inventory);
        let mut is_changed = false;
        let mut cut = |node: NodeId, placed: &PlacedPart| -> Vec<PlacedPart> {
            let columns = &placed.part.columns;
            let there = inventory.pinned_within(plan.graph(), node, placed.device_idx, columns);
            let Some(there) = there.filter(|there| there != columns) else { return vec![placed.clone()] };
            is_changed = true;
            let pieces = [columns.start..there.start, there.clone(), there.end..columns.end];
            let pieces = pieces.into_iter().filter(|columns| !columns.is_empty());
            let part = |columns| Part { rows: placed.part.rows.clone(), columns };
            pieces.map(|columns| PlacedPart { part: part(columns), ..placed.clone() }).collect()
        };
        let placements = plan.placements().iter().enumerate();
        let placements: Vec<Vec<PlacedPart>> = placements
            .map(|(idx, placed)| placed.iter().flat_map(|placed| cut(NodeId(idx), placed)).collect())
            .collect();
        if !is_changed {
            return solution;
        }
        let plan = Plan::new(plan.graph().clone(), placements).expect("pieces cover what was cut");
        self.predict(&plan).unwrap_or(solution)
    }

    /// Looks for the lowest price at which plans fit. Plans that do not are kept in `overs`.
    fn try_prices(
        &self,
        most: f64,
        attempt: &dyn Fn(f64) -> Result<Solution, SolveError>,
        fits: &dyn Fn(&Solution) -> bool,
        found: &mut Found,
        overs: &mut Vec<Solution>,
    ) {
        let (mut low, mut high) = (0.0, most);
        for _ in 0..N_PRICES {
            let price = (low + high) / 2.0;
            let solution = attempt(price);
            match solution.as_ref().is_ok_and(fits) {
                true => high = price,
                false => low = price,
            }
            if let Some(over) = self.consider(solution, found) {
                overs.push(over);
            }
        }
    }

    /// Takes a plan if it fits and is the best; gives it back if it does not fit.
    fn consider(&self, solution: Result<Solution, SolveError>, found: &mut Found) -> Option<Solution> {
        let solution = solution.ok()?;
        let prediction = &solution.prediction;
        found.least_bytes =
            Some(found.least_bytes.map_or(prediction.resident_bytes, |least| least.min(prediction.resident_bytes)));
        for (least, &n) in found.least_graphs.iter_mut().zip(&prediction.n_graphs) {
            *least = Some(least.map_or(n, |least| least.min(n)));
        }
        if !self.allow(&solution) {
            return Some(solution);
        }
        let value = self.value(&solution);
        if found.best.as_ref().is_none_or(|(least, _)| value < *least) {
            found.best = Some((value, solution));
        }
        None
    }

    fn value(&self, solution: &Solution) -> f64 {
        let options = self.options;
        let weighting = Weighting::new(options.objective, options.preparation, self.costs.idle_watts(), 0.0);
        weighting.of_prediction(&solution.prediction)
    }

    /// Every choice of some of the devices, those with most first.
    fn fewer_devices(&self) -> Vec<DeviceSet> {
        let all: Vec<usize> =
            self.options.devices.iter().filter(|&device| device < self.costs.devices().len()).collect();
        let subset = |bits: usize| -> DeviceSet {
            all.iter().enumerate().filter(|(idx, _)| bits >> idx & 1 == 1).map(|(_, &device)| device).collect()
        };
        let mut subsets: Vec<DeviceSet> = (1..(1 << all.len()) - 1).map(subset).collect();
        subsets.sort_by_key(|subset| std::cmp::Reverse(subset.len()));
        subsets
    }

    /// Computes as many of the layers as one plan does as fit, and everything else as another one does, which fits.
    fn mix(&self, layers: &Layers, over: &Solution, base: &Solution, found: &mut Found) {
        let mixed = |n_layers: usize| {
            let placements = over.plan.placements().iter().zip(base.plan.placements()).enumerate();
            let first = layers.first.start..layers.first.start + n_layers * layers.first.len();
            let placements =
                placements.map(|(idx, (over, base))| if first.contains(&idx) { over } else { base }.clone());
            let plan = Plan::new(base.plan.graph().clone(), placements.collect()).expect("each covers its outputs");
            self.predict(&plan)
        };
        let (mut low, mut high) = (0, layers.count);
        while low + 1 < high {
            let middle = low.midpoint(high);
            let Some(solution) = mixed(middle) else { return };
            match self.allow(&solution) {
                true => low = middle,
                false => high = middle,
            }
            self.consider(Ok(solution), found);
        }
    }

    fn predict(&self, plan: &Plan) -> Option<Solution> {
        predict_beside(plan, self.costs, self.step, self.options, self.inventory)
    }

    fn error(&self, found: &Found) -> SolveError {
        for (device, least) in found.least_graphs.iter().enumerate().take(self.costs.devices().len()) {
            let (Some(room), Some(needed)) = (self.room(device), *least) else { continue };
            if needed > room {
                let device = self.costs.devices()[device].name.clone();
                return SolveError::TooManyGraphs { device, allowed: room, needed };
            }
        }
        let budget = self.options.memory_budget.unwrap_or(0);
        SolveError::OverBudget { budget, needed: found.least_bytes.unwrap_or(0) }
    }
}

/// Costs with another price for starting work on devices or waiting for it, such as one for each graph.
#[derive(Debug)]
pub(super) struct Priced<'a> {
    costs: &'a dyn CostModel,
    devices: Vec<DeviceCosts>,
}

impl<'a> Priced<'a> {
    pub(super) fn new(costs: &'a dyn CostModel, change: impl Fn(usize, &mut DeviceCosts)) -> Priced<'a> {
        let mut devices = costs.devices().to_vec();
        devices.iter_mut().enumerate().for_each(|(idx, device)| change(idx, device));
        Priced { costs, devices }
    }
}

impl CostModel for Priced<'_> {
    fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        self.costs.class(spec)
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        self.costs.seconds(device_idx, shape)
    }

    fn seconds_alone_and_beside(&self, device_idx: usize, shape: &PartShape) -> Option<[f64; 2]> {
        self.costs.seconds_alone_and_beside(device_idx, shape)
    }

    fn bus_bytes(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.bus_bytes(device_idx, shape)
    }

    fn bus(&self) -> f64 {
        self.costs.bus()
    }

    fn joules(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.joules(device_idx, shape)
    }

    fn idle_watts(&self) -> f64 {
        self.costs.idle_watts()
    }

    fn own_bytes(&self, device_idx: usize, class: ClassId, columns: usize) -> u64 {
        self.costs.own_bytes(device_idx, class, columns)
    }

    fn compile_seconds(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.costs.compile_seconds(device_idx, shape)
    }
}
