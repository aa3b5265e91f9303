//! Several servers on one PostgreSQL: they share a sweep, and what a killed one held is computed by the others.

use crate::kills::{SETTINGS, counted_once, finished, submit};
use crate::postgres;
use crate::server::{Server, get, until};

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
