//! What lies on the disk: whose it is, that it is still there, that there is room.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, command, get, kill, until};

fn sweep(cases: usize) -> Value {
    let case = |i: usize| json!({"id": format!("{i}"), "prompt": "The alpha tower", "subject": "alpha", "target": "P"});
    json!({"dataset": {"inline": (0..cases).map(case).collect::<Vec<_>>()}, "corrupt": {"samples": 2},
           "filters": {"expect_top1": false}, "async": true})
}

fn status(server: &Server) -> (u16, Value) {
    let answer = get(server.address, "/readyz");
    (answer.status, answer.body["status"].clone())
}

/// Names and permissions of all there is in a folder, and of itself.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let mut found = vec![(folder.display().to_string(), mode(folder))];
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(modes(&path));
        } else {
            found.push((path.display().to_string(), mode(&path)));
        }
    }
    found
}

#[test]
fn all_that_is_stored_is_this_users_alone_whatever_the_umask() {
    for (umask, there_before) in [("000", false), ("000", true), ("077", false)] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        if there_before {
            // As by an earlier version, or by a person.
            std::fs::create_dir(&data).unwrap();
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::write(data.join("mediant.sqlite3"), "").unwrap();
        }
        let inner = command(folder.path(), "", &[]);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("umask {umask}; exec \"$0\" \"$@\"")).arg(inner.get_program());
        shell.args(inner.get_args()).stderr(std::process::Stdio::piped()).process_group(0);
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        let server = Server::of(shell, folder.path(), true);
        let stored = server.post("/v1/sweep", &sweep(1));
        assert_eq!(stored.status, 202, "{}", stored.body);
        let capture = json!([{"site": "resid_post", "as": "handle"}]);
        server.result("/v1/run", &json!({"prompt": "A", "read": {"capture": capture}}));
        let found = modes(&data);
        for name in ["mediant.lock", "mediant.sqlite3", "mediant.sqlite3-wal", ".safetensors"] {
            assert!(found.iter().any(|(path, _)| path.ends_with(name)), "{name}: {found:?}");
        }
        for (path, mode) in found {
            let expected = if Path::new(&path).is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, expected, "{path} is {mode:o} with umask {umask}");
        }
    }
}

#[test]
fn a_server_whose_folder_is_taken_away_says_so_and_takes_no_job_that_would_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start_in(&folder, "", &[], true);
    assert_eq!(server.post("/v1/sweep", &sweep(1)).status, 202);
    let capture = json!({"prompt": "A", "read": {"capture": [{"site": "resid_post", "as": "handle"}]}});
    server.result("/v1/run", &capture);
    std::fs::remove_dir_all(&data).unwrap();
    assert_eq!(status(&server), (503, json!("store-failed")));
    let refused = server.post("/v1/sweep", &sweep(1));
    assert_eq!(refused.status, 503, "{}", refused.body);
    let said = refused.body["detail"].as_str().unwrap();
    assert!(said.contains("data is gone") && said.contains("restart the server"), "{said}");
    assert_eq!(server.post("/v1/run", &capture).status, 503);
    // What needs no disk is served.
    assert_eq!(get(server.address, "/healthz").status, 200);
    server.result("/v1/run", &json!({"prompt": "A"}));
    // Another server may work there now, and is not disturbed.
    let second = Server::start_in(&folder, "", &[], true);
    let job = second.post("/v1/sweep", &sweep(1)).body["links"]["job"].as_str().unwrap().to_owned();
    assert_eq!(server.post("/v1/sweep", &sweep(1)).status, 503);
    let said = get(server.address, "/readyz").body["reason"].as_str().unwrap().to_owned();
    assert!(said.contains("no longer the one that this server opened"), "{said}");
    server.signal("TERM");
    let mut server = server;
    server.end();
    assert_eq!(status(&second).0, 200);
    drop(second);
    let third = Server::start_in(&folder, "", &[], true);
    assert_eq!(get(third.address, &job).status, 200, "killed, and nothing is lost");
}

#[test]
fn two_servers_cannot_share_a_folder_by_deleting_its_lock() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(&folder, "", &[], true);
    std::fs::remove_file(folder.path().join("data/mediant.lock")).unwrap();
    let output = command(folder.path(), "", &[]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("in use by another mediant"), "{said}");
    assert_eq!(status(&server), (503, json!("store-failed")));
    assert_eq!(server.post("/v1/sweep", &sweep(1)).status, 503);
}

#[test]
fn a_full_disk_shows_with_the_first_failure_and_is_over_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&data).stderr(std::process::Stdio::null());
    if !mount.status().is_ok_and(|status| status.success()) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let _mounted = Mounted(data.clone());
    let server = Server::start_in(&folder, "", &[], true);
    let ballast = data.join("ballast");
    let fill = || {
        // All but a little.
        let mut size = 4 << 20;
        while std::fs::write(&ballast, vec![1; size]).is_err() {
            size -= 1 << 16;
        }
    };
    fill();
    let long = json!("x".repeat(100_000));
    let mut large = sweep(1);
    large["dataset"]["inline"][0]["group"] = long;
    let refused = (0..100).map(|_| server.post("/v1/sweep", &large)).find(|answer| answer.status != 202);
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(status(&server), (503, json!("store-failed")), "at once");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(status(&server), (503, json!("store-failed")), "while there is room for a little only");
    std::fs::remove_file(&ballast).unwrap();
    server.until_ready();
    // Activations lie on the same disk.
    fill();
    let all = json!([{"site": "resid_post", "layers": "all", "positions": "all", "as": "handle"}]);
    let run = json!({"prompt": "x".repeat(200), "read": {"capture": all}});
    let refused = (0..50).map(|_| server.post("/v1/run", &run)).find(|answer| answer.status != 200);
    assert_eq!(refused.unwrap().status, 507);
    assert_eq!(status(&server), (503, json!("store-failed")));
    std::fs::remove_file(&ballast).unwrap();
    server.until_ready();
}

/// A file system that is taken away again.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the server may still be ending.
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn an_engine_that_is_stopped_while_idle_is_noticed_within_the_watchdogs_time() {
    let server = Server::start("", &[("ENGINE__WATCHDOG_FLOOR_S", "2")]);
    server.result("/v1/run", &json!({"prompt": "A"}));
    let first = server.engine();
    // Not just after its start.
    std::thread::sleep(Duration::from_millis(700));
    kill(first, "STOP");
    let stopped = Instant::now();
    until("a sign of it", || status(&server).0 == 503, || server.log());
    assert!(stopped.elapsed() < Duration::from_millis(2500), "{:?}", stopped.elapsed());
    assert!(server.log().contains("gave no sign of life"), "{}", server.log());
    server.until_ready();
    assert_ne!(server.engine(), first);
    server.result("/v1/run", &json!({"prompt": "A"}));
    // One that is idle and well is left alone.
    let second = server.engine();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(server.engine(), second);
}
