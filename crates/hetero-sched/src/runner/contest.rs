//! Measured steps decide between the plan in use and single devices.
//!
//! Costs may be wrong in ways that no correction of a device's times mends: what is true of a device alone need not be
//! true beside others. So, when the plan in use has run for a while, single devices are tried for a few steps. The one
//! that is clearly faster goes on alone, and several devices get another chance when its steps take longer or shorter
//! than they did.
//!
//! Trying costs something too: a trial begins when what it is expected to cost is a small part of the time that the
//! plan in use has run. So, whatever the trials come to, little is lost by them, and who is slower than a single device
//! is found out soon.
//!
//! Only arithmetic is here; [`super::Runner`] makes plans and measures steps. All times are in seconds.

use super::planning::Current;

/// Steps by the plan in use before it is compared with others.
const LEAST_STEPS: usize = 5;
/// Steps that the median is over.
const WINDOW: usize = 15;
/// Steps of a trial. The first one finds nothing in caches, and does not count.
const TRIAL_STEPS: usize = 4;
/// What trials may cost, as a part of the time that the plan in use runs.
const TRIAL_SHARE: f64 = 0.03;
/// Who is faster takes less than this part of the time.
const CLEARLY: f64 = 0.95;
/// A step of a trial that takes so many times as long ends it.
const HOPELESS: f64 = 1.3;
/// What has to be made ready first is only tried where it is expected to take less than this part of the time.
const PROMISING: f64 = 0.8;
/// Several devices are tried again when one alone takes longer or shorter than it did by more than this part.
const CHANGE: f64 = 0.25;

/// Who computes, beside what the costs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Player {
    /// All devices that may be used.
    All,
    /// One.
    Alone(usize),
}

/// A single device that could compute everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    pub(super) device_idx: usize,
    /// Predicted seconds of a step.
    pub(super) seconds: f64,
    /// Seconds to make it ready.
    pub(super) prepare_seconds: f64,
    /// Whether it computes with what is there, without a copy of weights or graphs of its own.
    pub(super) is_at_hand: bool,
}

/// What a trial has come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) winner: Player,
    /// Seconds of a step by the plan in use until then and by the one that was tried.
    pub(super) seconds: [f64; 2],
}

/// The contest of the plans of one graph.
#[derive(Debug)]
pub(super) struct Contest {
    /// Positions of the steps that count.
    rows: usize,
    /// Who computes when nobody is tried.
    holder: Player,
    steps: Steps,
    /// Those that were not tried yet; `None` as long as they are not known.
    rivals: Option<Vec<Rival>>,
    trial: Option<Trial>,
    /// What a step of one device alone took when it won, and what one of several did.
    won: Option<[f64; 2]>,
}

/// The last steps by a plan.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    last: [f64; WINDOW],
    n_last: usize,
    next: usize,
    /// Seconds of all since it took over.
    spent: f64,
}

#[derive(Debug)]
struct Trial {
    player: Player,
    /// The plan in use, to return to.
    parked: Option<Current>,
    seconds: [f64; TRIAL_STEPS],
    n_steps: usize,
}

impl Contest {
    /// For steps of so many positions, by this player at first.
    pub(super) fn new(rows: usize, holder: Player) -> Contest {
        Contest { rows, holder, steps: Steps::default(), rivals: None, trial: None, won: None }
    }

    /// Who computes a step of so many positions.
    pub(super) fn player(&self, rows: usize) -> Player {
        match &self.trial {
            _ if rows != self.rows => Player::All,
            Some(trial) => trial.player,
            None => self.holder,
        }
    }

    /// Who computes when nobody is tried.
    pub(super) fn holder(&self) -> Player {
        self.holder
    }

    /// Begins anew, because devices or plans are other ones.
    pub(super) fn restart(&mut self) {
        *self = Contest::new(self.rows, Player::All);
    }

    /// Notes that the plan in use was replaced because costs have changed.
    pub(super) fn replanned(&mut self) {
        (self.steps, self.rivals) = (Steps::default(), None);
    }

    /// Whether a trial is under way, or its plan is still in use.
    pub(super) fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// Whether it has to be known who could compute alone.
    pub(super) fn asks_for_rivals(&self, rows: usize) -> bool {
        let is_due = rows == self.rows && self.trial.is_none() && self.steps.n_last >= LEAST_STEPS;
        is_due && self.holder == Player::All && self.rivals.is_none()
    }

    /// Says who could; not the plan in use.
    pub(super) fn set_rivals(&mut self, rivals: Vec<Rival>) {
        self.rivals = Some(rivals);
    }

