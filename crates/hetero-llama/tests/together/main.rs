//! Several processors write the text that the CPU writes alone: in every mode, for fifty prompts, whichever of them
//! fails.
//!
//! Processors that compute in other ways write other texts, so all compute the same here: weights are single precision,
//! which the simulated NPU multiplies exactly and not in half precision, and activations are floats. What is left is the
//! order in which sums are added up. Prompts whose text could depend on that are not used ([`subject`]).

#![cfg(all(feature = "cpu-simd", feature = "npu-sim"))]

#[path = "../common/mod.rs"]
mod common;
mod modes;
mod subject;

use std::sync::atomic::{AtomicUsize, Ordering};

use hetero_llama::Session;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::modes::{MODES, Mode};
use crate::subject::Subject;

#[test]
fn fifty_prompts_give_the_same_tokens_in_every_mode_on_a_random_model() {
    every_mode(&Subject::random());
}

#[test]
fn fifty_prompts_give_the_same_tokens_in_every_mode_on_the_demo_model() {
    every_mode(&Subject::demo());
}

#[test]
fn fifty_faults_change_no_token_of_a_random_model() {
    random_faults(&Subject::random());
}

#[test]
fn fifty_faults_change_no_token_of_the_demo_model() {
    random_faults(&Subject::demo());
}

/// Devices that are opened and measured as users do it, by name.
#[test]
fn fifty_prompts_give_the_same_tokens_on_measured_devices() {
    let subject = Subject::random();
    for (devices, faults) in [
        ("cpu,npu-sim", None),
        ("cpu,gpu-sim,npu-sim", None),
        ("gpu-sim,npu-sim", Some("npu:late=2ms@every=50")),
        ("gpu-sim,npu-sim", Some("npu:lost@600+")),
        ("cpu,gpu-sim,npu-sim", Some("gpu:stuck@700; timeout=200ms")),
    ] {
        let model = subject.load(devices, faults);
        let mut session = Session::new(&model).expect("a session");
        for prompt in &subject.prompts {
            prompt.check(&mut session, &format!("{devices}, {faults:?}"));
        }
        for loss in model.team().losses() {
            assert!(faults.is_some(), "{devices}: {} was lost without a fault: {}", loss.device, loss.reason);
        }
    }
}

/// What the other tests rest on: a few wrong numbers do change what is written.
#[test]
fn wrong_numbers_are_noticed() {
    let subject = Subject::random();
    for mode in MODES.iter().filter(|mode| mode.devices.len() > 1) {
        let (team, _) = mode.team(&subject, Some("npu:wrong=64@every=3"));
        let mut session = Session::new(&subject.alone.with_team(team)).expect("a session");
        let n_right = subject.prompts[..8].iter().filter(|prompt| prompt.is_answered(&mut session)).count();
        assert!(n_right < 8, "{}: nothing showed", mode.name);
    }
}

fn every_mode(subject: &Subject) {
    let next = AtomicUsize::new(0);
    let check_next = || {
        while let Some(mode) = MODES.get(next.fetch_add(1, Ordering::Relaxed)) {
            one_mode(subject, mode);
        }
    };
    // A mode keeps one core busy most of the time.
    std::thread::scope(|scope| {
        scope.spawn(check_next);
        scope.spawn(check_next);
    });
}

fn one_mode(subject: &Subject, mode: &Mode) {
    let (team, phone) = mode.team(subject, None);
    let mut session = Session::new(&subject.alone.with_team(team)).expect("a session");
    for prompt in &subject.prompts {
        prompt.check(&mut session, mode.name);
    }
    let losses = session.model().team().losses();
    assert!(losses.is_empty(), "{}: lost without a fault: {losses:?}", mode.name);
    mode.check_work(&phone, &session.device_shares());
}

/// Each prompt has a mode and a fault of its own, on processors that have just been switched on.
fn random_faults(subject: &Subject) {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut below = |n: usize| random.next_u32() as usize % n;
    let shared: Vec<&Mode> = MODES.iter().filter(|mode| mode.devices.len() > 1).collect();
    let mut n_losses = 0;
    for prompt in &subject.prompts {
        let mode = shared[below(shared.len())];
        let victim = mode.victim(below(2));
        let nth = 1 + below(30);
        let fault = match below(6) {
            0 => format!("{victim}:late=1ms@every={}", 2 + below(5)),
            1 => format!("{victim}:stuck@{nth}; timeout=100ms"),
            2 => format!("{victim}:oom@{nth}+"),
            3 => format!("{victim}:compile-error@{nth}"),
            _ => format!("{victim}:lost@{nth}+"),
        };
        let what = format!("{}, {fault}", mode.name);
        let (team, _) = mode.team(subject, Some(&fault));
        let model = subject.alone.with_team(team);
        let mut session = Session::new(&model).unwrap_or_else(|error| panic!("{what}: {error}"));
        prompt.check(&mut session, &what);
        let losses = model.team().losses();
        assert!(losses.len() <= 1, "{what}: one processor fails, lost were {losses:?}");
        n_losses += losses.len();
    }
    assert!(n_losses >= subject.prompts.len() / 3, "only {n_losses} of the faults struck");
}
