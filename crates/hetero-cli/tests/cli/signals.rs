//! Readers that go away, and Ctrl-C.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus};

use crate::program::command;

/// Long enough to be interrupted: as many tokens as the context has room for.
const LONG: [&str; 6] = ["run", "A trait is", "-n", "1000", "--temperature", "0"];

/// Waits for the end; the exit status and standard error.
fn end_of(mut child: Child) -> (ExitStatus, String) {
    let mut stderr = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("UTF-8");
    (child.wait().expect("the program ends"), stderr)
}

fn interrupt(child: &Child) {
    let status = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(status.expect("a shell").success());
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let mut child = command(&LONG).spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0]).expect("some text");
    drop(stdout);
    let (status, stderr) = end_of(child);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_closed_standard_error_is_no_failure() {
    let mut child = command(&["run", "A trait is", "-n", "2"]).spawn().expect("the program starts");
    drop(child.stderr.take());
    assert!(child.wait_with_output().expect("the program ends").status.success());
}

#[test]
fn an_interrupted_text_ends_in_order() {
    let mut child = command(&LONG).spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut prompt = [0; 12];
    stdout.read_exact(&mut prompt).expect("the prompt and some text");
    interrupt(&child);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("whole characters");
    assert!(rest.ends_with('\n'));
    let (status, stderr) = end_of(child);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("first token") && !stderr.contains("context of"), "{stderr}");
}

/// What was measured until an interrupt is kept.
#[cfg(feature = "npu-sim")]
#[test]
fn an_interrupted_profile_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let profiles = folder.path().to_str().expect("UTF-8");
    let arguments = ["profile", "--devices", "cpu,gpu-sim,npu-sim", "--profiles", profiles, "--json"];
    let mut child = command(&arguments).spawn().expect("the program starts");
    // Measurements are kept every few seconds; the first file says that some were made.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while std::fs::read_dir(folder.path()).expect("readable").next().is_none() {
        assert!(std::time::Instant::now() < deadline, "nothing is kept");
        assert!(child.try_wait().expect("a child").is_none(), "it is not done so soon");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    interrupt(&child);
    let mut stdout = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("UTF-8");
    let (status, stderr) = end_of(child);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("not complete"), "{stderr}");
    let begun: serde_json::Value = serde_json::from_str(&stdout).expect("one JSON document");
    assert_eq!(begun["complete"], false);
    let again = crate::program::hetero(&[&arguments[..], &["--budget", "1ms"]].concat()).json();
    assert!(begun["measured"].as_u64() > Some(0));
    assert_eq!(again["known"], begun["measured"]);
}

#[test]
fn without_a_computation_an_interrupt_ends_the_program() {
    let mut child = command(&["chat"]).spawn().expect("the program starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.starts_with("device") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("UTF-8") > 0, "the program is ready after it has told its devices");
    }
    interrupt(&child);
    assert_eq!(child.wait().expect("the program ends").code(), Some(130));
}