    /// Who is to be tried now, before a step of so many positions.
    pub(super) fn challenger(&self, rows: usize) -> Option<Player> {
        if rows != self.rows || self.trial.is_some() || self.steps.n_last < LEAST_STEPS {
            return None;
        }
        let now = self.steps.median();
        let is_affordable = |seconds: f64, prepare_seconds: f64| {
            TRIAL_STEPS as f64 * (seconds - now) + prepare_seconds <= TRIAL_SHARE * self.steps.spent
        };
        match (self.holder, self.won) {
            (Player::All, _) => {
                let rivals = self.rivals.iter().flatten();
                let affordable = rivals.filter(|rival| {
                    let is_promising = rival.is_at_hand || rival.seconds < PROMISING * now;
                    is_promising && is_affordable(rival.seconds, rival.prepare_seconds)
                });
                let best = affordable.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
                best.map(|rival| Player::Alone(rival.device_idx))
            }
            (Player::Alone(_), Some([alone, all])) => {
                let has_changed = (now / alone - 1.0).abs() > CHANGE;
                (has_changed && is_affordable(all * now / alone, 0.0)).then_some(Player::All)
            }
            (Player::Alone(_), None) => None,
        }
    }

    /// Begins a trial; `parked` is the plan in use.
    pub(super) fn begin(&mut self, player: Player, parked: Option<Current>) {
        if let (Player::Alone(device_idx), Some(rivals)) = (player, &mut self.rivals) {
            rivals.retain(|rival| rival.device_idx != device_idx);
        }
        self.trial = Some(Trial { player, parked, seconds: [0.0; TRIAL_STEPS], n_steps: 0 });
    }

    /// Takes what a step of so many positions took. Says when that decides a trial. Allocates nothing.
    pub(super) fn note(&mut self, rows: usize, seconds: f64) -> Option<Verdict> {
        if rows != self.rows {
            return None;
        }
        let Some(trial) = &mut self.trial else {
            self.steps.add(seconds);
            if let (Player::Alone(_), None) = (self.holder, self.won)
                && self.steps.n_last == WINDOW
            {
                // Another graph of the team has found it out, and what it takes here is seen now.
                self.won = Some([self.steps.median(); 2]);
            }
            return None;
        };
        let before = self.steps.median();
        trial.seconds[trial.n_steps] = seconds;
        trial.n_steps += 1;
        let is_hopeless = trial.n_steps > 1 && seconds > HOPELESS * before;
        if trial.n_steps < TRIAL_STEPS && !is_hopeless {
            return None;
        }
        let counted = &mut trial.seconds[1..trial.n_steps];
        counted.sort_unstable_by(f64::total_cmp);
        let tried = counted[counted.len() / 2];
        let is_better = !is_hopeless && tried < CLEARLY * before;
        let winner = if is_better { trial.player } else { self.holder };
        Some(Verdict { winner, seconds: [before, tried] })
    }

    /// Ends the trial as it was decided, and gives back the plan to return to, if that is the one before.
    pub(super) fn end(&mut self, verdict: &Verdict) -> Option<Current> {
        let trial = self.trial.take()?;
        let [before, tried] = verdict.seconds;
        self.steps.spent = 0.0;
        match (verdict.winner == self.holder, self.holder) {
            (true, Player::All) => {}
            // What it takes now is what it is measured by from now on.
            (true, Player::Alone(_)) => self.won = Some([before, tried]),
            (false, before_holder) => {
                self.won = (before_holder == Player::All).then_some([tried, before]);
                (self.holder, self.steps, self.rivals) = (verdict.winner, Steps::default(), None);
                return None;
            }
        }
        trial.parked
    }
}

impl Steps {
    fn add(&mut self, seconds: f64) {
        self.last[self.next] = seconds;
        self.next = (self.next + 1) % WINDOW;
        self.n_last = (self.n_last + 1).min(WINDOW);
        self.spent += seconds;
    }

