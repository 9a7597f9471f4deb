//! Into which steps a prompt is cut.

use std::iter::successors;

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
    // For each number of tokens the least seconds, and the first step.
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
    // The longest step of those first: the last one is what is left.
    let steps = successors(Some(n_tokens), |&left| Some(left - best[left].1)).take_while(|&left| left > 0);
    steps.map(|left| best[left].1).max().expect("there is a step")
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
