//! Texts on a server whose engine is killed while they are written: the same tokens, the same numbers. `MEDIANT_KILLS=100` for
//! the full trial.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kills::{counted_once, finished};
use crate::server::{Server, get, kill, until};

fn body() -> Value {
    let q = json!({"run": "q", "positions": "last"});
    let at = |positions: Value, source: &Value| json!({"site": "resid_post", "layers": 1, "positions": positions, "op": "add", "coef": 0.5, "source": source});
    json!({
        "runs": {"p": {"prompt": "The river is deep"}, "q": {"prompt": "A horse ran"}},
        "base": "p",
        "branches": {
            "plain": [],
            "steered": [at(json!({"steps": "all"}), &q)],
            "patched": [at(json!([2, 5]), &json!({"run": "q", "positions": [1, 2]})), at(json!({"steps": {"from": 3}}), &q)],
            "reads": [at(json!({"steps": {"from": 1}}), &json!({"branch": "steered"}))],
        },
        "sampling": {"temperature": 1.0, "seed": 3}, "samples": 2, "max_tokens": 60, "compare_with": "plain",
    })
}

#[test]
fn texts_go_on_with_the_same_tokens_and_numbers_when_the_engine_is_killed() {
    let kills: u64 = std::env::var("MEDIANT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let server = Server::start("", &[]);
    let undisturbed = server.result("/v1/generate", &body());
    let usual = undisturbed["usage"]["steps"].as_u64().unwrap();
    let mut disturbed = 0;
    for i in 0..kills {
        let engine = server.engine();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10 + 37 * i % 150));
            kill(engine, "KILL");
        });
        let answer = server.result("/v1/generate", &body());
        killer.join().unwrap();
        assert_eq!(answer["branches"], undisturbed["branches"], "kill {i}");
        disturbed += u64::from(answer["usage"]["steps"].as_u64().unwrap() > usual);
        server.until_ready();
    }
    println!("{disturbed} of {kills} texts were in the middle of it");
}

#[test]
fn a_text_that_kills_every_engine_is_lost_and_the_others_are_what_they_would_be() {
    let prompt = |text: &str| json!({"prompt": text, "max_tokens": 6});
    let alone = Server::start("", &[]).result("/v1/generate", &prompt("A lake"));
    let ids = |answer: &Value| answer["branches"]["plain"]["samples"][0]["tokens"].clone();
    // The token that the other text begins with kills whoever computes its row.
    let guilty = Server::start("", &[]).result("/v1/generate", &prompt("The sea"));
    let token = ids(&guilty)[0]["id"].as_u64().unwrap();
    let innocent = ids(&alone);
    assert!(
        innocent.as_array().unwrap().iter().all(|t| t["id"].as_u64() != Some(token)),
        "another prompt is needed"
    );
    let server = Server::start(&format!("abort@token={token}"), &[]);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let texts = ["The sea", "A lake"];
        let asked: Vec<_> = texts
            .map(|text| scope.spawn(|| server.result("/v1/generate", &prompt(text))))
            .into_iter()
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(answers[0]["branches"]["plain"]["samples"][0]["finish"], "lost");
    assert_eq!(ids(&answers[0]).as_array().unwrap().len(), 1, "what was drawn is told");
    assert_eq!(answers[1]["branches"], alone["branches"]);
}

/// Texts of many prompts as a job: at least a unit for every prompt.
fn many() -> Value {
    let case = |i: usize| json!({"id": format!("case {i}"), "prompt": format!("{i:02} ships went down")});
    let cases: Vec<Value> = (0..32).map(case).collect();
    json!({
        "dataset": {"inline": cases}, "sampling": {"temperature": 1.0, "seed": 3}, "samples": 2, "max_tokens": 60, "async": true,
        "branches": {"plain": [], "steered": [
            {"site": "resid_post", "layers": 1, "positions": {"steps": "all"}, "op": "scale", "factor": 1.5}]},
    })
}

#[test]
fn a_killed_server_goes_on_with_a_job_of_texts_and_loses_none_that_are_written() {
    let settings = [("JOBS__UNIT_S", "0.001"), ("TELEMETRY__FILTER", "warn,mediant=info")];
    let submitted = |server: &Server| {
        let answer = server.post("/v1/generate", &many());
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["links"]["job"].as_str().unwrap().to_owned()
    };
    let of = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
    let undisturbed = {
        let server = Server::start("", &settings);
        let job = submitted(&server);
        of(finished(&server, &job))
    };
    assert_eq!(
        (undisturbed["cases"].as_array().unwrap().len(), &undisturbed["complete"]),
        (32, &json!(true))
    );
    let folder = tempfile::tempdir().unwrap();
    let (mut job, mut written) = (None, 0);
    for kills in 1..=3 {
        let mut server = Server::start_in(&folder, "", &settings, true);
        let path = job.get_or_insert_with(|| submitted(&server)).clone();
        let done = || get(server.address, &path).body["progress"]["done"].as_u64().unwrap();
        assert!(done() >= written, "{} units are done, {written} were before", done());
        until("some texts", || done() >= 8 * kills, || server.log());
        written = done();
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    let server = Server::start_in(&folder, "", &settings, true);
    let path = job.unwrap();
    assert!(of(finished(&server, &path))["cases"] == undisturbed["cases"], "other texts after 3 kills");
    counted_once(&server, &path);
}
