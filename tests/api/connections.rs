//! Clients that drag: every one is closed, and none keeps another from being served.

use std::io::Write;
use std::time::{Duration, Instant};

use axum::routing::{get, post};
use mediant::http::listen::{Ended, Limits, Phase};
use mediant::http::{JsonBody, Readiness, router};

use crate::support::{Server, limits, read_to_close, request, state};

/// The server's own routes.
async fn server() -> Server {
    Server::start(router(state(Readiness::Ready)), limits()).await
}

/// Routes that take their time, or much memory.
async fn slow_server(limits: Limits) -> Server {
    let mut state = state(Readiness::Ready);
    let mut config = (*state.config).clone();
    config.http.body_timeout_s = 0.3;
    state.config = config.into();
    let routes = axum::Router::new()
        .route("/body", post(async |JsonBody(body): JsonBody| body.to_string()))
        .route("/quick", get(async || "ok"))
        .route(
            "/slow",
            get(async || {
                tokio::time::sleep(Duration::from_millis(600)).await;
                "done"
            }),
        )
        .route("/stuck", get(async || std::future::pending::<String>().await))
        .route("/big", get(async || "x".repeat(64 << 20)))
        .with_state(state);
    Server::start(routes, limits).await
}

const QUICK: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_sends_nothing_is_closed() {
    let server = server().await;
    let (answer, took) = read_to_close(&mut server.connect());
    assert!(answer.is_empty() && QUICK.contains(&took), "{took:?} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_stops_half_way_is_closed() {
    let server = server().await;
    let mut stream = server.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: ").unwrap();
    let (_, took) = read_to_close(&mut stream);
    assert!(QUICK.contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_is_closed_at_the_same_time() {
    let server = server().await;
    let mut stream = server.connect();
    let started = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    while stream.write_all(b"x-a: b\r\n").is_ok() {
        assert!(started.elapsed() < QUICK.end, "still open");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_keep_alive_connection_is_closed() {
    let server = server().await;
    let mut stream = server.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let (answer, took) = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200") && QUICK.contains(&took), "{took:?} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_half_way_answers_408_and_is_closed() {
    let server = slow_server(limits()).await;
    let mut stream = server.connect();
    stream.write_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"a\":").unwrap();
    let (answer, took) = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request-timeout"), "{answer}");
    assert!(QUICK.contains(&took), "{took:?}");
    assert!(
        server.exchange(&request("POST", "/body", "{\"a\":1}")).ends_with("{\"a\":1}"),
        "others are served"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_disconnected() {
    let server = slow_server(Limits { connections: 1, ..limits() }).await;
    let mut stream = server.connect();
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // There is one place: this is answered only once the first has lost it.
    let started = Instant::now();
    assert!(server.exchange(&request("GET", "/quick", "")).ends_with("ok"));
    assert!(QUICK.contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_over_the_limit_give_way_at_once() {
    let limits = Limits { first_byte: Duration::from_mins(1), connections: 20, ..limits() };
    let server = Server::start(router(state(Readiness::Ready)), limits).await;
    let silent: Vec<_> = (0..60).map(|_| server.connect()).collect();
    for _ in 0..20 {
        let started = Instant::now();
        assert!(server.exchange(&request("GET", "/healthz", "")).starts_with("HTTP/1.1 200"));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_heads_below_the_limit_do_not_slow_others() {
    let server =
        Server::start(router(state(Readiness::Ready)), Limits { connections: 400, ..limits() }).await;
    let _open: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    assert!(server.exchange(&request("GET", "/healthz", "")).starts_with("HTTP/1.1 200"));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_are_refused() {
    let server = server().await;
    let long = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n", "y".repeat(40_000));
    assert!(server.exchange(long.as_bytes()).starts_with("HTTP/1.1 431"));
    let many = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-a: b\r\n".repeat(100));
    assert!(server.exchange(many.as_bytes()).starts_with("HTTP/1.1 431"));
    let path = format!("/healthz?{}", "y".repeat(10_000));
    let answer = server.exchange(&request("GET", &path, ""));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("8192"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_proxies_may_read_differently_are_refused_and_closed() {
    let server = server().await;
    for head in [
        "POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nabcd",
        "POST /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
        "rubbish\r\n\r\n",
    ] {
        let answer = server.exchange(head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?} -> {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{head:?} -> {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_cannot_hide_behind_two_lengths() {
    let server = slow_server(limits()).await;
    // By its length the body holds a whole second request; by its chunks it ends before.
    let hidden = "0\r\n\r\nGET /quick HTTP/1.1\r\nhost: x\r\n\r\n";
    let head = format!("POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", hidden.len());
    let answer = server.exchange(format!("{head}transfer-encoding: chunked\r\n\r\n{hidden}").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_is_in_flight_and_new_connections_meanwhile() {
    let server = slow_server(limits()).await;
    let mut slow = server.connect();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let _idle = server.connect();
    std::thread::sleep(Duration::from_millis(100));
    server.phase.send_replace(Phase::Drain);
    std::thread::sleep(Duration::from_millis(50));
    assert!(server.exchange(&request("GET", "/quick", "")).ends_with("ok"), "probes still get through");
    assert!(read_to_close(&mut slow).0.ends_with("done"));
    assert_eq!(server.ended.await.unwrap(), Ended::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_cuts_what_outlives_the_grace_period() {
    let server = slow_server(Limits { grace: Duration::from_millis(300), ..limits() }).await;
    let mut stuck = server.connect();
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.phase.send_replace(Phase::Drain);
    let (_, took) = read_to_close(&mut stuck);
    assert!(QUICK.contains(&took), "{took:?}");
    assert_eq!(server.ended.await.unwrap(), Ended::Cut(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_ends_at_once_whatever_is_in_flight() {
    let server = slow_server(Limits { grace: Duration::from_mins(1), ..limits() }).await;
    let mut stuck = server.connect();
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.phase.send_replace(Phase::Drain);
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    server.phase.send_replace(Phase::Stop);
    assert_eq!(server.ended.await.unwrap(), Ended::Cut(1));
    assert!(started.elapsed() < Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_ends_at_once() {
    let server = slow_server(limits()).await;
    let started = Instant::now();
    server.phase.send_replace(Phase::Drain);
    assert_eq!(server.ended.await.unwrap(), Ended::Drained);
    assert!(started.elapsed() < Duration::from_millis(500));
}