    fn median(&self) -> f64 {
        let mut sorted = self.last;
        let sorted = &mut sorted[..self.n_last];
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps that take what `truth` says of each player, and says who computed each of them.
    fn play(contest: &mut Contest, rivals: &[Rival], n_steps: usize, truth: impl Fn(Player) -> f64) -> Vec<Player> {
        let mut players = Vec::new();
        for _ in 0..n_steps {
            if contest.asks_for_rivals(1) {
                contest.set_rivals(rivals.to_vec());
            }
            if let Some(player) = contest.challenger(1) {
                contest.begin(player, None);
            }
            let player = contest.player(1);
            players.push(player);
            if let Some(verdict) = contest.note(1, truth(player)) {
                contest.end(&verdict);
            }
        }
        players
    }

    fn rival(device_idx: usize, seconds: f64) -> Rival {
        Rival { device_idx, seconds, prepare_seconds: 0.0, is_at_hand: true }
    }

    fn count(players: &[Player], player: Player) -> usize {
        players.iter().filter(|&&other| other == player).count()
    }

    #[test]
    fn a_plan_that_is_slower_than_a_single_device_is_found_out_soon() {
        // Costs say that one device alone takes half as long again; in truth the plan for both takes five times as long.
        let truth = |player| if player == Player::Alone(0) { 1.5 } else { 5.0 };
        let mut contest = Contest::new(1, Player::All);
        let players = play(&mut contest, &[rival(0, 1.5), rival(1, 3.0)], 200, truth);
        assert_eq!(count(&players, Player::All), LEAST_STEPS);
        assert!(players[LEAST_STEPS..].iter().all(|&player| player == Player::Alone(0)));
    }

    #[test]
    fn a_plan_that_is_as_fast_as_promised_stays_and_trials_cost_little() {
        for (slower, n_devices) in [(1.1, 1), (1.5, 2), (4.0, 2)] {
            let truth = |player| if player == Player::All { 1.0 } else { slower };
            let rivals: Vec<Rival> = (0..n_devices).map(|device_idx| rival(device_idx, slower)).collect();
            let mut contest = Contest::new(1, Player::All);
            let players = play(&mut contest, &rivals, 2000, truth);
            let lost: f64 = players.iter().map(|&player| truth(player) - 1.0).sum();
            assert_eq!(contest.player(1), Player::All);
            assert!(lost < TRIAL_SHARE * 2000.0, "{slower}: {lost} steps");
            let n_tried = players.len() - count(&players, Player::All);
            assert!(n_tried <= n_devices * TRIAL_STEPS, "each is tried once: {n_tried}");
        }
    }

    #[test]
    fn it_does_not_go_to_and_fro() {
        let mut contest = Contest::new(1, Player::All);
        let truth = |player| if player == Player::All { 1.04 } else { 1.0 };
        play(&mut contest, &[rival(0, 1.0)], 5000, truth);
        assert_eq!(contest.player(1), Player::All, "4 % are not clear");
        let mut contest = Contest::new(1, Player::All);
        let truth = |player| if player == Player::All { 1.2 } else { 1.0 };
        let players = play(&mut contest, &[rival(0, 1.0)], 5000, truth);
        let n_changes = players.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!((n_changes, contest.player(1)), (1, Player::Alone(0)));
    }

    #[test]
    fn several_devices_get_another_chance_when_the_one_slows_down() {
        let mut contest = Contest::new(1, Player::All);
        play(&mut contest, &[rival(0, 1.0)], 100, |player| if player == Player::All { 2.0 } else { 1.0 });
        assert_eq!(contest.player(1), Player::Alone(0));
        // It has become hot, and is slower than both.
        let players = play(&mut contest, &[rival(0, 1.0)], 500, |player| if player == Player::All { 2.0 } else { 4.0 });
        assert_eq!(contest.player(1), Player::All);
        let n_changes = players.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(n_changes <= 3, "{n_changes}");
    }

    #[test]
    fn who_needs_a_copy_of_the_weights_is_not_tried_without_a_reason() {
        let needy = Rival { is_at_hand: false, ..rival(1, 1.0) };
        let mut contest = Contest::new(1, Player::All);
        let players = play(&mut contest, &[needy], 1000, |_| 1.1);
        assert_eq!(count(&players, Player::Alone(1)), 0);
        let mut contest = Contest::new(1, Player::All);
        let players = play(&mut contest, &[needy], 1000, |player| if player == Player::All { 3.0 } else { 1.0 });
        assert_eq!(count(&players, Player::All), LEAST_STEPS);
    }

    #[test]
    fn steps_of_other_lengths_do_not_count() {
        let mut contest = Contest::new(1, Player::All);
        (0..100).for_each(|_| assert_eq!(contest.note(7, 9.0), None));
        assert!(!contest.asks_for_rivals(1) && contest.challenger(1).is_none());
        contest.begin(Player::Alone(0), None);
        assert_eq!((contest.player(7), contest.player(1)), (Player::All, Player::Alone(0)));
    }
}
