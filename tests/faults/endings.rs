//! A server that ends, however it ends, takes its engine with it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::server::{
    Server, children, command, delete_folders, engine_of, folders, is_alive, kill, trace, try_post, until,
};

fn gone_within_two_seconds(engine: u32) {
    let started = Instant::now();
    while is_alive(engine) {
        assert!(started.elapsed() < Duration::from_secs(2), "engine {engine} outlives its server");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_server_that_is_asked_to_end_leaves_no_process_and_no_folder() {
    let mut server = Server::start("", &[]);
    let (pid, engine) = (server.pid(), server.engine());
    server.result("/v1/run", &json!({"prompt": "A"}));
    assert_eq!(folders(pid, &server.folder).len(), 2, "one for the socket, one in memory");
    server.signal("TERM");
    let (status, log) = server.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(!is_alive(engine) && children(pid).is_empty());
    assert_eq!(folders(pid, &server.folder), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_server_that_is_asked_to_end_while_its_engine_loads_leaves_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), "", &[]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let engine = engine_of(pid, String::new);
    kill(pid, "TERM");
    until("the end", || child.try_wait().unwrap().is_some(), String::new);
    assert!(!is_alive(engine));
    assert_eq!(folders(pid, folder.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_engine_of_a_killed_server_is_gone_when_idle_when_busy_and_when_stopped() {
    for state in ["idle", "busy", "stopped"] {
        let fault = if state == "busy" { "hang@batch=1" } else { "" };
        let server = Server::start(fault, &[]);
        let engine = server.engine();
        if state == "busy" {
            let address = server.address;
            // Its connection will break.
            std::thread::spawn(move || try_post(address, "/v1/trace", &trace()));
            until("the hang", || server.log().contains("a fault on purpose"), || server.log());
        }
        if state == "stopped" {
            kill(engine, "STOP");
        }
        server.signal("KILL");
        gone_within_two_seconds(engine);
    }
}

#[test]
fn a_server_deletes_what_a_killed_one_left_behind() {
    let killed = Server::start("", &[]);
    let (pid, engine) = (killed.pid(), killed.engine());
    killed.signal("KILL");
    gone_within_two_seconds(engine);
    let temporary = killed.folder.as_path();
    assert!(folders(pid, temporary).len() >= 2);
    let next = command(temporary, "", &[]).stderr(std::process::Stdio::null()).spawn().unwrap();
    until("clean folders", || folders(pid, temporary).is_empty(), String::new);
    kill(next.id(), "KILL");
    let next_pid = next.id();
    { next }.wait().unwrap();
    delete_folders(next_pid, temporary);
}

#[test]
fn an_engine_that_cannot_load_at_first_ends_the_server_with_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), "nonsense", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("the engine did not start: MEDIANT_FAULT is \"nonsense\""), "{error}");
}

#[test]
fn nothing_of_the_server_listens_but_its_one_port() {
    let server = Server::start("", &[]);
    let listening: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| {
            std::fs::read_to_string(table).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A: listening.
            (fields.get(3) == Some(&"0A")).then(|| format!("socket:[{}]", fields[9]))
        })
        .collect();
    let listeners = |pid: u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let links =
            open.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string()));
        links.filter(|link| listening.contains(link)).count()
    };
    assert_eq!((listeners(server.pid()), listeners(server.engine())), (1, 0));
}
