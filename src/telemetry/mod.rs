//! What a server says of itself: a log on standard error, as text or JSON lines, [`metrics`], and spans for OpenTelemetry (feature
//! `otel`).

pub mod metrics;
#[cfg(feature = "otel")]
mod trace;

use std::io::IsTerminal;

use tracing_subscriber::layer::{Identity, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::Telemetry;

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `telemetry.filter` is not a filter.
    #[error("telemetry.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A subscriber is installed already.
    #[error("logging is already running: {0}")]
    Installed(#[from] TryInitError),
    /// No spans can be sent.
    #[error("telemetry.otlp_endpoint: {0}")]
    Traces(String),
}

/// Starts logging, panics included: they then carry the request's span. Call once.
pub fn init(telemetry: &Telemetry) -> Result<(), TelemetryError> {
    start(telemetry, None::<Identity>)
}

/// What must be kept as long as the server runs, so that the last spans are sent.
#[cfg(feature = "otel")]
pub type Traces = trace::Traces;
/// This build sends no spans.
#[cfg(not(feature = "otel"))]
pub type Traces = std::convert::Infallible;

/// Starts logging, and sending spans to `telemetry.otlp_endpoint` if there is one.
pub fn init_server(telemetry: &Telemetry) -> Result<Option<Traces>, TelemetryError> {
    #[cfg(feature = "otel")]
    if !telemetry.otlp_endpoint.is_empty() {
        let (layer, traces) = trace::layer(&telemetry.otlp_endpoint)?;
        start(telemetry, Some(layer))?;
        return Ok(Some(traces));
    }
    init(telemetry).map(|()| None)
}

fn start(
    telemetry: &Telemetry,
    traces: Option<impl Layer<Registry> + Send + Sync>,
) -> Result<(), TelemetryError> {
    let filter: EnvFilter = telemetry.filter.parse()?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let log = if telemetry.json {
        log.json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed()
    } else {
        log.with_target(false).with_filter(filter).boxed()
    };
    tracing_subscriber::registry().with(traces).with(log).try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(panic.place = place, panic.backtrace = %backtrace, "panic: {message}");
    }));
    Ok(())
}
