//! The program itself: its output, its exit status, its signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn mediant(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediant"));
    // Servers side by side cannot share a folder.
    command.args(arguments).env("MEDIANT__STORE__DATA_DIR", crate::support::data_dir());
    command
}

fn run(arguments: &[&str]) -> Output {
    mediant(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_config_prints_values_with_their_sources() {
    let output = mediant(&["check-config", "--listen", "127.0.0.1:7"])
        .env("MEDIANT__LIMITS__SAMPLES", "12")
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = text(&output.stdout);
    assert!(printed.contains("listen = \"127.0.0.1:7\"  # flag --listen"), "{printed}");
    assert!(printed.contains("samples = 12  # environment MEDIANT__LIMITS__SAMPLES"), "{printed}");
}

#[test]
fn a_wrong_configuration_ends_with_all_problems_on_standard_error() {
    let output = mediant(&["serve", "--listen", "nowhere"])
        .env("MEDIANT__HTTP__MAX_BODY_BYTE", "12")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("did you mean http.max_body_bytes?"), "{error}");
    let output = run(&["serve", "--config", "/no/such/file.toml"]);
    assert!(text(&output.stderr).contains("/no/such/file.toml"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn openapi_prints_the_document() {
    let output = run(&["openapi"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), mediant::http::openapi());
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["serve", "--listen", &address, "--model", "dummy:tiny"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address));
}

#[cfg(unix)]
#[test]
fn sigterm_and_sigint_end_an_idle_server_with_status_zero() {
    for signal in ["TERM", "INT"] {
        let mut server = mediant(&["serve", "--listen", "127.0.0.1:0", "--model", "dummy:tiny"])
            .env("MEDIANT__TELEMETRY__JSON", "true")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on http://127.0.0.1:") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended before it listened");
        }
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(entry["level"], "INFO");
        let killed = Command::new("kill").args(["-s", signal, &server.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(wait(&mut server), Some(0), "{signal}");
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(&format!("SIG{signal}: draining")), "{rest}");
    }
}

/// The exit status within 10 s; kills a server that does not end.
#[cfg(unix)]
fn wait(child: &mut Child) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("the server did not end");
}
