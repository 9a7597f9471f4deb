//! How a runner tries single devices, and what it tells of it: [`super::contest`] decides.

use std::fmt;

use hetero_core::StepParams;

use super::contest::{Contest, Player, Rival, Verdict};
use super::margin::devices_of;
use super::planning::{Occasion, Planning};
use super::{Runner, Team};
use crate::SchedError;
use crate::cost::{CostModel, DeviceSet};
use crate::explain::Seconds;

/// Measured steps have decided who computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// The single device's name.
    pub device: String,
    /// Positions of the steps.
    pub rows: usize,
    /// Measured seconds of a step by several devices, and by the single one.
    pub seconds: [f64; 2],
    /// Whether the single device computes everything from now on; otherwise several do again.
    pub is_alone: bool,
}

impl fmt::Display for Fallback {
    /// For people: who computes now, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fallback { device, rows, seconds: [several, alone], is_alone } = self;
        let plural = if *rows == 1 { "" } else { "s" };
        let who = if *is_alone { format!("{device} goes on alone") } else { "several processors compute again".into() };
        let (several, alone) = (Seconds(*several), Seconds(*alone));
        write!(
            f,
            "{who}: a step of {rows} position{plural} has taken {alone} by it alone, and {several} by several processors"
        )
    }
}

/// The devices that a contest lets compute a step of so many positions.
pub(super) fn usable_for(team: &Team, contest: Option<&Contest>, rows: usize) -> DeviceSet {
    let usable = team.usable();
    match contest.map(|contest| contest.player(rows)) {
        Some(Player::Alone(device_idx)) if usable.contains(device_idx) => DeviceSet::one(device_idx),
        _ => usable,
    }
}

impl Runner {
    /// The devices that may be used for a step of so many positions, as measured steps have decided.
    pub(super) fn usable_for(&self, rows: usize) -> DeviceSet {
        usable_for(&self.team, self.contest.as_ref(), rows)
    }

    /// Goes back to the plan before a trial that it has won, or begins a trial that is due before such a step.
    pub(super) fn settle_trials(&mut self, planned: StepParams) -> Result<(), SchedError> {
        let usable = self.usable_for(planned.rows);
        if let Some(parked) = self.parked.take().filter(|parked| parked.usable == usable) {
            self.current = None;
            self.executor.set_plan(parked.plan(&self.graph), &mut self.team.residency())?;
            parked.predict(&self.team, &mut self.executor);
            self.current = Some(parked);
        }
        if self.contest.as_ref().is_some_and(|contest| contest.asks_for_rivals(planned.rows)) {
            let rivals = self.rivals(planned);
            self.contest.as_mut().expect("seen above").set_rivals(rivals);
        }
        if let Some(contest) = &mut self.contest
            && let Some(player) = contest.challenger(planned.rows)
        {
            contest.begin(player, self.current.take());
        }
        Ok(())
    }

    /// Takes what a step of so many positions by the present plan took. Whether it says something about the plan in use,
    /// and not about one that is tried.
    pub(super) fn note_step(&mut self, rows: usize, seconds: f64) -> bool {
        let Some(contest) = &mut self.contest else { return true };
        let was_trying = contest.is_trying();
        if let Some(verdict) = contest.note(rows, seconds) {
            let holder = contest.holder();
            self.parked = contest.end(&verdict);
            if verdict.winner != holder {
                self.team.tell_fallback(rows, holder, &verdict);
            }
        }
        !was_trying
    }

    /// Forgets what trials have shown, because devices are other ones.
    pub(super) fn forget_trials(&mut self) {
        self.parked = None;
        if let Some(contest) = &mut self.contest {
            contest.restart();
        }
    }

    /// What each device would take alone, unless it does so by the plan in use.
    fn rivals(&self, planned: StepParams) -> Vec<Rival> {
        let usable = self.team.usable();
        let solution = self.current.as_ref().and_then(|current| current.solution.as_deref());
        let (Some(solution), Some(profiled), true) = (solution, &self.team.costs, usable.len() > 1) else {
            return Vec::new();
        };
        let used = devices_of(solution);
        let others = usable.iter().filter(|&device_idx| used != DeviceSet::one(device_idx));
        let rival = |device_idx: usize| {
            let planning = |costs, occasion| Planning {
                team: &self.team,
                costs: Some(costs),
                graph: &self.graph,
                weights: self.executor.weights(),
                graphs: Some(self.executor.graphs()),
                usable: DeviceSet::one(device_idx),
                occasion,
            };
            // What was learnt of a device beside others need not be true of it alone, so the better prospect counts.
            let profiled = planning(&**profiled, Occasion::Asked).solve(planned).ok()?;
            let corrected: &dyn CostModel = self.costs()?;
            let learnt = planning(corrected, Occasion::Asked).predict(&profiled.plan, planned);
            let learnt = learnt.map_or(f64::INFINITY, |learnt| learnt.prediction.seconds);
            let prepared = planning(corrected, Occasion::NewLength).predict_on_use(&profiled.plan, planned);
            let takes_any_length = corrected.devices()[device_idx].standard_rows.is_empty();
            Some(Rival {
                device_idx,
                seconds: profiled.prediction.seconds.min(learnt),
                prepare_seconds: prepared.map_or(0.0, |prepared| prepared.prediction.prepare_seconds),
                is_at_hand: takes_any_length && profiled.prediction.own_bytes <= solution.prediction.own_bytes,
            })
        };
        others.filter_map(rival).collect()
    }
}

impl Team {
    /// Where measured steps have decided who computes, in the order in which that happened.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.state().fallbacks.clone()
    }

    /// The contest of a graph for steps of so many positions, which goes on where those of other graphs have ended.
    pub(super) fn contest(&self, rows: usize) -> Contest {
        let state = self.state();
        let known = state.alone.iter().find(|&&(known, device_idx)| known == rows && state.usable.contains(device_idx));
        Contest::new(rows, known.map_or(Player::All, |&(_, device_idx)| Player::Alone(device_idx)))
    }

    /// Tells who computes from now on: once, and to who asks later.
    fn tell_fallback(&self, rows: usize, before: Player, verdict: &Verdict) {
        let (device_idx, seconds, is_alone) = match (verdict.winner, before, verdict.seconds) {
            (Player::Alone(device_idx), _, seconds) => (device_idx, seconds, true),
            (Player::All, Player::Alone(device_idx), [alone, several]) => (device_idx, [several, alone], false),
            (Player::All, Player::All, _) => return,
        };
        let device = self.devices()[device_idx].info().name.clone();
        let fallback = Fallback { device, rows, seconds, is_alone };
        tracing::warn!(?fallback, "measured steps have decided who computes");
        let mut state = self.state();
        state.alone.retain(|(known, _)| *known != rows);
        if is_alone {
            state.alone.push((rows, device_idx));
        }
        state.fallbacks.push(fallback);
    }
}
