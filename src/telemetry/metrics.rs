//! What the server counts, in the text format of OpenMetrics that Prometheus reads.
//!
//! Labels are words of the program (routes as they are declared, kinds of problems, states of jobs), never what a client
//! sent: their number is bounded, and no prompt or key can get into one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::Activity;
use crate::engine::found::Counts as FoundCounts;

/// Media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper ends of the classes of request durations, in seconds.
const SECONDS: [f64; 12] = [0.002, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// The same of the server's own part of them.
const HOST_SECONDS: [f64; 9] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0];

/// Those that routes are declared for.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    method: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Problem {
    problem: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    how: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Setting {
    setting: &'static str,
}

type Float = Gauge<f64, AtomicU64>;
type Seconds = Counter<f64, AtomicU64>;

/// Counters of a server. Requests are counted as they are answered; everything else is looked up when somebody asks
/// ([`Metrics::text`]).
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    request_seconds: Family<Route, Histogram, fn() -> Histogram>,
    host_seconds: Histogram,
    refused: Family<Problem, Counter>,
    status: Family<State, Gauge>,
    jobs: Family<State, Gauge>,
    engine: EngineMetrics,
    memory: Float,
    memory_limit: Float,
    activations: Float,
    kept: Family<How, Gauge>,
    found: Family<How, Counter>,
    found_bytes: Gauge,
    verified: Counter,
    differ: Counter,
    certificate: Family<Setting, Gauge>,
}

#[derive(Debug, Default)]
struct EngineMetrics {
    waiting: Gauge,
    batches: Counter,
    row_layers: Counter,
    seconds: Seconds,
    restarts: Counter,
}

