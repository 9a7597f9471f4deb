//! The sampler against hand-made numbers, a naive chain and the statistics of its draws.

use super::*;

fn sampler(options: SamplerOptions) -> Sampler {
    Sampler::new(SamplerConfig::new(options).expect("valid options"), &[])
}

/// Which tokens come in many draws, and how often, as shares.
fn shares(options: SamplerOptions, logits: &[f32]) -> Vec<f64> {
    const N_DRAWS: usize = 20_000;
    let mut sampler = sampler(options);
    let mut counts = vec![0usize; logits.len()];
    for _ in 0..N_DRAWS {
        counts[sampler.sample(logits).expect("a token") as usize] += 1;
        sampler.history.clear();
    }
    counts.into_iter().map(|count| count as f64 / N_DRAWS as f64).collect()
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[track_caller]
fn assert_shares(actual: &[f64], expected: &[f64]) {
    for (actual, expected) in actual.iter().zip(expected) {
        // Five standard deviations of a share of 20,000 draws are at most 0.018.
        assert!((actual - expected).abs() < 0.018, "{actual} is not {expected}");
        assert!(*expected > 0.0 || *actual == 0.0, "a token that was ruled out came");
    }
}

const LOGITS: [f32; 5] = [1.0, 3.0, -2.0, 2.5, 0.0];

#[test]
fn greedy_takes_the_best_and_of_equals_the_first() {
    let mut sampler = Sampler::new(SamplerConfig::greedy(), &[]);
    assert_eq!(sampler.sample(&LOGITS).expect("a token"), 1);
    assert_eq!(sampler.sample(&[0.5, 2.0, 2.0]).expect("a token"), 1);
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -1e30]).expect("a token"), 1);
}

#[test]
fn draws_follow_the_softmax() {
    for temperature in [0.7, 1.0, 2.0] {
        let options = SamplerOptions { temperature, seed: 7, ..Default::default() };
        assert_shares(&shares(options, &LOGITS), &softmax(&LOGITS, temperature.into()));
    }
}

#[test]
fn filters_keep_the_tokens_that_transformers_keeps() {
    // Probabilities at temperature 1: 0.075, 0.554, 0.004, 0.336, 0.028.
    let keep = |options: SamplerOptions| {
        let shares = shares(options, &LOGITS);
        (0..5).filter(|&i| shares[i] > 0.0).collect::<Vec<usize>>()
    };
    let default = SamplerOptions::default;
    assert_eq!(keep(SamplerOptions { top_k: 2, ..default() }), [1, 3]);
    assert_eq!(keep(SamplerOptions { top_k: 99, ..default() }), [0, 1, 2, 3, 4]);
    assert_eq!(keep(SamplerOptions { top_p: 0.5, ..default() }), [1]);
    assert_eq!(keep(SamplerOptions { top_p: 0.6, ..default() }), [1, 3]);
    assert_eq!(keep(SamplerOptions { top_p: 0.95, ..default() }), [0, 1, 3]);
    assert_eq!(keep(SamplerOptions { min_p: 0.1, ..default() }), [0, 1, 3]);
    assert_eq!(keep(SamplerOptions { min_p: 1.0, ..default() }), [1]);
    // Top-p looks at what top-k has left, at the chosen temperature: 0.554 of 0.890 is more than 0.6.
    assert_eq!(keep(SamplerOptions { top_k: 2, top_p: 0.6, ..default() }), [1]);
    assert_eq!(keep(SamplerOptions { temperature: 4.0, top_p: 0.5, ..default() }), [1, 3]);
}

#[test]
fn filtered_draws_follow_the_rest_of_the_softmax() {
    let options = SamplerOptions { top_k: 3, temperature: 1.5, ..Default::default() };
    let rest = softmax(&[1.0, 3.0, f32::NEG_INFINITY, 2.5, f32::NEG_INFINITY], 1.5);
    assert_shares(&shares(options, &LOGITS), &rest);
}

