//! A server on a free port of the loopback, and raw HTTP against it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mediant::config;
use mediant::http::listen::{self, Ended, Limits, Phase};
use mediant::http::{AppState, Readiness};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Short limits, so that tests wait tenths of seconds.
pub(crate) fn limits() -> Limits {
    Limits {
        first_byte: Duration::from_millis(300),
        head: Duration::from_millis(300),
        write_stall: Duration::from_millis(300),
        connections: 100,
        grace: Duration::from_secs(5),
    }
}

/// The router over the default configuration.
pub(crate) fn state(readiness: Readiness) -> AppState {
    let config = config::load(None, [], &[]).unwrap().config;
    AppState { config: Arc::new(config), readiness: watch::channel(readiness).1, service: Arc::default() }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) ended: JoinHandle<Ended>,
}

impl Server {
    pub(crate) async fn start(router: axum::Router, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let phase = watch::Sender::new(Phase::Run);
        let ended = tokio::spawn(listen::serve(listener, router, limits, phase.subscribe()));
        Self { address, phase, ended }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// Sends `bytes` and reads until the server closes.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_to_close(&mut stream).0
    }
}

/// What came until the server closed, and how long that took. Panics if it stays open for 5 s.
pub(crate) fn read_to_close(stream: &mut TcpStream) -> (String, Duration) {
    let started = Instant::now();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Closed with bytes of ours unread: also closed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection stayed open: {error}"),
    }
    (String::from_utf8_lossy(&bytes).into_owned(), started.elapsed())
}

/// A complete request that asks the server to close afterwards.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
