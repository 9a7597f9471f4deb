//! The templates of the main families give the text that transformers gives.
//!
//! `fixtures/chat-templates/cases.json` was written by transformers itself (`xtask/python/chat_templates.py`).

use std::path::{Path, PathBuf};

use hetero_llama::LlamaError;
use hetero_llama::chat_template::{ChatTemplate, Conversation, Message, SpecialTokens};
use serde::Deserialize;

/// One conversation and what transformers made of it with one template.
#[derive(Deserialize)]
struct Case {
    template: PathBuf,
    name: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Text { expected: String },
    Error { error: String, error_type: String },
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat-templates")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// 26 July 2024, the date that the fixtures of Llama 3.1 and 3.2 have.
const FIXTURE_TIME: i64 = 1_721_952_000;

#[test]
fn templates_give_the_text_of_transformers() {
    let folder = fixtures();
    let json = read(&folder.join("cases.json"));
    let cases: Vec<Case> = serde_json::from_str(&json).expect("cases");
    // Read a second time, because buffering through `flatten` would sort the keys of tools.
    let conversations: Vec<Conversation> = serde_json::from_str(&json).expect("conversations");
    assert!(cases.len() >= 100, "only {} cases", cases.len());

    let mut failures = Vec::new();
    for (case, conversation) in cases.iter().zip(&conversations) {
        let path = folder.join(&case.template);
        let tokens = SpecialTokens {
            bos_token: case.bos_token.clone(),
            eos_token: case.eos_token.clone(),
            ..SpecialTokens::default()
        };
        let template = ChatTemplate::new(&read(&path), "default", &path, tokens)
            .unwrap_or_else(|error| panic!("{error}"))
            .with_fixed_time(FIXTURE_TIME);
        let actual = template.render_conversation(conversation);
        let is_right = match (&actual, &case.outcome) {
            (Ok(text), Outcome::Text { expected }) => text == expected,
            (Err(LlamaError::TemplateRefused { found, .. }), Outcome::Error { error, error_type }) => {
                error_type == "TemplateError" && found == error
            }
            // Errors of Python itself have other words here.
            (Err(LlamaError::TemplateFailed { .. }), Outcome::Error { error_type, .. }) => {
                error_type != "TemplateError"
            }
            _ => false,
        };
        if !is_right {
            let expected = match &case.outcome {
                Outcome::Text { expected } => format!("{expected:?}"),
                Outcome::Error { error, error_type } => format!("{error_type}: {error}"),
            };
            failures.push(format!(
                "{} {}:\n  expected {expected}\n  found    {actual:?}",
                case.template.display(),
                case.name
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn the_template_of_a_folder_is_found_where_transformers_finds_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
    let render = || {
        let template = ChatTemplate::open(folder.path())?;
        template.render(&[Message::new("user", "hi")], false)
    };
    assert!(matches!(render(), Err(LlamaError::MissingTemplate { .. })));

    write("tokenizer_config.json", r#"{"bos_token": {"content": "<s>", "lstrip": false}}"#);
    assert!(matches!(render(), Err(LlamaError::MissingTemplate { .. })));

    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}, "chat_template": [
            {"name": "rag", "template": "rag"},
            {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ pad_token }}"}]}"#,
    );
    assert_eq!(render().expect("a text"), "<s>hi");

    write("chat_template.jinja", "file {{ bos_token }}\n");
    assert_eq!(render().expect("a text"), "file <s>");
}

#[test]
fn the_date_is_todays() {
    let template = ChatTemplate::new("{{ strftime_now('%Y') }}", "default", Path::new("t"), SpecialTokens::default());
    let year: u32 = template.expect("valid").render(&[], false).expect("a text").parse().expect("a year");
    assert!((2025..2200).contains(&year));
}
