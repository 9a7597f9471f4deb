//! Into which steps a prompt is cut.

use std::iter::successors;

use hetero_sched::Expected;

/// Steps of up to so many positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) capacity: usize,
    /// What a step takes, however few of its positions are used.
    seconds: f64,
    /// What is still to be compiled for the first one; zero once it is.
    pub(crate) prepare_seconds: f64,
    /// What such steps would have saved so far.
    saved_seconds: f64,
}

impl Length {
    pub(crate) fn new(capacity: usize, expected: Expected) -> Length {
        let Expected { seconds, prepare_seconds } = expected;
        Length { capacity, seconds, prepare_seconds, saved_seconds: 0.0 }
    }

    fn is_ready(&self) -> bool {
        self.prepare_seconds == 0.0
    }
}

/// The lengths, with the seconds of a step, that a prompt of so many tokens is to be cut into: those that are ready, and
/// others once they would have saved as much by now as it takes to make them ready. Nobody knows which prompts will
/// come, and so neither too much nor too little is compiled: together with what was lost it takes at most twice as long
/// as with the best choice in hindsight (the rule of the ski rental; Karlin, Manasse, Rudolph and Sleator, Competitive
/// snoopy caching, Algorithmica 3, 1988).
///
/// # Panics
/// When no length is ready.
pub(crate) fn worth_having<'l>(n_tokens: usize, lengths: impl Iterator<Item = &'l mut Length>) -> Vec<(usize, f64)> {
    let mut lengths: Vec<&mut Length> = lengths.collect();
    let cost = |length: &&mut Length| (length.capacity, length.seconds);
    let ready: Vec<(usize, f64)> = lengths.iter().filter(|length| length.is_ready()).map(cost).collect();
    let all: Vec<(usize, f64)> = lengths.iter().map(cost).collect();
    let longest = ready.last().expect("a length is ready").0;
    let rest = n_tokens % longest;
    if rest == 0 || ready.len() == all.len() {
        return ready;
    }
    let (now, best) = (cheapest(rest, &ready), cheapest(rest, &all));
    let gain = now[rest].0 - best[rest].0;
    let used: Vec<usize> = steps(rest, &best).map(|tokens| capacity_for(tokens, &all)).collect();
    let mut missing: Vec<&mut &mut Length> =
        lengths.iter_mut().filter(|length| !length.is_ready() && used.contains(&length.capacity)).collect();
    let share = gain / missing.len().max(1) as f64;
    missing.iter_mut().for_each(|length| length.saved_seconds += share);
    let sum = |of: fn(&Length) -> f64| missing.iter().map(|length| of(length)).sum::<f64>();
    let is_worth_it = gain > 0.0 && sum(|length| length.saved_seconds) >= sum(|length| length.prepare_seconds);
    if !is_worth_it {
        return ready;
    }
    let is_taken = |(capacity, _): &(usize, f64)| ready.iter().any(|(known, _)| known == capacity);
    all.iter().filter(|length| is_taken(length) || used.contains(&length.0)).copied().collect()
}

/// How many of the next `n_tokens` tokens to feed in the next step, so that all of them take the least time: given
/// lengths of steps, ascending, and the seconds that each takes however few of its positions are used.
///
/// # Panics
/// When there is no token or no length.
pub(crate) fn next_tokens(n_tokens: usize, lengths: &[(usize, f64)]) -> usize {
    assert!(n_tokens > 0, "a step has a token");
    let &(longest, _) = lengths.last().expect("there is a length");
    if n_tokens >= longest || lengths.len() == 1 {
        return n_tokens.min(longest);
    }
    // The longest step of those first: the last one is what is left.
    steps(n_tokens, &cheapest(n_tokens, lengths)).max().expect("there is a step")
}

/// For each number of tokens up to `n_tokens` the least seconds, and the tokens of the first step.
fn cheapest(n_tokens: usize, lengths: &[(usize, f64)]) -> Vec<(f64, usize)> {
    let mut best: Vec<(f64, usize)> = Vec::with_capacity(n_tokens + 1);
    best.push((0.0, 0));
    for tokens in 1..=n_tokens {
        let choices = lengths.iter().map(|&(length, seconds)| match length >= tokens {
            true => (seconds, tokens),
            false => (seconds + best[tokens - length].0, length),
        });
        // Of equals the longest first step, so that nothing is cut in vain.
        let least = choices.min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        best.push(least.expect("there is a length"));
    }
    best
}

/// The tokens of each step.
fn steps(n_tokens: usize, best: &[(f64, usize)]) -> impl Iterator<Item = usize> {
    let left = successors(Some(n_tokens), |&left| Some(left - best[left].1)).take_while(|&left| left > 0);
    left.map(|left| best[left].1)
}

/// The length of the step that takes so many tokens.
fn capacity_for(n_tokens: usize, lengths: &[(usize, f64)]) -> usize {
    lengths.iter().find(|(length, _)| *length >= n_tokens).expect("steps fit into a length").0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_cut_where_it_saves_time() {
        // In proportion, with a little for each step.
        let lengths: Vec<(usize, f64)> = [32, 64, 128, 256].map(|rows| (rows, 1.0 + rows as f64)).into();
        for (n_tokens, expected) in
            [(1, 1), (32, 32), (33, 33), (64, 64), (65, 64), (100, 100), (130, 128), (200, 128), (1000, 256)]
        {
            assert_eq!(next_tokens(n_tokens, &lengths), expected, "{n_tokens}");
        }
        // Where a step takes as long whatever its length, there are as few as possible.
        let flat: Vec<(usize, f64)> = [32, 64, 128, 256].map(|rows| (rows, 1.0)).into();
        assert!((1..=256).all(|n_tokens| next_tokens(n_tokens, &flat) == n_tokens));
        assert_eq!(next_tokens(700, &[(512, 1.0)]), 512);
        assert_eq!(next_tokens(7, &[(512, 1.0)]), 7);
    }

    #[test]
    fn a_length_is_compiled_for_when_it_would_have_saved_as_much() {
        let length = |capacity, seconds, prepare_seconds| Length::new(capacity, Expected { seconds, prepare_seconds });
        let mut lengths = [length(64, 0.2, 1.0), length(256, 0.6, 2.0), length(512, 1.0, 0.0)];
        let mut worth_having = |n_tokens| worth_having(n_tokens, lengths.iter_mut());
        // 0.4 s each time.
        for _ in 0..4 {
            assert_eq!(worth_having(200), [(512, 1.0)]);
        }
        assert_eq!(worth_having(200), [(256, 0.6), (512, 1.0)], "after 2 s");
        assert_eq!(worth_having(512), [(512, 1.0)], "where nothing else is as good, nothing is compiled");
        assert_eq!(worth_having(1024 + 300), [(512, 1.0)], "the rest of a long prompt counts, and 64 are missing too");
        let ready = [length(64, 0.2, 0.0), length(512, 1.0, 0.0)]
            .map(|mut length| super::worth_having(9, [&mut length].into_iter()));
        assert_eq!(ready, [[(64, 0.2)], [(512, 1.0)]]);
    }

    #[test]
    fn every_cut_comes_to_an_end() {
        let lengths = [(32, 1.0), (128, 3.9), (512, 16.1)];
        for n_tokens in 1..2000 {
            let mut left = n_tokens;
            while left > 0 {
                let next = next_tokens(left, &lengths);
                assert!((1..=left.min(512)).contains(&next), "{next} of {left}");
                left -= next;
            }
        }
    }
}
