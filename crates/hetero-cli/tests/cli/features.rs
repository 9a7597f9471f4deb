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
    for command in ["run", "chat", "logits", "perplexity", "bench", "devices", "doctor", "quantize"] {
        let help = crate::program::hetero(&[command, "--help"]).success();
        assert!(help.contains("Usage: hetero"), "{command}");
    }
    #[cfg(feature = "npu-sim")]
    assert!(crate::program::hetero(&["simulate", "--help"]).success().contains("Usage: hetero"));
}

#[test]
fn the_doctor_looks_at_memory_processors_and_profiles() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().to_str().expect("UTF-8");
    let document = crate::program::hetero(&["doctor", "--json", "--profiles", place]).json();
    let findings = document["findings"].as_array().expect("a list");
    let of = |subject: &str| findings.iter().filter(|finding| finding["subject"] == subject).collect::<Vec<_>>();
    assert_eq!(of("memory").len(), 1);
    assert_eq!(of("profiles")[0]["health"], "note", "nothing was measured: {document}");
    #[cfg(feature = "cpu-simd")]
    assert!(of("cpu").iter().any(|finding| finding["text"].as_str().is_some_and(|text| text.contains("scalar"))));
    #[cfg(feature = "gpu-vulkano")]
    assert!(of("vulkan:0").iter().any(|finding| finding["text"].as_str().is_some_and(|text| text.contains("right"))));
    for finding in findings.iter().filter(|finding| finding["health"] == "trouble") {
        assert!(finding["fix"].is_string(), "{finding}");
    }
    assert!(crate::program::hetero(&["doctor", "--profiles", place]).success().contains("memory"));
}

/// As on a machine whose GPU has no driver.
#[test]
#[cfg(feature = "gpu-vulkano")]
fn a_machine_without_a_vulkan_driver_is_told_what_to_install() {
    for command in ["devices", "doctor"] {
        let mut child = crate::program::command(&[command]);
        child.env("VK_ICD_FILENAMES", "/nonexistent.json").env("VK_DRIVER_FILES", "/nonexistent.json");
        let text = String::from_utf8(child.output().expect("the program ends").stdout).expect("UTF-8");
        let vulkan: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("vulkan ")).take(2).collect();
        assert!(vulkan.len() == 2 && vulkan[1].contains("fix: install"), "{text}");
    }
}

#[test]
#[cfg(feature = "gpu-vulkano")]
fn kernels_that_do_not_exist_are_refused_with_those_that_do() {
    let mut child = crate::program::command(&["run", "Hi", "-n", "1", "--devices", "vulkan"]);
    let output = child.env("HETERO_GPU_KERNELS", "matmul=plain").output().expect("the program ends");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.contains("matmul=plain") && text.contains("linear_tiled"), "{text}");
}

#[test]
#[cfg(not(feature = "gpu-vulkano"))]
fn a_device_that_was_left_out_of_the_build_is_told_with_its_feature() {
    for device in ["vulkan", "vulkan:1"] {
        let output = crate::program::command(&["run", "Hi", "-n", "1", "--devices", device]).output();
        let text = String::from_utf8(output.expect("the program ends").stderr).expect("UTF-8");
        assert!(text.contains(&format!("`{device}`")) && text.contains("`gpu-vulkano`"), "{text}");
    }
}
