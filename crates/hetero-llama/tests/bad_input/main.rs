//! Every class of broken model folder gives a typed error that names the file, the place, what was expected and what
//! was found, and says what to do.
//!
//! Each case breaks one thing of a small valid model and opens all of it.

mod model;
mod text_cases;
mod weight_cases;

use std::fs;
use std::path::Path;

use hetero_llama::LlamaError;
use hetero_llama::chat_template::{ChatTemplate, Message};
use hetero_llama::config::ModelConfig;
use hetero_llama::generation_config::GenerationConfig;
use hetero_llama::tokenizer::Tokenizer;
use hetero_llama::weights::{Checkpoint, ModelTensors};
use serde_json::json;

use crate::model::{change_config, change_tensors, split, whole_weight_map, write_valid};

/// One damage and what is to be said of it.
struct Case {
    name: &'static str,
    /// What is done to a valid folder.
    damage: fn(&Path),
    /// The variant, as its `Debug` begins.
    variant: &'static str,
    /// What the message has to contain.
    mentions: &'static [&'static str],
}

/// Opens everything that a model folder has, as a program would, and renders one prompt.
fn open(folder: &Path) -> Result<(), LlamaError> {
    let config_file = folder.join("config.json");
    let checkpoint = Checkpoint::open(folder)?;
    let config = ModelConfig::parse(&fs::read(&config_file).expect("readable"), &config_file)?;
    ModelTensors::resolve(&checkpoint, &config)?;
    GenerationConfig::open(folder, &config)?;
    let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), config.vocab)?;
    let prompt = ChatTemplate::open(folder)?.render(&[Message::new("user", "ab")], true)?;
    tokenizer.encode(&prompt, false)?;
    Ok(())
}

#[test]
fn the_undamaged_model_opens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_valid(folder.path());
    open(folder.path()).expect("valid");
    split(folder.path(), whole_weight_map("shard-1.safetensors"));
    open(folder.path()).expect("valid in shards");
}

#[test]
fn a_tied_model_may_have_a_head_all_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_valid(folder.path());
    change_config(folder.path(), "tie_word_embeddings", json!(true));
    open(folder.path()).expect("the head is left alone");
    change_tensors(folder.path(), |tensors| {
        tensors.pop();
    });
    open(folder.path()).expect("no head is needed");
}

#[test]
fn every_damage_is_reported() {
    let mut failures = Vec::new();
    for case in weight_cases::CASES.iter().chain(text_cases::CASES) {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("model");
        fs::create_dir(&folder).expect("writable");
        write_valid(&folder);
        (case.damage)(&folder);
        let Err(error) = open(&folder) else {
            failures.push(format!("{}: opened", case.name));
            continue;
        };
        let message = error.to_string();
        let debug = format!("{error:?}");
        let variant = debug.split([' ', '(', '{']).next().unwrap_or_default();
        if variant != case.variant {
            failures.push(format!("{}: {variant} in place of {}: {message}", case.name, case.variant));
        }
        for mention in case.mentions {
            if !message.contains(mention) {
                failures.push(format!("{}: no {mention:?} in {message:?}", case.name));
            }
        }
        if !message.contains("expected") || !message.contains("found") {
            failures.push(format!("{}: neither expected nor found in {message:?}", case.name));
        }
        if error.fix().is_empty() || error.fix().ends_with('.') || !error.is_bad_input() {
            failures.push(format!("{}: fix {:?}", case.name, error.fix()));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
