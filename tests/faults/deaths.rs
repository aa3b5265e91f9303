//! An engine that dies of itself: requests take longer, and that is all.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::server::{Pulse, Server, expected, get, kill, trace, until};

/// The trace's second chunk meets the fault in the first process.
fn heals(kind: &str, settings: &[(&str, &str)], said: &str) {
    let server = Server::start(&format!("{kind}@batch=2"), settings);
    let pulse = Pulse::of(&server);
    assert_eq!(server.result("/v1/trace", &trace()), *expected(), "{kind}");
    pulse.was_steady();
    let log = server.log();
    assert!(log.contains("the engine is restarted") && log.contains(said), "{log}");
}

#[test]
fn a_panic_is_healed_and_its_message_is_in_the_log() {
    heals("panic", &[], "a rank panicked: a panic on purpose");
}

#[test]
fn an_abort_is_healed() {
    heals("abort", &[], "SIGABRT");
}

#[test]
fn a_segmentation_fault_is_healed() {
    heals("segv", &[], "SIGSEGV");
}

#[test]
fn a_kill_is_healed() {
    heals("kill", &[], "SIGKILL");
}

#[test]
fn an_end_that_looks_regular_is_healed() {
    heals("exit0", &[], "exit status: 0");
}

#[test]
fn a_hang_is_seen_and_healed() {
    heals("hang", &[("ENGINE__WATCHDOG_FLOOR_S", "1")], "it hangs");
}

#[test]
fn a_stopped_process_is_seen_and_replaced() {
    heals("stop", &[("ENGINE__WATCHDOG_FLOOR_S", "1")], "it hangs");
}

#[test]
fn an_engine_killed_while_idle_is_back_within_seconds_and_requests_wait_for_it() {
    let server = Server::start("", &[]);
    let first = server.engine();
    let killed = Instant::now();
    kill(first, "KILL");
    until("the death", || server.log().contains("SIGKILL"), || server.log());
    // Not refused, though there may be no engine at this moment.
    assert_eq!(server.result("/v1/trace", &trace()), *expected());
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    server.until_ready();
    assert_ne!(server.engine(), first);
}

#[test]
fn other_bits_of_the_known_answer_end_the_engine() {
    let server = Server::start("flip@batch=1", &[("ENGINE__KNOWN_ANSWER_INTERVAL_S", "0.2")]);
    let first = server.engine();
    until("a restart", || server.log().contains("the engine is back"), || server.log());
    assert!(server.log().contains("its known answer has other bits"), "{}", server.log());
    server.until_ready();
    assert_ne!(server.engine(), first);
    assert_eq!(server.result("/v1/trace", &trace()), *expected());
}

#[test]
fn an_engine_that_dies_again_and_again_is_not_used_for_a_while_and_then_tried_again() {
    // The token of "Z".
    let server = Server::start("abort@token=90", &[("ENGINE__UNHEALTHY_PAUSE_S", "3")]);
    for _ in 0..3 {
        let answer = server.post("/v1/run", &json!({"prompt": "Z"}));
        // Refused already is the last one's other possible end.
        assert!([500, 503].contains(&answer.status), "{answer:?}");
    }
    until(
        "the breaker",
        || get(server.address, "/readyz").body["status"] == "engine-unhealthy",
        || server.log(),
    );
    let refused = server.post("/v1/run", &json!({"prompt": "A"}));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.body["type"], "urn:mediant:problem:unavailable");
    server.until_ready();
    server.result("/v1/run", &json!({"prompt": "A"}));
}
