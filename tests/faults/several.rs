//! Several servers on one PostgreSQL: they share a sweep, and what a killed one held is computed by the others.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::kills::{Chance, SETTINGS, counted_once, finished, submit};
use crate::postgres;
use crate::server::{Answer, Server, comparable, get, kill, try_post, until};

/// Units that a server has claimed, by its own log.
fn claimed(server: &Server) -> usize {
    server.log().matches("unit claimed").count()
}

#[test]
fn servers_share_a_sweep_and_take_over_what_a_killed_one_held() {
    let Some(url) = postgres::database() else { return };
    let undisturbed = {
        let server = Server::start("", &SETTINGS);
        let job = submit(&server);
        finished(&server, &job)
    };
    let settings = [
        SETTINGS[0],
        ("TELEMETRY__FILTER", "warn,mediant=info,mediant::jobs=debug"),
        ("STORE__URL", &url),
        ("JOBS__LEASE_S", "1.5"),
    ];
    let mut first = Server::start("", &settings);
    let second = Server::start("", &settings);
    let job = submit(&first);
    let total = get(first.address, &job).body["progress"]["total"].as_u64().unwrap();
    let half = || get(second.address, &job).body["progress"]["done"].as_u64() > Some(total / 3);
    until("a third of the sweep", half, || second.log());
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(finished(&second, &job) == undisturbed, "other bytes with several servers");
    counted_once(&second, &job);
    let shares = (claimed(&first), claimed(&second));
    println!("{total} units: {} claimed by the killed server, {} by the other", shares.0, shares.1);
    assert!(shares.0 > 5 && shares.1 > 5, "{shares:?}");
    assert!(shares.0 + shares.1 >= total as usize);

    // A job of one server is everybody's to watch and to cancel.
    let third = Server::start("", &settings);
    let job = submit(&third);
    let list = get(second.address, "/v1/jobs?limit=1").body;
    assert_eq!(list["jobs"][0]["links"]["job"], job.as_str());
    let view = second.delete(&job).body;
    assert_eq!(view["state"], "cancelled");
    assert_eq!(get(third.address, &job).body["state"], "cancelled");
}

/// An answer without what differs from time to time, whether it was found too.
fn compared(Answer { status, body }: &Answer) -> (u16, Value) {
    let mut body = if *status == 200 { comparable(body.clone()) } else { body.clone() };
    if *status == 200 {
        body["usage"]["cached"] = Value::Null;
    }
    if let Some(body) = body.as_object_mut() {
        body.shift_remove("instance");
    }
    (*status, body)
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answers: AtomicUsize,
    /// Of these, those found, and those computed in company.
    found: AtomicUsize,
    in_company: AtomicUsize,
    /// Sent again, to whichever server.
    again: AtomicUsize,
}

impl Seen {
    /// Asks whoever is there until there is an answer. `None`: it was told to stop.
    fn ask(
        &self,
        addresses: &Mutex<[SocketAddr; 2]>,
        chance: &mut Chance,
        request: &(&str, Value),
        stop: &AtomicBool,
    ) -> Option<Answer> {
        while !stop.load(Ordering::Relaxed) {
            let address = addresses.lock().unwrap()[chance.below(2) as usize];
            match try_post(address, request.0, &request.1) {
                // Cut off in the middle, it is none.
                Ok(answer) if answer.status != 503 && !answer.body.is_null() => {
                    let usage = &answer.body["usage"];
                    self.answers.fetch_add(1, Ordering::Relaxed);
                    self.found.fetch_add(usize::from(usage["cached"] == true), Ordering::Relaxed);
                    let others = usage["shared_with"].as_u64() > Some(0);
                    self.in_company.fetch_add(usize::from(others), Ordering::Relaxed);
                    return Some(answer);
                }
                _ => {
                    self.again.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        None
    }
}

/// Merging and finding are on, everything found is computed again, and two servers share the jobs. `MEDIANT_KILLS=100` for the
/// full trial.
#[test]
fn with_servers_and_engines_killed_at_any_instant_all_answers_are_those_of_each_alone() {
    const CLIENTS: u64 = 8;
    let Some(url) = postgres::database() else { return };
    let kills: u64 = std::env::var("MEDIANT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let mut chance = Chance(20);
    let requests: Vec<(&str, Value)> = (0..10 + 3 * kills).map(|_| chance.request()).collect();
    let (alone, undisturbed) = {
        let server = Server::start("", &SETTINGS);
        let alone: Vec<(u16, Value)> =
            requests.iter().map(|(path, body)| compared(&server.post(path, body))).collect();
        let job = submit(&server);
        (alone, finished(&server, &job))
    };
    let settings = [
        SETTINGS[0],
        SETTINGS[1],
        ("STORE__URL", &url),
        ("JOBS__LEASE_S", "1.5"),
        ("CACHE__SHARE", "owner"),
        ("CACHE__VERIFY", "1.0"),
    ];
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut servers = [0, 1].map(|i| Server::start_in(&folders[i], "", &settings, true));
    let addresses = Mutex::new([0, 1].map(|i| servers[i].address));
    let mut jobs = vec![submit(&servers[0])];
    let (seen, stop, mut ended) = (Seen::default(), AtomicBool::new(false), [0, 0]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (seen, stop, addresses, requests, alone) = (&seen, &stop, &addresses, &requests, &alone);
            scope.spawn(move || {
                let mut chance = Chance(100 + client);
                loop {
                    let at = chance.below(requests.len() as u64) as usize;
                    let Some(answer) = seen.ask(addresses, &mut chance, &requests[at], stop) else { break };
                    assert_eq!(compared(&answer), alone[at], "{:?}", requests[at]);
                }
            });
        }
        for number in 0..kills {
            std::thread::sleep(Duration::from_millis(300 + chance.below(700)));
            let at = chance.below(2) as usize;
            let of_engine = number.is_multiple_of(2);
            ended[usize::from(of_engine)] += 1;
            if of_engine {
                kill(servers[at].engine(), "KILL");
                continue;
            }
            servers[at].child.kill().unwrap();
            servers[at].child.wait().unwrap();
            servers[at] = Server::start_in(&folders[at], "", &settings, true);
            addresses.lock().unwrap()[at] = servers[at].address;
            if number % 10 == 1 && number > 1 {
                jobs.push(submit(&servers[at]));
            }
        }
        // What was killed last is back, and asked.
        let enough = seen.answers.load(Ordering::Relaxed) + 2 * CLIENTS as usize;
        until(
            "answers after the last kill",
            || seen.answers.load(Ordering::Relaxed) > enough,
            || servers[0].log(),
        );
        stop.store(true, Ordering::Relaxed);
    });
    for job in &jobs {
        assert!(finished(&servers[1], job) == undisturbed, "other bytes after {kills} kills");
        counted_once(&servers[0], job);
    }
    for server in &servers {
        let log = server.log();
        assert!(!log.contains("has other bits") && !log.contains("panicked"), "{log}");
    }
    let [answers, found, in_company, again] = [&seen.answers, &seen.found, &seen.in_company, &seen.again]
        .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{} servers and {} engines killed: {answers} answers, {found} of them found, {in_company} computed in company, {again} asked \
         again; {} sweeps with the same bytes",
        ended[0],
        ended[1],
        jobs.len()
    );
    assert!(found > 0 && in_company > 0, "{found} {in_company}");
}
