//! Logits and greedy continuations agree with what Hugging Face transformers computes in float32.

mod common;

use common::{Expected, fixture, fixtures, greedy, load, logits, normalised_error};
use hetero_core::WeightFormat;
use hetero_llama::Session;

#[test]
fn logits_agree_within_1e_4() {
    for folder in fixtures() {
        let expected = Expected::read(&folder, "expected.safetensors");
        let model = load(&folder, Some(WeightFormat::F32));
        let actual = logits(&model, &expected.tokens);
        let error = normalised_error(&actual, &expected.logits);
        let range = expected.logits.iter().fold(0.0f32, |range, x| range.max(x.abs()));
        let largest = actual.iter().zip(&expected.logits).fold(0.0f32, |largest, (a, e)| largest.max((a - e).abs()));
        println!("{}: normalised {error:.1e}, largest {:.1e}", folder.display(), largest / range);
        assert!(error <= 1e-4 && largest <= 1e-4 * range, "{}: {error:e}, {largest:e}", folder.display());
    }
}

#[test]
fn greedy_tokens_are_the_same_however_the_prompt_is_fed() {
    for folder in fixtures() {
        let expected = Expected::read(&folder, "expected.safetensors");
        let model = load(&folder, Some(WeightFormat::F32));
        let mut session = Session::new(&model).expect("a session");
        let tokens = greedy(&mut session, &expected.tokens, expected.greedy.len());
        assert_eq!(tokens, expected.greedy, "{}", folder.display());

        // Token by token, so that every position goes through the decode graph.
        session.truncate(0);
        for token in &expected.tokens {
            session.feed(&[*token], &Default::default()).expect("a token that fits");
        }
        assert_eq!(common::best_token(session.logits()), expected.greedy[0], "{}", folder.display());
    }
}

/// What is stored in 16 bits is held without loss, so the stored format agrees as well as f32 does.
#[test]
fn weights_stored_in_16_bits_lose_nothing() {
    for (name, format) in [("llama32-tied", WeightFormat::Bf16), ("llama-f16", WeightFormat::F16)] {
        let folder = fixture(name);
        let expected = Expected::read(&folder, "expected.safetensors");
        let actual = logits(&load(&folder, Some(format)), &expected.tokens);
        assert!(normalised_error(&actual, &expected.logits) <= 1e-4, "{name}");
    }
}

/// The stored values were quantised by the published GGUF rules and computed with transformers in float32.
#[test]
fn quantised_weights_agree_with_a_plain_dequantised_computation() {
    let folder = fixture("llama3-gqa");
    for format in [WeightFormat::W8G32, WeightFormat::W4G32] {
        let expected = Expected::read(&folder, &format!("expected-{format}.safetensors"));
        let tokens = Expected::read(&folder, "expected.safetensors").tokens;
        let actual = logits(&load(&folder, Some(format)), &tokens);
        let error = normalised_error(&actual, &expected.logits);
        assert!(error <= 1e-4, "{format}: {error:e}");
    }
}
