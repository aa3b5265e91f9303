//! A server on a free port of the loopback and raw HTTP against it; the tiny model behind a router, called directly.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use mediant::capacity::Capacity;
use mediant::config;
use mediant::http::listen::{self, Ended, Limits, Phase};
use mediant::http::{Access, AppState, Readiness, router};
use mediant::jobs::runner::Runner;
use mediant::keys::{Keys, Scope, Wanted};
use mediant::owner::{Owner, Terms};
use mediant::service::{Service, start};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// Short limits, so that tests wait tenths of seconds.
pub(crate) fn limits() -> Limits {
    Limits {
        first_byte: Duration::from_millis(300),
        head: Duration::from_millis(300),
        write_stall: Duration::from_millis(300),
        connections: 100,
        per_address: 100,
        grace: Duration::from_secs(5),
    }
}

/// The router over the default configuration.
pub(crate) fn state(readiness: Readiness) -> AppState {
    let config = config::load(None, [], &[]).unwrap().config;
    let capacity = Capacity::new(config.limits.memory_bytes);
    let remote = mediant::remote::Remote::new(&config.remote, std::env::temp_dir());
    AppState {
        capacity,
        results: mediant::http::Results::new(config.results),
        streams: mediant::http::Streams::default(),
        config: Arc::new(config),
        readiness: watch::channel(readiness).1,
        service: Arc::default(),
        jobs: Arc::default(),
        metrics: Arc::default(),
        remote,
        access: Access::Anyone,
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) ended: JoinHandle<Ended>,
    /// What its clients show.
    pub(crate) token: Option<String>,
}

impl Server {
    pub(crate) async fn start(router: axum::Router, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let phase = watch::Sender::new(Phase::Run);
        let ended = tokio::spawn(listen::serve(listener, None, router, limits, phase.subscribe()));
        Self { address, phase, ended, token: None }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address, Duration::from_secs(5))
    }

    /// Sends `bytes` and reads until the server closes.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_to_close(&mut stream).0
    }
}

/// A connection to a server, and when it was opened: before any clock of the server started, so that no pause of the
/// test makes the server look quicker than it is.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) opened: Instant,
}

impl Client {
    /// Panics where a read waits longer than `patience`.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> Self {
        let opened = Instant::now();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        Self { stream, opened }
    }
}

impl Deref for Client {
    type Target = TcpStream;
    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// What came until the server closed, and how long after its opening that was. Panics if it stays open for 5 s.
pub(crate) fn read_to_close(client: &mut Client) -> (String, Duration) {
    let mut bytes = Vec::new();
    match client.stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Closed with bytes of ours unread: also closed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection stayed open: {error}"),
    }
    (String::from_utf8_lossy(&bytes).into_owned(), client.opened.elapsed())
}

/// All memory of a server's budget is given back, soon after the last answer was taken.
pub(crate) async fn all_is_free(state: &AppState, free: u64) {
    for _ in 0..250 {
        if state.capacity.free() == free {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} of {free} bytes are free", state.capacity.free());
}

/// A complete request that asks the server to close afterwards.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A folder for what the servers of the tests keep, removed by nobody: the system clears its temporary files.
pub(crate) fn data_dir() -> String {
    static N: AtomicUsize = AtomicUsize::new(0);
    let n = N.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("mediant-api-{}-{n}", std::process::id())).display().to_string()
}

