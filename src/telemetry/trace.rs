//! Spans for OpenTelemetry, sent by OTLP over HTTP: requests, and what is computed for them. Spans hold ids, routes and counts, never
//! what a client sent: log lines, which spans could carry along, are left out. Built with `--features otel`.

use std::fmt;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{Builder, Runtime};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;

/// How long a collector may take for a batch of spans.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done with spans before the program ends.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Drop for Traces {
    /// Sends what is left.
    fn drop(&mut self) {
        let _ = self.0.shutdown_with_timeout(PATIENCE);
    }
}

/// A layer that sends spans to a collector.
pub(super) fn layer<S>(endpoint: &str) -> Result<(impl Layer<S> + use<S>, Traces), TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let client = Client::new().map_err(|error| TelemetryError::Traces(error.to_string()))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| TelemetryError::Traces(error.to_string()))?;
    let resource = Resource::builder().with_service_name("mediant").build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let ours = filter_fn(|metadata| {
        metadata.is_span() && metadata.target().starts_with("mediant") && *metadata.level() <= Level::DEBUG
    });
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("mediant"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(ours);
    Ok((layer, Traces(provider)))
}

/// The program's own HTTP client, on a thread of its own: spans are sent from a thread without a runtime.
struct Client {
    client: reqwest::Client,
    runtime: Option<Runtime>,
}

impl Client {
    fn new() -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("otel").enable_all().build()?;
        let client = reqwest::Client::builder().timeout(PATIENCE).build().map_err(std::io::Error::other)?;
        Ok(Self { client, runtime: Some(runtime) })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Where it is dropped there may be a runtime, in which another one may not end by waiting.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = self.runtime.as_ref().ok_or("the client has ended")?;
        let client = self.client.clone();
        let sent = runtime.spawn(async move {
            let answer = client.execute(reqwest::Request::try_from(request)?).await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let (status, body) = sent.await??;
        Ok(Response::builder().status(status).body(body)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Answers requests with 200 until one has come, and gives back its first line and its body.
    fn collect(listener: &TcpListener) -> (String, Vec<u8>) {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        (first, body)
    }

    #[test]
    fn spans_reach_a_collector_and_what_is_logged_in_them_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = std::thread::spawn(move || collect(&listener));
        let (layer, traces) = layer(&endpoint).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(
                target: "mediant::http::request_id", "request", key.id = "key_1", otel.name = tracing::field::Empty,
            );
            let work = async {
                tracing::warn!(target: "mediant::http", "xylophagous quokkas");
                tracing::info_span!(target: "hyper", "a dependency's").in_scope(|| ());
                tracing::trace_span!(target: "mediant::http", "prompts may be at trace").in_scope(|| ());
            };
            let runtime = Builder::new_current_thread().build().unwrap();
            runtime.block_on(work.instrument(span.clone()));
            span.record("otel.name", "POST /v1/run");
        });
        drop(traces);
        let (first, body) = collector.join().unwrap();
        assert!(first.starts_with("POST /v1/traces "), "{first}");
        let has = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
        for text in ["mediant", "POST /v1/run", "key.id", "key_1"] {
            assert!(has(text), "{text} is not in {}", String::from_utf8_lossy(&body));
        }
        for text in ["quokkas", "dependency", "prompts"] {
            assert!(!has(text), "{text} is in {}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn a_collector_that_is_away_holds_nobody_up() {
        let (layer, traces) = layer::<tracing_subscriber::Registry>("http://127.0.0.1:9").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!(target: "mediant::http", "request").in_scope(|| ());
        });
        let began = std::time::Instant::now();
        drop(traces);
        assert!(began.elapsed() < 2 * PATIENCE);
    }
}