/// What a server is doing at a moment.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Snapshot {
    /// The words that `/readyz` may say, and whether it says them now.
    pub status: Vec<(&'static str, bool)>,
    /// The engine's work, once there is an engine.
    pub engine: Activity,
    /// Plans that were found.
    pub found: FoundCounts,
    /// Jobs by state.
    pub jobs: Vec<(&'static str, u64)>,
    /// Bytes that requests hold, and the most they may.
    pub memory: [u64; 2],
    /// Bytes of stored activations.
    pub activations: u64,
    /// Positions of texts that are being written whose keys fit, and those of them that are free.
    pub positions: [usize; 2],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::with_prefix("mediant"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            host_seconds: Histogram::new(HOST_SECONDS),
            refused: Family::default(),
            status: Family::default(),
            jobs: Family::default(),
            engine: EngineMetrics::default(),
            memory: Float::default(),
            memory_limit: Float::default(),
            activations: Float::default(),
            kept: Family::default(),
            found: Family::default(),
            found_bytes: Gauge::default(),
            verified: Counter::default(),
            differ: Counter::default(),
            certificate: Family::default(),
        };
        let r = &mut metrics.registry;
        r.register("requests", "Requests answered, by route and status", metrics.requests.clone());
        let (help, family) =
            ("From the head of a request to the head of its answer", &metrics.request_seconds);
        r.register_with_unit("request", help, Unit::Seconds, family.clone());
        let help = "What an experiment that shared no batch took beside computing and waiting for others";
        r.register_with_unit("host", help, Unit::Seconds, metrics.host_seconds.clone());
        r.register("refused", "Problem documents sent, by type", metrics.refused.clone());
        r.register("status", "1 for what /readyz says, 0 for what it said before", metrics.status.clone());
        r.register("jobs", "Jobs in the store, by state", metrics.jobs.clone());
        let engine = &metrics.engine;
        r.register(
            "queue_requests",
            "Requests computed now, or waiting for the engine",
            engine.waiting.clone(),
        );
        r.register("batches", "Forward batches computed", engine.batches.clone());
        r.register("row_layers", "Rows times the layers each went through", engine.row_layers.clone());
        let help = "Time that the engine computed";
        r.register_with_unit("engine_busy", help, Unit::Seconds, engine.seconds.clone());
        r.register("engine_restarts", "Engine processes started after the first", engine.restarts.clone());
        let help = "Memory that requests hold outside of the engine";
        r.register_with_unit("request_memory", help, Unit::Bytes, metrics.memory.clone());
        let help = "The most that they may hold (limits.memory_bytes)";
        r.register_with_unit("request_memory_limit", help, Unit::Bytes, metrics.memory_limit.clone());
        let help = "Stored activations of all owners";
        r.register_with_unit("activations", help, Unit::Bytes, metrics.activations.clone());
        let help = "Positions of texts being written whose keys and values fit (engine.key_bytes): all, and those that are free";
        r.register("text_positions", help, metrics.kept.clone());
        let help = "Plans not computed: kept ones had been before, joined ones were being computed";
        r.register("found", help, metrics.found.clone());
        let help = "Numbers kept of plans that were computed";
        r.register_with_unit("found", help, Unit::Bytes, metrics.found_bytes.clone());
        let help = "Plans found that were computed again (cache.verify)";
        r.register("verified", help, metrics.verified.clone());
        let help = "Of these, those that had other bits: memory or a device is broken";
        r.register("verify_differs", help, metrics.differ.clone());
        let help = "When the certificate of http.tls_cert ends, since 1970; absent without TLS";
        r.register_with_unit("certificate_end", help, Unit::Seconds, metrics.certificate.clone());
        metrics
    }

    /// Counts an answer. `route`: as it is declared; `None` where no route was found.
    pub fn answered(&self, route: Option<&str>, method: &Method, status: u16, took: Duration) {
        // What clients may make up is not kept.
        let known = route.is_some() && METHODS.contains(method);
        let (route, method) =
            (route.unwrap_or("none").to_owned(), if known { method.as_str() } else { "other" });
        self.request_seconds.get_or_create(&Route { route: route.clone() }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { route, method: method.to_owned(), status }).inc();
    }

    /// Counts what the server itself took for an answer.
    pub fn host(&self, took: Duration) {
        self.host_seconds.observe(took.as_secs_f64());
    }

    /// Starts the count of a problem at 0, so that the first one is seen as an increase.
    pub fn expect_problem(&self, problem: &'static str) {
        drop(self.refused.get_or_create(&Problem { problem }));
    }

    /// When the server's certificate ends, in seconds since 1970.
    pub fn certificate_ends(&self, unix_s: i64) {
        self.certificate.get_or_create(&Setting { setting: "http.tls_cert" }).set(unix_s);
    }

    /// Counts a problem document by the last part of its type.
    pub fn refused(&self, problem: &'static str) {
        self.refused.get_or_create(&Problem { problem }).inc();
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self, now: &Snapshot) -> String {
        let label = |state: &str| State { state: state.to_owned() };
        for (status, is_so) in &now.status {
            self.status.get_or_create(&label(status)).set(i64::from(*is_so));
        }
        for (state, count) in &now.jobs {
            self.jobs.get_or_create(&label(state)).set(*count as i64);
        }
        let (engine, of) = (&self.engine, &now.engine);
        engine.waiting.set(of.requests as i64);
        engine.batches.inner().store(of.batches, Ordering::Relaxed);
        engine.row_layers.inner().store(of.row_layers, Ordering::Relaxed);
        engine.seconds.inner().store(of.busy.as_secs_f64().to_bits(), Ordering::Relaxed);
        engine.restarts.inner().store(of.restarts, Ordering::Relaxed);
        let found = &now.found;
        for (how, count) in [("kept", found.kept), ("joined", found.joined)] {
            self.found.get_or_create(&How { how }).inner().store(count, Ordering::Relaxed);
        }
        self.found_bytes.set(found.bytes as i64);
        self.verified.inner().store(found.verified, Ordering::Relaxed);
        self.differ.inner().store(found.differ, Ordering::Relaxed);
        self.memory.set(now.memory[0] as f64);
        self.memory_limit.set(now.memory[1] as f64);
        self.activations.set(now.activations as f64);
        for (how, positions) in ["all", "free"].into_iter().zip(now.positions) {
            self.kept.get_or_create(&How { how }).set(positions as i64);
        }
        let mut text = String::new();
        // A string can always be written to.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
