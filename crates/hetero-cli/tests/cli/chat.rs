//! `hetero chat` from a pipe.

use crate::program::{Ran, argument, fixtures, hetero, hetero_with_input, model_with_template};

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

fn chat(lines: &str, more: &[&str]) -> Ran {
    let model = model_with_template(TEMPLATE);
    let arguments = ["chat", "-n", "6", "--temperature", "0", "--model", argument(model.path())];
    hetero_with_input(&[&arguments[..], more].concat(), lines)
}

#[test]
fn a_conversation_begins_anew_after_reset() {
    let once = chat("Hello\n", &[]).success();
    assert!(once.ends_with('\n') && once.len() > 1, "{once:?}");
    let twice = chat("Hello\n/reset\nHello\n", &[]).success();
    assert_eq!(twice, once.repeat(2));
    assert_eq!(chat("\n/exit\nHello\n", &[]).success(), "");
}

#[test]
fn a_system_message_comes_first() {
    assert_ne!(chat("Hello\n", &["--system", "Be brief"]).success(), chat("Hello\n", &[]).success());
}

#[test]
fn what_was_said_before_is_not_computed_again() {
    let ran = chat("A first message\n/stats\nand another\n/stats\n", &[]);
    let numbers = |word: &str| -> Vec<usize> {
        let lines = ran.stderr.lines().filter(|line| line.contains(word));
        let numbers = lines.map(|line| line.split(' ').find_map(|word| word.parse().ok()));
        numbers.map(|number| number.expect("a number")).collect()
    };
    let (used, prefill) = (numbers(" of the context are used"), numbers("prefill"));
    assert_eq!((used.len(), prefill.len()), (2, 2), "{}", ran.stderr);
    let before_reply = used[1] - 5;
    assert!(prefill[1] < before_reply - 12, "{}", ran.stderr);
}

#[test]
fn commands_are_answered_on_standard_error() {
    let ran = chat("/help\n/nonsense\n", &[]);
    assert!(ran.stderr.contains("/reset") && ran.stderr.contains("no command /nonsense"), "{}", ran.stderr);
    assert_eq!(ran.success(), "");
}

#[test]
fn a_conversation_that_outgrows_the_context_is_told_how_to_go_on() {
    let ran = chat("a message that is far too long for so little context\n", &["--context", "24"]);
    ran.assert_failed(2, "fix: start a new one with /reset");
}

#[test]
fn a_model_without_a_template_cannot_chat() {
    let ran = hetero(&["chat", "--model", argument(&fixtures()[0])]);
    ran.assert_failed(2, "fix: use the chat variant");
}

#[test]
fn the_demo_model_can_be_talked_to() {
    // Greedy, because a drawn first token may be the end of the turn.
    let arguments = ["chat", "-n", "4", "--temperature", "0"];
    let reply = hetero_with_input(&arguments, "What is a trait?\n").success();
    assert!(reply.trim().len() > 1, "{reply:?}");
}
