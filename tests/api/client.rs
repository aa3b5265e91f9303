//! The command line against a server: submit, watch, result, cancel.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::data_dir;

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mediant"))
            .args(["serve", "--listen", "127.0.0.1:0", "--model", "dummy:tiny", "--data-dir", &data_dir()])
            .env("MEDIANT__JOBS__UNIT_S", "0.02")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut url = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(address) = line.split("http://").nth(1) {
                url = format!("http://{}", address.split_whitespace().next().unwrap());
            }
            if line.trim_end().ends_with("ready") {
                break;
            }
        }
        // Its log must go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mediant"))
            .args(arguments)
            .env("MEDIANT_SERVER", &self.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that must fail says.
    fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sweep(cases: usize) -> String {
    let case =
        |i: usize| json!({"prompt": format!("{i} towers in Rome are"), "subject": "towers", "target": "P"});
    let cases: Vec<Value> = (0..cases).map(case).collect();
    json!({"dataset": {"inline": cases}, "corrupt": {"samples": 2}, "arms": ["mlp"], "filters": {"expect_top1": false}})
        .to_string()
}

#[test]
fn a_sweep_is_submitted_watched_fetched_and_another_called_off() {
    let server = Server::start();
    let id = server.ok(&["submit", "-"], &sweep(3));
    let id = id.trim();
    assert!(id.starts_with("job_"), "{id}");
    server.ok(&["watch", id], "");
    let folder = tempfile::tempdir().unwrap();
    let result: Value = serde_json::from_str(&server.ok(&["result", id], "")).unwrap();
    assert_eq!(result["complete"], true);
    for (file, start) in
        [("a.csv", "group,"), ("a.jsonl", "{"), ("a.parquet", "PAR1"), ("a.svg", "<svg"), ("a.json", "{")]
    {
        let file = folder.path().join(file);
        server.ok(&["result", id, "--output", file.to_str().unwrap()], "");
        let bytes = std::fs::read(&file).unwrap();
        assert!(bytes.starts_with(start.as_bytes()), "{}", file.display());
    }
    assert!(server.ok(&["result", id, "--format", "csv", "--table", "cells"], "").starts_with("case,"));

    let cases = folder.path().join("cases.csv");
    std::fs::write(&cases, "prompt,subject,target\nRome is a,Rome, c\nOslo is a,Oslo, c\n").unwrap();
    let body = json!({"corrupt": {"samples": 2}, "filters": {"expect_top1": false}}).to_string();
    let id = server.ok(&["submit", "-", "--dataset", cases.to_str().unwrap(), "--watch"], &body);
    let result: Value = serde_json::from_str(&server.ok(&["result", id.trim()], "")).unwrap();
    assert_eq!(result["cases"].as_array().unwrap().len(), 2);

    let run = server.ok(&["submit", "-", "--to", "run", "--watch"], r#"{"prompt": "Rome"}"#);
    assert!(server.ok(&["result", run.trim()], "").contains("\"topk\""));

    let long = server.ok(&["submit", "-"], &sweep(400));
    assert_eq!(server.ok(&["cancel", long.trim()], "").trim(), "cancelled");
    assert!(server.fails(&["watch", long.trim()], "").contains("the job is cancelled"));
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let server = Server::start();
    let said = server.fails(&["submit", "-"], r#"{"datset": {}}"#);
    assert!(said.contains("/datset") && said.contains("did you mean `dataset`"), "{said}");
    assert!(server.fails(&["submit", "-"], "{").contains("is not JSON"));
    assert!(server.fails(&["submit", "/no/such/file"], "").contains("/no/such/file"));
    let none = "job_00000000000000000000000000000000";
    for command in ["watch", "result", "cancel"] {
        let said = server.fails(&[command, none], "");
        assert!(said.contains(none) && said.contains("404"), "{said}");
    }
    let away = server.fails(&["cancel", none, "--server", "http://127.0.0.1:9"], "");
    assert!(away.contains("is the server running"), "{away}");
    assert!(server.fails(&["cancel", none, "--server", "lab"], "").contains("http://HOST:PORT"));
}
