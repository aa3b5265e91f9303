//! A small HTTP client: one request, one connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Pause between two looks at `/readyz`.
const POLL: Duration = Duration::from_millis(100);

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server's address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("{what} was not answered")]
    Exchange {
        /// Method and path.
        what: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// An answer other than 2xx.
    #[error("{what} answered {status}:\n{document}")]
    Refused {
        /// Method and path.
        what: String,
        /// The status.
        status: StatusCode,
        /// The problem document, readable.
        document: String,
    },
    /// A body that should be JSON.
    #[error("the answer to {what} is not JSON")]
    Json {
        /// Method and path.
        what: String,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// Talks to one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) body: T,
    /// From the first byte sent to the last one received.
    pub(crate) took: Duration,
}

impl Client {
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server can do work. A server that fails to load ends its process, so this needs no end.
    pub(crate) async fn ready(&self) {
        while self.get("/readyz").await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        let body = self.exchange(Method::GET, path, None).await?;
        parse(&body, &format!("GET {path}"))
    }

    /// Posts JSON, expects JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer<Value>, ClientError> {
        let Answer { body, took } = self.post_for_bytes(path, body).await?;
        Ok(Answer { body: parse(&body, &format!("POST {path}"))?, took })
    }

    /// Posts JSON, expects anything.
    pub(crate) async fn post_for_bytes(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Answer<Bytes>, ClientError> {
        let started = Instant::now();
        let body = self.exchange(Method::POST, path, Some(body)).await?;
        Ok(Answer { body, took: started.elapsed() })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, ClientError> {
        let what = format!("{method} {path}");
        let exchange = |source| ClientError::Exchange { what: what.clone(), source };
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|source| ClientError::Connect { address: self.address, source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(exchange)?;
        // Drives the connection; ends with it. Its errors are the request's, too.
        tokio::spawn(connection);
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONNECTION, "close");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(bytes)).expect("BUG: the paths are valid URIs");
        let response = sender.send_request(request).await.map_err(exchange)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(exchange)?.to_bytes();
        if !status.is_success() {
            return Err(ClientError::Refused { what, status, document: readable(&bytes) });
        }
        Ok(bytes)
    }
}

fn parse(bytes: &[u8], what: &str) -> Result<Value, ClientError> {
    serde_json::from_slice(bytes).map_err(|source| ClientError::Json { what: what.to_owned(), source })
}

/// JSON indented, anything else as it is.
fn readable(bytes: &[u8]) -> String {
    serde_json::from_slice::<Value>(bytes)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned())
}
