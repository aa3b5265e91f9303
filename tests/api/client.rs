//! The command line against a server: experiments, jobs, cases, and what it says when something is wrong.

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

    /// What a command that must fail says, with the status it must have.
    fn fails(&self, status: i32, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        said
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
    assert!(server.fails(1, &["watch", long.trim()], "").contains("the job is cancelled"));

    // In a pipe, a line now and then, and how it ended.
    let said = String::from_utf8(server.run(&["watch", run.trim()], "").stderr).unwrap();
    assert!(said.ends_with(" s\n") && said.contains("succeeded in"), "{said}");
    let list = server.ok(&["jobs"], "");
    let line = |id: &str| list.lines().find(|line| line.contains(id)).unwrap().to_owned();
    assert!(line(id.trim()).contains("sweep  succeeded  100 %"), "{list}");
    assert!(line(long.trim()).contains("cancelled"), "{list}");
    let runs: Value = serde_json::from_str(&server.ok(&["jobs", "--kind", "run", "--json"], "")).unwrap();
    assert_eq!(runs["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_wrong_is_said_in_words_and_by_the_status() {
    let server = Server::start();
    let said = server.fails(3, &["submit", "-"], r#"{"datset": {}}"#);
    assert!(said.contains("/datset") && said.contains("did you mean `dataset`"), "{said}");
    let said = server.fails(3, &["trace", "Rome is a", "--subject", "Oslo", "--target", " c"], "");
    assert!(said.contains("/subject") && said.contains("does not occur"), "{said}");
    assert!(server.fails(1, &["submit", "-"], "{").contains("is not JSON"));
    assert!(server.fails(1, &["submit", "/no/such/file"], "").contains("/no/such/file"));
    assert!(server.fails(1, &["sweep", "cases.txt"], "").contains(".csv"));
    assert!(server.fails(1, &["plan", "-"], "{}").contains("--to"));
    let none = "job_00000000000000000000000000000000";
    for command in ["watch", "result", "cancel"] {
        let said = server.fails(3, &[command, none], "");
        assert!(said.contains(none) && said.contains("404"), "{said}");
    }
    let away = server.fails(4, &["run", "Rome", "--server", "http://127.0.0.1:9"], "");
    assert!(away.contains("is the server running"), "{away}");
    assert!(server.fails(1, &["cancel", none, "--server", "lab"], "").contains("http://HOST:PORT"));
    // A wrong call, before anything is sent.
    for call in
        [&["trace", "Rome"][..], &["run", "Rome", "--with", "[1]"], &["lens", "a", "--layers", "0..x"]]
    {
        server.fails(2, call, "");
    }
}

#[test]
fn each_experiment_is_a_command() {
    let server = Server::start();
    let trace = ["trace", "hello world today", "--subject", "world", "--target", " x", "--samples", "2"];
    let patch = ["patch", "hello world", "hello there", "--target", " x"];
    let of = |call: &[&str], more: &[&str]| server.ok(&[call, more].concat(), "");

    let run = of(&["run", "hello", "--target", " x", "--top", "2"], &[]);
    assert!(run.contains("rank  token  probability") && run.contains("prob:target"), "{run}");
    assert_eq!(run.lines().filter(|line| line.contains(" %")).count(), 2, "{run}");
    let lens = of(&["lens", "hello", "--layers", "0,2", "--top", "1"], &[]);
    assert_eq!(lens.lines().filter(|line| line.contains(" %")).count(), 2, "{lens}");
    let grid = of(&["lens", "hello", "--layers", "0..2", "--positions", "all"], &[]);
    assert!(grid.lines().count() == 3 && grid.contains('o'), "{grid}");
    let map = of(&trace, &["--arms", "mlp,attn"]);
    assert!(map.contains("mlp: clean mlp_out restored") && map.contains("attn: clean attn_out"), "{map}");
    assert!(map.contains("strongest: attn, layer") && map.contains("prob:target: clean"), "{map}");
    let bars = of(&patch, &["--controls", "self_patch"]);
    assert!(bars.contains("trivial") && bars.contains("source: prob:target"), "{bars}");
    let heads = of(&patch, &["--site", "z", "--heads", "all", "--layers", "0,1"]);
    assert!(heads.contains("effect on prob:target"), "{heads}");

    // The document as the server has it, with fields that have no flag.
    let document: Value =
        serde_json::from_str(&of(&trace, &["--json", "--with", r#"{"corrupt": {"seed": 7}}"#])).unwrap();
    assert_eq!(document["request"]["corrupt"]["seed"], 7);
    assert_eq!(document["request"]["corrupt"]["samples"], 2);
    // Its files, those of `mediant result` of the job that it names.
    let folder = tempfile::tempdir().unwrap();
    let figure = folder.path().join("map.svg");
    of(&trace, &["--save", figure.to_str().unwrap()]);
    assert!(std::fs::read(&figure).unwrap().starts_with(b"<svg"));
    assert!(of(&patch, &["--format", "csv"]).lines().next().unwrap().contains("layer"));
    let output = server.run(&trace, "");
    let said = String::from_utf8(output.stderr).unwrap();
    let job = said.split_whitespace().find(|word| word.starts_with("job_")).unwrap().trim_end_matches(':');
    assert!(of(&["result", job, "--format", "csv"], &[]).contains("effect"));
    // Remarks are not part of what a pipe gets.
    assert!(said.contains("SMALL_N") && !String::from_utf8(output.stdout).unwrap().contains("SMALL_N"));
    assert!(server.run(&[&trace[..], &["--quiet"]].concat(), "").stderr.is_empty());
    assert!(of(&trace, &["--color", "truecolor"]).contains("\x1b[48;2;"));
    assert!(!map.contains('\x1b'));

    let plan = of(&trace, &["--plan"]);
    assert!(plan.contains("trace: ") && plan.contains(" runs, ") && plan.contains(", allowed"), "{plan}");
    let body = r#"{"prompt": "hello", "target": " x"}"#;
    assert!(server.ok(&["plan", "-", "--to", "run"], body).contains("run: 1 runs"));
    assert!(server.ok(&["plan", "-"], &format!(r#"{{"run": {body}}}"#)).contains("run: 1 runs"));
    let tokens = of(&["tokenize", "hello world", "--subject", "world"], &[]);
    assert_eq!(tokens.lines().filter(|line| line.ends_with("subject")).count(), 5, "{tokens}");
    let text = of(&["generate", "hello", "--max-tokens", "3"], &[]);
    assert!(text.starts_with("hello"), "{text}");
    let texts = of(&["generate", "hello", "--max-tokens", "3", "--temperature", "1", "--samples", "2"], &[]);
    assert!(texts.contains("plain, text 1"), "{texts}");
}

#[test]
fn cases_are_stored_listed_swept_and_deleted() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cases.csv");
    std::fs::write(&file, "prompt,subject,target\nRome is a,Rome, c\nOslo is a,Oslo, c\n").unwrap();
    let file = file.to_str().unwrap();
    let id = server.ok(&["datasets", "add", file, "--name", "towns"], "");
    let list = server.ok(&["datasets"], "");
    assert!(list.contains(id.trim()) && list.contains("towns"), "{list}");
    assert!(server.ok(&["datasets", "show", id.trim()], "").contains("Oslo"));
    let swept =
        |data: &str| server.ok(&["sweep", data, "--samples", "2", "--keep-wrong", "--arms", "mlp"], "");
    let table = swept(id.trim());
    assert!(table.contains("2 cases kept, 0 dropped") && table.contains("total effect"), "{table}");
    assert_eq!(swept(file), table);
    let dropped = server.ok(&["sweep", file, "--samples", "2", "--by", "layer"], "");
    assert!(dropped.contains("0 cases kept, 2 dropped") && dropped.contains("dropped 0: "), "{dropped}");
    server.ok(&["datasets", "rm", id.trim()], "");
    assert!(!server.ok(&["datasets"], "").contains(id.trim()));
    let bad = folder.path().join("bad.csv");
    std::fs::write(&bad, "promt,subject,target\nRome is a,Rome, c\n").unwrap();
    let said = server.fails(3, &["datasets", "add", bad.to_str().unwrap()], "");
    assert!(said.contains("promt"), "{said}");
}

#[test]
fn shells_and_man_know_the_commands() {
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mediant")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = print(&["completions", shell]);
        assert!(script.contains("tokenize") && script.contains("datasets"), "{shell}");
        let checks = Command::new(shell).args(["-n", "/dev/stdin"]).stdin(Stdio::piped()).spawn();
        // Where the shell is there, it reads the script without a complaint.
        let Ok(mut child) = checks else { continue };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{shell}");
    }
    let page = print(&["man"]);
    assert!(page.contains(".TH mediant 1") && page.contains("mediant\\-trace"), "{page}");
    let page = print(&["man", "trace"]);
    assert!(page.contains("subject") && page.contains("MEDIANT_KEY"), "{page}");
    let hidden = Command::new(env!("CARGO_BIN_EXE_mediant")).args(["man", "engine"]).output().unwrap();
    assert!(!hidden.status.success());
}
