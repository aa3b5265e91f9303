//! Sweeps on servers that are killed at any instant: nothing is lost, nothing is counted twice, and the result has the bytes
//! of one that nobody disturbed. `MEDIANT_KILLS=100` for the full trial.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, bytes, get, until};

/// Units of some milliseconds, so that there are many to be killed in.
pub(crate) const SETTINGS: [(&str, &str); 2] =
    [("JOBS__UNIT_S", "0.02"), ("TELEMETRY__FILTER", "warn,mediant=info")];

/// More than 10 000 cells: 4 layers, 3 arms, 24 prompts of 37 tokens, each with 2 samples.
fn sweep() -> Value {
    let case = |i: usize| {
        json!({"id": format!("case {i}"), "prompt": format!("{i:02} towers are taller than any house"),
               "subject": [1, 3], "target": "P", "group": if i.is_multiple_of(2) { "even" } else { "odd" }})
    };
    let cases: Vec<Value> = (0..24).map(case).collect();
    json!({"dataset": {"inline": cases}, "corrupt": {"samples": 2}, "arms": ["hidden", "mlp", "attn"],
           "filters": {"expect_top1": false}, "aggregate": {"by": ["layer", "token_class", "group"]}, "async": true})
}

/// A small generator: the same numbers each time.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// One below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

pub(crate) fn submit(server: &Server) -> String {
    let answer = server.post("/v1/sweep", &sweep());
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["links"]["job"].as_str().unwrap().to_owned()
}

pub(crate) fn finished(server: &Server, job: &str) -> Vec<u8> {
    let done = || get(server.address, job).body["state"] == "succeeded";
    until("the sweep's end", done, || server.log());
    bytes(server.address, &format!("{job}/result"))
}

/// Every unit was counted once, in one unbroken story.
pub(crate) fn counted_once(server: &Server, job: &str) {
    let view = get(server.address, job).body;
    let total = view["progress"]["total"].as_u64().unwrap();
    assert_eq!(view["progress"]["done"], total);
    let story = String::from_utf8(bytes(server.address, &format!("{job}/events"))).unwrap();
    let done: Vec<u64> = story
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).unwrap()["units_done"].as_u64())
        .collect();
    assert_eq!(done, (1..=total).collect::<Vec<_>>());
}

#[test]
fn a_sweep_survives_kills_at_any_instant_with_the_same_bytes() {
    let kills: u32 = std::env::var("MEDIANT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let undisturbed = {
        let server = Server::start("", &SETTINGS);
        let job = submit(&server);
        finished(&server, &job)
    };
    let cells = serde_json::from_slice::<Value>(&undisturbed).unwrap()["cells_done"].as_u64().unwrap();
    assert!(cells >= 10_000, "{cells}");

    let folder = tempfile::tempdir().unwrap();
    let mut chance = Chance(u64::from(std::process::id()));
    let (mut killed, mut sweeps, mut while_starting, mut recovered) = (0, 0, 0, Vec::new());
    let mut job: Option<(String, u64)> = None;
    while killed < kills {
        let mut server = Server::start_in(&folder, "", &SETTINGS, false);
        if job.is_some() && chance.below(8) == 0 {
            // During its start, or while it puts back what the last one held.
            std::thread::sleep(Duration::from_millis(chance.below(60)));
            while_starting += 1;
        } else {
            server.until_ready();
            let (path, before) = job.take().unwrap_or_else(|| (submit(&server), 0));
            let view = get(server.address, &path).body;
            assert_ne!(view["state"], Value::Null, "an acknowledged job is gone");
            let done = view["progress"]["done"].as_u64().unwrap();
            assert!(done >= before, "{done} units are done, {before} were before");
            if view["state"] != "succeeded" {
                let began = Instant::now();
                let more = || get(server.address, &path).body["progress"]["done"].as_u64() > Some(done);
                until("the next unit", more, || server.log());
                recovered.push(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(chance.below(400)));
            let view = get(server.address, &path).body;
            if view["state"] == "succeeded" {
                assert!(finished(&server, &path) == undisturbed, "other bytes after {killed} kills");
                counted_once(&server, &path);
                sweeps += 1;
            } else {
                assert_eq!(view["state"], "running", "{view}");
                job = Some((path, view["progress"]["done"].as_u64().unwrap()));
            }
        }
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        killed += 1;
    }
    let server = Server::start_in(&folder, "", &SETTINGS, true);
    if let Some((path, _)) = job {
        assert!(finished(&server, &path) == undisturbed, "other bytes after {killed} kills");
        counted_once(&server, &path);
        sweeps += 1;
    }
    recovered.sort_unstable();
    let median = recovered.get(recovered.len() / 2).copied().unwrap_or_default();
    println!(
        "{killed} kills ({while_starting} while starting), {sweeps} sweeps of {cells} cells, all with the same bytes; first \
         unit {median:?} after the server was ready (median)"
    );
    assert!(recovered.iter().all(|took| *took < Duration::from_secs(5)), "{recovered:?}");
}

#[test]
fn a_second_server_in_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(&folder, "", &[], true);
    let began = Instant::now();
    let mut second = crate::server::command(folder.path(), "", &[]);
    let output = second.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&server.pid().to_string()), "{said}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_that_is_asked_to_end_recomputes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = None;
    for _ in 0..3 {
        let mut server = Server::start_in(&folder, "", &SETTINGS, true);
        let path = job.get_or_insert_with(|| submit(&server)).clone();
        std::thread::sleep(Duration::from_millis(300));
        server.signal("TERM");
        let (status, log) = server.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(!log.contains("came too late"), "{log}");
        job = Some(path);
    }
    let server = Server::start_in(&folder, "", &SETTINGS, true);
    let path = job.unwrap();
    finished(&server, &path);
    counted_once(&server, &path);
    assert_eq!(get(server.address, &path).body["retries"], 0);
}
