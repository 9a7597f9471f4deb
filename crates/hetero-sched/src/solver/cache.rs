//! Plans that were made before, by what they were made for.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hetero_core::StepParams;

use super::{Objective, Solution, SolveError, SolveOptions};

/// Past positions that have a plan in common.
const SPAN: usize = 256;

/// What a plan was made for: the step and the options, within one graph and one cost model.
#[derive(Clone, Debug)]
pub struct PlanKey {
    rows: usize,
    past: usize,
    options: SolveOptions,
}

impl PlanKey {
    /// The key of a step. Attention's share grows slowly with the positions before the step, so `past` counts in spans
    /// of 256: one plan serves a span.
    pub fn new(step: StepParams, options: &SolveOptions) -> PlanKey {
        PlanKey { rows: step.rows, past: step.past.next_multiple_of(SPAN), options: options.clone() }
    }

    /// The first number of past positions, and the one after the last, for which a step has the same key.
    pub fn span(step: StepParams) -> [usize; 2] {
        let last = step.past.next_multiple_of(SPAN);
        [(last + 1).saturating_sub(SPAN), last + 1]
    }

    /// The step that a plan for this key is solved for: the last one of its span.
    pub fn step(&self) -> StepParams {
        StepParams { rows: self.rows, past: self.past }
    }

    fn objective_bits(&self) -> (u8, u64) {
        match self.options.objective {
            Objective::Time => (0, 0),
            Objective::Energy => (1, 0),
            Objective::Mixed { seconds_per_joule } => (2, seconds_per_joule.to_bits()),
        }
    }
}

impl PartialEq for PlanKey {
    fn eq(&self, other: &PlanKey) -> bool {
        let same_objective = self.objective_bits() == other.objective_bits();
        let without_objective = |key: &PlanKey| SolveOptions { objective: Objective::Time, ..key.options.clone() };
        same_objective
            && (self.rows, self.past) == (other.rows, other.past)
            && without_objective(self) == without_objective(other)
    }
}

impl Eq for PlanKey {}

impl Hash for PlanKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What seldom differs is left to the comparison.
        (self.rows, self.past, self.objective_bits(), self.options.devices).hash(state);
    }
}

/// Plans of one graph under one cost model. A change of costs is a reason to [`PlanCache::clear`] it.
#[derive(Debug)]
pub struct PlanCache {
    capacity: usize,
    /// With the time of the last use, as a count of uses.
    plans: HashMap<PlanKey, (u64, Arc<Solution>)>,
    n_uses: u64,
}

impl PlanCache {
    /// A cache that holds so many plans and then gives up the one that was not used for longest.
    pub fn new(capacity: usize) -> PlanCache {
        assert!(capacity > 0, "a cache holds at least one plan");
        PlanCache { capacity, plans: HashMap::with_capacity(capacity), n_uses: 0 }
    }

    /// The plan for a key; `solve` makes it if it is not here.
    pub fn get_or_solve(
        &mut self,
        key: &PlanKey,
        solve: impl FnOnce(StepParams) -> Result<Solution, SolveError>,
    ) -> Result<Arc<Solution>, SolveError> {
        self.get_if_or_solve(key, |_| true, solve)
    }

    /// As [`PlanCache::get_or_solve`], where a plan that is here counts only if it still fits.
    pub fn get_if_or_solve(
        &mut self,
        key: &PlanKey,
        still_fits: impl FnOnce(&Solution) -> bool,
        solve: impl FnOnce(StepParams) -> Result<Solution, SolveError>,
    ) -> Result<Arc<Solution>, SolveError> {
        self.n_uses += 1;
        if let Some((last_use, solution)) = self.plans.get_mut(key).filter(|(_, solution)| still_fits(solution)) {
            *last_use = self.n_uses;
            return Ok(Arc::clone(solution));
        }
        let solution = Arc::new(solve(key.step())?);
        if self.plans.len() == self.capacity && !self.plans.contains_key(key) {
            let oldest = self.plans.iter().min_by_key(|(_, (last_use, _))| *last_use).map(|(key, _)| key.clone());
            self.plans.remove(&oldest.expect("a full cache holds a plan"));
        }
        self.plans.insert(key.clone(), (self.n_uses, Arc::clone(&solution)));
        Ok(solution)
    }

    /// Forgets all plans.
    pub fn clear(&mut self) {
        self.plans.clear();
    }

    /// How many plans it holds.
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }
}
