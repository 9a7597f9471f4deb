//! Builds that leave something out say so.

#[test]
#[cfg(not(feature = "demo-model"))]
fn without_the_demo_model_a_model_has_to_be_given() {
    let ran = crate::program::hetero(&["run", "Hi"]);
    ran.assert_failed(2, "fix: give the Hugging Face folder");
}

#[test]
#[cfg(all(feature = "demo-model", not(feature = "cpu-simd")))]
fn without_a_backend_there_is_no_device() {
    let ran = crate::program::hetero(&["run", "Hi"]);
    ran.assert_failed(2, "fix: build with");
}

#[test]
fn devices_are_listed_in_every_build() {
    let document = crate::program::hetero(&["devices", "--json"]).json();
    let cpu = &document["devices"][0];
    let status = if cfg!(feature = "cpu-simd") { "usable" } else { "absent" };
    assert_eq!((&cpu["name"], &cpu["kind"], &cpu["status"]), (&"cpu".into(), &"cpu".into(), &status.into()));
    assert_eq!(cpu["reason"].is_string(), status == "absent");
    assert_eq!(cpu["fix"].is_string(), status == "absent");
    assert!(crate::program::hetero(&["devices"]).success().starts_with("cpu"));
}

#[test]
fn every_command_explains_itself() {
    for command in ["run", "chat", "logits", "perplexity", "bench", "devices", "quantize"] {
        let help = crate::program::hetero(&[command, "--help"]).success();
        assert!(help.contains("Usage: hetero"), "{command}");
    }
    #[cfg(feature = "npu-sim")]
    assert!(crate::program::hetero(&["simulate", "--help"]).success().contains("Usage: hetero"));
}
