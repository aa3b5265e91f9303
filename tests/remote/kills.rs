//! Kills of worker, interpreter, engine and server: each job has its right answer or a named error, and nothing outlives it.

use std::time::{Duration, Instant};

use crate::client::{block, fetch, poll, serving, submit, tensors, until_serving, with_blocks};
use crate::server::{self, Server, children, command_line, is_alive};

/// Processes below one, all of them.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut at = 0;
    while at < found.len() {
        let below = children(found[at]);
        found.extend(below);
        at += 1;
    }
    found
}

/// A server whose folder outlives it.
fn serving_in(folder: &tempfile::TempDir) -> Server {
    let server = Server::start_in(folder, "", &with_blocks(&[]), true);
    until_serving(&server);
    server
}

/// The processes of a server whose command line has this word.
pub(crate) fn named(server: &Server, word: &str) -> Vec<u32> {
    descendants(server.pid())
        .into_iter()
        // The program and its command: what an interpreter is told to run names the others.
        .filter(|pid| command_line(*pid).take(2).any(|part| part.contains(word)))
        .collect()
}

#[test]
fn a_killed_worker_costs_its_own_job_alone() {
    let server = serving(&[]);
    let engine = server.engine();
    let before = named(&server, "worker");
    let job = submit(&server, "/request", &block("endless"));
    // Its worker is busy from now on; those that wait for a job are killed, too.
    std::thread::sleep(Duration::from_millis(500));
    for pid in named(&server, "worker") {
        let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    let told = poll(&server, &job);
    assert_eq!(told["status"], "ERROR", "{told}");
    assert!(told["description"].as_str().unwrap().contains("ended"), "{told}");
    assert!(before.iter().all(|pid| !is_alive(*pid)));
    let again = poll(&server, &submit(&server, "/request", &block("read_end")));
    assert_eq!(tensors(&fetch(&server, &again)).len(), 3);
    assert_eq!(server.engine(), engine, "the engine did not notice");
}

#[test]
fn a_killed_interpreter_is_started_again() {
    let server = serving(&[]);
    for _ in 0..2 {
        for pid in named(&server, "python") {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        // Workers that were started with the old one end with it; the first job may be told so.
        let answers = (0..6).map(|_| poll(&server, &submit(&server, "/request", &block("read_end"))));
        let last = answers.last().unwrap();
        assert_eq!(tensors(&fetch(&server, &last)).len(), 3);
    }
}

#[test]
fn a_killed_engine_costs_no_job() {
    let server = serving(&[]);
    let wanted = tensors(&fetch(&server, &poll(&server, &submit(&server, "/request", &block("read_end")))));
    let jobs: Vec<String> = (0..6).map(|_| submit(&server, "/request", &block("read_end"))).collect();
    server::kill(server.engine(), "KILL");
    for job in jobs {
        assert_eq!(tensors(&fetch(&server, &poll(&server, &job))), wanted);
    }
}

#[test]
fn a_job_that_nobody_waits_for_outlives_a_killed_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = serving_in(&folder);
    let done = submit(&server, "/request", &block("read_end"));
    let wanted = tensors(&fetch(&server, &poll(&server, &done)));
    let jobs: Vec<String> = (0..8).map(|_| submit(&server, "/request", &block("read_end"))).collect();
    let below = descendants(server.pid());
    server.signal("KILL");
    server.end();
    let killed = Instant::now();
    while below.iter().any(|pid| is_alive(*pid)) {
        assert!(killed.elapsed() < Duration::from_secs(2), "{below:?} outlive their server");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(server);
    let server = serving_in(&folder);
    for job in jobs.iter().chain([&done]) {
        assert_eq!(tensors(&fetch(&server, &poll(&server, job))), wanted);
    }
}

/// A number that is different each time it is asked for, and the same in each run of a test.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// `MEDIANT_TEST_KILLS=50` kills fifty times instead of once of each kind.
#[test]
fn kills_at_any_instant_cost_no_job_but_by_name() {
    let kills: u64 = std::env::var("MEDIANT_TEST_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut server = serving_in(&folder);
    let names = ["read_end", "conditions", "invokes_of_one_prompt", "session"];
    let wanted = names
        .map(|name| tensors(&fetch(&server, &poll(&server, &submit(&server, "/request", &block(name))))));
    let mut chance = Chance(kills);
    let (mut right, mut named_errors) = (0, Vec::new());
    for kill in 0..kills {
        let jobs: Vec<(usize, String)> = (0..8)
            .map(|_| chance.below(4) as usize)
            .map(|which| (which, submit(&server, "/request", &block(names[which]))))
            .collect();
        std::thread::sleep(Duration::from_millis(chance.below(150)));
        let mut pick = |pids: Vec<u32>| {
            let at = chance.below(pids.len().max(1) as u64) as usize;
            pids.get(at).copied()
        };
        // Some of them end by themselves between the look and the kill.
        let shoot =
            |pid: u32| drop(std::process::Command::new("kill").args(["-9", &pid.to_string()]).output());
        let interpreters = named(&server, "python");
        let (zygotes, evaluators): (Vec<u32>, Vec<u32>) =
            interpreters.into_iter().partition(|pid| children(server.pid()).contains(pid));
        match kill % 5 {
            0 => pick(named(&server, "worker")).into_iter().for_each(shoot),
            1 => pick(evaluators).into_iter().for_each(shoot),
            2 => pick(zygotes).into_iter().for_each(shoot),
            3 => shoot(server.engine()),
            _ => {
                server.signal("KILL");
                server.end();
                server = serving_in(&folder);
            }
        }
        for (which, job) in jobs {
            let told = poll(&server, &job);
            if told["status"] == "COMPLETED" {
                assert_eq!(tensors(&fetch(&server, &told)), wanted[which], "{}", names[which]);
                right += 1;
            } else {
                let said = told["description"].as_str().unwrap().to_owned();
                assert!(
                    said.contains("process") || said.contains("engine") || said.contains("interpreter"),
                    "{said}"
                );
                named_errors.push(said);
            }
        }
        let last = poll(&server, &submit(&server, "/request", &block("read_end")));
        if last["status"] == "COMPLETED" {
            assert_eq!(tensors(&fetch(&server, &last)), wanted[0]);
        }
    }
    println!(
        "{kills} kills: {right} jobs right, {} with an error that names what ended: {named_errors:?}",
        named_errors.len()
    );
    // At most what one kill of each kind can hit: the jobs that run.
    assert!(named_errors.len() as u64 <= 4 * kills, "{named_errors:?}");
}