#[test]
fn the_penalty_counts_each_token_once_and_only_in_its_window() {
    let options = SamplerOptions { temperature: 0.0, repeat_penalty: 1.5, repeat_window: 2, ..Default::default() };
    let mut sampler = sampler(options);
    sampler.history = vec![1, 3, 3];
    sampler.penalise(&LOGITS);
    assert_eq!(sampler.logits, [1.0, 3.0, -2.0, 2.5 / 1.5, 0.0]);
    sampler.history = vec![2, 1, 70_000];
    sampler.penalise(&LOGITS);
    assert_eq!(sampler.logits, [1.0, 3.0 / 1.5, -2.0, 2.5, 0.0]);
    sampler.history = vec![2, 2];
    sampler.penalise(&LOGITS);
    assert_eq!(sampler.logits, [1.0, 3.0, -3.0, 2.5, 0.0]);
    // Chosen tokens are remembered: with 1 and 3 both lowered, 1 is the better one.
    sampler.history.clear();
    let tokens: Vec<u32> = (0..4).map(|_| sampler.sample(&LOGITS).expect("a token")).collect();
    assert_eq!(tokens, [1, 3, 1, 1]);
}

#[test]
fn a_seed_gives_the_same_tokens_everywhere() {
    let options = SamplerOptions { seed: 42, ..Default::default() };
    let logits = vec![0.0; 1000];
    let draw = || {
        let mut sampler = sampler(options.clone());
        (0..6).map(|_| sampler.sample(&logits).expect("a token")).collect::<Vec<u32>>()
    };
    assert_eq!(draw(), draw());
    let other = SamplerOptions { seed: 43, ..options.clone() };
    assert_ne!(draw()[..3], [(); 3].map(|()| sampler(other.clone()).sample(&logits).expect("a token")));
}

#[test]
fn a_large_vocabulary_gives_the_set_of_a_full_sort() {
    // 5,000 tokens of nearly equal probability, so that top-p needs several rounds.
    let logits: Vec<f32> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0).collect();
    let mut all: Vec<Candidate> =
        logits.iter().enumerate().map(|(i, &l)| Candidate { token: i as u32, value: (l - 1.0).exp() }).collect();
    let mut kept = all.clone();
    keep_top_p(&mut kept, 0.8);
    all.sort_by(better_first);
    let wanted = 0.8f32 as f64 * mass(&all);
    let mut above = 0.0;
    let n_expected = 1 + all
        .iter()
        .take_while(|c| {
            above += f64::from(c.value);
            above < wanted
        })
        .count();
    assert!((n_expected as i64 - kept.len() as i64).abs() <= 1, "{} of {n_expected}", kept.len());
    assert!(kept.iter().zip(&all).all(|(a, b)| a.token == b.token));
    assert!(kept.len() > 2000);
}

#[test]
fn extreme_logits_and_temperatures_draw_the_best() {
    for temperature in [1e-38, 1e-45, 1e-3] {
        let options = SamplerOptions { temperature, top_p: 0.9, min_p: 0.1, ..Default::default() };
        let mut sampler = sampler(options);
        assert_eq!(sampler.sample(&[-3e38, 3e38, 0.0]).expect("a token"), 1);
        assert_eq!(sampler.sample(&LOGITS).expect("a token"), 1);
    }
    let mut sampler = sampler(SamplerOptions { repeat_penalty: 100.0, ..Default::default() });
    sampler.accept(0);
    assert_eq!(sampler.sample(&[-3e38, f32::NEG_INFINITY]).expect("a token"), 0);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    for (logits, token) in [([0.0, f32::NAN, 1.0], 1), ([0.0, 1.0, f32::INFINITY], 2), ([f32::NEG_INFINITY; 3], 0)] {
        for config in [SamplerConfig::greedy(), SamplerConfig::new(SamplerOptions::default()).expect("valid")] {
            let error = Sampler::new(config, &[]).sample(&logits).expect_err("no token");
            assert!(matches!(error, LlamaError::BadLogits { token: t, .. } if t == token), "{error}");
            assert!(!error.is_bad_input());
        }
    }
}

#[test]
fn nothing_is_allocated_after_the_first_token() {
    let options = SamplerOptions { top_k: 3, top_p: 0.9, repeat_penalty: 1.1, ..Default::default() };
    let mut sampler = sampler(options);
    sampler.sample(&LOGITS).expect("a token");
    let pointers = |sampler: &Sampler| {
        (sampler.logits.as_ptr(), sampler.candidates.as_ptr() as usize, sampler.penalised_in.as_ptr())
    };
    let before = pointers(&sampler);
    for _ in 0..100 {
        sampler.sample(&LOGITS).expect("a token");
    }
    assert_eq!(pointers(&sampler), before);
}
