//! An engine process and a server that do not fit together.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use mediant::engine::wire::{Hello, PROTOCOL};

/// What an engine process says when the server greets it like this.
fn greeted(hello: Hello) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = Command::new(env!("CARGO_BIN_EXE_mediant"))
        .args(["engine", "--epoch", "3", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut theirs = [0; Hello::BYTES];
    stream.read_exact(&mut theirs).unwrap();
    assert!(Hello::new(3).expect(theirs).is_ok());
    stream.write_all(&hello.to_bytes()).unwrap();
    engine.wait_with_output().unwrap()
}

#[test]
fn another_version_or_epoch_of_the_server_is_a_clear_error() {
    for (hello, words) in [
        (Hello { protocol: PROTOCOL + 1, epoch: 3 }, format!("speaks version {}", PROTOCOL + 1)),
        (Hello::new(2), "of epoch 2, this one of epoch 3".to_owned()),
    ] {
        let output = greeted(hello);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(&words), "{error}");
    }
}

#[test]
fn an_engine_without_a_server_is_a_clear_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_mediant"))
        .args(["engine", "--socket", "/no/such/socket"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("/no/such/socket"), "{error}");
}