/// A ready server of `dummy:tiny` with some settings of its own.
pub(crate) fn tiny_with(settings: &[(&'static str, &str)]) -> AppState {
    let model = ("--model", "model.ref", "dummy:tiny".to_owned());
    let data = ("--test", "store.data_dir", data_dir());
    let settings = settings.iter().map(|(key, value)| ("--test", *key, (*value).to_owned()));
    let flags: Vec<_> = [model, data].into_iter().chain(settings).collect();
    let config = config::load(None, [], &flags).unwrap().config;
    let service = start::in_process(&config).unwrap();
    let ready = state(Readiness::Ready);
    let capacity = Capacity::new(config.limits.memory_bytes);
    let results = mediant::http::Results::new(config.results);
    AppState {
        config: Arc::new(config),
        service: Arc::new(OnceLock::from(service)),
        capacity,
        results,
        ..ready
    }
}

/// A ready server of `dummy:tiny`: 4 layers of 4 heads, a token per byte and a BOS before them. Loaded once. What it finds again is
/// computed again.
pub(crate) fn tiny() -> AppState {
    static TINY: LazyLock<AppState> = LazyLock::new(|| {
        let state = tiny_with(&[("cache.verify", "1.0")]);
        watch(state.service.get().unwrap());
        state
    });
    TINY.clone()
}

/// Ends all tests if something found had other bits when it was computed again: which test found it does not matter. How many
/// were computed again so far is written to the file that `MEDIANT_TEST_VERIFIED` names.
fn watch(service: &Service) {
    let (found, file) = (service.found.clone(), std::env::var_os("MEDIANT_TEST_VERIFIED"));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let counts = found.counts();
            if let Some(file) = &file {
                std::fs::write(file, format!("{counts:?}\n")).unwrap();
            }
            if counts.differ > 0 {
                eprintln!("answers that were found have other bits when they are computed again: {counts:?}");
                std::process::abort();
            }
        }
    });
}

/// A job queue and a budget of memory of its own for a server, in a folder of its own, with nobody who works on it.
pub(crate) async fn queue(mut state: AppState) -> AppState {
    state.capacity = Capacity::new(state.config.limits.memory_bytes);
    let mut config = (*state.config).clone();
    config.store.data_dir = data_dir();
    let jobs = mediant::jobs::start::jobs(&config, &state.service).await.unwrap();
    state.config = Arc::new(config);
    state.jobs = Arc::new(OnceLock::from(jobs));
    state
}

/// The tiny model with a job queue that is worked on.
pub(crate) async fn working() -> AppState {
    working_with(tiny()).await
}

/// A server with a job queue that is worked on until the test ends.
pub(crate) async fn working_with(state: AppState) -> AppState {
    let state = queue(state).await;
    std::mem::forget(Runner::start(state.jobs.get().unwrap()));
    state
}

/// A server with a job queue, which needs keys; it has none yet.
pub(crate) async fn with_keys(state: AppState) -> (AppState, Keys) {
    let mut state = queue(state).await;
    let keys = Keys::open(state.jobs.get().unwrap().store.clone()).await.unwrap();
    state.access = Access::Keys(keys.clone());
    (state, keys)
}

/// The token of a new key.
pub(crate) async fn token(keys: &Keys, owner: &str, scopes: &[Scope]) -> String {
    let owner = Owner::parse(owner).unwrap();
    let scopes = scopes.iter().copied().collect();
    let (_, token) = keys
        .create(Wanted { owner, name: String::new(), scopes, ttl_s: None, terms: Terms::default() })
        .await
        .unwrap();
    token.expose().to_owned()
}

/// Every scope.
pub(crate) fn all_scopes() -> Vec<Scope> {
    Scope::ALL.iter().map(|(_, scope)| *scope).collect()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn media_type(&self) -> &str {
        self.headers[header::CONTENT_TYPE].to_str().unwrap()
    }
}

/// One request through the whole router.
pub(crate) async fn send(state: &AppState, request: Request<Body>) -> Reply {
    let response = router(state.clone()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 30).await.unwrap().to_vec();
    Reply { status: parts.status, headers: parts.headers, bytes }
}

pub(crate) async fn get(state: &AppState, path: &str) -> Reply {
    send(state, Request::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn post(state: &AppState, path: &str, body: &Value) -> Reply {
    post_accepting(state, path, body, "*/*").await
}

pub(crate) async fn post_accepting(state: &AppState, path: &str, body: &Value, accept: &str) -> Reply {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, accept)
        .body(Body::from(body.to_string()))
        .unwrap();
    send(state, request).await
}

/// A request that must succeed, and whose answer is what the OpenAPI document says.
pub(crate) async fn ok(state: &AppState, path: &str, body: &Value) -> Value {
    let reply = post(state, path, body).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
    let answer = reply.json();
    crate::schema::check_response("post", path, "200", &answer);
    answer
}
