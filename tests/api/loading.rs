//! The server listens while the model loads, and ends when it cannot be loaded.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mediant::{app, config};

use crate::support::{data_dir, request};

/// A server whose loading ends with what is sent.
struct Loading {
    address: SocketAddr,
    loaded: mpsc::Sender<anyhow::Result<()>>,
    run: JoinHandle<anyhow::Result<()>>,
}

fn start() -> Loading {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags =
        [("--listen", "http.listen", address.to_string()), ("--data-dir", "store.data_dir", data_dir())];
    let config = config::load(None, [], &flags).unwrap().config;
    let (loaded, wait) = mpsc::channel();
    let run = std::thread::spawn(move || app::run(config, move |_| wait.recv()?));
    Loading { address, loaded, run }
}

/// The answer to a GET, once the listener is there.
fn get(address: SocketAddr, path: &str) -> String {
    let started = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.write_all(&request("GET", path, "")).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn while_the_model_loads_the_server_is_alive_and_not_ready_and_then_ready() {
    let server = start();
    assert!(get(server.address, "/healthz").starts_with("HTTP/1.1 200"));
    let readiness = get(server.address, "/readyz");
    assert!(readiness.starts_with("HTTP/1.1 503") && readiness.contains("\"loading\""), "{readiness}");
    server.loaded.send(Ok(())).unwrap();
    let started = Instant::now();
    while !get(server.address, "/readyz").starts_with("HTTP/1.1 200") {
        assert!(started.elapsed() < Duration::from_secs(5), "never ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!server.run.is_finished());
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_with_the_reason() {
    let server = start();
    get(server.address, "/healthz");
    server.loaded.send(Err(anyhow::anyhow!("no tensor lm_head.weight"))).unwrap();
    let error = server.run.join().unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("no tensor lm_head.weight"), "{error:#}");
}

#[test]
fn a_panic_while_loading_ends_the_server_too() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags =
        [("--listen", "http.listen", address.to_string()), ("--data-dir", "store.data_dir", data_dir())];
    let config = config::load(None, [], &flags).unwrap().config;
    let error = app::run(config, |_| panic!("a bug in the loader")).unwrap_err();
    assert!(format!("{error:#}").contains("loading panicked"), "{error:#}");
}
