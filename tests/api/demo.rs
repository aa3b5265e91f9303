//! The demo, as a user starts it, on a model small enough for a test.

use std::path::Path;
use std::process::{Command, Output};

fn demo(model: &str, out: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediant"));
    command.args(["demo", "--model", model, "--samples", "1", "--out"]).arg(out).args(more);
    command.output().unwrap()
}

#[test]
fn the_demo_tells_every_part_and_writes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let output = demo("dummy:tiny", &out, &[]);
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}\n{text}");
    assert_eq!(errors, "", "nothing is wrong, so nothing is logged");
    for part in ["Part 1", "Part 2", "Exercises 1 and 2", "Part 3", "Part 4", "Part 5", "cells/s", "curl -s"]
    {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    for lint in ["MULTI_TOKEN_TARGET", "SINGLE_NOISE_SAMPLE", "TRIVIAL_CELL", "TAUTOLOGICAL_CUT"] {
        assert!(text.contains(lint), "{lint} is missing:\n{text}");
    }
    assert!(!text.contains('\x1b'), "a pipe gets no colours");
    let serve = format!("{} serve --model dummy:tiny", env!("CARGO_BIN_EXE_mediant"));
    assert!(text.contains(&serve), "the server is started as the demo was: {serve}\n{text}");
    let start = |name: &str| std::fs::read(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let pictures = [
        "part2-pun-into-literal",
        "part3-pun-trace",
        "part4-average-effect",
        "part5-mlp-against-attention",
        "eiffel-trace",
    ];
    for name in pictures {
        assert!(start(&format!("{name}.svg")).starts_with(b"<svg"), "{name}");
        assert!(start(&format!("{name}.png")).starts_with(b"\x89PNG"), "{name}");
    }
    assert!(start("part1-activations.npz").starts_with(b"PK"));
    let trace: serde_json::Value = serde_json::from_slice(&start("eiffel-trace.json")).unwrap();
    assert_eq!(trace["arms"]["hidden"]["axes"][0]["values"], serde_json::json!([0, 1, 2, 3]));
    assert!(trace.get("plots").is_none(), "the pictures are files of their own");
}

#[test]
fn a_refused_request_ends_the_demo_with_the_problem_document() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tight.toml");
    std::fs::write(&config, "[limits]\nprompt_bytes = 20\n").unwrap();
    let output = demo("dummy:tiny", folder.path(), &["--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("POST /v1/run answered 4") && errors.contains("\"pointer\""), "{errors}");
}

#[test]
fn a_model_that_does_not_load_ends_the_demo_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo("/no/such/model", folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/model"));
}
