//! Clients that drag: every one is closed, and none keeps another from being served.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::routing::{get, post};
use mediant::http::listen::{Ended, Limits, Phase};
use mediant::http::{Caller, JsonBody, Readiness, router};
use mediant::owner::Owner;

use crate::support::{Client, Server, all_is_free, limits, queue, read_to_close, request, state, tiny};

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
        .layer(axum::Extension(Caller { owner: Owner::local(), key: None }))
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
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    while stream.write_all(b"x-a: b\r\n").is_ok() {
        assert!(stream.opened.elapsed() < QUICK.end, "still open");
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
    assert!(server.exchange(&request("GET", "/quick", "")).ends_with("ok"));
    assert!(QUICK.contains(&stream.opened.elapsed()), "{:?}", stream.opened.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_over_the_limit_give_way_at_once() {
    let limits = Limits { first_byte: Duration::from_mins(1), connections: 20, ..limits() };
    let server = Server::start(router(state(Readiness::Ready)), limits).await;
    let silent: Vec<_> = (0..60).map(|_| server.connect()).collect();
    for _ in 0..20 {
        let started = Instant::now();
        assert!(server.exchange(&request("GET", "/healthz", "")).starts_with("HTTP/1.1 200"));
        assert!(started.elapsed() < QUICK.end, "{:?}", started.elapsed());
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
    assert!(started.elapsed() < QUICK.end, "{:?}", started.elapsed());
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
async fn heads_are_read_as_rfc_9112_says() {
    let server = slow_server(limits()).await;
    let post = |lines: &str, body: &str| format!("POST /body HTTP/1.1\r\nhost: x\r\n{lines}\r\n{body}");
    let hidden = "GET /quick HTTP/1.1\r\nhost: x\r\n\r\n";
    let refused = [
        // Section 5.1: no space before the colon; 5.2: no folding; 5: nothing before the first field.
        post("content-length : 2\r\n", "{}"),
        post("x-a: b\r\n c\r\ncontent-length: 2\r\n", "{}"),
        post("x-a: b\r\n\tcontent-length: 2\r\n", "{}"),
        "POST /body HTTP/1.1\r\n host: x\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        // 2.2: a bare CR is no end of a line; neither it nor NUL may stand in a value.
        post("x-a: b\rx-b: c\r\ncontent-length: 2\r\n", "{}"),
        post("x-a: b\0c\r\ncontent-length: 2\r\n", "{}"),
        // 6.3: lengths that differ, in two lines or in one, or that are no numbers.
        post("content-length: 2\r\ncontent-length: 3\r\n", "{} "),
        post("content-length: 2, 3\r\n", "{} "),
        post("content-length: 0x2\r\n", "{}"),
        post("content-length: -2\r\n", "{}"),
        post("content-length: 2 2\r\n", "{}"),
        post("content-length: 99999999999999999999\r\n", "{}"),
        post("content-length: \r\n", "{}"),
        // 6.1: chunked that is not the last coding; HTTP/1.0 has no chunks.
        post("transfer-encoding: chunked, identity\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        post("transfer-encoding: \x0bchunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        "POST /body HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned(),
        // 7.1: sizes of chunks.
        post("transfer-encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "2\r\n{}0\r\n\r\n"),
        // 3: the request line; 2.3: the version.
        "POST  /body HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "POST /body HTTP/1.1 \r\nhost: x\r\n\r\n".to_owned(),
        "POST /bo dy HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /quick HTTP/3.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /quick\r\n\r\n".to_owned(),
    ];
    for head in refused {
        let answer = server.exchange(format!("{head}{hidden}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"), "{head:?} -> {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{head:?} -> {answer}");
    }
    let close = "connection: close\r\n";
    for head in [
        // 2.2: a line may end in LF alone.
        format!("POST /body HTTP/1.1\nhost: x\n{}content-length: 2\n\n{{}}", "connection: close\n"),
        // 6.3: the same length twice is that length.
        post(&format!("{close}content-length: 2\r\ncontent-length: 2\r\n"), "{}"),
        // 2.2: an empty line before the request line is passed over; 5.1: spaces around a value.
        format!("\r\n{}", post(&format!("{close}content-length:  2 \t\r\n"), "{}")),
        // 7.1: extensions of chunks, and trailers.
        post(&format!("{close}transfer-encoding: chunked\r\n"), "2;a=b\r\n{}\r\n0\r\nx-t: u\r\n\r\n"),
    ] {
        let answer = server.exchange(head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{}"), "{head:?} -> {answer}");
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
    assert!(started.elapsed() < QUICK.end);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_ends_at_once() {
    let server = slow_server(limits()).await;
    let started = Instant::now();
    server.phase.send_replace(Phase::Drain);
    assert_eq!(server.ended.await.unwrap(), Ended::Drained);
    assert!(started.elapsed() < QUICK.end);
}

/// Connects from another address of the loopback.
fn connect_from(server: &Server, last: u8) -> Client {
    let opened = Instant::now();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    let stream = tokio::runtime::Handle::current().block_on(socket.connect(server.address)).unwrap();
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Client { stream, opened }
}

/// The answer to a request from an address, and how long it took.
async fn asked(server: &Arc<Server>, from: u8, path: &'static str) -> (String, Duration) {
    let server = Arc::clone(server);
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = connect_from(&server, from);
        stream.write_all(&request("GET", path, "")).unwrap();
        read_to_close(&mut stream)
    });
    asked.await.unwrap()
}

/// Against the four seconds and more that anybody waits who must wait.
const AT_ONCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_all_places_and_probes_need_none() {
    let limits = Limits { head: Duration::from_mins(1), connections: 30, per_address: 20, ..limits() };
    let server = Arc::new(Server::start(router(state(Readiness::Ready)), limits).await);
    // Bodies that never end; those over the share wait for a place.
    let _slow: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{").unwrap();
            stream
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (from, path) in [(1, "/healthz"), (1, "/readyz"), (2, "/v1/version"), (2, "/healthz")] {
        let (answer, took) = asked(&server, from, path).await;
        assert!(answer.starts_with("HTTP/1.1 200") && took < AT_ONCE, "{from} {path} {took:?} {answer}");
    }
    let (answer, took) = asked(&server, 1, "/v1/version").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 5"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("connection: close"), "{answer}");
    assert!(took > Duration::from_secs(4), "it waited for a place: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_and_event_streams_give_way_to_who_comes() {
    let state = queue(tiny()).await;
    let sweep = serde_json::json!({"dataset": {"inline": [{"prompt": "The Tower", "subject": "Tower", "target": "P"}]},
        "corrupt": {"samples": 2}, "async": true});
    let job =
        crate::support::post(&state, "/v1/sweep", &sweep).await.json()["id"].as_str().unwrap().to_owned();
    let limits = Limits { head: Duration::from_mins(1), connections: 10, per_address: 10, ..limits() };
    let server = Arc::new(Server::start(router(state), limits).await);
    let open = |head: String| {
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    // One after another: which came last is known only once each was answered.
    let stream = |_| {
        let stream = open(format!("GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: x\r\n\r\n"));
        stream.peek(&mut [0]).unwrap();
        stream
    };
    let mut streams: Vec<_> = (0..5).map(stream).collect();
    let idle: Vec<_> = (0..4).map(|_| open("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned())).collect();
    let _half_a_head = open("GET /heal".to_owned());
    tokio::time::sleep(Duration::from_millis(400)).await;
    let pushed = Instant::now();
    let busy: Vec<_> = (0..7)
        .map(|_| open("POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{".to_owned()))
        .collect();
    for mut idle in idle {
        let (answer, _) = read_to_close(&mut idle);
        let took = pushed.elapsed();
        assert!(answer.starts_with("HTTP/1.1 200") && took < AT_ONCE, "{took:?} {answer}");
    }
    // Streams have ended as streams do, so that clients take them up again.
    let (told, _) = read_to_close(&mut streams[0]);
    assert!(told.contains("event: state") && told.ends_with("0\r\n\r\n"), "{told}");
    streams[4].set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut all = Vec::new();
    assert!(streams[4].read_to_end(&mut all).is_err(), "one that came last goes on");
    drop(busy);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_keep_no_other_from_its_turn() {
    let state = queue(tiny()).await;
    let server =
        Server::start(router(state.clone()), Limits { head: Duration::from_mins(1), ..limits() }).await;
    let path = "/v1/activations?site=resid_post&layers=0";
    let head = |length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(format!("{}x", head(60_000_000)).as_bytes()).unwrap();
            stream
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let header = br#"{"values":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(&[0; 256]);
    let mut stream = server.connect();
    stream.write_all(head(file.len()).as_bytes()).unwrap();
    stream.write_all(&file).unwrap();
    let (answer, took) = read_to_close(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(took < AT_ONCE, "{took:?}");
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_held_until_the_last_byte_of_an_answer_is_taken() {
    let state = queue(tiny()).await;
    let server =
        Server::start(router(state.clone()), Limits { write_stall: Duration::from_mins(1), ..limits() })
            .await;
    let free = state.capacity.free();
    let body = serde_json::json!({"runs": (0..8).map(|i| (format!("r{i}"), "a".repeat(400).into())).collect::<serde_json::Map<_, _>>(),
        "read": {"capture": [{"site": "resid_post", "layers": "all", "positions": "all"},
                             {"site": "mlp_act", "layers": "all", "positions": "all"}]}});
    let mut stream = server.connect();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(&request("POST", "/v1/run", &body.to_string())).unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let held = free - state.capacity.free();
    let (rest, _) = read_to_close(&mut stream);
    assert!(rest.len() > 16 << 20, "{}", rest.len());
    assert!(held as usize >= rest.len() - 4096, "{held} held for {}", rest.len());
    all_is_free(&state, free).await;
}
